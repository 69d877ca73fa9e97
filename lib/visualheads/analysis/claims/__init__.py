"""The claims of the book's chapter “Fourteen claims”: worded in claims.yml, judged by datasets alone.

    verdicts = judge(Evidence(traces=…, null=…, effects=…))
    verdict_table(verdicts)

Every claim is `supported`, `not supported`, `undecided` or `not testable here`. Judging is a pure function of the
evidence: the same datasets give the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from visualheads.analysis.claims import across_models, attention, baseline, causal, looking
from visualheads.analysis.claims.rules import (
    NOT_SUPPORTED,
    NOT_TESTABLE,
    OTHERWISE,
    READINGS,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Choice,
    Evidence,
    Finding,
    all_of,
    decided,
)
from visualheads.analysis.claims.rules import agreed as agreed
from visualheads.cards import data_folder
from visualheads.errors import ParameterError, got
from visualheads.heads import patterns

__all__ = [
    "NOT_SUPPORTED",
    "NOT_TESTABLE",
    "SUPPORTED",
    "UNDECIDED",
    "VERDICTS",
    "Choice",
    "Claim",
    "Evidence",
    "Finding",
    "Verdict",
    "beside",
    "claim",
    "declared",
    "judge",
    "robustness",
    "verdict_table",
]

Judge = Callable[[Evidence, Choice], Finding]
JUDGES: dict[str, tuple[Judge, float, tuple[str, ...]]] = {
    "visual_heads_exist": (looking.visual_heads_exist, looking.TWICE, ("row", "null")),
    "in_early_and_middle_layers": (looking.in_early_and_middle_layers, looking.TENTH, ("row", "null")),
    "concentration_goes_with_performance": (
        attention.concentration_goes_with_performance, attention.SMALL, ("row", "concentration", "weighting"),
    ),
    "naming_changes_drawing_does_not": (attention.naming_changes_drawing_does_not, patterns.MARGIN, ("row",)),
    "late_heads_can_go": (causal.late_heads_can_go, causal.MARGIN, ("weighting",)),
    "heads_predict_scores": (across_models.heads_predict_scores, across_models.GAIN, ("row",)),
    "kin_share_heads": (across_models.kin_share_heads, across_models.CLOSER, ("row",)),
    "attention_finds_the_heads_that_matter": (
        causal.attention_finds_the_heads_that_matter, causal.HALF, ("row", "layers"),
    ),
    "sinks_explain_concentration": (attention.sinks_explain_concentration, attention.EXPLAINED, ("row",)),
    "list_heads_become_visual": (across_models.list_heads_become_visual, across_models.ADVANTAGE, ("row",)),
    "weight_goes_with_concentration": (attention.weight_goes_with_concentration, attention.CORRELATED, ("row",)),
    "tokens_help_small_models": (across_models.tokens_help_small_models, 0.0, ()),
    "tokens_need_data_in_large_models": (across_models.tokens_need_data_in_large_models, 0.0, ()),
    "tasks_have_profiles": (attention.tasks_have_profiles, patterns.MARGIN, ("row",)),
}  # fmt: skip
"""Every judge with its margin, and the choices that matter to it."""
UNITS = {
    "correlation": (1, 3, ""), "share": (100, 0, " %"), "points": (100, 1, " points"), "nats": (1, 2, " nats"),
    "share of the ceiling": (100, 0, " % of the ceiling"),
}  # fmt: skip
"""Unit of a claim → factor, digits and words of its numbers."""


@dataclass(frozen=True)
class Claim:
    """A statement that data can decide; its words are told in claims.yml.

    Attributes
    ----------
    number, page
        In the book's chapter, and the page on which it is measured.
    source
        Paper, project page, contested or ours.
    statement, short
        What is claimed, in a sentence and in a few words.
    estimate, unit
        What is estimated.
    control, rule
        What it is held against, and how it is decided.
    change
        What would change the verdict.
    history
        Earlier rules: {rule, verdict, why} each.
    beside
        Templates of sentences told beside the estimate.
    judge, margin
        What judges the evidence, and the margin that decides, in the estimate's own unit.
    varied
        The choices (`Choice`) that matter to it.
    """

    number: int
    source: Literal["paper", "project page", "contested", "ours"]
    statement: str
    short: str
    estimate: str
    unit: str
    control: str
    rule: str
    change: str
    page: str
    history: tuple[Mapping[str, str], ...]
    beside: tuple[str, ...]
    judge: Judge
    margin: float
    varied: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """A claim, and what was found.

    Attributes
    ----------
    claim, finding
        The claim, and what its judge found.
    scope
        On which models, in words.
    """

    claim: Claim
    finding: Finding
    scope: str = ""

    @property
    def text(self) -> str:
        return self.finding.verdict


@cache
def declared() -> tuple[Claim, ...]:
    """The claims with their words, from `claims.yml`.

    Returns
    -------
    tuple of Claim
        In the order of the file.
    """
    told = yaml.safe_load(files("visualheads.analysis.claims").joinpath("claims.yml").read_text(encoding="utf-8"))
    return tuple(_claim(**entry) for entry in told)


def _claim(judge: str, rule: str, history: Sequence[Mapping[str, str]], beside: Sequence[str], **words: Any) -> Claim:
    decide, margin, varied = JUDGES[judge]
    scale, _, unit = UNITS[words["unit"]]
    rule = rule.format(margin=f"{scale * margin:.{2 if scale == 1 else 0}f}{unit}".strip())
    return Claim(
        judge=decide, margin=margin, varied=varied, rule=rule, history=tuple(history), beside=tuple(beside), **words
    )


def claim(number: int) -> Claim:
    """One claim of the book's chapter “Fourteen claims”.

    Parameters
    ----------
    number : int
        Its number there.

    Returns
    -------
    Claim
        With its words, judge and margin.

    Raises
    ------
    ParameterError
        There is no such claim.
    """
    found = {one.number: one for one in declared()}
    if number not in found:
        raise ParameterError(got("claim", number, [str(known) for known in found]))
    return found[number]


BASELINE = "verdicts.json"
"""In the data folder: the verdicts that are committed, with their simulated power."""


def judge(evidence: Evidence, numbers: Iterable[int] | None = None) -> list[Verdict]:
    """Judge all claims, or those with these numbers, by the kind of models that decides.

    Checkpoints decide where any were run, else miniatures; kinds are never pooled (`beside` judges the others).

    Parameters
    ----------
    evidence : Evidence
        Datasets; claims that they cannot test say what is missing.
    numbers : iterable of int, optional
        Numbers of claims; by default all of them.

    Returns
    -------
    list of Verdict
        One per claim, in the given order.

    Raises
    ------
    ParameterError
        A claim is unknown, or a dataset mixes attention rows.
    """
    return _judged(next(iter(evidence.by_kind().values()), evidence), numbers)


def _judged(own: Evidence, numbers: Iterable[int] | None) -> list[Verdict]:
    chosen = declared() if numbers is None else [claim(number) for number in numbers]
    known = baseline.known_parts(data_folder() / BASELINE)
    verdicts = [Verdict(one, one.judge(own, Choice()), own.scope) for one in chosen]
    for verdict in verdicts:
        baseline.recall_power(verdict.finding.parts, known.get(str(verdict.claim.number), ()))
    return verdicts


def beside(evidence: Evidence, numbers: Iterable[int] | None = None) -> pd.DataFrame:
    """Verdicts on the kinds of models that do not decide.

    Parameters
    ----------
    evidence : Evidence
        Datasets, as for `judge`.
    numbers : iterable of int, optional
        Numbers of claims; by default all of them.

    Returns
    -------
    pandas.DataFrame
        Rows of `verdict_table`, told apart by the column scope; empty where there is no other kind.

    Raises
    ------
    ParameterError
        A claim is unknown, or a dataset mixes attention rows.
    """
    others = list(evidence.by_kind().values())[1:]
    verdicts = [verdict for own in others for verdict in _judged(own, numbers)]
    return verdict_table(verdicts) if verdicts else pd.DataFrame()


def robustness(evidence: Evidence, verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """What each verdict would be after one other choice.

    Parameters
    ----------
    evidence : Evidence
        The datasets that were judged.
    verdicts : iterable of Verdict
        Results of `judge`; those without parts are left out.

    Returns
    -------
    pandas.DataFrame
        One row per claim and option. Columns: number, choice (one of `Choice` that matters to the claim, "left out" or
        "other language models"), option (the language model, where one is left out), estimate, lower, upper, verdict
        (what the intervals say, whatever the power), same (as the intervals say by the choices that decide), numbers
        (the estimate and its interval in words). "Other language models" has an interval as if these were drawn from
        many.
    """
    own, rows = next(iter(evidence.by_kind().values()), evidence), []
    for told in verdicts:
        one, found = told.claim, told.finding
        if not found.parts:
            continue
        options: list[tuple[str, str, Sequence[tuple[float, float, float]], list[str], str]] = []
        for name in one.varied:
            for option in OTHERWISE[name]:
                other = one.judge(own, replace(Choice(), **{name: option}))
                if other.parts:
                    labels = [part.label for part in other.parts]
                    options.append((name, option, _numbers(other), labels, other.by_interval))
        llms = list(dict.fromkeys(llm for part in found.parts for llm in part.llm))
        for llm in llms if len(llms) > 1 else ():
            kept = [part for part in found.parts if set(part.llm) != {llm}]
            options.append(_otherwise(found, "left out", llm, kept, [part.left_out(llm) for part in kept]))
        if len(llms) > 1 and all(len(set(part.llm)) > 1 for part in found.parts):
            options.append(
                _otherwise(found, "other language models", "", found.parts, [p.over_llms() for p in found.parts])
            )
        for name, option, numbers, labels, verdict in options:
            _, (estimate, lower, upper) = _headline(numbers, labels, verdict, _mean_of(found))
            rows.append(
                {"number": one.number, "choice": name, "option": option, "estimate": estimate, "lower": lower,
                 "upper": upper, "verdict": verdict, "same": verdict == found.by_interval,
                 "numbers": in_unit(one.unit, estimate, lower, upper)}
            )  # fmt: skip
    columns = ["number", "choice", "option", "estimate", "lower", "upper", "verdict", "same", "numbers"]
    return pd.DataFrame(rows, columns=columns)


def _otherwise(found: Finding, choice: str, option: str, parts, numbers) -> tuple[str, str, Any, list[str], str]:
    labels = [
        decided(low, high, part.margin, part.claimed) for part, (_, low, high) in zip(parts, numbers, strict=True)
    ]
    return choice, option, numbers, labels, agreed(labels) if found.agree else all_of(labels)


def _headline(
    numbers: Sequence[tuple[float, float, float]], labels: Sequence[str], verdict: str, mean: bool
) -> tuple[int | None, NDArray[np.float64]]:
    """The part that decides, the first of those that are labelled as the claim is; None and the mean of families."""
    if mean:
        return None, np.mean(numbers, axis=0)
    place = labels.index(verdict) if verdict in labels else 0
    return place, np.array(numbers[place])


def _numbers(found: Finding) -> list[tuple[float, float, float]]:
    return [(part.estimate, *part.bounds) for part in found.parts]


def _mean_of(found: Finding) -> bool:
    """Whether the headline is the mean over parts: families of one claim."""
    return (
        len(found.parts) > 1
        and not found.agree
        and len({part.margin for part in found.parts}) == 1
        and all(set(part.llm) == {part.name} for part in found.parts)
    )


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Verdicts with their numbers and words, one row per claim.

    Parameters
    ----------
    verdicts : iterable of Verdict
        Results of `judge`.

    Returns
    -------
    pandas.DataFrame
        By number. Columns:

        * page, source, statement, short, unit, margin, control, rule, change, history: of the claim; measured: what is
          estimated.
        * estimate, lower, upper: of the first part that is labelled as the claim, or the mean over families, points as
          shares; NaN where the claim was not tested. numbers: the same in words, in the unit; part: its name, where
          there are several; parts: one line each.
        * power, false_support: how often a claim is supported where it is right, and where the truth is its margin, in
          [0, 1].
        * by_interval: what the intervals say, whatever the power; verdict; reason: why it was not tested; scope: on
          which models.
        * also: further numbers by name; beside: templates of sentences with them.
        * planted: what the power was simulated of, part by part, and how often it was supported at 0, m and 2m.
    """
    rows = []
    for one in verdicts:
        claim, found = one.claim, one.finding
        labels, told = [part.label for part in found.parts], [_in_words(part.name) for part in found.parts]
        numbers = _numbers(found) or [(np.nan, np.nan, np.nan)]
        place, (estimate, lower, upper) = _headline(numbers, labels, found.by_interval, _mean_of(found))
        reason = found.reason
        if not reason and found.verdict == NOT_TESTABLE:
            reason = (
                f"its power is {100 * found.power:.0f} %, below one half; by its interval alone: {found.by_interval}"
            )
        rows.append({
            "number": claim.number, "page": claim.page, "source": claim.source, "statement": claim.statement,
            "short": claim.short, "measured": claim.estimate, "estimate": estimate, "lower": lower, "upper": upper,
            "unit": claim.unit, "margin": claim.margin, "numbers": in_unit(claim.unit, estimate, lower, upper),
            "part": told[place] if place is not None and len(told) > 1 else "",
            "parts": [
                f"{name}: {in_unit(claim.unit, *each)}, {label}"
                for name, each, label in zip(told, numbers, labels, strict=False)
            ],
            "power": found.power, "false_support": found.false_support, "by_interval": found.by_interval,
            "verdict": one.text, "reason": reason, "scope": one.scope, "control": claim.control, "rule": claim.rule,
            "change": claim.change, "history": claim.history, "also": dict(found.also), "beside": claim.beside,
            "planted": [] if found.planted is not None else [
                {"part": part.name, "models": list(part.units), "margin": part.margin, "estimate": part.estimate,
                 "lower": part.bounds[0], "upper": part.bounds[1], "planted": part.told_planted}
                for part in found.parts
            ],
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("number")


def _in_words(part: str) -> str:
    """The name of a part; that of a reading which falls where attention is narrow says that its sign was turned."""
    reading, comma, rest = part.partition(", ")
    reversed_ = " (reversed)" if READINGS.get(reading, 1) < 0 else ""
    return reading.replace("_", " ") + reversed_ + comma + rest


def in_unit(unit: str, estimate: float, lower: float, upper: float) -> str:
    """`8.8 (4.2 to 13.0) points`: estimate and interval in a claim's unit; "" where there is none."""
    if not np.isfinite(estimate):
        return ""
    scale, digits, words = UNITS[unit]
    told = (f"{scale * value:z.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in (estimate, lower, upper))
    return "{} ({} to {})".format(*told) + words
