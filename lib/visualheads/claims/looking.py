"""Claims about which heads look at pictures: 1 and 2."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.bootstrap import bootstrap, split_halves
from visualheads.claims.attention import STRONGEST
from visualheads.claims.evidence import Evidence
from visualheads.claims.samples import bootstrapped, of_main_task, pictures_of, scores_of, sums_of
from visualheads.claims.verdicts import (
    ALPHA,
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
from visualheads.comparison import of_model
from visualheads.errors import ParameterError
from visualheads.nulls import above_null, prompt_keys
from visualheads.rankings import head_count, samples_with_control, top_heads

EXCESS = 0.1
"""Log-odds by which a visual head must exceed its null: a tenth of a nat, 10 % more odds (ours)."""


def visual_heads_exist(evidence: Evidence) -> Finding:
    """Claim 1: heads found above null on one half of the pictures exceed it on the other, in every family.

    A family is that of the language model. Judged on LookTwice, where white pictures were asked too. Where no head is
    found on the first half, the head that comes closest there is judged on the other.
    """
    if not has(evidence.traces, "image_log_odds"):
        return missing("there are no traces with image_log_odds")
    assert evidence.traces is not None
    rows, llm = [], _language_models(evidence.traces)
    for name in names_of(evidence.traces):
        own = of_main_task(of_model(evidence.traces, name))
        asked = np.isin(evidence.traces["task"].values.astype(str), own["task"].values.astype(str))
        whole = evidence.traces.sel(model=[name]).isel(sample=np.flatnonzero(asked))
        white = samples_with_control(whole, ("white",))
        has_white = "control" in whole.coords and bool((np.atleast_1d(white["control"].values) == "white").any())
        fresh = None
        if evidence.untrained is not None and name in names_of(evidence.untrained):
            fresh = of_main_task(of_model(evidence.untrained, name))
        if not has_white and fresh is None:
            continue
        found = _excess(own, white if has_white else None, fresh)
        if found is not None:
            rows.append({"family": llm.get(name) or name, "model": name, **found})
    if not rows:
        return missing("no model has white pictures or an untrained network to compare with, on at least four pictures")
    table = pd.DataFrame(rows)
    best = table.loc[table.groupby("family")["lower"].idxmax()]
    worst = best.loc[best["lower"].idxmin()]
    verdict = all_of([decided(row["lower"], row["upper"], EXCESS) for _, row in best.iterrows()])
    also = {"families": len(best), "models": len(table), "models_with_heads": int((table["above"] > 0).sum())}
    return finding(worst[["estimate", "lower", "upper"]].tolist(), verdict, table, **also)


def in_early_and_middle_layers(evidence: Evidence) -> Finding:
    """Claim 2: the strongest tenth lies in early and middle layers more than all heads do.

    The interval is over pictures; heads drawn at random lie there often too, so that this has to be improbable as
    well. For that, models of one language model count once, by the one whose heads are most like random ones.
    """
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    rows, llm = [], _language_models(evidence.traces)
    for name in names_of(evidence.traces):
        part = of_model(evidence.traces, name)
        sums, shape = sums_of(part, "image_weight")
        stage = np.repeat(part["depth_stage"].isel(model=0).values.astype(str), shape[1])
        late = stage == "late"

        def surplus(weights: NDArray[np.float64], sums=sums, late=late) -> NDArray[np.float64]:
            means = sums.means(weights)
            there = np.isfinite(means).all(axis=1)
            top = top_heads(means[there], head_count(int(there.sum()), STRONGEST))
            return late[there].mean() - (top & late[there, None]).sum(axis=0) / top.sum(axis=0)

        mean = sums.means(np.ones((1, len(sums.pictures))))
        known = np.isfinite(mean[:, 0])
        count = head_count(int(known.sum()), STRONGEST)
        placed = int((top_heads(mean, count)[:, 0] & ~late).sum())
        placing = stats.hypergeom(known.sum(), (known & ~late).sum(), count).pmf(np.arange(count + 1))
        told = {"heads": count, "placed": placed, "chance": placing[placed:].sum(), "placing": placing}
        rows.append({"llm": llm.get(name) or name, "model": name, **bootstrapped(surplus, len(sums.pictures)), **told})
    table = pd.DataFrame(rows)
    numbers = pooled(table)
    p_value = _by_chance(table.loc[table.groupby("llm")["chance"].idxmax()])
    verdict = decided(numbers[1], numbers[2])
    if verdict == SUPPORTED and p_value > ALPHA:
        verdict = UNDECIDED
    also = {"heads": float(table["heads"].sum()), "placed": float(table["placed"].sum()), "p_value": p_value}
    return finding(numbers, verdict, table.drop(columns="placing"), **also)


def _excess(own: xr.Dataset, white: xr.Dataset | None, untrained: xr.Dataset | None) -> dict[str, float] | None:
    """Mean excess (with bounds) on one half of the heads that are above null on the other; None for few pictures.

    `above` is how many those are. Without any, it is the excess of the one that comes closest: a choice made on the
    first half alone, so that the other half judges it fairly.
    """
    if pictures_of(own) < 4:
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
        chosen = top_heads(excess, 1)[:, 0]
    differences = _differences(second, white, untrained, chosen)
    return {**bounds_of(bootstrap(differences)), "above": float(count)}


def _differences(
    own: xr.Dataset, white: xr.Dataset | None, untrained: xr.Dataset | None, chosen: NDArray[np.bool_]
) -> xr.DataArray:
    """Per sample, the chosen heads' mean log-odds minus those of the stricter control, paired by prompt."""
    values = scores_of(own, "image_log_odds")
    mean = values.values.reshape(-1, values.sizes["sample"])[chosen].mean(axis=0)
    limits = []
    keys = prompt_keys(own)
    for control, of_heads in ((white, True), (untrained, False)):
        if control is None:
            continue
        told = scores_of(control, "image_log_odds")
        flat = told.values.reshape(-1, told.sizes["sample"])
        limit = flat[chosen].mean(axis=0) if of_heads else np.nanquantile(flat, 0.95, axis=0)
        index = dict(zip(prompt_keys(control), limit, strict=True))
        limits.append([index.get(key, np.nan) for key in keys])
    hardest = np.max(np.array(limits), axis=0)
    return xr.DataArray(mean - hardest, {"image_id": ("sample", own["image_id"].values)}, ("sample",))


def _by_chance(models: pd.DataFrame) -> float:
    """How probable it is that as many strongest heads as `placed`, or more, lie in early and middle layers by chance.

    models: rows with placed, and placing, the probability of each number of heads there (hypergeometric).
    """
    together = np.ones(1)
    for placing in models["placing"]:
        together = np.convolve(together, placing)
    return float(together[int(models["placed"].sum()) :].sum())


def _language_models(ds: xr.Dataset) -> dict[str, str]:
    """Language model of each model, as far as the dataset tells."""
    told = np.atleast_1d(ds["llm"].values).astype(str) if "llm" in ds.coords else [""] * len(names_of(ds))
    return dict(zip(names_of(ds), map(str, told), strict=True))
