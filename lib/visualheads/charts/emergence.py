"""Heads through the moments of training, and beside what they did on text."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts.comparison import GREY, chosen_model, placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import SINGLE, title_of
from visualheads.charts.labels import in_words, moment

PANELS = (("rho", "correlation with the end"), ("top", "mean of the heads strongest at the end"))


def moments_compared(table: pd.DataFrame, measure: str = "image_weight") -> Any:
    """Models through training: how near the head pattern is to its last form, and how strong its later heads are.

    `table` is the result of `emergence.moment_table`; moments stand in the order of training, evenly spaced.
    """
    if table.empty:
        return placeholder("No moments of training were kept with these models.")
    order = list(dict.fromkeys(table.sort_values("step", kind="stable")["moment"]))
    ends = [name for name in order if name.startswith("final")]
    order = [moment(name) for name in order if name not in ends] + [moment(name) for name in ends]
    data = rows(in_words(table).to_dict("records"))
    panels = []
    for column, words in PANELS:
        tips = [
            "model:N",
            "moment:N",
            *[alt.Tooltip(f"{n}:Q", format=".3f") for n in ("rho", "within", "top", "shared")],
        ]
        panels.append(
            alt.Chart(data, width=240, height=240, title=words)
            .mark_line(point=alt.OverlayMarkDef(size=40))
            .encode(
                x=alt.X("moment:N", sort=order, title="moment of training",
                        axis=alt.Axis(labelAngle=-40, labelLimit=200)),
                y=alt.Y(f"{column}:Q", title="Spearman over heads" if column == "rho" else title_of(measure)),
                color=alt.Color("model:N", title=None, sort=list(dict.fromkeys(table["model"])),
                                legend=alt.Legend(orient="top", columns=3)),
                tooltip=tips,
            )
        )  # fmt: skip
    first = table.groupby("model", sort=False).first()
    told = "; ".join(f"{name} begins at {row['rho']:.2f}" for name, row in first.iterrows())
    words = (
        f"Correlation of the pattern of {title_of(measure)} over heads with its last form, through training. {told}."
    )
    return finished(alt.hconcat(*panels), words)


def text_and_pictures(table: pd.DataFrame, measure: str = "region_weight") -> Any:
    """One point per head: attention on the asked words of text lists before any picture, against that on the asked
    region of pictures after tuning. `table`: `emergence.head_pairs` with a column model; chosen below."""
    if table.empty:
        return placeholder("Needs a model whose text-only checkpoint is there too.")
    models = list(dict.fromkeys(table["model"]))
    choice = chosen_model(models)
    chart = (
        alt.Chart(rows(table.to_dict("records")), width=SINGLE - 60, height=320)
        .transform_filter("datum.model === chosen_model")
        .mark_circle(size=80, opacity=0.85)
        .encode(
            x=alt.X("text:Q", title="attention on the asked words of text lists, before any picture"),
            y=alt.Y("picture:Q", title=f"{title_of(measure)}, after visual tuning"),
            color=alt.Color("layer:Q", scale=alt.Scale(scheme="viridis"), title="layer"),
            tooltip=["name:N", alt.Tooltip("text:Q", format=".3f"), alt.Tooltip("picture:Q", format=".3f")],
        )
        .add_params(choice)
    )
    one = table[table["model"] == models[0]]
    best = one.loc[one["text"].idxmax()]
    words = (
        f"Scatter plot of the heads of {models[0]}: attention on asked words in text against {title_of(measure)} in "
        f"pictures. The strongest on text, {best['name']}, has {best['text']:.2f} there and {best['picture']:.2f} here."
    )
    return finished(chart, words)


def text_relations(table: pd.DataFrame) -> Any:
    """Correlations over heads of pictures with text lists, by which network read the lists, with intervals.

    `table` is the result of `emergence.with_text`.
    """
    if table.empty:
        return placeholder("Needs a model whose text-only checkpoint is there too.")
    kinds = list(dict.fromkeys(table["kind"]))
    models = list(dict.fromkeys(table["model"]))
    base = alt.Chart(rows(table.to_dict("records")), width=SINGLE - 130, height=alt.Step(13)).encode(
        y=alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labelLimit=200)),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", sort=kinds, title=None, legend=alt.Legend(orient="top", columns=1)),
        tooltip=[
            "model:N",
            "text_model:N",
            "kind:N",
            *[alt.Tooltip(f"{n}:Q", format=".2f") for n in ("rho", "lower", "upper", "within", "ceiling")],
        ],
    )
    x = alt.X("lower:Q", title="Spearman over heads, with 95 % interval", scale=alt.Scale(domainMax=1))
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=x, x2="upper:Q"),
        base.mark_circle(size=60, opacity=1).encode(x="rho:Q"),
        alt.Chart(rows([{"edge": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="edge:Q"),
    ]
    told = "; ".join(f"{r.model} with {r.kind}: {r.rho:.2f}" for r in table.head(20).itertuples())
    return finished(alt.layer(*layers), f"Correlation of heads on pictures with heads on text lists. {told}.")
