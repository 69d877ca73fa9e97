"""Claims about what heads do: 5 and 8."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.claims.rules import (
    MAIN_TASK,
    SUPPORTED,
    SURER,
    UNDECIDED,
    Choice,
    Draws,
    Evidence,
    Finding,
    Statistic,
    has,
    missing,
    sums_of,
)
from visualheads.analysis.rankings_vs_effects import in_format
from visualheads.analysis.subset import models_of, subset, tasks_of
from visualheads.heads.agreement import spearman, spearman_brown, split_half
from visualheads.heads.bootstrap import PictureSums, half_weights, picture_sums
from visualheads.heads.losses import over_depth
from visualheads.heads.ranking import head_count

MARGIN = 0.05
"""Margin of claim 5: accuracy, as a share."""
EYES = 0.1
"""A benchmark counts for a model that is this much better than the best answerer without eyes."""
DECIDES = "uniform_released"
"""Mode of the released code, which decides claim 5."""
HALF = 0.5
"""Margin of claim 8, a share of the ceiling."""
EFFECTS = ("whole", "looking")
RANKING = "image_weight"
SPLITS = 50


def late_heads_can_go(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 5: without the late top heads less than five points are lost on average, and in no model certainly more.

    Only benchmarks count on which a model sees: its clean score is ten points above the best question-only answerer's.
    """
    if DECIDES not in evidence.late:
        return missing("no sweep removes the late heads of the released share (9.8 %)")
    parts = {}
    for mode, sweep in evidence.late.items():
        each = {
            name: found
            for name in models_of(sweep)
            if (found := _loss(sweep.sel(model=[name]), "top", choice)) is not None
        }
        if each:
            parts[mode] = evidence.part("accuracy lost", each, MARGIN, claimed="below", alike=True)
    if DECIDES not in parts:
        return missing("on no benchmark a model is ten points better than an answerer without eyes")
    part, table = parts[DECIDES], parts[DECIDES].table()
    harmed = int((table["lower"] > MARGIN).sum())
    label = UNDECIDED if part.label == SUPPORTED and harmed else part.label
    also = {"harmed": float(harmed), "most": float(table["estimate"].max())}
    if "mean" in parts:
        also |= {"mean": parts["mean"].estimate}
    for order in ("random", "bottom"):
        each = [_loss(evidence.late[DECIDES].sel(model=[name]), order, choice) for name in part.units]
        also[order] = float(np.mean([found(Draws())[0] for found in each if found is not None]))
    return Finding([part], table=table, also=also, label=label)


def attention_finds_the_heads_that_matter(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 8: image weight ranks heads as their whole and their looking effects do, to half of what noise allows."""
    if not has(evidence.traces, RANKING) or not has(evidence.effects, "whole_margin", "looking_margin"):
        return missing("there are no effects of single heads beside the traces")
    assert evidence.traces is not None and evidence.effects is not None
    names = [name for name in models_of(evidence.traces) if name in models_of(evidence.effects)]
    parts, also = [], {"models": float(len(names))}
    for effect in EFFECTS:
        each = {name: _shared(evidence, name, f"{effect}_margin", choice) for name in names}
        kept = {name: found for name, found in each.items() if found is not None}
        if not kept:
            return missing("no model has effects that two halves of the pictures agree on")
        shares = {name: share for name, (share, _) in kept.items()}
        parts.append(evidence.part(f"{effect} effect", shares, HALF, level=SURER))
        ceiling = float(np.mean([ceiling for _, ceiling in kept.values()]))
        also |= {
            effect: ceiling * parts[-1].estimate,
            f"{effect}_ceiling": ceiling,
            f"{effect}_models": float(len(kept)),
        }
    table = pd.concat([part.table() for part in parts], ignore_index=True)
    first = over_depth(evidence.effects["whole_margin"]).isel(layer=0)
    return Finding(parts, table=table, also={**also, "first_layer": float(first.mean())})


def _loss(sweep: xr.Dataset, order: str, choice: Choice) -> Statistic | None:
    """Accuracy that one model loses without the late heads of the released share, over the benchmarks it sees on."""
    layers, heads = (int(places.max()) + 1 for places in np.nonzero(sweep["heads"].any(["model", "set"]).values))
    known = sweep["correct"].notnull().any(["model", "sample"]).values
    late = known & (sweep["stage"].values == "late") & (sweep["order"].values == order)
    chosen = np.flatnonzero(late & (sweep["count"].values == head_count(layers * heads)))
    if not len(chosen):
        return None
    changed = sweep["correct"].isel(model=0, set=chosen).mean("set")
    lost = sweep["clean_correct"].isel(model=0) - changed
    tasks: dict[str, PictureSums] = {}
    for task in tasks_of(sweep):
        own = sweep.isel(sample=np.flatnonzero(sweep["task"].values.astype(str) == task))
        seen = float(own["clean_correct"].mean()) - float(own["question_only"].mean())
        if seen >= EYES:
            tasks[task] = picture_sums(lost.sel(sample=own["sample"]))
    if not tasks:
        return None

    def mean(draws: Draws) -> NDArray[np.float64]:
        weights = {task: draws.of(len(sums.pictures), task) for task, sums in tasks.items()}
        if choice.weighting == "questions":
            total = np.sum([sums.sums @ weights[task].T for task, sums in tasks.items()], axis=0)
            return (total / np.sum([sums.counts @ weights[task].T for task, sums in tasks.items()], axis=0))[0]
        return np.mean([sums.means(weights[task])[0] for task, sums in tasks.items()], axis=0)

    return mean


def _shared(evidence: Evidence, name: str, effect: str, choice: Choice) -> tuple[Statistic, float] | None:
    """Rank correlation of image weight with an effect as a share of the ceiling, and the ceiling; None without one."""
    assert evidence.traces is not None and evidence.effects is not None
    traces = in_format(subset(evidence.traces, model=name, task=MAIN_TASK, trim=True))
    effects = evidence.effects.sel(model=[name]).reindex(layer=traces["layer"], head=traces["head"])
    weight = sums_of(traces, RANKING, choice)
    lost = picture_sums(effects[effect].isel(model=0).transpose("layer", "head", "sample"))
    layer = np.repeat(np.arange(traces.sizes["layer"]), traces.sizes["head"])
    heads = np.flatnonzero(
        weight.counts.any(axis=1) & lost.counts.any(axis=1) & ((layer > 0) | (choice.layers == "all"))
    )
    if len(heads) < 3:
        return None
    reliability = []
    for sums in (weight, lost):
        first = half_weights(len(sums.pictures), SPLITS)
        halves = np.stack([sums.means(first)[heads].T, sums.means(1 - first)[heads].T], axis=1)
        reliability.append(max(spearman_brown(split_half(halves)), 0.0))
    ceiling = float(np.sqrt(np.prod(reliability)))
    if not ceiling > 0:
        return None

    def share(draws: Draws) -> NDArray[np.float64]:
        first, second = (draws.of(len(sums.pictures), pool) for sums, pool in ((weight, MAIN_TASK), (lost, "effects")))
        scores = np.stack([weight.means(first)[heads].T, lost.means(second)[heads].T], axis=1)
        return spearman(scores)[:, 0, 1] / ceiling

    return share, ceiling
