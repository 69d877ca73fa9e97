"""The paper's first figure, rebuilt: one point per model and benchmark, each linked to its head map."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import head_means
from visualheads.analysis.subset import subset
from visualheads.charts.comparison import placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import SIDE, SINGLE, title_of
from visualheads.charts.labels import CHOSEN, GREY, benchmark, colour, in_words

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]


def figure_one(
    ds: xr.Dataset,
    statistics: pd.DataFrame,
    scores: pd.DataFrame,
    recipes: dict[str, str],
    untrained: pd.DataFrame | None = None,
) -> Any:
    """Image weight against concentration, one point per model and benchmark; a click shows that point's head maps.

    statistics: `comparison.head_statistics`; scores: `comparison.scores` by task; recipes: recipe of each model;
    untrained: the statistics of networks with random weights, drawn as grey crosses. Means of all heads, or of the
    visual heads (chosen below). Tooltips tell the score.
    """
    if statistics.empty:
        return placeholder("No model has been traced yet.")
    found = scores.set_index(["model", "group"])["estimate"].to_dict()
    records: list[dict[str, Any]] = []
    for told in statistics.to_dict("records"):
        model, task = str(told["model"]), str(told["task"])
        part = subset(ds, model=model, task=task)
        maps = {name: head_means(part, name) for name in ("image_weight", "concentration")}
        there = np.isfinite(maps["image_weight"])
        layers, heads = int(there.any(axis=1).sum()), int(there.any(axis=0).sum())
        point = {
            name: told[name] for name in ("image_weight", "concentration", "top_image_weight", "top_concentration")
        }
        cells = {f"{name}_map": values[:layers, :heads].ravel().tolist() for name, values in maps.items()}
        score = found.get((model, task), float("nan"))
        shown = {"model": model, "task": benchmark(task), "recipe": recipes.get(model, "")}
        record = {**shown, "heads": heads, "score": score, "label": f"{model} on {shown['task']}"}
        records.append({**record, **point, **cells})
    data = rows(records)
    first = records[0]
    chosen = alt.selection_point(
        name="point", fields=["model", "task"], empty=False, value=[{"model": first["model"], "task": first["task"]}]
    )
    labels = ["all heads", "visual heads (strongest tenth)"]
    which = alt.param(
        name="which", value="", bind=alt.binding_radio(options=["", "top_"], labels=labels, name="Mean over ")
    )
    used = sorted({str(record["recipe"]) for record in records})
    points = (
        alt.Chart(data, name="points", width=SINGLE - 110, height=300)
        .transform_calculate(x="datum[which + 'image_weight']", y="datum[which + 'concentration']")
        .mark_point(filled=True, size=110, cursor="pointer", opacity=0.9)
        .encode(
            x=alt.X("x:Q", title=f"{title_of('image_weight')}, mean over heads", scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title=f"{title_of('concentration')}, mean", scale=alt.Scale(zero=False)),
            color=colour("task", [record["task"] for record in records], title="benchmark"),
            shape=alt.Shape("recipe:N", title="recipe", scale=alt.Scale(domain=used, range=(SHAPES * 3)[: len(used)])),
            stroke=alt.condition(chosen, alt.value(CHOSEN), alt.value(None)),
            strokeWidth=alt.value(2.5),
            tooltip=[
                "model:N", "task:N", "recipe:N",
                alt.Tooltip("x:Q", format=".3f", title=title_of("image_weight")),
                alt.Tooltip("y:Q", format=".3f", title=title_of("concentration")),
                alt.Tooltip("score:Q", format=".1%", title="score"),
            ],
        )
    )  # fmt: skip
    crosses = _crosses(untrained)
    title = (
        alt.Chart(data, width=SINGLE, height=16)
        .transform_filter(chosen)
        .mark_text(align="left", x=0, fontSize=13, color=CHOSEN)
    )
    maps = [_map(data, name, chosen) for name in ("image_weight", "concentration")]
    below = alt.vconcat(title.encode(text="label:N"), alt.hconcat(*maps).resolve_scale(color="independent"), spacing=6)
    points = points.add_params(chosen)
    top = points if crosses is None else alt.layer(crosses, points)
    chart = alt.vconcat(top.add_params(which), below).resolve_scale(color="independent")
    words = (
        f"Scatter plot of {len(records)} points, one per model and benchmark: mean image weight and concentration. "
        f"Below, the head maps of the chosen point, at first {first['label']}."
    )
    if crosses is not None:
        words += " Grey crosses: untrained networks of the same shapes."
    return finished(chart, words)


def _crosses(untrained: pd.DataFrame | None) -> Any:
    if untrained is None or untrained.empty:
        return None
    names = ["image_weight", "concentration", "top_image_weight", "top_concentration"]
    return (
        alt.Chart(rows(in_words(untrained[["model", "task", *names]]).to_dict("records")))
        .transform_calculate(x="datum[which + 'image_weight']", y="datum[which + 'concentration']", what="'untrained'")
        .mark_point(shape="cross", angle=45, size=50, color=GREY, opacity=0.8)
        .encode(
            x="x:Q", y="y:Q",
            tooltip=["model:N", "task:N", alt.Tooltip("what:N", title="weights"), alt.Tooltip("x:Q", format=".3f"),
                     alt.Tooltip("y:Q", format=".3f")],
        )
    )  # fmt: skip


def _map(data: alt.Data, measure: str, chosen: alt.Parameter) -> Any:
    return (
        alt.Chart(data, width=SIDE, height=SIDE * 0.75)
        .transform_filter(chosen)
        .transform_calculate(cell=f"sequence(0, length(datum.{measure}_map))", cells=f"datum.{measure}_map")
        .transform_flatten(["cell", "cells"])
        .transform_calculate(layer="floor(datum.cell / datum.heads)", head="datum.cell % datum.heads")
        .mark_rect()
        .encode(
            x=alt.X("head:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("layer:O", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "cells:Q",
                scale=alt.Scale(scheme="viridis", domainMin=0),
                legend=alt.Legend(orient="top", title=title_of(measure), gradientLength=SIDE - 20, format=".2~f"),
            ),
            tooltip=["layer:O", "head:O", alt.Tooltip("cells:Q", format=".3f", title=title_of(measure))],
        )
    )
