"""The claims and their verdicts, one line each."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts.display import finished, rows
from visualheads.charts.labels import COLOURS, colour

KINDS = tuple(COLOURS["verdict"])
STATEMENT = 74
"""Characters of a statement that stand beside its verdict; the tooltip has all."""


def verdicts(table: pd.DataFrame) -> Any:
    """One line per claim: its verdict as a colour, its statement, and its estimate with the interval.

    `table` is a result of `claims.verdict_table`.
    """
    records = []
    for number, row in table.iterrows():
        verdict = next(name for name in KINDS if str(row["verdict"]).startswith(name))
        statement = str(row["statement"])
        short = statement if len(statement) <= STATEMENT else f"{statement[:STATEMENT].rsplit(' ', 1)[0]} …"
        records.append(
            {"claim": f"{number}", "verdict": verdict, "numbers": row["numbers"] or row["reason"][:STATEMENT],
             "statement": statement, "short": f"{number}. {short}", "href": f"#claim-{number}"}
        )  # fmt: skip
    order = [record["claim"] for record in records]
    base = alt.Chart(rows(records), height=alt.Step(34)).encode(
        y=alt.Y("claim:N", sort=order, title=None, axis=None),
        tooltip=["claim:N", "statement:N", "verdict:N", "numbers:N"],
        href="href:N",
    )
    marks = base.mark_bar(height=20).encode(color=colour("verdict", KINDS, legend=None)).properties(width=110)
    words = base.mark_text(color="white", fontSize=11).encode(text="verdict:N")
    statements = base.mark_text(align="left", x=2, dy=-7, fontSize=12, limit=480).encode(text="short:N")
    numbers = base.mark_text(align="left", x=2, dy=8, fontSize=11, limit=480, opacity=0.75).encode(text="numbers:N")
    counts = [record["verdict"] for record in records]
    told = ", ".join(f"{counts.count(name)} {name}" for name in KINDS)
    each = "; ".join(f"claim {record['claim']} {record['verdict']} {record['numbers']}".strip() for record in records)
    chart = alt.hconcat(
        alt.layer(marks, words).properties(width=110), alt.layer(statements, numbers).properties(width=480), spacing=6
    )
    return finished(chart, f"The verdicts on {len(records)} claims: {told}. {each}.")
