"""Claims about what heads' attention goes with and depends on: 3, 4, 9, 11 and 14."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.benchmarks import BOX_PAIRS, NAME_PAIRS, STRATA
from visualheads.analysis.claims.rules import (
    MAIN_TASK,
    READINGS,
    Choice,
    Draws,
    Evidence,
    Finding,
    Statistic,
    finite_mean,
    has,
    in_row,
    missing,
    sums_of,
)
from visualheads.analysis.sinks import MASSIVE
from visualheads.analysis.subset import models_of, subset
from visualheads.heads.agreement import spearman, without_layer_means
from visualheads.heads.bootstrap import half_weights, picture_sums, split_halves
from visualheads.heads.patterns import MARGIN, N_SPLITS, between, collected, labels_of, shortfalls
from visualheads.heads.ranking import DETECTION_SHARE, head_count, sample_scores, top_heads
from visualheads.tasks.registry import with_kinds

SMALL = 0.1
"""Margin of claim 3: a correlation that explains one percent of what sets answers apart."""
CORRELATED = 0.2
"""Margin of claim 11, a rank correlation."""
STRONGEST, EXPLAINED = 0.1, 0.5
"""Claim 9: share of the heads that count as the most concentrated; share of their surplus that has to vanish."""
LEFT = 0.5
"""Share of heads and prompts in which claim 9 needs image tokens that are no sinks."""
LETTERS = "letters"


def concentration_goes_with_performance(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 3: the visual heads are more concentrated where the answer is right.

    Point-biserial correlation over answers, within benchmark, condition, format and kind of question.
    """
    if not has(evidence.traces, choice.concentration, "correct"):
        return missing("there are no traces with concentration and answers")
    assert evidence.traces is not None
    traces, each = with_kinds(evidence.traces), {}
    for name in models_of(traces):
        own = subset(traces, model=name)
        answers = np.asarray(own["correct"].isel(model=0).values, dtype=float)
        if own.sizes["sample"] and (answers == 0).sum() >= 10 <= (answers == 1).sum():
            each[name] = _point_biserial(own, answers, choice)
    if not each:
        return missing("no model has ten right and ten wrong answers")
    part = evidence.part("right against wrong", each, SMALL)
    return Finding([part], table=part.table())


def naming_changes_drawing_does_not(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 4: patterns are alike with and without the drawn box, and differ with and without the object's name."""
    if not has(evidence.traces, "image_weight", "region_weight"):
        return missing("there are no traces with image_weight and region_weight")
    parts = []
    for kind, pairs, claimed in (("box", BOX_PAIRS, "below"), ("name", NAME_PAIRS, "above")):
        for measure in ("image_weight", "region_weight"):
            each = {
                name: found
                for name, own in _asked_in_letters(evidence, MAIN_TASK)
                if (found := _shortfall(own, measure, "condition", pairs, choice)) is not None
            }
            if not each:
                return missing("no model was asked with and without the box, and the name, with letters")
            label = f"{kind}, {'weight' if measure == 'image_weight' else 'region'}"
            parts.append(evidence.part(label, each, MARGIN, claimed=claimed))
    return Finding(parts, also={part.name.replace(", ", "_"): part.estimate for part in parts})


def sinks_explain_concentration(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 9: of the most concentrated heads' surplus concentration, more than half vanishes without sink tokens."""
    each: dict[str, Statistic] = {}
    covered = []
    for name, ds in evidence.sinks.items():
        if str(ds["definition"].values[0]) == MASSIVE:
            read = ds.sel(query=choice.row)
            if float(read["concentration_no_sink"].notnull().mean()) < LEFT:
                covered.append(name)
                continue
            each[name] = _explained(read)
    if not each and covered:
        return missing(f"in {', '.join(covered)} nearly every image token counts as a sink, so that none is left")
    if not each:
        told = f"none of {len(evidence.sinks)} models" if evidence.sinks else "no traced model"
        return missing(f"{told} has sink dimensions, sought on prompts with pictures")
    part = evidence.part("share that vanishes", each, EXPLAINED)
    also = {"models": float(len(evidence.sinks)), "with_sinks": float(len(each))}
    return Finding([part], table=part.table(), also=also)


def weight_goes_with_concentration(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 11: over heads, image weight and concentration are correlated: every reading, within layers too."""
    readings = [name for name in READINGS if has(evidence.traces, "image_weight", name)]
    if not readings:
        return missing("there are no traces with image_weight and concentration")
    assert evidence.traces is not None
    names = models_of(evidence.traces)
    models = {name: subset(evidence.traces, model=name, task=MAIN_TASK) for name in names}
    weights = {name: sums_of(own, "image_weight", choice) for name, own in models.items()}
    parts = []
    for reading in readings:
        for within in (False, True):
            each = {name: _correlated(models[name], weights[name], reading, within, choice) for name in names}
            label = f"{reading}{', within layers' if within else ''}"
            parts.append(evidence.part(label, each, CORRELATED))
    return Finding(
        parts, agree=True, also={part.name.replace(", ", "_").replace(" ", "_"): part.estimate for part in parts}
    )


def tasks_have_profiles(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 14: patterns of two benchmarks asked with letters differ more than those of two halves of one."""
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    each: dict[str, Statistic] = {}
    for name, own in _asked_in_letters(evidence):
        tasks = list(dict.fromkeys(own["task"].values.astype(str)))
        found = _shortfall(own, "image_weight", "task", list(combinations(tasks, 2)), choice)
        if found is not None:
            each[name] = found
    if not each:
        return missing("no model was asked two benchmarks with letters")
    part = evidence.part("profiles", each, MARGIN)
    return Finding([part], table=part.table())


def _asked_in_letters(evidence: Evidence, task: str = "") -> list[tuple[str, xr.Dataset]]:
    """Every model's samples with letters to choose from, of one benchmark or of all."""
    assert evidence.traces is not None
    labels: dict[str, Any] = {"format": LETTERS} | ({"task": task} if task else {})
    found = [(name, subset(evidence.traces, model=name, **labels)) for name in models_of(evidence.traces)]
    return [(name, own) for name, own in found if own.sizes["sample"]]


def _shortfall(
    own: xr.Dataset, measure: str, by: str, pairs: Sequence[tuple[str, str]], choice: Choice
) -> Statistic | None:
    """How far patterns of these pairs of groups fall short of what noise allows, on average; None without a pair."""
    values = sample_scores(own, measure, query=in_row(own, choice)).isel(model=0)
    labels = labels_of(own, by)
    known = [name for name in dict.fromkeys(labels) if np.isfinite(values.values[..., labels == name]).any()]
    kept = [(known.index(one), known.index(two)) for one, two in pairs if one in known and two in known]
    if not kept:
        return None
    found = collected([(values, labels == name) for name in known], known)
    first, second = (list(places) for places in zip(*kept, strict=True))

    def mean(draws: Draws) -> NDArray[np.float64]:
        weights = draws.of(found.n_pictures, by)
        splits = N_SPLITS if len(weights) == 1 else len(weights)
        halves = half_weights(found.n_pictures, splits, draws.seed)
        correlation = between(found, weights * halves, weights * (1 - halves))
        if len(weights) == 1:
            correlation = correlation.mean(axis=0, keepdims=True)
        return shortfalls(correlation)[1][:, first, second].mean(axis=1)

    return mean


def _point_biserial(own: xr.Dataset, answers: NDArray[np.float64], choice: Choice) -> Statistic:
    """Correlation of the visual heads' concentration with right answers, both without the means of their stratum."""
    weight = sample_scores(own, "image_weight", query=in_row(own, choice)).isel(model=0).mean("sample").values
    top = top_heads(weight.reshape(-1, 1), head_count(int(np.isfinite(weight).sum()), DETECTION_SHARE))[:, 0]
    values = sample_scores(own, choice.concentration, query=in_row(own, choice)).isel(model=0).values
    focus = READINGS[choice.concentration] * np.nanmean(values.reshape(len(top), -1)[top], axis=0)
    strata = labels_of(own, [name for name in ("task", *STRATA) if name in own.coords])
    x, y = np.full(len(focus), np.nan), np.full(len(focus), np.nan)
    for name in dict.fromkeys(strata):
        here = (strata == name) & np.isfinite(focus) & np.isfinite(answers)
        if here.sum() > 1 and 0 < answers[here].mean() < 1:
            x[here], y[here] = focus[here] - focus[here].mean(), answers[here] - answers[here].mean()
    scale = np.ones(len(x))
    if choice.weighting == "benchmarks":  # so that long benchmarks do not count more
        task = own["task"].values.astype(str)
        counts = {name: np.isfinite(x[task == name]).sum() for name in dict.fromkeys(task)}
        scale = np.array([1 / max(counts[name], 1) for name in task])
    products = np.stack([scale * x * y, scale * x**2, scale * y**2])
    sums = picture_sums(xr.DataArray(products, {"image_id": ("sample", own["image_id"].values)}, ("of", "sample")))

    def correlation(draws: Draws) -> NDArray[np.float64]:
        xy, xx, yy = sums.sums @ draws.of(len(sums.pictures), "all").T
        return xy / np.sqrt(np.maximum(xx * yy, 1e-24))

    return correlation


def _correlated(own: xr.Dataset, weight, reading: str, within: bool, choice: Choice) -> Statistic:
    """Rank correlation over heads of image weight and a reading of concentration."""
    focus = sums_of(own, reading, choice)
    heads = np.flatnonzero(weight.counts.any(axis=1) & focus.counts.any(axis=1))
    layer = np.repeat(np.arange(own.sizes["layer"]), own.sizes["head"])[heads]

    def correlation(draws: Draws) -> NDArray[np.float64]:
        drawn = draws.of(len(weight.pictures), MAIN_TASK)
        scores = np.stack([weight.means(drawn)[heads].T, READINGS[reading] * focus.means(drawn)[heads].T], axis=1)
        return spearman(without_layer_means(scores, layer) if within else scores)[:, 0, 1]

    return correlation


def _explained(ds: xr.Dataset) -> Statistic:
    """Share of the surplus concentration of the most concentrated heads that vanishes without sinks.

    Heads are chosen on one half of the pictures and judged on the other.
    """
    first, second = split_halves(ds)
    mean = first["concentration"].isel(model=0).mean("sample").values.ravel()
    there = np.isfinite(mean)
    top = top_heads(mean[:, None], head_count(int(there.sum()), STRONGEST))[:, 0]
    sums = [picture_sums(second[name].isel(model=0)) for name in ("concentration", "concentration_no_sink")]

    def share(draws: Draws) -> NDArray[np.float64]:
        weights = draws.of(len(sums[0].pictures), "sinks")
        surplus, left = (
            finite_mean(found[top]) - finite_mean(found[there]) for found in (one.means(weights) for one in sums)
        )
        return 1 - left / surplus

    return share
