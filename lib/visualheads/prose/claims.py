"""Text about the claims: what was decided, claim by claim, and which stores it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from visualheads.claims import NOT_TESTABLE, VERDICTS, Verdict, verdict_table
from visualheads.claims.gather import UNTRAINED_TRACE
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, counted, escaped, listed, table


def counts(verdicts: pd.DataFrame) -> str:
    """How many claims came out how."""
    kinds = verdicts["verdict"].map(_kind)
    parts = [f"{int((kinds == name).sum())} {name}" for name in VERDICTS if (kinds == name).any()]
    text = f"Of {counted(len(verdicts), 'claim')}, {listed(parts)}."
    if verdicts["verdict"].str.contains("in miniature").any():
        text += (
            " Every verdict is **in miniature**: it was reached on small models of made-up scenes and is no evidence "
            "about large models."
        )
    return text


def each(found: Sequence[Verdict]) -> str:
    """Every claim with its verdict, estimate, interval, control, rule, and what would change it."""
    estimates = {one.claim.number: one.claim.estimate for one in found}
    also = {one.claim.number: one.finding.also for one in found}
    parts = []
    for number, row in verdict_table(found).iterrows():
        lines = [f"### {number}. {escaped(row['statement'])}", "", f"**{escaped(row['verdict'])}** ({row['source']})"]
        if pd.notna(row["estimate"]):
            numbers = f"{row['estimate']:.3f} (95 % interval {between(row['lower'], row['upper'], 3)})"
            lines[-1] += f": {numbers}{_unit(row['unit'])}."
        else:
            lines[-1] += f": {escaped(row['reason'])}."
        told = [
            f"{name.replace('_', ' ')} {value:.3g}"
            for name, value in also[int(str(number))].items()
            if np.isfinite(value)
        ]
        if told:
            lines[-1] += f" Also: {listed(told)}."
        lines += [
            "",
            f"* What is estimated: {escaped(estimates[int(str(number))])}.",
            f"* Control: {escaped(row['control'])}.",
            f"* Rule, fixed beforehand: {escaped(row['rule'])}.",
            f"* What would change it: {escaped(row['change'])}.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sources(found: pd.DataFrame) -> str:
    """The stores that were read, as a table, and those that were not used with the reason."""
    if found.empty:
        return missing("there are no stores of results, so no claim can be judged", False)
    lines = [
        (code(row["store"]), row["what"], row["samples"], "yes" if row["used"] else f"no ({escaped(row['why'])})")
        for row in found.to_dict("records")
    ]
    text = table(("store", "what it holds", "samples", "used for verdicts"), lines)
    if not found["what"].eq(UNTRAINED_TRACE).any():
        text += "\n\nNo untrained network was traced: claim 1 is judged against white pictures alone."
    swept = found[found["what"].str.startswith("sweep")]
    if swept.empty:
        text += "\n\n" + missing(
            "no heads were removed in any model yet, so claims about what heads do (5 and 8) have no evidence", False
        )
    elif not swept["used"].any():
        text += "\n\n" + missing(
            "only the reduced protocol was run; claims 5 and 8 wait for full sweeps (<code>make book FULL=1</code>)",
            False,
        )
    return text


def _kind(verdict: str) -> str:
    return next(name for name in VERDICTS if verdict.startswith(name)) if verdict else NOT_TESTABLE


def _unit(unit: str) -> str:
    return f", unit: {unit}" if unit != "1" else ""
