"""The one table of what a traced dataset holds: names, words, units, ranges and dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_DIMS = ("model", "layer", "head", "sample", "query")
SAMPLE_DIMS = ("model", "sample")
QUERIES = ("first_generated", "last_prompt")
"""The rows every store holds, in this order."""
STAGES = ("early", "middle", "late")
FORMATS = ("free", "letters")
UNMEASURED = -1
"""Stands in whole-number variables for a sample that was not measured; floats have NaN and text has ""."""
UNTRAINED = "untrained"
"""Kind of the stores of networks with random weights, and the ending of their names."""

Kind = Literal["float32", "int32", "str", "bool"]


@dataclass(frozen=True)
class Variable:
    """A variable of a traced dataset.

    range       lowest and highest value, None where open; values outside break `assert_valid`
    dims        in this order; `query` is absent from datasets traced with a single query
    needs_box   NaN for samples without a box
    binary      nothing but 0, 1 and NaN
    """

    name: str
    long_name: str
    units: str
    range: tuple[float | None, float | None] = (None, None)
    dims: tuple[str, ...] = HEAD_DIMS
    dtype: Kind = "float32"
    needs_box: bool = False
    binary: bool = False

    @property
    def attrs(self) -> dict[str, str]:
        """long_name, units and range as attributes, all of them text, which any writer takes."""
        attrs = {"long_name": self.long_name, "units": self.units}
        low, high = self.range
        if low is not None:
            attrs["range"] = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        return attrs

    @property
    def missing(self) -> float | int | str | bool:
        """What stands where nothing was measured."""
        values: dict[Kind, float | int | str | bool] = {
            "float32": float("nan"),
            "int32": UNMEASURED,
            "str": "",
            "bool": False,
        }
        return values[self.dtype]


SHARE = (0.0, 1.0)
POSITIVE = (0.0, None)
MAP_DIMS = ("model", "layer", "head", "query", "map_condition", "grid_row", "grid_column")

HEAD_VARIABLES = (
    Variable("image_weight", "attention on all image tokens", "share of attention", SHARE),
    Variable("region_weight", "attention on the asked region", "share of attention", SHARE, needs_box=True),
    Variable("concentration", "concentration within the image", "1", SHARE),
    Variable("focus_nats", "focus within the image", "nats", POSITIVE),
    Variable("effective_patches", "effective number of patches", "patches", (1.0, None)),
    Variable("image_log_odds", "image weight against a head without preference", "log odds"),
    Variable("image_log_odds_no_sink", "image weight against other keys, without the first and sinks", "log odds"),
    Variable("top_share", "share of the strongest patch", "share of the patch attention", SHARE),
    Variable("region_lift", "attention on the region against its share of patches", "times", POSITIVE, needs_box=True),
    Variable("top_patch_hit", "strongest patch lies in the region", "1", SHARE, needs_box=True, binary=True),
    Variable("newline_weight", "attention on newline and separator tokens", "share of attention", SHARE),
    Variable("sink_share", "share of the image weight on sink tokens", "share of image weight", SHARE),
    Variable("concentration_no_sink", "concentration without sink tokens", "1", SHARE),
    Variable("spatial_entropy", "entropy over connected regions of the map", "nats", POSITIVE),
)
SAMPLE_VARIABLES = (
    Variable("prediction", "the model's answer", "text", dims=SAMPLE_DIMS, dtype="str"),
    Variable("correct", "answer is right", "1", SHARE, dims=SAMPLE_DIMS, binary=True),
    Variable("margin", "logit of the right answer minus the best other", "logits", dims=SAMPLE_DIMS),
    Variable("n_image_tokens", "image tokens in the prompt", "tokens", (1.0, None), dims=SAMPLE_DIMS, dtype="int32"),
)
KEPT_VARIABLES = (
    Variable("mean_map", "mean attention per cell of the whole-picture grid", "share of attention", SHARE, MAP_DIMS),
    Variable("mean_map_count", "samples in the mean map", "samples", POSITIVE, ("model", "map_condition"), "int32"),
    Variable(
        "maps",
        "attention per cell of the whole-picture grid",
        "share of attention",
        SHARE,
        ("model", "sample", "query", "selected_head", "grid_row", "grid_column"),
    ),
    Variable("attention", "attention on each key", "share of attention", SHARE, (*HEAD_DIMS, "key")),
    Variable("is_image", "key is an image token", "1", dims=("model", "sample", "key"), dtype="bool"),
)
SWEEP_VARIABLES = (
    Variable("kl", "divergence of the changed from the clean prediction", "nats", POSITIVE, SAMPLE_DIMS),
    Variable("clean_prediction", "the unchanged model's answer", "text", dims=SAMPLE_DIMS, dtype="str"),
    Variable("clean_correct", "the unchanged model's answer is right", "1", SHARE, dims=SAMPLE_DIMS, binary=True),
    Variable("clean_margin", "the unchanged model's margin", "logits", dims=SAMPLE_DIMS),
)
SHARD_VARIABLES = (
    Variable(
        "mean_map_sum",
        "attention per cell summed over the shard's samples",
        "attention × samples",
        POSITIVE,
        ("model", "shard", *MAP_DIMS[1:]),
    ),
)
"""What one shard writes for the mean maps; `open_store` turns it into `mean_map` and `mean_map_count`."""

VARIABLES = {v.name: v for v in (*HEAD_VARIABLES, *SAMPLE_VARIABLES, *KEPT_VARIABLES, *SWEEP_VARIABLES)}
TRACED = tuple(v.name for v in (*HEAD_VARIABLES, *SAMPLE_VARIABLES))
"""What every trace measures, whatever it is told to keep."""

SAMPLE_COORDINATES = ("task", "condition", "format", "control", "question_id", "image_id", "answer")
MODEL_COORDINATES = ("llm", "family", "recipe", "parameters", "training_step", "provenance")
LAYER_COORDINATES = ("depth_stage", "depth")
MAP_COORDINATES = ("map_condition", "map_format", "map_control")
"""What samples of one mean map share: labels along its `map_condition` dimension."""
SELECTED_COORDINATES = ("selected_layer", "selected_index")
"""Labels along `selected_head`."""
AS_THEY_ARE = ("", "none")
"""Values of `control` for pictures as they are."""
LABEL = "label"
"""The heads' labels, along layer and head; stores of earlier versions get them when they are opened."""
COORDINATE_NAMES = {
    "model": "model",
    "layer": "decoder layer, 0 nearest the input",
    "head": "query head",
    LABEL: "head's label: L5H1 is head 1 of layer 5",
    "sample": "sample",
    "query": "the attention row",
    "task": "benchmark",
    "condition": "how the question refers to the picture",
    "format": "free-form answer or letters",
    "control": "what was done to the picture as a control",
    "question_id": "question",
    "image_id": "picture",
    "answer": "the right answer",
    "has_box": "sample has an asked region",
    "llm": "language model it was tuned from",
    "family": "model family",
    "recipe": "training recipe",
    "parameters": "parameters (billions)",
    "training_step": "training step, -1 for the finished model",
    "provenance": "what was run, as JSON",
    "depth_stage": "stage of depth",
    "depth": "depth from first to last layer",
    "map_condition": "condition of the mean map",
    "map_format": "answer format of the mean map",
    "map_control": "control of the mean map",
    "selected_layer": "layer of the head whose maps are kept",
    "selected_index": "head, within its layer, whose maps are kept",
}
