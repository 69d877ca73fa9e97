"""The claims and their verdicts: a forest of estimates beside what they are about."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from visualheads.charts.display import COLOURS, colour, finished, rows

KINDS = tuple(COLOURS["verdict"])
FARTHEST = 3.0
"""Margins that are shown beyond 0 on either side; what lies farther is drawn at the edge, its number is told."""
STEP, WORDS, FOREST = 40, 440, 220


def verdicts(table: pd.DataFrame) -> Any:
    """One line per claim: its statement with the numbers, and its interval in units of its margin, coloured by verdict.

    `table` is a result of `claims.verdict_table`. Every claim has a unit of its own; divided by the margin they share
    an axis, on which 1 decides.
    """
    records = []
    for number, row in table.iterrows():
        verdict = next(name for name in KINDS if str(row["verdict"]).startswith(name))
        scale = [row[name] / row["margin"] if row["margin"] else np.nan for name in ("estimate", "lower", "upper")]
        shown = np.clip(scale, -FARTHEST, FARTHEST).tolist()
        records.append(
            {"claim": f"{number}", "verdict": verdict, "href": f"#claim-{number}",
             "numbers": row["numbers"] or row["reason"], "statement": row["statement"],
             "short": f"{number}. {row['short']}",
             "told": f"{verdict}{': ' + row['numbers'] if row['numbers'] else ''}",
             **dict(zip(("estimate", "lower", "upper"), shown, strict=True))}
        )  # fmt: skip
    order = [record["claim"] for record in records]
    tooltip = ["claim:N", "statement:N", "verdict:N", "numbers:N"]
    base = alt.Chart(rows(records), height=alt.Step(STEP)).encode(
        y=alt.Y("claim:N", sort=order, title=None, axis=None), tooltip=tooltip, href="href:N"
    )
    hue = colour("verdict", KINDS, legend=None)
    words = base.mark_text(align="left", x=2, dy=-7, fontSize=12, limit=WORDS).encode(text="short:N")
    told = base.mark_text(align="left", x=2, dy=9, fontSize=11, limit=WORDS, fontWeight="bold").encode(
        text="told:N", color=hue
    )
    scale = alt.Scale(domain=[-FARTHEST, FARTHEST])
    axis = alt.X("lower:Q", scale=scale, title="estimate ÷ margin", axis=alt.Axis(values=[-2, -1, 0, 1, 2]))
    bars = base.mark_rule(strokeWidth=3).encode(x=axis, x2="upper:Q", color=hue)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("estimate:Q", scale=scale), color=hue)
    limit = alt.Chart(rows([{"at": 1.0}])).mark_rule(strokeDash=[4, 3]).encode(x=alt.X("at:Q", scale=scale))
    zero = alt.Chart(rows([{"at": 0.0}])).mark_rule(opacity=0.4).encode(x=alt.X("at:Q", scale=scale))
    forest = alt.layer(zero, limit, bars, points).properties(width=FOREST)
    chart = alt.hconcat(alt.layer(words, told).properties(width=WORDS), forest, spacing=6).resolve_scale(y="shared")
    counts = [record["verdict"] for record in records]
    counted = ", ".join(f"{counts.count(name)} {name}" for name in KINDS)
    each = "; ".join(f"claim {record['claim']} {record['told']}" for record in records)
    return finished(chart, f"The verdicts on {len(records)} claims: {counted}. {each}.")


def robustness(table: pd.DataFrame) -> Any:
    """One dot per claim and other choice: what the intervals would say. `table` is a result of `claims.robustness`."""
    told = table.assign(
        claim=table["number"].map("claim {}".format),
        label=[
            f"{one}: {other}" if other else one for one, other in zip(table["choice"], table["option"], strict=True)
        ],
    )
    named = told[["claim", "label", "verdict", "estimate", "lower", "upper"]]
    base = alt.Chart(rows(named.to_dict("records")), width=alt.Step(16), height=alt.Step(22)).encode(
        x=alt.X(
            "label:N",
            sort=list(dict.fromkeys(told["label"])),
            title=None,
            axis=alt.Axis(labelAngle=-60, labelLimit=190),
        ),
        y=alt.Y("claim:N", sort=list(dict.fromkeys(told["claim"])), title=None),
        color=colour("verdict", KINDS),
        tooltip=["claim:N", "label:N", "verdict:N", "estimate:Q", "lower:Q", "upper:Q"],
    )
    same = int(table["same"].sum())
    return finished(
        base.mark_circle(size=90, opacity=1),
        f"What {len(table)} other choices would make of the claims: {same} say the same as those that decide.",
    )
