"""Sink tokens: activations over depth, what heads give them, where they lie, what removing them does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.sinks import VARIANTS
from visualheads.analysis.steering import even_cells
from visualheads.charts.comparison import choice, chosen_model, placeholder
from visualheads.charts.display import GREY, finished, rows, told_ranges
from visualheads.charts.heads import chosen_head
from visualheads.charts.maps import SIDE, chosen_bars, clickable
from visualheads.charts.overlays import framed, outline
from visualheads.tasks.sample import Sample

NEEDS = "No sinks were looked for yet."
WIDE = 240
MARKED = "#00e5ff"


def outliers(table: pd.DataFrame, needs: str = NEEDS) -> Any:
    """Highest activations of the strongest dimensions over the layers, against what a sink dimension must reach (1).

    The criterion and the model are chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `sinks.outlier_table`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    measures = list(dict.fromkeys(table["measure"]))
    choices = [chosen_model(list(dict.fromkeys(table["model"]))), choice("criterion", measures, "Criterion")]
    panels = []
    for index, part in enumerate(dict.fromkeys(table["part"])):
        base = (
            alt.Chart(rows(table[table["part"] == part].to_dict("records")))
            .transform_filter("datum.model === chosen_model")
            .transform_filter("datum.measure === criterion")
            .encode(
                x=alt.X("layer:O", title="input of layer", axis=alt.Axis(labelAngle=0)),
                y=alt.Y("value:Q", title="times the threshold" if index == 0 else None, scale=alt.Scale(domainMin=0)),
                color=alt.Color("dimension:N", title="dimension", legend=alt.Legend(orient="top", columns=5)),
                tooltip=["dimension:N", "layer:O", alt.Tooltip("value:Q", format=".2f")],
            )
        )
        edge = alt.Chart(rows([{"edge": 1}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y="edge:Q")
        lines = alt.layer(edge, base.mark_line(strokeWidth=2), base.mark_circle(size=40, opacity=1))
        panels.append(lines.properties(width=WIDE, height=220, title=str(part)))
    best = table.groupby(["model", "measure"], sort=False)["value"].max().reset_index()
    told = told_ranges(best, ["measure"], "value")
    words = f"Highest activations of five dimensions of the residual stream, as multiples of the threshold. {told}."
    return finished(alt.hconcat(*panels, spacing=16).resolve_scale(y="shared").add_params(*choices), words)


def sink_heads(table: pd.DataFrame, needs: str = NEEDS) -> Any:
    """Layer × head map of the share of image weight on the marked tokens; a click tells a head's concentrations.

    The model is chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `sinks.head_table`; heads without a share are left out.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    table = table.dropna(subset=["sink_share"]) if len(table) else table
    if table.empty:
        return placeholder(needs)
    models = list(dict.fromkeys(table["model"]))
    first = table[table["model"] == models[0]]
    best = first.loc[first["sink_share"].idxmax()]
    chosen = chosen_head(best)
    shown = rows(table[["model", "layer", "head", "name", "stage", "sink_share"]].to_dict("records"))
    heads = alt.Chart(shown).transform_filter("datum.model === chosen_model")
    top = float(table["sink_share"].max()) or 1.0
    legend = alt.Legend(orient="top", title="share of the image weight", gradientLength=SIDE - 20, format=".0%")
    hue = alt.Color("sink_share:Q", scale=alt.Scale(scheme="viridis", domain=[0, top]), legend=legend)
    tip = alt.Tooltip("sink_share:Q", format=".1%")
    grid = clickable(heads, chosen, hue, tip).properties(width=SIDE, height=SIDE)
    long = table.melt(["model", "layer", "head", "name"], list(VARIANTS), "variant", "value").dropna(subset=["value"])
    long["variant"] = long["variant"].map(VARIANTS)
    order = list(VARIANTS.values())
    base = (
        alt.Chart(rows(long.to_dict("records")))
        .transform_filter("datum.model === chosen_model")
        .transform_filter(chosen)
        .encode(y=alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=160)))
    )
    detail = chosen_bars(base, alt.X("value:Q", title="concentration", scale=alt.Scale(domain=[0, 1])))
    words = (
        f"Map of {first['layer'].nunique()} layers by {first['head'].nunique()} heads of {models[0]}, coloured by the "
        f"share of image weight on the marked tokens. {best['name']} has most: {best['sink_share']:.0%}. A chosen "
        "head's concentration with and without them stands beside the map."
    )
    return finished(alt.hconcat(grid, detail, spacing=16).add_params(chosen_model(models)), words)


def marked_examples(found: Mapping[str, xr.Dataset], samples: Mapping[str, Sample], needs: str = NEEDS) -> Any:
    """The first pictures of the first model under the attention that their patches draw, the marked tokens outlined.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sinks by model, as of `studies.sinks.studied`.
    samples : mapping of str to Sample
        The questions by id.
    needs : str
        What stands there without any model.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if not found:
        return placeholder(needs)
    model, ds = next(iter(found.items()))
    one = ds.isel(model=0)
    drawn, marks = (one[f"example_{name}"].values for name in ("drawn", "sink"))
    shown = [samples[str(name)] for name in one["sample"].values[: len(drawn)]]
    edges = [
        [outline(box, MARKED, (2, 2)) for box in even_cells(sample.size(), own.shape)[np.nan_to_num(own) > 0]]
        for sample, own in zip(shown, marks, strict=True)
    ]
    words = (
        f"{len(shown)} pictures, coloured by the attention that each patch draws from all heads of {model}; the "
        f"marked tokens are outlined. The strongest patch draws {float(one['drawn'].max()):.1f} times an even share."
    )
    return framed(shown, drawn, edges, words)
