"""What a claim is, what a verdict is, and how intervals decide: rules that were written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from visualheads.analysis.claims.evidence import Evidence

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
NOT_TESTABLE = "not testable here"
ALPHA = 0.05
"""Probability up to which chance counts as ruled out."""
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)


@dataclass(frozen=True)
class Finding:
    """One number with its 95 % interval and what the rule makes of it; `table` has the rows it was made from.

    Without a number (`reason` says why) the claim is not testable here. `where`: the case that decides, if one does.
    """

    estimate: float = float("nan")
    lower: float = float("nan")
    upper: float = float("nan")
    verdict: str = NOT_TESTABLE
    reason: str = ""
    where: str = ""
    also: Mapping[str, float] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Claim:
    """A statement that data can decide; its words are told in claims.yml.

    Parameters
    ----------
    number, page : its number in the book's chapter “Fourteen claims”, and the page on which it is measured.
    source : paper, project page, contested or ours.
    estimate, unit, interval : what is estimated, in which unit, and what the interval covers.
    control, rule, change : what it is held against, how it is decided, what would change the verdict.
    judge, threshold : evidence → finding, and on which side of what the interval has to lie.
    beside : templates of sentences told beside the estimate.
    """

    number: int
    source: Literal["paper", "project page", "contested", "ours"]
    statement: str
    estimate: str
    unit: str
    control: str
    rule: str
    change: str
    judge: Callable[[Evidence], Finding]
    page: str
    threshold: float = 0.0
    interval: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and where: `scope` is "in miniature" where only miniatures were looked at."""

    claim: Claim
    finding: Finding
    scope: str = ""

    @property
    def text(self) -> str:
        """The verdict as it is told: with its scope, where there is something to tell."""
        told = self.finding.verdict
        return f"{told} {self.scope}" if self.scope and told != NOT_TESTABLE else told


def missing(what: str) -> Finding:
    """Not testable here, and why."""
    return Finding(reason=what)


def decided(lower: float, upper: float, threshold: float = 0.0) -> str:
    """Supported where the whole interval lies above the threshold, contradicted where it lies below, else undecided."""
    if lower > threshold:
        return SUPPORTED
    return CONTRADICTED if upper < threshold else UNDECIDED


def beyond_chance(verdict: str, more: float, less: float) -> str:
    """The verdict, undecided where chance gives as much (p `more`) or as little (p `less`) with a p above ALPHA."""
    p_value = {SUPPORTED: more, CONTRADICTED: less}.get(verdict, 0.0)
    return verdict if p_value <= ALPHA else UNDECIDED


def non_inferior(lower: float, upper: float, margin: float) -> str:
    """Supported where the loss is certainly below the margin, contradicted where certainly above, else undecided."""
    if upper < margin:
        return SUPPORTED
    return CONTRADICTED if lower > margin else UNDECIDED


def all_of(verdicts: Sequence[str]) -> str:
    """A claim of several parts: contradicted as soon as one part is, supported when all are; undecided otherwise."""
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if verdicts and all(one == SUPPORTED for one in verdicts) else UNDECIDED


def pooled(
    table: pd.DataFrame, estimate: str = "estimate", lower: str = "lower", upper: str = "upper"
) -> NDArray[np.float64]:
    """Mean estimate and bounds over rows, (estimate, lower, upper).

    The rows (models on the same pictures) are treated as wholly dependent: bounds are averaged, never narrowed.
    """
    rows = table[[estimate, lower, upper]].to_numpy(dtype=float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    return rows.mean(axis=0) if len(rows) else np.full(3, np.nan)


def finding(
    numbers: Sequence[float] | NDArray[np.float64], verdict: str, table: pd.DataFrame, **also: float
) -> Finding:
    """A finding from (estimate, lower, upper); without finite numbers it is undecided."""
    estimate, lower, upper = (float(value) for value in numbers)
    if not np.isfinite([estimate, lower, upper]).all():
        return Finding(reason="no model gives a finite estimate", table=table)
    return Finding(estimate, lower, upper, verdict, also=also, table=table)


def has(ds: Any, *variables: str) -> bool:
    """Whether there is a dataset, and with these variables."""
    return ds is not None and all(name in ds for name in variables)


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


def in_unit(row: Mapping[str, Any]) -> str:
    """`8.8 (4.2 to 13.0) points`: estimate and interval in the claim's unit; "" where there is none."""
    if pd.isna(row["estimate"]):
        return ""
    scale, digits, words = UNITS.get(str(row["unit"]), (1, 2, f" {row['unit']}"))
    digits = telling_digits([scale * row["lower"], scale * row["upper"]], scale * row["threshold"], digits)
    estimate, lower, upper = (f"{scale * row[name]:z.{digits}f}" for name in ("estimate", "lower", "upper"))
    return f"{estimate} ({lower} to {upper}){words}"
