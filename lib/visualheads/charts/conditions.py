"""The conditions of a task beside each other."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.charts.comparison import chosen_model, intervals, matrix, matrix_models, placeholder
from visualheads.charts.display import finished
from visualheads.heads.patterns import MARGIN

FORMAT_NAMES = {"free": "free form", "letters": "letters A–D"}

def condition_matrices(told: xr.Dataset, needs: str = "Nothing to compare yet.") -> Any:
    """How alike the head patterns of every two conditions are, one matrix per answer format; the model is chosen below.

    `told` is a result of `alike.format_agreement`.
    """
    low = min(0.0, float(told["correlation"].min()))
    found = {str(form): matrix(told.sel(format=form), low) for form in told["format"].values}
    drawn = {FORMAT_NAMES.get(form, form): parts for form, parts in found.items() if parts is not None}
    if not drawn:
        return placeholder(needs)
    charts = [chart.properties(title=name) for name, (chart, _) in drawn.items()]
    words = " ".join(f"{name}: {text}" for name, (_, text) in drawn.items())
    return finished(alt.vconcat(*charts).add_params(chosen_model(matrix_models(told))), words)


def condition_shortfalls(pairs: pd.DataFrame, kind: str, words: str) -> Any:
    """How far the pairs of one kind stay below their ceiling, one panel per answer format, on one scale.

    `pairs` is a result of `alike.format_pairs`; `words` begin the alternative text.
    """
    table = pairs[pairs["kind"] == kind]
    table = table.assign(form=table["format"].map(lambda name: FORMAT_NAMES.get(name, name)))
    return intervals(
        table, "pair", words, title="shortfall of the correlation", value="shortfall", panel="form", colour="model",
        rule=MARGIN,
    )  # fmt: skip
