"""The claims of the book's chapter “Fourteen claims”, one by one: declared with their rules, judged by datasets alone.

    verdicts = judge(Evidence(traces=…, sweeps={"zero, all": …}, effects=…))
    verdict_table(verdicts)

Every claim is `supported`, `contradicted`, `undecided` or `not testable here`, the last with the reason. Judging is a
pure function of the evidence: the same datasets give the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

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
)
from visualheads.errors import ParameterError, got
from visualheads.heads import patterns

__all__ = [
    "CLAIMS",
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
    "judge",
    "verdict_table",
]

ABOVE = "supported: the whole 95 % interval lies above {0}; contradicted: all of it lies below; else undecided"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        1, "paper", "Some heads put far more attention on the image than a head without preference, in every family.",
        "log-odds by which heads found on one half of the pictures (where none is, the head that comes closest) exceed "
        "their null on the other; the language-model family that has the least, by its model with most such heads on "
        "the first half", "log odds",
        "white pictures with the same prompts, and the strongest head of an untrained network of the same shape",
        f"supported: the 95 % interval lies above {looking.EXCESS:g} in every family, and one untrained network would "
        "have so many heads above all of another with p of 0.05 or less; contradicted: in one, even the interval "
        "corrected for their number lies below it; else undecided",
        "a family whose heads come out otherwise, beside white pictures or another untrained network",
        looking.visual_heads_exist, threshold=looking.EXCESS, interval="a 95 % one over all families together",
    ),
    Claim(
        2, "paper", "Heads that look at the picture sit in early and middle layers.",
        "share of the strongest tenth, on all benchmarks that were traced, in early and middle layers minus the share "
        "of all heads there",
        "difference of shares",
        "the share of all heads in these layers; as many heads drawn at random",
        ABOVE.format("0") + " (mean over models); decided only where random heads lie there so often, or so seldom, "
        "with p of 0.05 or less",
        "models of other depths, or another ranking than image weight",
        looking.in_early_and_middle_layers,
    ),
    Claim(
        3, "paper", "Higher concentration goes with better performance.",
        "concentration of the visual heads, right minus wrong answers to one kind of question in one condition", "1",
        "answers are compared within a condition, an answer format and, where the benchmark's files tell it, a kind of "
        "question; language models (means over their models) by permutation",
        "supported: the interval lies above 0 within models, and over language models the visual heads' focus in nats, "
        "which numbers of image tokens do not change, goes with scores with p < 0.05; contradicted: one of the two is "
        "certainly negative; else undecided",
        "more language models: so few decide little about the second part",
        across_models.concentration_goes_with_performance,
    ),
    Claim(
        4, "paper", "Drawing the box does not change the head pattern; naming the object does.",
        "how far patterns of image weight with and without the box fall short of what noise allows, mean over pairs of "
        "conditions and models; within each answer format, told of the one in which it is largest", "correlation",
        "split halves of one condition in one answer format",
        "in each answer format by itself, a kind of pair is alike where its interval lies below 0.05, else different "
        "where it lies above 0; a format supports the claim where the box's pairs are alike and the name's different, "
        "and contradicts it where the box's are different or the name's alike; supported or contradicted: all formats "
        "asked do so; else undecided",
        "more pictures: equivalence needs narrow intervals; in free form, a drawn box that the prompt does not tell of",
        attention.naming_changes_drawing_does_not, threshold=patterns.MARGIN,
    ),
    Claim(
        5, "paper", "About 100 late heads (the same share in small models) can be removed without loss.",
        "accuracy lost without the late heads that look at the picture most; the worst model and mode, its interval "
        "corrected for the number of them",
        "difference of shares",
        "random other heads of the same layers, as many in each: told beside, they do not decide",
        "non-inferiority with a margin of 2 points: supported: the 95 % interval of every model and mode lies below "
        "it; contradicted: in one of them, even the corrected interval lies above it; else undecided",
        "a mode or model in which late heads matter; more pictures where the interval holds the margin",
        causal.late_heads_can_go, threshold=causal.MARGIN,
        interval="a 95 % one over all pairs of model and mode together",
    ),
    Claim(
        6, "paper", "Head statistics predict benchmark scores, so that fewer benchmark runs are needed.",
        "squared error that the visual heads' image weight saves when the scores of an unseen language model's models "
        "are predicted", "share",
        "the mean score of the other models on that benchmark",
        ABOVE.format("0") + " (over language models left out)",
        "more language models; another statistic named beforehand",
        across_models.heads_predict_scores,
    ),
    Claim(
        7, "ours", "Models tuned from one text-only checkpoint share their visual heads.",
        "correlation of head patterns of models of one language model minus that of others", "correlation",
        "models of other language models of the same shape; language models shuffled among the models of a shape",
        "supported: shuffled language models are as alike with p of 0.05 or less, which is all that six models with "
        "three of one language model can give; contradicted: they are as unalike with such a p; else undecided",
        "more models of one shape; a second training of the same language model whose heads are as alike",
        across_models.kin_share_heads,
    ),
    Claim(
        8, "contested", "Attention weight finds the heads that matter.",
        "rank correlation of image weight with the margin lost without each head, as a share of what noise allows",
        "share of the ceiling",
        "the ceiling from the split-half reliability of both; what unrelated rankings reach",
        ABOVE.format(f"{causal.HALF:g}") + " (mean over models)",
        "another mode, task or measure of effect; heads that matter only together",
        causal.attention_finds_the_heads_that_matter, threshold=causal.HALF,
    ),
    Claim(
        9, "ours", "Sinks explain high concentration.",
        "share of the surplus concentration of the most concentrated tenth that vanishes without sink tokens", "share",
        "the mean concentration of all heads, with and without sinks; heads are chosen on one half of the pictures",
        ABOVE.format(f"{attention.EXPLAINED:g}") + " (mean over the models that have sink dimensions)",
        "sink dimensions found by another rule; models that have some",
        attention.sinks_explain_concentration, threshold=attention.EXPLAINED,
    ),
    Claim(
        10, "ours",
        "Heads that look at the asked object in the row that produces the answer are the list-reading heads of the "
        "text-only language model.",
        "correlation over heads of attention on the asked words of lists with attention on the asked region of "
        "pictures (region weight), both in the last prompt row, minus the hardest control's; visual heads elsewhere "
        "are chosen by image weight in the first generated row",
        "correlation",
        "other text-only models, and the same network before its training",
        ABOVE.format("0") + " (mean over the models that have another trained language model of their shape as a "
        "control, a second training of their own not counted), and heads, or layers, that exchange the lists seldom "
        "give as much (p of 0.05 or less); without any such model at most undecided",
        "a control of the same shape that reads lists with the same heads",
        across_models.list_heads_become_visual,
    ),
    Claim(
        11, "paper", "Heads that put more attention on the image are also more concentrated in it.",
        "rank correlation of weight and concentration over heads, on all benchmarks that were traced", "correlation",
        "the same after removing each layer's mean, so that depth alone makes no correlation; heads that change places",
        "supported: both intervals lie above 0; contradicted: one lies below; in both cases heads that change places "
        "seldom give as much (p of 0.05 or less); else undecided",
        "another definition of concentration: ours is a reconstruction",
        attention.weight_goes_with_concentration,
    ),
    Claim(
        12, "project page", "Below 7B, more than 2 000 image tokens raise performance.",
        "share right with the recipe of more tokens (1.6) minus the other (1.5), same language model of at most 8B: "
        "the paper's 7B and 8B count as small, and in miniature any number of tokens above the other's as many",
        "difference of shares",
        "the same language model tuned by the other recipe, on the same questions",
        ABOVE.format("0") + " (mean over pairs and benchmarks, whose pictures are drawn independently)",
        "recipes that differ in the number of tokens alone: 1.6 also trains its tower",
        across_models.tokens_help_small_models,
    ),
    Claim(
        13, "project page", "At 13B, more tokens need more data.",
        "what more tokens bring with all the tuning data minus what they bring with less",
        "difference of shares",
        "the same language model tuned on less data by both recipes, on the same questions",
        ABOVE.format("0"),
        "larger steps in data or tokens; a small language model that shows the same, which the claim denies",
        across_models.tokens_need_data_in_large_models,
    ),
    Claim(
        14, "project page", "Head behaviour tells how a model behaves on a dataset: profiles differ between tasks.",
        "how far patterns on two benchmarks asked in one answer format fall short of what noise allows, mean over "
        "pairs and models; told of the format in which they differ least", "correlation",
        "split halves of one benchmark; one benchmark asked in both formats, told beside, does not decide",
        "in each answer format by itself, profiles are alike where the interval lies below 0.05, else different where "
        "it lies above 0; supported: different in all formats asked; contradicted: alike in all; else undecided",
        "benchmarks that differ in their questions alone: pictures and kinds of answers differ too",
        across_models.tasks_have_profiles, threshold=patterns.MARGIN,
    ),
)  # fmt: skip


def claim(number: int) -> Claim:
    """One claim by its number in the book's chapter “Fourteen claims”. Raises ParameterError for another number."""
    found = {one.number: one for one in CLAIMS}
    if number not in found:
        raise ParameterError(got("claim", number, [str(known) for known in found]))
    return found[number]


def judge(evidence: Evidence, numbers: Iterable[int] | None = None) -> list[Verdict]:
    """Judge all claims, or those with these numbers; claims that the evidence cannot test say what is missing.

    Miniatures are never averaged with other models: these decide each claim that they can test, miniatures the rest.
    """
    chosen = CLAIMS if numbers is None else [claim(number) for number in numbers]
    kinds = {is_miniature(name) for name in evidence.models}
    parts = [evidence] if len(kinds) < 2 else [evidence.only(small=False), evidence.only(small=True)]
    return [_judged(one, parts) for one in chosen]


def _judged(one: Claim, parts: Sequence[Evidence]) -> Verdict:
    verdicts = [Verdict(one, one.judge(part), part.scope) for part in parts]
    return next((found for found in verdicts if found.finding.verdict != NOT_TESTABLE), verdicts[0])


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per claim: number, source, statement, estimate, lower, upper, unit, threshold, control, rule, verdict,
    reason, change. Estimates are NaN where the claim is not testable here; `reason` says why, else it is empty."""
    rows = [
        {
            "number": one.claim.number,
            "source": one.claim.source,
            "statement": one.claim.statement,
            "estimate": one.finding.estimate,
            "lower": one.finding.lower,
            "upper": one.finding.upper,
            "unit": one.claim.unit,
            "threshold": one.claim.threshold,
            "control": one.claim.control,
            "rule": one.claim.rule,
            "verdict": one.text,
            "reason": one.finding.reason,
            "change": one.claim.change,
        }
        for one in verdicts
    ]
    return pd.DataFrame(rows).set_index("number")
