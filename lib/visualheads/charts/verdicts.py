"""The claims and their verdicts: a forest of estimates under what they are about."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from visualheads.charts.display import COLOURS, GREY, colour, finished, rows

KINDS = tuple(COLOURS["verdict"])
FARTHEST = 3.0
"""Margins that are shown beyond 0 on either side; what lies farther is drawn at the edge, its number is told."""
STEP, WIDTH, WIDE = 36, 640, 520
"""Pixels: a claim's height, the chart's width, and the width from which numbers stand beside the bars."""
MENU = 24
"""Pixels above the chart, where its menu's button lies."""
BESIDE, VERDICT = 300, 112
"""Pixels to the right of the bars, for verdict with numbers and for the verdict alone."""


def verdicts(table: pd.DataFrame) -> Any:
    """A claim's statement, and under it the interval in units of its margin and the verdict, at any width.

    Every claim has a unit of its own; divided by the margin they share an axis, on which 1 decides. Narrow charts leave
    the numbers to the tooltip. An interval that reaches beyond the axis ends in an arrowhead.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `claims.verdict_table`.

    Returns
    -------
    AnyChart
        The chart with its alternative text; a claim without numbers has no interval.
    """
    records = []
    for number, row in table.iterrows():
        verdict = next(name for name in KINDS if str(row["verdict"]).startswith(name))
        scale = [row[name] / row["margin"] if row["margin"] else np.nan for name in ("estimate", "lower", "upper")]
        shown = np.clip(scale, -FARTHEST, FARTHEST).tolist()
        ends = [
            end if cut else np.nan for end, cut in ((-FARTHEST, scale[1] < -FARTHEST), (FARTHEST, scale[2] > FARTHEST))
        ]
        records.append(
            {"claim": f"{number}", "verdict": verdict, "href": f"#claim-{number}",
             "numbers": ", ".join(filter(None, (row["numbers"] or row["reason"], row["part"]))),
             "statement": row["statement"], "short": f"{number}. {row['short']}",
             "told": f"{verdict}: {row['numbers'] or 'no number'}",
             **dict(zip(("estimate", "lower", "upper", "left", "right"), [*shown, *ends], strict=True))}
        )  # fmt: skip
    order = [record["claim"] for record in records]
    base = alt.Chart(rows(records)).encode(
        y=alt.Y("claim:N", sort=order, title=None, axis=None),
        tooltip=["claim:N", "statement:N", "verdict:N", "numbers:N"],
        href="href:N",
    )
    hue = colour("verdict", KINDS, legend=None)
    right = {"expr": f"width > {WIDE} ? width - {BESIDE} : width - {VERDICT}"}
    scale = alt.Scale(domain=[-FARTHEST, FARTHEST], range=[0, right])
    axis = alt.Axis(
        values=[-2, -1, 0, 1, 2],
        labelExpr="datum.value == 1 ? 'margin' : datum.value",
        titleAlign="left",
        titleX=0,
        grid=False,
    )
    bound = alt.X("lower:Q", scale=scale, title="estimate, in margins", axis=axis)
    # a line that nobody sees: all of it answers to pointer and click
    whole = base.mark_rule(strokeWidth=STEP, opacity=0, color=GREY).encode(x=alt.value(0), x2=alt.value("width"))
    words = base.mark_text(align="left", dy=-9, fontSize=12, limit={"expr": "width"}).encode(
        x=alt.value(0), text="short:N"
    )
    said = f"width > {WIDE} ? datum.told : datum.verdict"
    told = base.mark_text(
        align="left", dx={"expr": f"({right['expr']}) + 6"}, dy=8, fontSize=11, fontWeight="bold", text={"expr": said}
    ).encode(x=alt.value(0), color=hue)
    bars = base.mark_rule(strokeWidth=3, yOffset=8).encode(x=bound, x2="upper:Q", color=hue)
    points = base.mark_point(filled=True, size=60, opacity=1, yOffset=8).encode(
        x=alt.X("estimate:Q", scale=scale), color=hue
    )
    beyond = [
        base.mark_point(shape=f"triangle-{side}", filled=True, size=90, opacity=1, yOffset=8).encode(
            x=alt.X(f"{side}:Q", scale=scale), color=hue
        )
        for side in ("left", "right")
    ]
    zero, limit = (
        base.mark_tick(orient="vertical", size=14, yOffset=8, color=GREY, thickness=thickness)
        .encode(x=alt.X("at:Q", scale=scale))
        .transform_calculate(at=str(at))
        for at, thickness in ((0, 1), (1, 3))
    )
    layers = alt.layer(zero, limit, bars, points, *beyond, words, told, whole)
    padding = {"top": MENU, "left": 5, "right": 5, "bottom": 5}
    chart = layers.properties(width=WIDTH, height=alt.Step(STEP), padding=padding, usermeta={"margin": 10})
    counts = [record["verdict"] for record in records]
    counted = ", ".join(f"{counts.count(name)} {name}" for name in KINDS)
    each = "; ".join(f"claim {record['claim']} {record['told']}" for record in records)
    return finished(chart, f"The verdicts on {len(records)} claims: {counted}. {each}.")


def robustness(table: pd.DataFrame, verdicts: pd.DataFrame) -> Any:
    """What the intervals say of each claim, and would say after one other choice: one dot per claim and choice.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `claims.robustness`.
    verdicts : pandas.DataFrame
        A result of `claims.verdict_table` on the same claims.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    own = verdicts.loc[table["number"].unique(), ["by_interval", "estimate", "lower", "upper"]].reset_index()
    short = {number: f"{number}. {text}" for number, text in verdicts["short"].items()}
    own = own.rename(columns={"by_interval": "verdict"}).assign(choice="as judged", option="")
    told = pd.concat([own, table])
    labels = [f"{one}: {other}" if other else one for one, other in zip(told["choice"], told["option"], strict=True)]
    told = told.assign(claim=told["number"].map(short), label=[label.replace("_", " ") for label in labels])
    named = told[["claim", "label", "verdict", "estimate", "lower", "upper"]]
    base = alt.Chart(rows(named.to_dict("records"))).encode(
        y=alt.Y("claim:N", sort=list(dict.fromkeys(told["claim"])), axis=None),
        tooltip=["claim:N", "label:N", "verdict:N", "estimate:Q", "lower:Q", "upper:Q"],
    )
    dots = base.mark_circle(size=90, opacity=1, yOffset=8).encode(
        x=alt.X(
            "label:N",
            sort=list(dict.fromkeys(told["label"])),
            title=None,
            axis=alt.Axis(labelAngle=-60, labelLimit=190),
        ),
        color=colour("verdict", [kind for kind in KINDS if kind in set(told["verdict"])]),
    )
    words = base.mark_text(align="left", dy=-9, fontSize=11).encode(x=alt.value(0), text="claim:N")
    layers = alt.layer(dots, words.transform_filter("datum.label == 'as judged'"))
    layers = layers.properties(width=alt.Step(16), height=alt.Step(STEP))
    same = int(table["same"].sum())
    return finished(
        layers,
        f"What {len(table)} other choices would make of the claims: {same} say the same as those that decide.",
    )
