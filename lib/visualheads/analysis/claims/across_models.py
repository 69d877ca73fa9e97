"""Claims across models and tasks, and about their descent: 3, 6, 7, 10, 12, 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from visualheads.analysis import benchmarks, emergence, families
from visualheads.analysis.claims.evidence import Evidence
from visualheads.analysis.claims.verdicts import (
    ALPHA,
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Finding,
    all_of,
    beyond_chance,
    decided,
    finding,
    has,
    missing,
    pooled,
)
from visualheads.analysis.lineage import RETRAINED, SEED, language_models, lineage, networks
from visualheads.heads import patterns, permutation
from visualheads.heads import permutation as shuffled
from visualheads.heads.bootstrap import N_BOOT
from visualheads.tasks.question_kinds import with_kinds

PREDICTOR = "top_image_weight"
"""The statistic whose prediction decides claim 6, named beforehand; the others are told beside it."""
FEWEST_LLMS = 5
"""Language models that claim 6 leaves out one by one: with fewer, chance supports it too often (simulated)."""
MANY_TOKENS = 2000
"""Image tokens that claim 12 speaks of; miniatures have fewer, and are compared by which recipe has more."""
FOCUS = "top_focus_nats"
"""The statistic of claim 3 across models: the visual heads' focus."""
SMALL = 8.0
"""Billions of parameters up to which a language model counts as small: the paper's 7B and 8B against 13B."""


def concentration_goes_with_performance(evidence: Evidence) -> Finding:
    """Claim 3: right answers have more concentrated visual heads, and better models too.

    Answers are compared within a condition, a format and a kind of question: kinds differ in difficulty and in focus.
    Across models by `focus_nats`, since concentration depends on the number of image tokens; models of one language
    model are no independent evidence, so that their means are compared.
    """
    if not has(evidence.traces, "concentration", "correct"):
        return missing("there are no traces with concentration and answers")
    assert evidence.traces is not None
    table = benchmarks.right_wrong(with_kinds(evidence.traces))
    numbers = pooled(table, "difference")
    if not np.isfinite(numbers).all():
        return missing("no model has enough right and wrong answers to one kind of question in one condition")
    means = permutation.by_language_model(evidence.statistics, [FOCUS], language_models(evidence.traces))
    across = permutation.correlations(means, [FOCUS]).iloc[0]
    verdicts = [decided(numbers[1], numbers[2])]
    if np.isfinite(across["p_value"]):
        sure = across["p_value"] < ALPHA
        verdicts.append(UNDECIDED if not sure else SUPPORTED if across["rho"] > 0 else CONTRADICTED)
    else:
        verdicts.append(UNDECIDED)
    rho, p_value = float(across["rho"]), float(across["p_value"])
    return finding(numbers, all_of(verdicts), table, rho=rho, p_value=p_value, llms=float(across["models"]))


def heads_predict_scores(evidence: Evidence) -> Finding:
    """Claim 6: a head statistic predicts scores of models of unseen language models better than the mean does."""
    if not has(evidence.traces, "image_weight", "correct"):
        return missing("there are no traces with image_weight and answers")
    assert evidence.traces is not None
    llm = language_models(evidence.traces)
    if len(set(llm.values())) < FEWEST_LLMS:
        return missing(f"models of fewer than {FEWEST_LLMS} language models were traced")
    table = evidence.statistics
    usable = [name for name in benchmarks.STATISTICS if table[name].notna().any()]
    told = permutation.leave_one_llm_out(table, usable, llm)
    own = told[told["statistic"] == PREDICTOR]
    if own.empty:
        return missing("too few models with answers remain when a language model is left out")
    others = permutation.errors(told)
    return finding((*_gain(own),), decided(*_gain(own)[1:]), others, predictions=float(len(own)))


def kin_share_heads(evidence: Evidence) -> Finding:
    """Claim 7: models tuned from one language model have more alike heads than models of others."""
    every = evidence.every_training
    if not has(every, "image_weight"):
        return missing("there are no traces with image_weight")
    assert every is not None
    table = families.relations(every)
    told = families.kin_difference(table, every) if len(table) else None
    if told is None:
        return missing("there are no two models of one shape and language model beside models of another one")
    if not np.isfinite(told["lower"]):
        return missing("all pairs of one language model, or all of different ones, hang on a single model")
    verdict = SUPPORTED if told["p_value"] <= ALPHA else CONTRADICTED if told["p_less"] <= ALPHA else UNDECIDED
    beside = {
        name: float(table.loc[table["relation"] == relation, "correlation"].mean())
        for name, relation in (("other_seed", SEED), ("second_training", RETRAINED))
        if (table["relation"] == relation).any()
    }
    numbers = (told["difference"], told["lower"], told["upper"])
    also = {name: told[name] for name in ("p_value", "p_less", "least_p", "same", "other")}
    return finding(numbers, verdict, table, **also, **beside)


def list_heads_become_visual(evidence: Evidence) -> Finding:
    """Claim 10: heads that read lists in the text-only model look at asked objects, more than controls make expect.

    In the row that produces the answer, as on lists; other measures and rows are told beside. Judged by the models that
    have another trained language model of their shape among the controls (a second training of their own is none).
    Without any such it is not supported, only contradicted.
    """
    if not has(evidence.traces, "region_weight") or not evidence.text:
        return missing("there are no traced lists of text-only models beside traces with boxes")
    assert evidence.traces is not None
    known, given = networks(evidence.text), (evidence.text, evidence.grown_from)
    told = emergence.with_text(evidence.traces, *given, untrained=evidence.text_untrained, networks=known)
    rows = []
    for name, part in told.groupby("model", sort=False):
        own, controls = part[part["kind"] == emergence.OWN], part[part["kind"] != emergence.OWN]
        if len(own) == 1 and len(controls):
            hardest = controls.loc[controls["rho"].idxmax()]
            others = controls.loc[controls["kind"] == emergence.OTHER, "text_model"].replace(known).nunique()
            told_of = {"own": float(own["rho"].iloc[0]), "control": float(hardest["rho"]), "others": others}
            told_of |= {"text_model": own["text_model"].iloc[0]}
            rows.append({"model": name, **told_of, **_less(own.iloc[0], hardest)})
    if not rows:
        return missing("no tuned model has its own text-only model and a control of the same shape among the lists")
    table = pd.DataFrame(rows)
    verdict_from = table[table["others"] > 0] if (table["others"] > 0).any() else table
    numbers = pooled(verdict_from)
    scored = [_scored(evidence, told[told["model"] == name]) for name in verdict_from["model"]]
    ways = [shuffled.exchanged(scored), shuffled.exchanged(scored, by_layer=True)]
    chance = [max(way[tail] for way in ways) for tail in (0, 1)]
    verdict = beyond_chance(decided(numbers[1], numbers[2]), *chance)
    if verdict == SUPPORTED and not table["others"].any():
        verdict = UNDECIDED
    also = {"own": float(verdict_from["own"].mean()), "control": float(verdict_from["control"].mean())}
    also |= {"models": float(len(verdict_from)), "others": float(table["others"].max()), "p_value": min(chance)}
    also |= {"llms": float(verdict_from["text_model"].nunique())}
    again = told.loc[(told["kind"] == emergence.AGAIN) & told["model"].isin(verdict_from["model"]), "rho"]
    also |= {"again": float(again.mean())} if len(again) else {}
    choices = emergence.by_choice(evidence.traces, *given, untrained=evidence.text_untrained, networks=known)
    choices = choices[choices["model"].isin(verdict_from["model"])]
    for (measure, row), part in choices.groupby(["measure", "query"]):
        also |= {
            f"{measure}_{row}": float(part["own"].mean()),
            f"{measure}_{row}_control": float(part["control"].mean()),
        }
    return finding(numbers, verdict, told, **also)


def tokens_help_small_models(evidence: Evidence) -> Finding:
    """Claim 12: of two recipes on one small language model, the one with more image tokens scores higher."""
    if not has(evidence.traces, "correct", "n_image_tokens"):
        return missing("there are no traces with answers")
    assert evidence.traces is not None
    sizes = {name: size_of(llm) for name, llm in lineage(evidence.traces)["llm"].items()}
    recipe = lineage(evidence.traces)["recipe"].to_dict()
    found = [
        pair
        for pair in families.matched_pairs(evidence.traces, families.RECIPE)
        if sizes[pair[0]] <= SMALL and {recipe[pair[0]], recipe[pair[1]]} == {"1.5", "1.6"}
    ]
    table = families.changes(evidence.traces, found) if found else pd.DataFrame()
    if not table.empty and not evidence.scope:
        table = table[table.groupby("pair")["tokens_other"].transform("mean") > MANY_TOKENS]
    if table.empty:
        return missing(
            f"no language model of at most {SMALL:g} billion parameters was tuned by the recipes 1.5 and 1.6, the "
            f"latter with more than {MANY_TOKENS} image tokens (in miniature: with more than the other)"
        )
    judged = table.drop_duplicates("pair")
    told = families.mean_change(evidence.traces, list(zip(judged["one"], judged["other"], strict=True)))
    tokens = {"tokens_one": float(table["tokens_one"].mean()), "tokens_other": float(table["tokens_other"].mean())}
    also = {"pairs": float(len(judged)), "whole": float(table["whole"].mean(skipna=False)), **tokens}
    numbers = (told["estimate"], told["lower"], told["upper"])
    return finding(numbers, decided(told["lower"], told["upper"]), table, **also)


def tokens_need_data_in_large_models(_evidence: Evidence) -> Finding:
    """Claim 13: at 13B, more tuning data raises what more image tokens bring; no model tells how much it had."""
    return missing(
        "it needs two recipes of few and of many image tokens, each tuned on a 13B language model with all of its data "
        "and with a part of it"
    )


def tasks_have_profiles(evidence: Evidence) -> Finding:
    """Claim 14: head patterns differ more between tasks than between halves of one task.

    Tasks are compared within an answer format, since profiles of one task asked in both differ too (`format` tells how
    far). Every format has to say so; the number is that of the one in which tasks differ least.
    """
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    if len(np.unique(evidence.traces["task"].values.astype(str))) < 2:
        return missing("only one benchmark was traced")
    told = patterns.task_pairs(patterns.group_agreement(evidence.traces, patterns.TASK_FORMAT))
    by_kind = {str(kind): pooled(part, "shortfall") for kind, part in told.groupby("kind", sort=False)}
    formats = by_kind.pop(patterns.FORMATS, np.full(3, np.nan))
    known = {form: numbers for form, numbers in by_kind.items() if np.isfinite(numbers).all()}
    if not known:
        return missing("no model was traced on two benchmarks in one answer format with enough pictures")
    least = min(known, key=lambda form: known[form][0])
    single = told.loc[told["kind"] == least, "verdict"]
    also = {"format": formats[0], "format_lower": formats[1], "format_upper": formats[2]}
    also |= {"pairs": float(len(single)), "alike": float((single == patterns.ALIKE).sum())}
    also |= {"most": max(numbers[0] for numbers in known.values())} if len(known) > 1 else {}
    kinds = {patterns.ALIKE: CONTRADICTED, patterns.DIFFERENT: SUPPORTED, patterns.UNDECIDED: UNDECIDED}
    verdicts = {kinds[patterns.verdict(lower, upper)] for _, lower, upper in known.values()}
    verdict = verdicts.pop() if len(verdicts) == 1 else UNDECIDED
    return replace(finding(known[least], verdict, told, **also), where=least)


def size_of(llm: str) -> float:
    """Billions of parameters in a language model's name ("Vicuna-13B" → 13); NaN where there is no number with B."""
    found = re.search(r"([\d.]+)\s*[Bb]\b", llm)
    if found:
        return float(found[1])
    # the paper's table names Mistral, Llama-3 and Phi-3 without their size; all are small
    return {"mistral": 7.0, "llama-3": 8.0, "phi-3": 3.8}.get(
        re.sub(r"[-_ ]?(v[\d.]+|mini.*)$", "", llm.lower()), np.nan
    )


def _gain(predictions: pd.DataFrame, seed: int = 0) -> tuple[float, float, float]:
    """1 − squared error / squared error of the baseline, with an interval over language models left out."""
    missed = np.square(predictions["score"] - predictions["predicted"]).groupby(predictions["llm"]).sum()
    guessed = np.square(predictions["score"] - predictions["baseline"]).groupby(predictions["llm"]).sum()
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(missed), (N_BOOT, len(missed)))
    gains = 1 - missed.to_numpy()[drawn].sum(axis=1) / np.maximum(guessed.to_numpy()[drawn].sum(axis=1), 1e-12)
    lower, upper = np.quantile(gains, [0.025, 0.975])
    return float(1 - missed.sum() / max(float(guessed.sum()), 1e-12)), float(lower), float(upper)


def _scored(evidence: Evidence, told: pd.DataFrame) -> tuple[shuffled.Scored, list[NDArray[np.float64]]]:
    """What one model's heads do on pictures and on lists in its own text-only model, and on lists in each control.

    told: the model's rows of `emergence.with_text`.
    """
    assert evidence.traces is not None
    name, own, controls = str(told["model"].iloc[0]), None, []
    for _, row in told.iterrows():
        lists = (evidence.text_untrained if row["kind"] == emergence.FRESH else evidence.text)[row["text_model"]]
        pairs = emergence.head_pairs(evidence.traces, lists, name)
        if row["kind"] == emergence.OWN:
            own = shuffled.Scored(
                str(row["text_model"]), pairs["text"].to_numpy(), pairs["picture"].to_numpy(), pairs["layer"].to_numpy()
            )
        else:
            controls.append(pairs["text"].to_numpy())
    assert own is not None
    return own, controls


def _less(one: Mapping[str, float] | pd.Series, other: Mapping[str, float] | pd.Series) -> dict[str, float]:
    """Difference of two correlations; half widths of their intervals add in quadrature."""
    estimate = float(one["rho"] - other["rho"])
    widths = [(float(row["upper"]) - float(row["lower"])) / 2 for row in (one, other)]
    width = float(np.hypot(widths[0], widths[1]))
    return {"estimate": estimate, "lower": estimate - width, "upper": estimate + width}
