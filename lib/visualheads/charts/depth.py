"""Heads over the layers, over the attention rows that can be read, and beside those of an untrained network."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.analysis.benchmarks import head_means
from visualheads.charts.comparison import placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import DIM, SINGLE, stage_colour, title_of
from visualheads.charts.labels import GREY, colour
from visualheads.heads.ranking import real_samples

MEASURES = ("image_weight", "concentration")
TRAINED, UNTRAINED = "trained", "untrained"


def stage_profile(
    ds: xr.Dataset, measure: str = "image_weight", query: str = head_tables.QUERY, model: str | None = None
) -> Any:
    """A measure over depth: every layer's mean head and strongest head, on bands of the stages."""
    table = head_tables.stage_table(ds, measure, query, model)
    bands = table.groupby("stage", sort=False)["layer"].agg(["min", "max"]).reset_index()
    shaded = (
        alt.Chart(rows({"stage": b.stage, "low": b["min"] - 0.5, "high": b["max"] + 0.5} for _, b in bands.iterrows()))
        .mark_rect(opacity=0.13)
        .encode(
            x=alt.X("low:Q", title="layer", scale=alt.Scale(nice=False)),
            x2="high:Q",
            color=stage_colour(legend=alt.Legend(orient="top")),
        )
    )
    kinds = {"strongest": "strongest head", "mean": "mean of the heads", "weakest": "weakest head"}
    long = [
        {"layer": int(r.layer), "value": float(r[k]), "kind": label}
        for _, r in table.iterrows()
        for k, label in kinds.items()
    ]
    lines = (
        alt.Chart(rows(long))
        .mark_line(point=alt.OverlayMarkDef(size=45), color=GREY)
        .encode(
            x=alt.X("layer:Q", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
            strokeDash=alt.StrokeDash(
                "kind:N", title=None, sort=list(kinds.values()), legend=alt.Legend(orient="bottom")
            ),
            tooltip=["layer:Q", "kind:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    peak = table.loc[table["mean"].idxmax()]
    words = (
        f"Line chart over {len(table)} layers of {title_of(measure)}: mean, strongest and weakest head. The mean is "
        "highest in "
        f"layer {int(peak.layer)} ({peak['mean']:.2f}), in the {peak.stage} stage."
    )
    return finished(alt.layer(shaded, lines).properties(width=SINGLE, height=280), words)


def query_agreement(
    ds: xr.Dataset,
    measure: str = "image_weight",
    queries: tuple[str, str] = ("first_generated", "last_prompt"),
    model: str | None = None,
) -> Any:
    """One point per head: the same measure of two attention rows."""
    one, other = (head_tables.head_table(ds, [measure], query, model) for query in queries)
    both = one.assign(first=one[measure], second=other[measure]).drop(columns=measure)
    top = float(np.nanmax(both[["first", "second"]].values))
    line = (
        alt.Chart(rows([{"a": 0.0, "b": 0.0}, {"a": top, "b": top}]))
        .mark_line(strokeDash=[4, 4], color=GREY)
        .encode(x="a:Q", y="b:Q")
    )
    points = (
        alt.Chart(rows(both.to_dict("records")))
        .mark_circle(size=70, opacity=DIM)
        .encode(
            x=alt.X("first:Q", title=f"{title_of(measure)}, {queries[0].replace('_', ' ')}"),
            y=alt.Y("second:Q", title=f"{title_of(measure)}, {queries[1].replace('_', ' ')}"),
            color=stage_colour(legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("name:N", title="head"),
                alt.Tooltip("first:Q", format=".3f"),
                alt.Tooltip("second:Q", format=".3f"),
            ],
        )
    )
    words = (
        f"Scatter plot of {len(both)} heads: {title_of(measure)} of the {queries[0]} row against the {queries[1]} row."
    )
    return finished(alt.layer(line, points).properties(width=420, height=340), words)


def against_untrained(ds: xr.Dataset, control: xr.Dataset | None) -> Any:
    """Heads from the strongest to the weakest, of a model and of the untrained network, one panel per measure.

    ds, control: traces of one model each; without a control a placeholder.
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
