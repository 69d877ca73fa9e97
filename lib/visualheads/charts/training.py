"""How a miniature was trained, and what its heads did meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.analysis import head_tables as tables
from visualheads.charts.comparison import chosen_model, placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import SINGLE, title_of
from visualheads.charts.labels import figure, in_words, moment

CLOCK = ("step", "seconds")
STAGES = ("tower", "language model", "alignment", "tuning")
STRONGEST = ("strongest", "second", "third", "fourth", "fifth", "sixth")


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


def named_stages(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The stages of a training record by STAGES; the language model's stage goes by its own name in the record."""
    text = record.get("text_model", "")
    return {STAGES[1] if name == text else name: told for name, told in record.get("stages", {}).items()}


def training_curves(records: Mapping[str, Mapping[str, Any]]) -> Any:
    """Per training stage of the chosen miniature: the loss, and beside it every share measured on fresh scenes.

    records: training records by miniature. The miniature is chosen below the figure.
    """
    tables = [curve_table(named_stages(record)).assign(model=name) for name, record in records.items()]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        return placeholder("No miniature was trained yet.")
    is_loss = table["figure"].str.contains("loss")
    shares = sorted({figure(name) for name in table["figure"][~is_loss]})  # one colour each, whatever the stage
    lines = []
    for stage in dict.fromkeys(table["stage"]):
        of_stage = table["stage"] == stage
        parts = [
            _curves(table[of_stage & chosen], stage if first else "", words, domain, shares)
            for first, chosen, words, domain in (
                (True, is_loss, "loss", None),
                (False, ~is_loss, "share right", [0, 1]),
            )
            if (of_stage & chosen).any()
        ]
        lines.append(alt.hconcat(*parts).resolve_scale(color="independent"))
    names = ", ".join(dict.fromkeys(table["stage"]))
    words = f"Training curves of {', '.join(records)}, one chosen: loss and shares over the steps of {names}."
    chart = alt.vconcat(*lines).resolve_scale(color="independent")
    return finished(chart.add_params(chosen_model(list(records))), words)


def _curves(table: pd.DataFrame, title: str, words: str, domain: Sequence[float] | None, shares: Sequence[str]) -> Any:
    scale = alt.Scale(domain=domain) if domain else alt.Scale()
    table = table.assign(figure=table["figure"].map(figure))
    told = sorted(set(table["figure"]))
    several = len(told) > 1
    legend = alt.Legend(orient="bottom", title=None, columns=2, values=told) if several else None
    colours = alt.Scale(scheme="category20", domain=shares) if several else alt.Undefined
    return (
        alt.Chart(rows(table.drop(columns="stage").to_dict("records")), title=title, width=240, height=150)
        .transform_filter("datum.model === chosen_model")
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5)),
            y=alt.Y("value:Q", title=words, scale=scale),
            color=alt.Color("figure:N", legend=legend, scale=colours),
            tooltip=["figure:N", "step:Q", alt.Tooltip("value:Q", format=".3f")],
        )
    )


def moment_lines(
    moments: Mapping[str, xr.Dataset], measure: str = "image_weight", query: str = tables.QUERY, n: int = len(STRONGEST)
) -> Any:
    """Moments of training on one axis, one line per head of the chosen miniature; the n strongest at the end are
    coloured by their place among them.

    moments: by miniature, one entry along `model` per moment, with `training_step`.
    """
    if not moments:
        return placeholder("No moments of training were kept with these models.")
    parts, order, told = [], [], []
    for model, ds in moments.items():
        table = _by_moment(ds, measure, query)
        own = list(dict.fromkeys(table.sort_values("step", kind="stable")["moment"]))
        order += [name for name in own if name not in order]
        last = table[table["moment"] == own[-1]].nlargest(min(n, len(STRONGEST)), "value")["name"].tolist()
        told.append(f"{model}: {', '.join(last)}")
        place = dict(zip(last, STRONGEST, strict=False))
        parts.append(table[["name", "moment", "value"]].assign(model=model, place=table["name"].map(place).fillna("")))
    whole = pd.concat(parts, ignore_index=True)
    ends = [name for name in order if name.startswith("final")]
    order = [moment(name) for name in order if name not in ends] + [moment(name) for name in ends]
    whole = in_words(whole)
    base = (
        alt.Chart()
        .transform_filter("datum.model === chosen_model")
        .encode(
            x=alt.X("moment:N", sort=order, title="moment of training", axis=alt.Axis(labelAngle=-30, labelLimit=200)),
            y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
            detail="name:N",
            tooltip=[alt.Tooltip("name:N", title="head"), "moment:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    weak = whole[whole["place"] == ""].drop(columns="place")
    others = base.properties(data=rows(weak.to_dict("records"))).mark_line(color="#999", opacity=0.35)
    colour = alt.Color("place:N", sort=list(STRONGEST), title="at the end", legend=alt.Legend(orient="right"))
    strong = base.properties(data=rows(whole[whole["place"] != ""].to_dict("records")))
    named = strong.mark_line(point=True, strokeWidth=2.2).encode(color=colour)
    words = f"{title_of(measure)} of every head through moments of training; strongest at the end – {'; '.join(told)}."
    chart = alt.layer(others, named).properties(width=SINGLE - 90, height=300)
    return finished(chart.add_params(chosen_model(list(moments))), words)


def _by_moment(ds: xr.Dataset, measure: str, query: str) -> pd.DataFrame:
    parts = []
    for name in ds["model"].values:
        table = tables.head_table(ds, [measure], query, str(name))
        step = int(ds["training_step"].sel(model=name))
        parts.append(table.assign(value=table[measure], step=step, moment=str(name).split("@")[-1]))
    return pd.concat(parts, ignore_index=True)
