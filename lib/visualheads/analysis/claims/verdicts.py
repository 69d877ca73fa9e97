"""What a claim is, what a verdict is, and how intervals decide: rules that were written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
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
    """A statement that data can decide.

    number     its number in the book's chapter “Fourteen claims”
    source     paper, project page, contested or ours
    estimate   what is estimated, in words, and its unit
    control    what it is held against
    rule       when it counts as supported or contradicted, written down beforehand
    change     what would change the verdict
    judge      evidence → finding
    threshold  on which side of it the interval has to lie
    interval   what the interval covers
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
    threshold: float = 0.0
    interval: str = "a 95 % one"


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


def bounds_of(values: xr.DataArray) -> dict[str, float]:
    """A bootstrap's `bound` as a row of a table."""
    return {name: float(values.sel(bound=name)) for name in ("estimate", "lower", "upper")}


def has(ds: Any, *variables: str) -> bool:
    """Whether there is a dataset, and with these variables."""
    return ds is not None and all(name in ds for name in variables)
