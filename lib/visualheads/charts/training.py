"""How a miniature was trained, and what its heads did meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.charts import tables
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import SINGLE, title_of

CLOCK = ("step", "seconds")


def curve_table(stages: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The curves of a training record as rows: stage, step, figure (loss, accuracy of a kind of question, …), value."""
    records = [
        {"stage": stage, "step": point["step"], "figure": name, "value": float(value)}
        for stage, told in stages.items()
        for point in told["curve"]
        for name, value in point.items()
        if name not in CLOCK and isinstance(value, (int, float))
    ]
    return pd.DataFrame(records, columns=["stage", "step", "figure", "value"])


def training_curves(stages: Mapping[str, Mapping[str, Any]]) -> Any:
    """Per training stage: the loss, and beside it every share that was measured on fresh scenes."""
    table = curve_table(stages)
    is_loss = table["figure"].str.contains("loss")
    lines = []
    for stage in dict.fromkeys(table["stage"]):
        of_stage = table["stage"] == stage
        parts = [
            _curves(table[of_stage & chosen], stage if first else "", words, domain)
            for first, chosen, words, domain in (
                (True, is_loss, "loss", None),
                (False, ~is_loss, "share right", [0, 1]),
            )
            if (of_stage & chosen).any()
        ]
        lines.append(alt.hconcat(*parts).resolve_scale(color="independent"))
    names = ", ".join(dict.fromkeys(table["stage"]))
    words = f"Training curves of {len(lines)} stages ({names}): loss and measured shares over steps."
    return finished(alt.vconcat(*lines).resolve_scale(color="independent"), words)


def _curves(table: pd.DataFrame, title: str, words: str, domain: Sequence[float] | None) -> Any:
    scale = alt.Scale(domain=domain) if domain else alt.Scale()
    several = table["figure"].nunique() > 1
    legend = alt.Legend(orient="bottom", title=None, columns=3) if several else None
    return (
        alt.Chart(rows(table.to_dict("records")), title=title, width=240, height=150)
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5)),
            y=alt.Y("value:Q", title=words, scale=scale),
            color=alt.Color("figure:N", legend=legend),
            tooltip=["figure:N", "step:Q", alt.Tooltip("value:Q", format=".3f")],
        )
    )


def moment_lines(ds: xr.Dataset, measure: str = "image_weight", query: str = tables.QUERY, n: int = 6) -> Any:
    """Moments of training on one axis, one line per head; the n heads strongest at the end are named and coloured."""
    parts = []
    for name in ds["model"].values:
        table = tables.head_table(ds, [measure], query, str(name))
        step = int(ds["training_step"].sel(model=name))
        parts.append(table.assign(value=table[measure], step=step, moment=str(name).split("@")[-1]))
    table = pd.concat(parts, ignore_index=True)
    order = list(dict.fromkeys(table.sort_values("step", kind="stable")["moment"]))
    last = table[table["moment"] == order[-1]].nlargest(n, "value")["name"].tolist()
    base = alt.Chart().encode(
        x=alt.X("moment:N", sort=order, title="moment of training", axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
        detail="name:N",
        tooltip=[alt.Tooltip("name:N", title="head"), "moment:N", alt.Tooltip("value:Q", format=".3f")],
    )
    slim = table[["name", "moment", "value"]]
    others = base.properties(data=rows(slim[~slim["name"].isin(last)].to_dict("records"))).mark_line(
        color="#999", opacity=0.35
    )
    named = (
        base.properties(data=rows(slim[slim["name"].isin(last)].to_dict("records")))
        .mark_line(point=True, strokeWidth=2.2)
        .encode(color=alt.Color("name:N", sort=last, title="head", legend=alt.Legend(orient="right")))
    )
    words = (
        f"{title_of(measure)} of every head through {len(order)} moments of training; "
        f"at the end the strongest are {', '.join(last)}."
    )
    return finished(alt.layer(others, named).properties(width=SINGLE - 70, height=300), words)
