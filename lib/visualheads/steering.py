"""Steering experiments: does the answer follow the head's gaze, how much bias helps, and how well heads ground objects.

`interventions.steer` does the steering; here are its questions, and the tables they are answered with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads import grounding
from visualheads.errors import HeadError, ParameterError, SampleError, got
from visualheads.interventions.modes import ALL
from visualheads.rankings import top_heads
from visualheads.sweeps import sweep
from visualheads.tracing import trace

if TYPE_CHECKING:
    from visualheads.geometry import TokenMap
    from visualheads.tasks.sample import Sample
    from visualheads.vision_language import VisionLanguageModel

MOST_HEADS = 10
"""Grounding is measured with the best 1 to 10 heads."""


def candidates(samples: Sequence[Sample]) -> list[Sample]:
    """Every object that a question could mean, as a sample of its own: steered to its box, does the answer follow?

    For samples with at least two labelled kinds of objects in different numbers (`boxes`): one sample per kind, whose
    `box` is the first object of it, and whose `answer` is that kind's number, so that `correct` of a steered run says
    whether the answer followed, `clean_correct` how often it is given anyway. Ids end in “→kind”; samples without two
    such kinds, or with choices (whose letters name other numbers), are left out. Raises SampleError where none is left.
    """
    made = []
    for sample in samples:
        counts = {name: len(boxes) for name, boxes in (sample.boxes or {}).items()}
        if sample.choices or len(set(counts.values())) < 2:
            continue
        made += [
            replace(sample, id=f"{sample.id}→{name}", box=tuple((sample.boxes or {})[name][0]), answer=str(count))
            for name, count in counts.items()
        ]
    if not made:
        raise SampleError(
            "no sample has two kinds of labelled objects in different numbers; give free-form samples with `boxes`, "
            "such as vh.task('looktwice').samples(condition='plain-general', format='free')."
        )
    return made


def steer_to_candidates(
    model: VisionLanguageModel, samples: Sequence[Sample], sets: Any, bias: float = 4.0, positions: str = ALL,
    **settings: Any,
) -> xr.Dataset:  # fmt: skip
    """Steer sets of heads to each candidate object: a sweep's Dataset over `candidates(samples)`, mode "steer".

    `correct` is 1 where the answer is the number of the object steered to. `sets` and `settings` as in `sweep`: compare
    top heads, matched random ones and all heads.
    """
    asked = candidates(samples)
    return sweep(model, asked, sets, "steer", positions, bias=bias, box=[one.box for one in asked], **settings)


def bias_curve(
    model: VisionLanguageModel, samples: Sequence[Sample], sets: Any, biases: Sequence[float], mode: str = "boost",
    positions: str = ALL, box: Any = None, **settings: Any,
) -> xr.Dataset:  # fmt: skip
    """The same sweep at several strengths: a Dataset with the dimension `bias` (model, bias, set, sample).

    mode "boost" (all image keys) or "steer" (to `box`). Negative biases take attention away; 0 is the clean run.
    Raises ParameterError for no strengths or another mode.
    """
    if mode not in ("boost", "steer"):
        raise ParameterError(got("mode", mode, ["boost", "steer"]))
    if not len(biases) or len(set(biases)) < len(biases):
        raise ParameterError(got("biases", list(biases), "at least one strength, each once"))
    runs = [sweep(model, samples, sets, mode, positions, bias=bias, box=box, **settings) for bias in biases]
    clean = [name for name in runs[0].data_vars if "set" not in runs[0][name].dims or name == "heads"]
    changed = xr.concat(
        [run.drop_vars(clean) for run in runs], "bias", coords="minimal", compat="override", combine_attrs="override"
    )
    order = ("model", "bias", "set", "sample")
    return changed.transpose(*order, ...).assign(runs[0][clean]).assign_coords(bias=[float(bias) for bias in biases])


def ground(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    scores: xr.DataArray,
    most: int = MOST_HEADS,
    rule: Literal["threshold", "gaussian"] = "threshold",
    level: float = grounding.LEVEL,
    query: str = "last_prompt",
    **settings: Any,
) -> xr.Dataset:
    """Boxes from the maps of the best 1 … `most` heads by a ranking, against each sample's asked box.

    hit   (model, heads_used, sample) 1 where the strongest patch's centre lies in the box (the pointing game)
    iou   (model, heads_used, sample) of the box made from the map (`grounding.box_of_map`), 0…1
    box   (model, heads_used, sample, edge) that box: left, top, right, bottom in original pixels; NaN for an empty map
    and `chance` (model, sample): the share of the picture's patches whose centre lies in the box, which is how often a
    random patch hits. The coordinates selected_layer and selected_head (heads_used) name the heads in order.

    scores  (layer, head), or (model, layer, head) of this model; find them on other pictures than those judged
    Samples without a box are refused (SampleError). `settings` as in `trace`.
    """
    if isinstance(most, bool) or not most >= 1:
        raise ParameterError(got("most", most, "1 or more heads"))
    for sample in samples:
        if sample.box is None:
            raise SampleError(f"sample {sample.id!r} has no box to ground; give samples that ask about a box.")
    chosen = _best(scores, most)
    ds = trace(model, samples, query=query, keep=("maps",), heads=chosen, **settings)
    maps = ds["maps"].values[0]
    shape = (1, len(chosen), len(samples))
    hit, overlap = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    boxes, chance = np.full((*shape, 4), np.nan, np.float32), np.zeros((1, len(samples)), np.float32)
    for index, sample in enumerate(samples):
        token_map = model.token_map(sample.open().size)
        asked: Any = sample.box
        cells = grounding.cells_of(token_map, maps.shape[-2:])
        chance[0, index] = _chance(token_map, asked)
        for used in range(len(chosen)):
            values = grounding.combined(maps[index, : used + 1])
            point = grounding.point_of_map(values, cells)
            hit[0, used, index] = point is not None and grounding.inside(point, asked)
            found = grounding.box_of_map(values, cells, rule, level)
            if found is not None:
                boxes[0, used, index] = found
                overlap[0, used, index] = grounding.iou(found, asked)
    bare = ds.drop_vars([name for name in ds.variables if "layer" in ds[name].dims or "head" in ds[name].dims])
    bare = bare.drop_vars([*bare.data_vars, *(n for n in bare.coords if "selected_head" in bare[n].dims)])
    dims = ("model", "heads_used", "sample")
    layers, heads = (list(part) for part in zip(*chosen, strict=True))
    return bare.assign(
        hit=(dims, hit), iou=(dims, overlap), box=((*dims, "edge"), boxes), chance=(("model", "sample"), chance)
    ).assign_coords(
        heads_used=np.arange(1, len(chosen) + 1),
        edge=["left", "top", "right", "bottom"],
        selected_layer=("heads_used", layers),
        selected_head=("heads_used", heads),
    )


def _best(scores: xr.DataArray, most: int) -> list[tuple[int, int]]:
    if "bound" in scores.dims:
        scores = scores.sel(bound="estimate", drop=True)
    if "model" in scores.dims:
        if scores.sizes["model"] != 1:
            raise ParameterError(got("models in the ranking", scores.sizes["model"], "1", "select this model's scores"))
        scores = scores.squeeze("model", drop=True)
    values = scores.transpose("layer", "head").values
    flat: NDArray[np.floating] = np.where(np.isfinite(values), values, np.nan).reshape(-1, 1)
    marks = top_heads(flat, min(most, int(np.isfinite(flat).sum())))[:, 0]
    if not marks.any():
        raise HeadError("the ranking has no finite score, so there is no head to ground with.")
    order = sorted(np.flatnonzero(marks), key=lambda place: (-flat[place, 0], place))
    return [(int(place) // values.shape[1], int(place) % values.shape[1]) for place in order]


def _chance(token_map: TokenMap, box: Any) -> float:
    patches = token_map.is_patch & (token_map.tile == 0)
    return float(token_map.in_box(box, rule="centre")[patches].mean()) if patches.any() else float("nan")
