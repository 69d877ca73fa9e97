"""The claims and their verdicts, one line each."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads.analysis.claims import CONTRADICTED, NOT_TESTABLE, SUPPORTED, UNDECIDED
from visualheads.charts.comparison import GREY
from visualheads.charts.display import finished, rows

COLOURS = {SUPPORTED: "#2f7d4f", CONTRADICTED: "#b3402a", UNDECIDED: "#b8860b", NOT_TESTABLE: GREY}


def verdicts(table: pd.DataFrame) -> Any:
    """One line per claim: its verdict as a colour, beside it the estimate with its interval.

    `table` is a result of `claims.verdict_table`.
    """
    records = []
    for number, row in table.iterrows():
        verdict = next(name for name in COLOURS if str(row["verdict"]).startswith(name))
        records.append(
            {"claim": f"{number}", "verdict": verdict, "numbers": row["numbers"], "statement": row["statement"],
             "reason": row["reason"]}
        )  # fmt: skip
    order = [record["claim"] for record in records]
    base = alt.Chart(rows(records), height=alt.Step(24)).encode(
        y=alt.Y("claim:N", sort=order, title="claim", axis=alt.Axis(labelAngle=0)),
        tooltip=["claim:N", "statement:N", "verdict:N", "numbers:N", "reason:N"],
    )
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    marks = base.mark_bar(height=18).encode(color=colour).properties(width=130)
    words = base.mark_text(color="white", fontSize=11).encode(text="verdict:N").properties(width=130)
    estimates = base.mark_text(align="left", x=2, fontSize=12, limit=400).encode(
        y=alt.Y("claim:N", sort=order, title=None, axis=None), text="numbers:N"
    )
    counts = table["verdict"].map(lambda told: next(name for name in COLOURS if str(told).startswith(name)))
    told = ", ".join(f"{int((counts == name).sum())} {name}" for name in COLOURS)
    each = "; ".join(f"claim {record['claim']} {record['verdict']} {record['numbers']}".strip() for record in records)
    chart = alt.hconcat(alt.layer(marks, words), estimates.properties(width=380), spacing=8)
    return finished(chart, f"The verdicts on {len(records)} claims: {told}. {each}.")
