"""What is lost without heads: curves over the number of heads, a map of single heads, scores beside effects.

How many of the best heads rankings share with the effects, over the number of heads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts import display
from visualheads.charts.comparison import choice, placeholder
from visualheads.charts.display import GREY, colour, finished, rows, tips, with_family
from visualheads.charts.heads import chosen_head
from visualheads.charts.maps import chosen_bars, clickable

MEASURES = {
    "accuracy": "share of right answers lost",
    "margin": "margin of the right answer lost (logits)",
    "kl": "change of the answer's distribution (KL, nats)",
}
ORDERS = ("top", "random", "bottom")
NEEDS_EFFECTS = "Needs a sweep of single heads, which the ablation pages make."
BOUNDS = ("estimate", "lower", "upper")
PANEL, ROW = 215, 430
"""Pixels of a panel at most, and of all that stand side by side."""


def _layers(stage: str) -> str:
    return "all layers" if stage == "all" else f"{stage} layers"


CHOICES: dict[str, dict[str, Callable[[str], str]]] = {
    "stage": {"measure": MEASURES.__getitem__, "ranking": display.ranking, "mode": display.mode},
    "task": {"model": str, "measure": MEASURES.__getitem__, "ranking": display.ranking, "mode": display.mode,
             "stage": _layers},
}  # fmt: skip
"""What is chosen below loss curves, by what their panels are of."""
PANELS = {"stage": _layers, "task": display.benchmark}
SIDE = 250


def loss_curves(table: pd.DataFrame, needs: str = "No heads were removed yet.") -> Any:
    """What is lost over the number of removed heads: top heads against random others of the same layers.

    What has several values besides (measure, ranking, mode, stage, model) is chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `effects.loss_table`, with a panel per stage, or of `effects.losses_by_benchmark`, with a panel per
        benchmark.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    choices = []
    panel = "task" if "task" in table else "stage"
    kept = [*CHOICES[panel], *({panel} - {*CHOICES[panel]}), "order", "count", "sets", *BOUNDS]
    data = alt.Chart(rows(table[kept].to_dict("records")))
    for column, word_of in CHOICES[panel].items():
        options = list(dict.fromkeys(table[column]))
        choices.append(choice(f"{column}_shown", options, column.capitalize(), [word_of(name) for name in options]))
        data = data.transform_filter(f"datum.{column} === {column}_shown")
    orders = [name for name in ORDERS if name in set(table["order"])]
    hue = colour("order", orders, title=None, legend=alt.Legend(orient="top"))
    told_of = ["order:N", "count:Q", "sets:Q", *tips(*BOUNDS)]
    panels = []
    names = list(dict.fromkeys(table[panel]))
    for index, name in enumerate(names):
        base = data.transform_filter(f"datum.{panel} === '{name}'").encode(
            x=alt.X("count:O", title="removed heads", axis=alt.Axis(labelAngle=0)),
            color=hue,
            xOffset=alt.XOffset("order:N", sort=orders),
        )
        y = alt.Y("estimate:Q", title="loss" if index == 0 else None)
        lines = base.mark_line(strokeWidth=1.5).encode(y=y)
        bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("lower:Q"), y2="upper:Q")
        points = base.mark_circle(size=60, opacity=1).encode(y=y, tooltip=told_of)
        zero = alt.Chart(rows([{"zero": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y="zero:Q")
        panels.append(alt.layer(zero, bars, lines, points).properties(
            width=min(PANEL, ROW // len(names)), height=220, title=PANELS[panel](name)
        ))  # fmt: skip
    shown = table
    for column in CHOICES[panel]:
        shown = shown[shown[column] == shown[column].iloc[0]]
    told = "; ".join(
        f"{row.order} {row.count} of {getattr(row, panel)}: {row.estimate:.3f} ({row.lower:.3f} to {row.upper:.3f})"
        for row in shown.itertuples()
    )
    words = f"{MEASURES[str(table['measure'].iloc[0])]} over the number of removed heads. {told}."
    chart = alt.hconcat(
        *panels, spacing=14, title=alt.TitleParams(alt.ExprRef(f"{json.dumps(MEASURES)}[measure_shown]"))
    )
    return finished(chart.resolve_scale(y="shared").add_params(*choices), words)


def effect_map(table: pd.DataFrame, needs: str = NEEDS_EFFECTS) -> Any:
    """Layer × head map of what the margin loses without each head alone; a click tells all scores of a head.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `effects.head_tables` for one model; heads without an effect are left out.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    table = table.dropna(subset=["effect"]) if len(table) else table
    if table.empty:
        return placeholder(needs)
    best = table.loc[table["effect"].idxmax()]
    chosen = chosen_head(best)
    order = ["effect on the margin", *[display.ranking(name) for name in _rankings(table)]]
    scores = alt.Chart(rows(_long(table).to_dict("records"))).transform_filter(chosen).encode(
        y=alt.Y("ranking:N", sort=order, title=None, axis=alt.Axis(labelLimit=140)),
        tooltip=["name:N", "ranking:N", alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("above:Q", format=".0%")],
    )  # fmt: skip
    place = alt.X("above:Q", title="place among the heads", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    limit = float(table["effect"].abs().max()) or 1.0
    legend = alt.Legend(orient="top", title="margin lost (logits)", gradientLength=SIDE - 20, format=".2~f")
    hue = alt.Color("effect:Q", scale=alt.Scale(scheme="blueorange", domain=[-limit, limit]), legend=legend)
    shape = table["layer"].nunique() / table["head"].nunique()
    shown = rows(table[["layer", "head", "name", "stage", "effect"]].to_dict("records"))
    tip = alt.Tooltip("effect:Q", format=".3f")
    grid = clickable(alt.Chart(shown), chosen, hue, tip).properties(
        width=SIDE - 20, height=(SIDE - 20) * min(1.6, shape)
    )
    words = (
        f"Map of {table['layer'].nunique()} layers by {table['head'].nunique()} heads, coloured by what the margin of "
        f"the right answer loses without the head. {best['name']} matters most: {best['effect']:.2f} logits. "
        "A chosen head's place in every ranking stands beside the map."
    )
    return finished(alt.hconcat(grid, chosen_bars(scores, place), spacing=16), words)


def effect_depth(table: pd.DataFrame, needs: str = NEEDS_EFFECTS) -> Any:
    """In which layers the effects lie: a panel per effect, a line per model, coloured by its language model.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `effects.depth_table`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ValueError
        There are more language models than hues can be told apart.
    """
    if table.empty:
        return placeholder(needs)
    told = with_family(table)
    hue = colour("family", told["family"], title="language model", legend=alt.Legend(orient="top", columns=3))
    chart = (
        alt.Chart(rows(told.to_dict("records")), width=(ROW - 60) // 2, height=220)
        .mark_line(point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X("depth:Q", title="depth (0: first layer, 1: last)", scale=alt.Scale(nice=False)),
            y=alt.Y("share:Q", title="share of positive effect", axis=alt.Axis(format="%")),
            color=hue,
            detail="model:N",
            column=alt.Column("effect:N", sort=None, title=None),
            tooltip=["model:N", "layer:Q", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    first = told[told["layer"] == 0].groupby("effect", sort=False)["share"]
    held = "; ".join(f"{name}: {own.min():.0%} to {own.max():.0%}" for name, own in first)
    return finished(chart, f"Share of the effect by depth. Layer 0 holds of the effect {held}.")


def _rankings(table: pd.DataFrame) -> list[str]:
    known = {"model", "layer", "head", "name", "stage", "effect"}
    return [str(name) for name in table.columns if name not in known and table[name].notna().any()]


def _long(table: pd.DataFrame) -> pd.DataFrame:
    """One row per head and ranking: its value, and `above`, the share of the model's heads that lie below it.

    Heads of the same value do not lie below each other; heads without a value do not count.
    """
    names = {name: display.ranking(name) for name in _rankings(table)}
    long = table.rename(columns={"effect": "effect on the margin", **names})
    heads = ["model", "layer", "head", "name"]
    long = long.melt(heads, ["effect on the margin", *names.values()], "ranking", "value").dropna(subset="value")
    known = long.groupby(["model", "ranking"])["value"]
    return long.assign(above=(known.rank(method="min") - 1) / known.transform("count"))
