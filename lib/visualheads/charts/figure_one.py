"""The paper's first figure: models × benchmarks, one small panel each, one point per head."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts.comparison import placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import title_of
from visualheads.charts.labels import in_words

PANEL, HEIGHT = 92, 62
"""Pixels of a panel in a wide text column …"""
BESIDE_PANEL = 300
"""… and what stands beside one in a narrow column: the other panels and the axis. A phone's panels fill the rest."""
X, Y = "image_weight", "concentration"


def figure_one(points: pd.DataFrame, needs: str = "No model has been traced yet.") -> Any:
    """Image weight against concentration of every head, a panel per model and benchmark, coloured by the score there.

    `points` is a result of `benchmarks.head_points`. All panels share their scales; the score stands in the panel too.
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
    chart = alt.vconcat(*drawn, spacing=6).properties(usermeta={"margin": BESIDE_PANEL})
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
        f"{X}:Q", title=None, scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[0, 0.5, 1], format="~f", labels=last, ticks=last),
    )  # fmt: skip
    y = alt.Y(f"{Y}:Q", title=None, scale=alt.Scale(domain=heights), axis=alt.Axis(values=[0, 0.5, 1], format="~f"))
    base = alt.Chart(width=PANEL, height=HEIGHT)
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
    header = alt.Header(title=None, labels=first, labelFontSize=10, labelLimit=PANEL, labelPadding=4)
    return (
        alt.layer(heads, told, data=rows(cells.to_dict("records")))
        .facet(column=alt.Column("task:N", sort=tasks, header=header), spacing=6, bounds="flush")
        .transform_flatten(["layer", "head", X, Y])
        .transform_calculate(name="'L' + datum.layer + 'H' + datum.head")
        .properties(title=alt.TitleParams(str(cells["model"].iloc[0]), fontSize=12, anchor="start", offset=2))
    )
