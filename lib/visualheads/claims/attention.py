"""Claims about where heads look: 1, 2, 4, 9, 11 and 14."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads import alike
from visualheads.agreement import spearman, without_layer_means
from visualheads.bootstrap import N_BOOT, bootstrap, interval, picture_sums, picture_weights, split_halves
from visualheads.claims.evidence import Evidence
from visualheads.claims.verdicts import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Finding,
    all_of,
    bounds_of,
    decided,
    finding,
    has,
    missing,
    names_of,
    pooled,
)
from visualheads.comparison import BOX_PAIRS, NAME_PAIRS, of_model
from visualheads.errors import ParameterError
from visualheads.nulls import above_null
from visualheads.rankings import head_count, sample_scores, samples_with_control, top_heads

TASK = "looktwice"
QUERY = "first_generated"
EXCESS = 0.1
"""Log-odds by which a visual head must exceed its null: a tenth of a nat, 10 % more odds (ours)."""
STRONGEST = 0.1
"""Share of the heads that count as the strongest (METHOD section 3)."""
EXPLAINED = 0.5
"""More than half of the surplus concentration must be the sinks' for them to explain it (ours)."""


def visual_heads_exist(evidence: Evidence) -> Finding:
    """Claim 1: heads found above null on one half of the pictures exceed it on the other, in every family."""
    if not has(evidence.traces, "image_log_odds"):
        return missing("there are no traces with image_log_odds")
    assert evidence.traces is not None
    rows = []
    for name in names_of(evidence.traces):
        whole = evidence.traces.sel(model=[name])
        family = str(np.atleast_1d(whole["family"].values)[0]) if "family" in whole.coords else ""
        white = samples_with_control(whole, ("white",))
        has_white = "control" in whole.coords and bool((np.atleast_1d(white["control"].values) == "white").any())
        fresh = None
        if evidence.untrained is not None and name in names_of(evidence.untrained):
            fresh = of_model(evidence.untrained, name)
        if not has_white and fresh is None:
            continue
        found = _excess(of_model(evidence.traces, name), white if has_white else None, fresh)
        if found is not None:
            rows.append({"family": family or name, "model": name, **found})
    if not rows:
        return missing("no model has white pictures or an untrained network to compare with, on at least four pictures")
    table = pd.DataFrame(rows)
    best = table.loc[table.groupby("family")["lower"].idxmax()]
    worst = best.loc[best["lower"].idxmin()]
    verdict = all_of([decided(row["lower"], row["upper"], EXCESS) for _, row in best.iterrows()])
    return finding(worst[["estimate", "lower", "upper"]].tolist(), verdict, table, families=float(len(best)))


def in_early_and_middle_layers(evidence: Evidence) -> Finding:
    """Claim 2: the strongest tenth lies in early and middle layers more than all heads do."""
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    rows = []
    for name in names_of(evidence.traces):
        part = of_model(evidence.traces, name)
        sums, shape = _sums(part, "image_weight")
        stage = np.repeat(part["depth_stage"].isel(model=0).values.astype(str), shape[1])
        late = stage == "late"

        def surplus(weights: NDArray[np.float64], sums=sums, late=late) -> NDArray[np.float64]:
            means = sums.means(weights)
            there = np.isfinite(means).all(axis=1)
            top = top_heads(means[there], head_count(int(there.sum()), STRONGEST))
            return late[there].mean() - (top & late[there, None]).sum(axis=0) / top.sum(axis=0)

        rows.append({"model": name, **_bootstrapped(surplus, len(sums.pictures))})
    table = pd.DataFrame(rows)
    numbers = pooled(table)
    return finding(numbers, decided(numbers[1], numbers[2]), table)


def naming_changes_drawing_does_not(evidence: Evidence) -> Finding:
    """Claim 4: head patterns are alike with and without the drawn box, not with and without the object's name."""
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    told = alike.model_pairs(
        alike.group_agreement(_of_task(evidence.traces), "condition"), {"box": BOX_PAIRS, "name": NAME_PAIRS}
    )
    box, name = (pooled(told[told["kind"] == kind], "shortfall") for kind in ("box", "name"))
    if not np.isfinite(box).all() or not np.isfinite(name).all():
        return missing("no model was asked with and without the box, and with and without the name")
    kinds = {alike.ALIKE: SUPPORTED, alike.DIFFERENT: CONTRADICTED, alike.UNDECIDED: UNDECIDED}
    reverse = {alike.ALIKE: CONTRADICTED, alike.DIFFERENT: SUPPORTED, alike.UNDECIDED: UNDECIDED}
    verdict = all_of([kinds[alike.verdict(box[1], box[2])], reverse[alike.verdict(name[1], name[2])]])
    return finding(box, verdict, told, naming=name[0], naming_lower=name[1], naming_upper=name[2])


def sinks_explain_concentration(evidence: Evidence) -> Finding:
    """Claim 9: of the most concentrated heads' surplus concentration, more than half vanishes without sink tokens.

    Models without sink dimensions are judged by the background patches that draw most attention, where that is known.
    """
    if not has(evidence.traces, "concentration", "concentration_no_sink"):
        return missing("there are no traces with concentration and concentration_no_sink")
    assert evidence.traces is not None
    rows = []
    for name in names_of(evidence.traces):
        part, kind = of_model(evidence.traces, name), "massive activations"
        if not np.isfinite(part["concentration_no_sink"]).any() and name in evidence.sinks:
            part, kind = evidence.sinks[name].sel(model=[name]), str(evidence.sinks[name]["definition"].values[0])
        if not np.isfinite(part["concentration_no_sink"]).any() or len(np.unique(part["image_id"].values)) < 4:
            continue
        first, second = split_halves(part)
        found = _sums(first, "concentration")[0].means(np.ones((1, _pictures(first))))
        there = np.isfinite(found[:, 0])
        top = top_heads(found, head_count(int(there.sum()), STRONGEST))[:, 0]
        with_sinks, _ = _sums(second, "concentration")
        without, _ = _sums(second, "concentration_no_sink")

        def explained(
            weights: NDArray[np.float64], one=with_sinks, other=without, top=top, there=there
        ) -> NDArray[np.float64]:
            concentration, bare = one.means(weights), other.means(weights)
            surplus = np.nanmean(concentration[top], axis=0) - np.nanmean(concentration[there], axis=0)
            left = np.nanmean(bare[top], axis=0) - np.nanmean(concentration[there], axis=0)
            return 1 - left / surplus

        rows.append({"model": name, "sinks": kind, **_bootstrapped(explained, len(with_sinks.pictures))})
    if not rows:
        return missing("no model has sink dimensions: none of its dimensions is massive on any token")
    table = pd.DataFrame(rows)
    numbers = pooled(table)
    return finding(numbers, decided(numbers[1], numbers[2], EXPLAINED), table)


def weight_goes_with_concentration(evidence: Evidence) -> Finding:
    """Claim 11: over heads, image weight and concentration are correlated, within layers too."""
    if not has(evidence.traces, "image_weight", "concentration"):
        return missing("there are no traces with image_weight and concentration")
    assert evidence.traces is not None
    rows = []
    for name in names_of(evidence.traces):
        part = of_model(evidence.traces, name)
        (weight, shape), (focus, _) = _sums(part, "image_weight"), _sums(part, "concentration")
        layer = np.repeat(np.arange(shape[0]), shape[1])

        def correlated(
            weights: NDArray[np.float64], within: bool, weight=weight, focus=focus, layer=layer
        ) -> NDArray[np.float64]:
            scores = np.stack([weight.means(weights).T, focus.means(weights).T], axis=1)
            there = np.isfinite(scores).all(axis=(0, 1))
            scores = scores[..., there]
            return spearman(without_layer_means(scores, layer[there]) if within else scores)[:, 0, 1]

        n = len(weight.pictures)
        whole = _bootstrapped(lambda w, f=correlated: f(w, False), n)
        inner = {f"within_{key}": value for key, value in _bootstrapped(lambda w, f=correlated: f(w, True), n).items()}
        rows.append({"model": name, **whole, **inner})
    table = pd.DataFrame(rows)
    whole, inner = pooled(table), pooled(table, "within_estimate", "within_lower", "within_upper")
    verdict = all_of([decided(whole[1], whole[2]), decided(inner[1], inner[2])])
    return finding(whole, verdict, table, within=inner[0], within_lower=inner[1], within_upper=inner[2])


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


def _excess(own: xr.Dataset, white: xr.Dataset | None, untrained: xr.Dataset | None) -> dict[str, float] | None:
    """Mean excess (with bounds) on one half of the heads that are above null on the other; None for few pictures."""
    if _pictures(own) < 4:
        return None
    first, second = split_halves(own)
    try:
        found = above_null(first, white=white, untrained=untrained)
    except ParameterError:  # the control holds none of these prompts
        return None
    chosen = found["above_null"].values.ravel()
    count = int(chosen.sum())
    excess = np.where(np.isfinite(found["excess"].values), found["excess"].values, -np.inf).reshape(-1, 1)
    if not count:
        chosen = top_heads(excess, head_count(int(np.isfinite(excess).sum()), STRONGEST))[:, 0]
    differences = _differences(second, white, untrained, chosen)
    return {**bounds_of(bootstrap(differences)), "above": float(count)}


def _differences(
    own: xr.Dataset, white: xr.Dataset | None, untrained: xr.Dataset | None, chosen: NDArray[np.bool_]
) -> xr.DataArray:
    """Per sample, the chosen heads' mean log-odds minus those of the stricter control, paired by prompt."""
    values = _scores(own, "image_log_odds")
    mean = values.values.reshape(-1, values.sizes["sample"])[chosen].mean(axis=0)
    limits = []
    keys = _keys(own)
    for control, of_heads in ((white, True), (untrained, False)):
        if control is None:
            continue
        told = _scores(control, "image_log_odds")
        flat = told.values.reshape(-1, told.sizes["sample"])
        limit = flat[chosen].mean(axis=0) if of_heads else np.nanquantile(flat, 0.95, axis=0)
        index = dict(zip(_keys(control), limit, strict=True))
        limits.append([index.get(key, np.nan) for key in keys])
    hardest = np.max(np.array(limits), axis=0)
    return xr.DataArray(mean - hardest, {"image_id": ("sample", own["image_id"].values)}, ("sample",))


def _keys(ds: xr.Dataset) -> list[tuple[str, ...]]:
    names = [name for name in ("task", "question_id", "condition", "format") if name in ds.coords]
    return list(zip(*(np.broadcast_to(ds[name].values, ds.sizes["sample"]).astype(str) for name in names), strict=True))


def _of_task(ds: xr.Dataset) -> xr.Dataset:
    chosen = ds["task"].values.astype(str) == TASK
    return ds.isel(sample=np.flatnonzero(chosen)) if chosen.any() else ds


def _scores(ds: xr.Dataset, measure: str) -> xr.DataArray:
    if "control" in ds.coords and (np.atleast_1d(ds["control"].values).astype(str) == "white").all():
        ds = ds.assign_coords(control=("sample", np.full(ds.sizes["sample"], "", dtype=object)))
    return sample_scores(ds, measure, query=QUERY if "query" in ds.dims else None).isel(model=0)


def _sums(part: xr.Dataset, measure: str):
    values = _scores(part, measure)
    return picture_sums(values), (values.sizes["layer"], values.sizes["head"])


def _pictures(ds: xr.Dataset) -> int:
    return len(np.unique(ds["image_id"].values.astype(str)))


def _bootstrapped(statistic, pictures: int) -> dict[str, float]:
    """Estimate and 95 % interval of a statistic of picture weights (replicate, picture)."""
    estimate = float(statistic(np.ones((1, pictures)))[0])
    lower, upper = interval(np.asarray(statistic(picture_weights(pictures, N_BOOT)), dtype=float))
    return {"estimate": estimate, "lower": float(lower), "upper": float(upper)}
