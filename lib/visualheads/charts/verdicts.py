"""The claims and their verdicts, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from visualheads.analysis.claims import CONTRADICTED, NOT_TESTABLE, SUPPORTED, UNDECIDED
from visualheads.charts.comparison import GREY
from visualheads.charts.display import finished, rows

COLOURS = {SUPPORTED: "#2f7d4f", CONTRADICTED: "#b3402a", UNDECIDED: "#b8860b", NOT_TESTABLE: GREY}


UNITS = {
    "1": (1, 3, ""),
    "correlation": (1, 3, " (correlation)"),
    "share": (100, 1, " %"),
    "difference of shares": (100, 1, " points"),
    "share of the ceiling": (100, 0, " % of the ceiling"),
}
"""Unit of a claim → factor, digits and words of its numbers; other units are told as they are, with two digits."""


def telling_digits(values: Sequence[float], limit: float, digits: int, most: int = 4) -> int:
    """As many digits, `digits` or more, as tell on which side of a limit values lie; NaN values need none."""
    known = [value for value in values if value == value]
    while digits < most and any(np.sign(round(x, digits) - limit) != np.sign(x - limit) for x in known):
        digits += 1
    return digits


def numbers(row: pd.Series | Mapping[str, Any]) -> str:
    """`8.8 (4.2 to 13.0) points`: estimate and interval in the claim's unit; "" where there is none."""
    if pd.isna(row["estimate"]):
        return ""
    scale, digits, words = UNITS.get(str(row["unit"]), (1, 2, f" {row['unit']}"))
    digits = telling_digits([scale * row["lower"], scale * row["upper"]], scale * row["threshold"], digits)
    estimate, lower, upper = (f"{scale * row[name]:z.{digits}f}" for name in ("estimate", "lower", "upper"))
    return f"{estimate} ({lower} to {upper}){words}"


def verdicts(table: pd.DataFrame) -> Any:
    """One line per claim: its verdict as a colour, beside it the estimate with its interval.

    `table` is a result of `claims.verdict_table`.
    """
    records = []
    for number, row in table.iterrows():
        verdict = next(name for name in COLOURS if str(row["verdict"]).startswith(name))
        records.append(
            {"claim": f"{number}", "verdict": verdict, "numbers": numbers(row), "statement": row["statement"],
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
