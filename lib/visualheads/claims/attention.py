"""Claims about what heads' attention depends on: 4, 9, 11 and 14."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from visualheads import alike
from visualheads.agreement import spearman, without_layer_means
from visualheads.bootstrap import split_halves
from visualheads.claims import shuffled
from visualheads.claims.evidence import Evidence
from visualheads.claims.samples import bootstrapped, of_main_task, pictures_of, sums_of
from visualheads.claims.verdicts import (
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
    names_of,
    pooled,
)
from visualheads.comparison import BOX_PAIRS, NAME_PAIRS, of_model
from visualheads.lineage import language_models
from visualheads.rankings import head_count, top_heads
from visualheads.sink_finding import MASSIVE

STRONGEST = 0.1
"""Share of the heads that count as the strongest (METHOD section 3)."""
EXPLAINED = 0.5
"""More than half of the surplus concentration must be the sinks' for them to explain it (ours)."""


def naming_changes_drawing_does_not(evidence: Evidence) -> Finding:
    """Claim 4: head patterns are alike with and without the drawn box, not with and without the object's name."""
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    told = alike.model_pairs(
        alike.group_agreement(of_main_task(evidence.traces), "condition"), {"box": BOX_PAIRS, "name": NAME_PAIRS}
    )
    box, name = (pooled(told[told["kind"] == kind], "shortfall") for kind in ("box", "name"))
    if not np.isfinite(box).all() or not np.isfinite(name).all():
        return missing("no model was asked with and without the box, and with and without the name")
    kinds = {alike.ALIKE: SUPPORTED, alike.DIFFERENT: CONTRADICTED, alike.UNDECIDED: UNDECIDED}
    reverse = {alike.ALIKE: CONTRADICTED, alike.DIFFERENT: SUPPORTED, alike.UNDECIDED: UNDECIDED}
    verdict = all_of([kinds[alike.verdict(box[1], box[2])], reverse[alike.verdict(name[1], name[2])]])
    also = {"naming": name[0], "naming_lower": name[1], "naming_upper": name[2]}
    boxes = told[told["kind"] == "box"]
    also |= {"boxes": float(len(boxes)), "boxes_different": float((boxes["verdict"] == alike.DIFFERENT).sum())}
    if has(evidence.traces, "region_weight"):
        regions = alike.group_agreement(of_main_task(evidence.traces), "condition", "region_weight")
        where = pooled(alike.model_pairs(regions, {"box": BOX_PAIRS}), "shortfall")
        also |= {"region": where[0], "region_lower": where[1], "region_upper": where[2]}
    return finding(box, verdict, told, **also)


def sinks_explain_concentration(evidence: Evidence) -> Finding:
    """Claim 9: of the most concentrated heads' surplus concentration, more than half vanishes without sink tokens.

    Models without sink dimensions are judged by the background patches that draw most attention, where that is known.
    """
    if not has(evidence.traces, "concentration", "concentration_no_sink"):
        return missing("there are no traces with concentration and concentration_no_sink")
    assert evidence.traces is not None
    rows = []
    for name in names_of(evidence.traces):
        part, kind = of_model(evidence.traces, name), MASSIVE
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
        return missing("no model has sink dimensions: none of its dimensions is massive on any token")
    table = pd.DataFrame(rows)
    numbers = pooled(table)
    also = {"models": float(len(table)), "with_dimensions": float((table["sinks"] == MASSIVE).sum())}
    return finding(numbers, decided(numbers[1], numbers[2], EXPLAINED), table, **also)


def weight_goes_with_concentration(evidence: Evidence) -> Finding:
    """Claim 11: over heads, image weight and concentration are correlated, within layers too.

    The intervals are over pictures; the verdict also needs that heads that change places seldom correlate as much.
    """
    if not has(evidence.traces, "image_weight", "concentration"):
        return missing("there are no traces with image_weight and concentration")
    assert evidence.traces is not None
    rows, found, llm = [], [], language_models(evidence.traces)
    for name in names_of(evidence.traces):
        part = of_model(evidence.traces, name)
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
        whole = bootstrapped(lambda w, f=correlated: f(w, False), n)
        inner = {f"within_{key}": value for key, value in bootstrapped(lambda w, f=correlated: f(w, True), n).items()}
        rows.append({"model": name, **whole, **inner})
        one, other = (sums.means(np.ones((1, n)))[:, 0] for sums in (weight, focus))
        heads = np.isfinite(one) & np.isfinite(other)
        if heads.any():
            found.append(shuffled.Scored(llm[name], one[heads], other[heads], layer[heads]))
    table = pd.DataFrame(rows)
    whole, inner = pooled(table), pooled(table, "within_estimate", "within_lower", "within_upper")
    if not found:
        return finding(whole, UNDECIDED, table)
    anywhere, in_layer = shuffled.correlated(found, within=False), shuffled.correlated(found, within=True)
    verdict = all_of([
        beyond_chance(decided(whole[1], whole[2]), *anywhere), beyond_chance(decided(inner[1], inner[2]), *in_layer)
    ])  # fmt: skip
    return finding(
        whole, verdict, table, within=inner[0], within_lower=inner[1], within_upper=inner[2],
        p_value=min(anywhere), within_p=min(in_layer),
    )  # fmt: skip


def tasks_have_profiles(evidence: Evidence) -> Finding:
    """Claim 14: head patterns differ more between tasks than between halves of one task."""
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    if len(np.unique(evidence.traces["task"].values.astype(str))) < 2:
        return missing("only one benchmark was traced")
    told = alike.model_pairs(alike.group_agreement(evidence.traces, "task"))
    numbers = pooled(told, "shortfall")
    if not np.isfinite(numbers).all():
        return missing("no model was traced on two benchmarks with enough pictures")
    kinds = {alike.ALIKE: CONTRADICTED, alike.DIFFERENT: SUPPORTED, alike.UNDECIDED: UNDECIDED}
    return finding(numbers, kinds[alike.verdict(numbers[1], numbers[2])], told)
