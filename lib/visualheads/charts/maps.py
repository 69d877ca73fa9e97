"""Layer × head maps of several models or conditions: one panel each, the model chosen below."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts.comparison import choice, chosen_model, placeholder
from visualheads.charts.display import CHOSEN, MAIN, finished, in_words, rows
from visualheads.charts.heads import HEAD, LAYER, NORMALISED, title_of
from visualheads.store.variables import VARIABLES

PANEL = 150
SIDE, CURVE = 230, 210
BESIDE_PANEL = 260
"""Pixels beside one of three panels in a narrow column: the other two and the axis."""


def clickable(base: alt.Chart, chosen: alt.Parameter, hue: alt.Color, tip: alt.Tooltip) -> Any:
    """Layer × head map; a click chooses a head, which is framed."""
    heads = base.encode(x=HEAD, y=LAYER)
    cells = heads.mark_rect(cursor="pointer").encode(color=hue, tooltip=["name:N", "stage:N", tip])
    frame = heads.transform_filter(chosen).mark_rect(filled=False, stroke=CHOSEN, strokeWidth=2.5)
    return alt.layer(cells.add_params(chosen), frame)


def chosen_bars(base: alt.Chart, x: alt.X) -> Any:
    """Bars of a chosen head with their values, under its name."""
    bars = base.mark_bar(color=MAIN, height=14).encode(x=x)
    values = base.mark_text(align="left", dx=3, fontSize=11).encode(x=x, text=alt.Text("value:Q", format=".3f"))
    name = base.transform_aggregate(name="max(name)").mark_text(align="left", x=0, fontSize=13, color=CHOSEN)
    title = name.encode(text="name:N", y=alt.value(8), tooltip=alt.value(None)).properties(width=130, height=16)
    return alt.vconcat(title, alt.layer(bars, values).properties(width=130, height=alt.Step(24)), spacing=4)


def condition_maps(table: pd.DataFrame, needs: str = "Nothing was asked in several conditions.") -> Any:
    """Head maps of one model in every condition; model, measure and min–max normalisation are chosen below.

    Colours are shared by the conditions; normalised, every map is stretched from 0, its weakest head, to 1, its
    strongest, as in the paper's figures.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `head_tables.condition_table`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    measures = [name for name in table.columns if name in VARIABLES and table[name].notna().any()]
    models, conditions = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["condition"]))
    listed = table.groupby(["model", "condition"], sort=False)[["layer", "head", *measures]].agg(list).reset_index()
    titles = [title_of(name) for name in measures]
    measure = alt.param(
        name="measure", value=measures[0], bind=alt.binding_radio(options=measures, labels=titles, name="Measure: ")
    )
    stretched = alt.param(name="stretched", value=False, bind=alt.binding_checkbox(name=f"{NORMALISED} "))
    chart = (
        alt.Chart(rows(listed.to_dict("records")), width=PANEL, height=PANEL)
        .mark_rect()
        .encode(
            x=HEAD,
            y=LAYER,
            color=alt.Color(
                "shown:Q", scale=alt.Scale(scheme="viridis", domainMin=0),
                legend=alt.Legend(orient="top", title="mean over samples", gradientLength=200, format=".2~f"),
            ),
            tooltip=["condition:N", "layer:O", "head:O", alt.Tooltip("value:Q", format=".3f")],
        )
        .facet(
            alt.Facet("condition:N", sort=conditions, header=alt.Header(title=None, labelFontSize=11, labelPadding=2)),
            columns=3, spacing=8,
        )
        .transform_filter("datum.model === chosen_model")
        .transform_calculate(values="datum[measure]")
        .transform_flatten(["layer", "head", "values"], ["layer", "head", "value"])
        .transform_filter("isValid(datum.value)")
        .transform_joinaggregate(low="min(value)", high="max(value)", groupby=["condition"])
        .transform_calculate(
            shown="stretched ? (datum.value - datum.low) / max(datum.high - datum.low, 1e-12) : datum.value"
        )
        .properties(usermeta={"margin": BESIDE_PANEL})
        .add_params(chosen_model(models), measure, stretched)
    )  # fmt: skip
    words = (
        f"Layer by head maps of {len(models)} models, one at a time, in {len(conditions)} conditions: "
        f"{', '.join(conditions)}; coloured by {' or '.join(titles)}."
    )
    return finished(chart, words)


def detection_map(table: pd.DataFrame, needs: str = "No model has been traced yet.") -> Any:
    """How often each head is among the K strongest: a layer × head map, and beside it all heads from most to least.

    Model and benchmark are chosen below. Where the curve reaches 0, no further head ever enters the top K.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `head_tables.detections`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    told = in_words(table).assign(share=table["count"] / table["samples"])
    told["place"] = told.groupby(["model", "task"])["share"].rank(method="first", ascending=False).astype(int)
    models, tasks = list(dict.fromkeys(told["model"])), list(dict.fromkeys(told["task"]))
    fields: list[Any] = ["layer", "head", "share", "place"]
    listed = told.groupby(["model", "task"], sort=False).agg(
        **{name: (name, list) for name in fields}, k=("k", "first"), samples=("samples", "first")
    )
    task = choice("task_shown", tasks, "Benchmark")
    base = (
        alt.Chart(rows(listed.reset_index().to_dict("records")))
        .transform_filter("datum.model === chosen_model && datum.task === task_shown")
        .transform_flatten(fields)
        .transform_calculate(name="'L' + datum.layer + 'H' + datum.head", count="round(datum.share * datum.samples)")
    )
    tips = ["name:N", "count:Q", "samples:Q", "k:Q", alt.Tooltip("share:Q", format=".0%")]
    colour = alt.Color(
        "share:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(
            orient="top", title="share of samples with it in the top K", format=".0%", values=[0, 0.5, 1],
            gradientLength=200,
        ),
    )  # fmt: skip
    cells = base.mark_rect().encode(x=HEAD, y=LAYER, color=colour, tooltip=tips).properties(width=SIDE, height=SIDE)
    curve = base.mark_bar().encode(
        x=alt.X(
            "place:Q",
            title="heads, from most to least often",
            axis=alt.Axis(format="d", tickMinStep=1),
            scale=alt.Scale(domainMin=0, nice=False),
        ),
        y=alt.Y("share:Q", title="share of samples", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
        color=colour,
        tooltip=tips,
    )
    curve = curve.properties(width=CURVE, height=SIDE)
    ever = (told["count"] > 0).groupby([told["model"], told["task"]]).sum()
    words = (
        f"Layer by head map of how often each head is among the strongest by image weight, for {len(models)} models "
        f"on {len(tasks)} benchmarks, one at a time; {ever.min()} to {ever.max()} heads ever are. Beside it the heads "
        "from most to least often."
    )
    return finished(alt.hconcat(cells, curve, spacing=16).add_params(chosen_model(models), task), words)


def moment_maps(table: pd.DataFrame, title: str) -> Any:
    """Layer × head maps side by side, one per moment, on one scale about 0; heads that were chosen have a frame.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `analysis.three_moments.moment_maps`: moment, layer, head, value, chosen.
    title : str
        What the colours tell.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    moments = list(dict.fromkeys(table["moment"]))
    listed = table.assign(name=[f"L{layer}H{head}" for layer, head in zip(table["layer"], table["head"], strict=True)])
    most = float(table["value"].abs().quantile(0.995))
    base = alt.Chart(rows(listed.to_dict("records")), width=PANEL, height=2 * PANEL)
    cells = base.mark_rect().encode(
        x=HEAD,
        y=LAYER,
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(scheme="blueorange", domain=[-most, most], clamp=True),
            legend=alt.Legend(orient="top", title=title, gradientLength=200, format=".2~f"),
        ),
        stroke=alt.condition("datum.chosen", alt.value("black"), alt.value(None)),
        strokeWidth=alt.condition("datum.chosen", alt.value(1.5), alt.value(0)),
        tooltip=["moment:N", "name:N", alt.Tooltip("value:Q", format=".3f")],
    )
    chart = cells.facet(
        alt.Facet("moment:N", sort=moments, header=alt.Header(title=None, labelFontSize=11, labelPadding=2)),
        columns=3,
        spacing=8,
    ).properties(usermeta={"margin": BESIDE_PANEL})
    return finished(
        chart, f"Layer by head maps at {len(moments)} moments, coloured by {title}; chosen heads are framed."
    )
