"""The one table of what a traced dataset holds, `variables.yml`: names, words, units, ranges and dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from visualheads.paths import read_table

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
MISSING: dict[Kind, float | int | str | bool] = {"float32": math.nan, "int32": UNMEASURED, "str": "", "bool": False}


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
        return MISSING[self.dtype]


TABLE: dict[str, dict[str, Any]] = read_table(__file__, "variables.yml")


def _variables(part: str, dims: tuple[str, ...] = ()) -> tuple[Variable, ...]:
    """The variables of a part of the table; `dims` are those of its rows that name none."""
    made = []
    for name, told in TABLE[part].items():
        row = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        made.append(Variable(name, **{"dims": dims, **row}))
    return tuple(made)


HEAD_VARIABLES = _variables("heads", HEAD_DIMS)
SAMPLE_VARIABLES = _variables("samples", SAMPLE_DIMS)
SHARD_VARIABLES = _variables("shards")
"""What one shard writes for the mean maps; `open_store` turns it into `mean_map` and `mean_map_count`."""

VARIABLES = {
    v.name: v for v in (*HEAD_VARIABLES, *SAMPLE_VARIABLES, *_variables("kept"), *_variables("sweeps", SAMPLE_DIMS))
}
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
COORDINATE_NAMES: dict[str, str] = TABLE["coordinates"]
"""Their long names."""
