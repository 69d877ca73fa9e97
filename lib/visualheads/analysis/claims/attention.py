"""Claims about what heads' attention depends on: 4, 9 and 11."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from visualheads.analysis.benchmarks import BOX_PAIRS, NAME_PAIRS
from visualheads.analysis.claims.evidence import Evidence
from visualheads.analysis.claims.samples import bootstrapped, of_main_task, pictures_of, sums_of
from visualheads.analysis.claims.verdicts import (
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
from visualheads.analysis.lineage import language_models
from visualheads.analysis.sinks import MASSIVE
from visualheads.analysis.subset import models_of, subset
from visualheads.heads import patterns, permutation
from visualheads.heads.agreement import spearman, without_layer_means
from visualheads.heads.bootstrap import split_halves
from visualheads.heads.ranking import head_count, top_heads

STRONGEST = 0.1
"""Share of the heads that count as the strongest."""
EXPLAINED = 0.5
"""More than half of the surplus concentration must be the sinks' for them to explain it (ours)."""


def naming_changes_drawing_does_not(evidence: Evidence) -> Finding:
    """Claim 4: head patterns are alike with and without the drawn box, not with and without the object's name.

    Judged within each answer format; all that were asked have to agree.
    """
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    traces, kinds = of_main_task(evidence.traces), {"box": BOX_PAIRS, "name": NAME_PAIRS}
    told = patterns.pairs(patterns.format_agreement(traces), kinds)
    same = {patterns.ALIKE: SUPPORTED, patterns.DIFFERENT: CONTRADICTED, patterns.UNDECIDED: UNDECIDED}
    reverse = {patterns.ALIKE: CONTRADICTED, patterns.DIFFERENT: SUPPORTED, patterns.UNDECIDED: UNDECIDED}
    boxes, parts, also = {}, [], {}
    for form, rows in told.groupby("format", sort=False):
        box, name = (rows[rows["kind"] == kind] for kind in kinds)
        drawn, named = pooled(box, "shortfall"), pooled(name, "shortfall")
        if not np.isfinite([drawn, named]).all():
            continue
        boxes[str(form)] = drawn
        parts.append((same[patterns.verdict(*drawn[1:])], reverse[patterns.verdict(*named[1:])]))
        also |= _bounds(f"{form}_box", drawn) | _bounds(f"{form}_naming", named)
        differ = float((box["verdict"] == patterns.DIFFERENT).sum())
        also |= {f"{form}_boxes": float(len(box)), f"{form}_different": differ}
    if not boxes:
        return missing("no model was asked with and without the box, and with and without the name, in one format")
    if has(traces, "region_weight"):
        regions = patterns.pairs(patterns.format_agreement(traces, measure="region_weight"), {"box": BOX_PAIRS})
        for form, rows in regions.groupby("format", sort=False):
            also |= _bounds(f"{form}_region", pooled(rows, "shortfall"))
    verdicts = [all_of(part) for part in parts]
    also |= {"formats": float(len(verdicts)), "supporting": float(verdicts.count(SUPPORTED))}
    also |= {"contradicting": float(verdicts.count(CONTRADICTED))}
    for name, verdict in zip(("box_alike", "name_different"), zip(*parts, strict=True), strict=True):
        also[name] = float(verdict.count(SUPPORTED))
    where = max(boxes, key=lambda form: boxes[form][0])
    agreed = verdicts[0] if len(set(verdicts)) == 1 else UNDECIDED
    return replace(finding(boxes[where], agreed, told, **also), where=where)


def _bounds(name: str, numbers: NDArray[np.float64]) -> dict[str, float]:
    """(estimate, lower, upper) by name."""
    return {f"{name}{end}": float(value) for end, value in zip(("", "_lower", "_upper"), numbers, strict=True)}


def sinks_explain_concentration(evidence: Evidence) -> Finding:
    """Claim 9: of the most concentrated heads' surplus concentration, more than half vanishes without sink tokens.

    Models without sink dimensions cannot tell; what vanishes there without the background patches that draw most
    attention is told, and decides nothing: patches on objects are none of these.
    """
    if not has(evidence.traces, "concentration", "concentration_no_sink"):
        return missing("there are no traces with concentration and concentration_no_sink")
    assert evidence.traces is not None
    rows = []
    for name in models_of(evidence.traces):
        part, kind = subset(evidence.traces, model=name), MASSIVE
        if not np.isfinite(part["concentration_no_sink"]).any() and name in evidence.sinks:
            part, kind = evidence.sinks[name].sel(model=[name]), str(evidence.sinks[name]["definition"].values[0])
        if not np.isfinite(part["concentration_no_sink"]).any() or len(np.unique(part["image_id"].values)) < 4:
            continue
        first, second = split_halves(part)
        found = sums_of(first, "concentration")[0].means(np.ones((1, pictures_of(first))))
        there = np.isfinite(found[:, 0])
        top = top_heads(found, head_count(int(there.sum()), STRONGEST))[:, 0]
        with_sinks, _ = sums_of(second, "concentration")
        without, _ = sums_of(second, "concentration_no_sink")

        def explained(
            weights: NDArray[np.float64], one=with_sinks, other=without, top=top, there=there
        ) -> NDArray[np.float64]:
            concentration, bare = one.means(weights), other.means(weights)
            surplus = np.nanmean(concentration[top], axis=0) - np.nanmean(concentration[there], axis=0)
            left = np.nanmean(bare[top], axis=0) - np.nanmean(bare[there], axis=0)
            return 1 - left / surplus

        rows.append({"model": name, "sinks": kind, **bootstrapped(explained, len(with_sinks.pictures))})
    if not rows:
        return missing("no model has sink dimensions, or token maps that stand for them")
    table = pd.DataFrame(rows)
    massive = table[table["sinks"] == MASSIVE]
    if massive.empty:
        share, lower, upper = (f"{100 * value:z.1f}" for value in pooled(table))
        return missing(
            f"none of {len(table)} models has sink dimensions; without the background patches that draw most attention "
            f"{share} % of the surplus vanish ({lower} to {upper}), which says nothing of sinks"
        )
    numbers, also = pooled(massive), {"models": float(len(table)), "with_dimensions": float(len(massive))}
    return finding(numbers, decided(numbers[1], numbers[2], EXPLAINED), massive, **also)


def weight_goes_with_concentration(evidence: Evidence) -> Finding:
    """Claim 11: over heads, image weight and concentration are correlated, within layers too.

    The intervals are over pictures; the verdict also needs that heads that change places seldom correlate as much.
    """
    if not has(evidence.traces, "image_weight", "concentration"):
        return missing("there are no traces with image_weight and concentration")
    assert evidence.traces is not None
    rows, found, llm = [], [], language_models(evidence.traces)
    for name in models_of(evidence.traces):
        part = subset(evidence.traces, model=name)
        (weight, shape), (focus, _) = sums_of(part, "image_weight"), sums_of(part, "concentration")
        layer = np.repeat(np.arange(shape[0]), shape[1])

        def correlated(
            weights: NDArray[np.float64], within: bool, weight=weight, focus=focus, layer=layer
        ) -> NDArray[np.float64]:
            scores = np.stack([weight.means(weights).T, focus.means(weights).T], axis=1)
            there = np.isfinite(scores).all(axis=(0, 1))
            scores = scores[..., there]
            return spearman(without_layer_means(scores, layer[there]) if within else scores)[:, 0, 1]

        n = len(weight.pictures)
        whole = bootstrapped(lambda w, f=correlated: f(w, False), n, correlation=True)
        inner = bootstrapped(lambda w, f=correlated: f(w, True), n, correlation=True)
        rows.append({"model": name, **whole, **{f"within_{key}": value for key, value in inner.items()}})
        one, other = (sums.means(np.ones((1, n)))[:, 0] for sums in (weight, focus))
        heads = np.isfinite(one) & np.isfinite(other)
        if heads.any():
            found.append(permutation.Scored(llm[name], one[heads], other[heads], layer[heads]))
    table = pd.DataFrame(rows)
    whole, inner = pooled(table), pooled(table, "within_estimate", "within_lower", "within_upper")
    if not found:
        return finding(whole, UNDECIDED, table)
    anywhere, in_layer = permutation.correlated(found, within=False), permutation.correlated(found, within=True)
    verdict = all_of([
        beyond_chance(decided(whole[1], whole[2]), *anywhere), beyond_chance(decided(inner[1], inner[2]), *in_layer)
    ])  # fmt: skip
    return finding(
        whole, verdict, table, within=inner[0], within_lower=inner[1], within_upper=inner[2],
        p_value=min(anywhere), within_p=min(in_layer),
    )  # fmt: skip
