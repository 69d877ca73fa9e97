"""Heads over the layers, over the attention rows that can be read, and beside those of an untrained network."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.analysis.benchmarks import head_means
from visualheads.charts.comparison import diagonal, placeholder
from visualheads.charts.display import GREY, colour, finished, in_words, rows
from visualheads.charts.heads import DIM, SINGLE, stage_colour, title_of
from visualheads.heads.ranking import real_samples
from visualheads.store.variables import QUERIES

MEASURES = ("image_weight", "concentration")
TRAINED, UNTRAINED = "trained", "untrained"


def stage_profile(
    ds: xr.Dataset, measure: str = "image_weight", query: str = head_tables.QUERY, model: str | None = None
) -> Any:
    """A measure over depth: every layer's mean, strongest and weakest head, on bands of the stages.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    measure : str
        A variable per head and sample; its mean over samples counts.
    query : str
        The attention row, where the dataset holds several.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    table = head_tables.stage_table(ds, measure, query, model)
    bands = table.groupby("stage", sort=False)["layer"].agg(["min", "max"]).reset_index()
    shaded = (
        alt.Chart(rows({"stage": b.stage, "low": b["min"] - 0.5, "high": b["max"] + 0.5} for _, b in bands.iterrows()))
        .mark_rect(opacity=0.13)
        .encode(
            x=alt.X("low:Q", title="layer", scale=alt.Scale(nice=False)),
            x2="high:Q",
            color=stage_colour(legend=alt.Legend(orient="top", symbolType="square", symbolOpacity=0.5)),
        )
    )
    kinds = {"strongest": "strongest head", "mean": "mean of the heads", "weakest": "weakest head"}
    long = table.rename(columns=kinds).melt(["layer"], list(kinds.values()), "kind", "value")
    lines = (
        alt.Chart(rows(long.to_dict("records")))
        .mark_line(point=alt.OverlayMarkDef(size=45), color=GREY)
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
            strokeDash=alt.StrokeDash(
                "kind:N",
                title=None,
                sort=list(kinds.values()),
                legend=alt.Legend(orient="bottom", symbolType="stroke", symbolSize=900, symbolStrokeColor=GREY),
            ),
            tooltip=["layer:Q", "kind:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    peak = table.loc[table["mean"].idxmax()]
    words = (
        f"Line chart over {len(table)} layers of {title_of(measure)}: mean, strongest and weakest head. The mean is "
        f"highest in layer {int(peak.layer)} ({peak['mean']:.2f}), in the {peak.stage} stage."
    )
    return finished(alt.layer(shaded, lines).properties(width=SINGLE, height=280), words)


def query_agreement(ds: xr.Dataset, measure: str = "image_weight", model: str | None = None) -> Any:
    """The same measure of two attention rows, one point per head.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample) with both rows along `query`.
    measure : str
        A variable per head and sample; its mean over samples counts.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    one, other = (head_tables.head_table(ds, [measure], query, model) for query in QUERIES)
    both = one.assign(first=one[measure], second=other[measure]).drop(columns=measure)
    top = float(np.nanmax(both[["first", "second"]].values))
    first, second = (query.replace("_", " ") for query in QUERIES)
    points = (
        alt.Chart(rows(both.to_dict("records")))
        .mark_circle(size=70, opacity=DIM)
        .encode(
            x=alt.X("first:Q", title=f"{title_of(measure)}, {first}"),
            y=alt.Y("second:Q", title=f"{title_of(measure)}, {second}"),
            color=stage_colour(legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("name:N", title="head"),
                alt.Tooltip("first:Q", title=first, format=".3f"),
                alt.Tooltip("second:Q", title=second, format=".3f"),
            ],
        )
    )
    words = (
        f"Scatter plot of {len(both)} heads: {title_of(measure)} of the {QUERIES[0]} row against the {QUERIES[1]} row."
    )
    return finished(alt.layer(diagonal(0.0, top), points).properties(width=420, height=340), words)


def against_untrained(ds: xr.Dataset, control: xr.Dataset | None) -> Any:
    """Heads from the strongest to the weakest, of a model and of the untrained network, one panel per measure.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of one model, with image weight and concentration.
    control : xarray.Dataset, optional
        Traces of the untrained network; without it a placeholder.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if control is None:
        return placeholder("No untrained network was traced.")
    panels, told = [], []
    for measure in MEASURES:
        records = []
        for name, one in ((TRAINED, ds), (UNTRAINED, control)):
            values = head_means(real_samples(one), measure)
            ordered = np.sort(values[np.isfinite(values)])[::-1]
            records += [{"heads": name, "place": i + 1, "value": float(v)} for i, v in enumerate(ordered)]
            if len(ordered):
                told.append(f"{name}, {title_of(measure)} {ordered[-1]:.2f} to {ordered[0]:.2f}")
        panels.append(
            alt.Chart(rows(records), width=250, height=210)
            .mark_line(point=alt.OverlayMarkDef(size=14))
            .encode(
                x=alt.X("place:Q", title="heads, strongest first", scale=alt.Scale(nice=False)),
                y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
                color=colour("heads", [TRAINED, UNTRAINED], title=None, legend=alt.Legend(orient="top")),
                tooltip=["heads:N", "place:Q", alt.Tooltip("value:Q", format=".3f")],
            )
        )  # fmt: skip
    words = f"Heads sorted by image weight and by concentration, trained and untrained: {'; '.join(told)}."
    return finished(alt.hconcat(*panels), words)


ONE_PANEL, HEIGHT = 92, 62
"""Pixels of a panel in a wide text column …"""
BESIDE_PANEL = 300
"""… and what stands beside one in a narrow column: the other panels and the axis. A phone's panels fill the rest."""
X, Y = "image_weight", "concentration"


def figure_one(points: pd.DataFrame, needs: str = "No model has been traced yet.") -> Any:
    """Image weight against concentration of every head, a panel per model and benchmark, coloured by the score there.

    All panels share their scales; the score stands in the panel too.

    Parameters
    ----------
    points : pandas.DataFrame
        A result of `benchmarks.head_points`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    References
    ----------
    Bi et al. 2024 (arXiv:2412.18108), figure 1.
    """
    if points.empty:
        return placeholder(needs)
    told = in_words(points)
    tasks, models = list(dict.fromkeys(told["task"])), list(dict.fromkeys(told["model"]))
    cells = told.groupby(["model", "task"], sort=False)
    listed = cells[["layer", "head", X, Y]].agg(list).join(cells["score"].first()).reset_index()
    low, high = float(told[Y].min()), float(told[Y].max())
    heights = (0.0, 1.25 * high)
    drawn = [
        _row(listed[listed["model"] == model], tasks, heights, first=model == models[0], last=model == models[-1])
        for model in models
    ]
    chart = alt.vconcat(*drawn, spacing=6, title="upwards: concentration")
    chart = chart.properties(usermeta={"margin": BESIDE_PANEL})
    words = (
        f"Grid of {len(models)} models by {len(tasks)} benchmarks; in each panel one point per head, image weight to "
        f"the right from 0 to 1 and concentration upwards from {low:.2f} to {high:.2f}, coloured by the share of "
        f"right answers, {told['score'].min():.0%} to {told['score'].max():.0%}."
    )
    return finished(chart, words)


def _row(cells: pd.DataFrame, tasks: list[str], heights: tuple[float, float], first: bool, last: bool) -> Any:
    """One model's panels; the first row names the benchmarks, the last one has the axis."""
    score = alt.Color(
        "score:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(orient="top", title="right answers", format=".0%", gradientLength=160),
    )  # fmt: skip
    x = alt.X(
        f"{X}:Q", title="image weight" if last else None, scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[0, 0.5, 1], format="~f", labels=last, ticks=last),
    )  # fmt: skip
    y = alt.Y(f"{Y}:Q", title=None, scale=alt.Scale(domain=heights), axis=alt.Axis(values=[0, 0.5, 1], format="~f"))
    base = alt.Chart(width=ONE_PANEL, height=HEIGHT)
    heads = base.mark_circle(size=16, opacity=0.85).encode(
        x=x, y=y, color=score,
        tooltip=["model:N", alt.Tooltip("task:N", title="benchmark"), alt.Tooltip("name:N", title="head"),
                 alt.Tooltip(f"{X}:Q", title=title_of(X), format=".3f"),
                 alt.Tooltip(f"{Y}:Q", title=title_of(Y), format=".3f"),
                 alt.Tooltip("score:Q", title="right answers", format=".1%")],
    )  # fmt: skip
    told = base.mark_text(align="right", baseline="top", fontSize=10).encode(
        text=alt.Text("mean(score):Q", format=".0%"), x=alt.value("width"), y=alt.value(0)
    )
    header = alt.Header(title=None, labels=first, labelFontSize=10, labelLimit=ONE_PANEL, labelPadding=4)
    return (
        alt.layer(heads, told, data=rows(cells.to_dict("records")))
        .facet(column=alt.Column("task:N", sort=tasks, header=header), spacing=6, bounds="flush")
        .transform_flatten(["layer", "head", X, Y])
        .transform_calculate(name="'L' + datum.layer + 'H' + datum.head")
        .properties(title=alt.TitleParams(str(cells["model"].iloc[0]), fontSize=12, anchor="start", offset=2))
    )
