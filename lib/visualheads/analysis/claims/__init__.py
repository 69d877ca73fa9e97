"""The claims of the book's chapter “Fourteen claims”: worded in claims.yml, judged by datasets alone.

    verdicts = judge(Evidence(traces=…, sweeps={"zero, all": …}, effects=…))
    verdict_table(verdicts)

Every claim is `supported`, `contradicted`, `undecided` or `not testable here`, the last with the reason. Judging is a
pure function of the evidence: the same datasets give the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from visualheads.analysis.claims import across_models, attention, causal, looking
from visualheads.analysis.claims.evidence import Evidence, is_miniature
from visualheads.analysis.claims.verdicts import (
    CONTRADICTED,
    NOT_TESTABLE,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Finding,
    Verdict,
    in_unit,
)
from visualheads.errors import ParameterError, got
from visualheads.heads import patterns

__all__ = [
    "CONTRADICTED",
    "NOT_TESTABLE",
    "SUPPORTED",
    "UNDECIDED",
    "VERDICTS",
    "Claim",
    "Evidence",
    "Finding",
    "Verdict",
    "claim",
    "declared",
    "judge",
    "verdict_table",
]

JUDGES: dict[str, tuple[Callable[[Evidence], Finding], float]] = {
    "visual_heads_exist": (looking.visual_heads_exist, looking.EXCESS),
    "in_early_and_middle_layers": (looking.in_early_and_middle_layers, 0.0),
    "concentration_goes_with_performance": (across_models.concentration_goes_with_performance, 0.0),
    "naming_changes_drawing_does_not": (attention.naming_changes_drawing_does_not, patterns.MARGIN),
    "late_heads_can_go": (causal.late_heads_can_go, causal.MARGIN),
    "heads_predict_scores": (across_models.heads_predict_scores, 0.0),
    "kin_share_heads": (across_models.kin_share_heads, 0.0),
    "attention_finds_the_heads_that_matter": (causal.attention_finds_the_heads_that_matter, causal.HALF),
    "sinks_explain_concentration": (attention.sinks_explain_concentration, attention.EXPLAINED),
    "list_heads_become_visual": (across_models.list_heads_become_visual, 0.0),
    "weight_goes_with_concentration": (attention.weight_goes_with_concentration, 0.0),
    "tokens_help_small_models": (across_models.tokens_help_small_models, 0.0),
    "tokens_need_data_in_large_models": (across_models.tokens_need_data_in_large_models, 0.0),
    "tasks_have_profiles": (across_models.tasks_have_profiles, patterns.MARGIN),
}
"""Every judge with the threshold that decides: on which side of it the interval has to lie."""


@cache
def declared() -> tuple[Claim, ...]:
    """The claims with their words, from `claims.yml`."""
    told = yaml.safe_load(files("visualheads.analysis.claims").joinpath("claims.yml").read_text(encoding="utf-8"))
    return tuple(_claim(**entry) for entry in told)


def _claim(judge: str, rule: str, beside: Sequence[str], **words: Any) -> Claim:
    decide, threshold = JUDGES[judge]
    rule = rule.format(threshold=f"{threshold:g}", points=f"{100 * threshold:g}")
    return Claim(judge=decide, threshold=threshold, rule=rule, beside=tuple(beside), **words)


def claim(number: int) -> Claim:
    """One claim by its number in the book's chapter “Fourteen claims”. Raises ParameterError for another number."""
    found = {one.number: one for one in declared()}
    if number not in found:
        raise ParameterError(got("claim", number, [str(known) for known in found]))
    return found[number]


def judge(evidence: Evidence, numbers: Iterable[int] | None = None) -> list[Verdict]:
    """Judge all claims, or those with these numbers; claims that the evidence cannot test say what is missing.

    Miniatures are never averaged with other models: these decide each claim that they can test, miniatures the rest.
    """
    chosen = declared() if numbers is None else [claim(number) for number in numbers]
    kinds = {is_miniature(name) for name in evidence.models}
    parts = [evidence] if len(kinds) < 2 else [evidence.only(small=False), evidence.only(small=True)]
    return [_judged(one, parts) for one in chosen]


def _judged(one: Claim, parts: Sequence[Evidence]) -> Verdict:
    verdicts = [Verdict(one, one.judge(part), part.scope) for part in parts]
    return next((found for found in verdicts if found.finding.verdict != NOT_TESTABLE), verdicts[0])


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per claim, by its number.

    Columns: page, source, statement, measured (what is estimated), interval, estimate, lower, upper, unit, threshold,
    numbers (estimate and interval in words), control, rule, verdict, reason, change, where (the case that decides),
    also (further numbers by name) and beside (templates of sentences with them). Estimates are NaN where the claim is
    not testable here; `reason` says why, else it is empty.
    """
    rows = []
    for one in verdicts:
        claim, found = one.claim, one.finding
        row: dict[str, Any] = {
            "number": claim.number, "page": claim.page, "source": claim.source, "statement": claim.statement,
            "measured": claim.estimate, "interval": claim.interval, "estimate": found.estimate, "lower": found.lower,
            "upper": found.upper, "unit": claim.unit, "threshold": claim.threshold, "control": claim.control,
            "rule": claim.rule, "verdict": one.text, "reason": found.reason, "change": claim.change,
            "where": found.where, "also": {**found.also, **({"where": found.where} if found.where else {})},
            "beside": claim.beside,
        }  # fmt: skip
        rows.append({**row, "numbers": in_unit(row)})
    return pd.DataFrame(rows).set_index("number")
