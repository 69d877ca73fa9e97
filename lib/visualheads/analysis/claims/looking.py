"""Claims about which heads look at pictures: 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.analysis.claims.attention import STRONGEST
from visualheads.analysis.claims.evidence import Evidence
from visualheads.analysis.claims.samples import bootstrapped, of_looks, of_main_task, pictures_of, scores_of, sums_of
from visualheads.analysis.claims.verdicts import (
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
from visualheads.analysis.subset import bounds_of, models_of, subset
from visualheads.heads.bootstrap import bootstrap, split_halves
from visualheads.heads.nulls import above_null, prompt_keys
from visualheads.heads.ranking import head_count, samples_with_control, top_heads

EXCESS = 0.1
"""Log-odds by which a visual head must exceed its null: a tenth of a nat, 10 % more odds (ours)."""


def visual_heads_exist(evidence: Evidence) -> Finding:
    """Claim 1: heads found above null on one half of the pictures exceed it on the other, in every family.

    A family is that of the language model, and judged by its model with most such heads on the first half. Judged on
    LookTwice, where white pictures were asked too. Where no head is found on the first half, the head that comes
    closest there is judged on the other. A head of one untrained network lies above all heads of another often, so
    that this has to be improbable as well, where that is the control. That a family is below is told at a level
    corrected for their number (Bonferroni), and so is the interval of the least: it was picked from many.
    """
    if not has(evidence.traces, "image_log_odds"):
        return missing("there are no traces with image_log_odds")
    assert evidence.traces is not None
    rows, llm = [], language_models(evidence.traces)
    looks = len({llm[name] for name in models_of(evidence.traces)})
    for name in models_of(evidence.traces):
        own = of_main_task(subset(evidence.traces, model=name))
        asked = np.isin(evidence.traces["task"].values.astype(str), own["task"].values.astype(str))
        whole = evidence.traces.sel(model=[name]).isel(sample=np.flatnonzero(asked))
        white = samples_with_control(whole, ("white",))
        has_white = "control" in whole.coords and bool((np.atleast_1d(white["control"].values) == "white").any())
        has_white &= bool(np.isfinite(white["image_log_odds"].values).any())  # another model's are not this one's
        fresh = None
        if evidence.untrained is not None and name in models_of(evidence.untrained):
            fresh = of_main_task(subset(evidence.untrained, model=name))
        if not has_white and fresh is None:
            continue
        found = _excess(own, white if has_white else None, fresh, looks)
        if found is not None:
            rows.append({"family": llm[name], "model": name, **found})
    if not rows:
        return missing("no model has white pictures or an untrained network to compare with, on at least four pictures")
    table = pd.DataFrame(rows)
    first = table.sort_values(["above", "closest"], ascending=False, kind="stable")
    best = first.loc[~first.duplicated("family")]
    below = best[best["surely_to"] < EXCESS]
    worst = below.loc[below["surely_to"].idxmin()] if len(below) else best.loc[best["lower"].idxmin()]
    kin = best["family"].map(table["family"].value_counts())
    best = best.assign(by_chance=np.minimum(1.0, best["by_chance"] * kin))  # the best of so many models
    verdicts = [
        beyond_chance(decided(row["lower"], row["surely_to"], EXCESS), np.nan_to_num(row["by_chance"]), 0.0)
        for _, row in best.iterrows()
    ]
    also = {"families": len(best), "models": len(table), "models_with_heads": int((table["above"] > 0).sum())}
    also |= {"by_chance": float(best["by_chance"].max())}
    also |= {name: float(worst[name]) for name in ("white", "white_lower", "white_upper") if name in worst}
    found = finding(worst[["estimate", "surely_from", "surely_to"]].tolist(), all_of(verdicts), table, **also)
    return replace(found, where=f"{worst['model']} ({worst['family']})")


def in_early_and_middle_layers(evidence: Evidence) -> Finding:
    """Claim 2: the strongest tenth lies in early and middle layers more than all heads do.

    The interval is over pictures; heads drawn at random lie there often, or seldom, too, so that this has to be
    improbable as well. For that, models of one language model count once, by the one most like random heads.
    """
    if not has(evidence.traces, "image_weight"):
        return missing("there are no traces with image_weight")
    assert evidence.traces is not None
    rows, llm = [], language_models(evidence.traces)
    for name in models_of(evidence.traces):
        part = subset(evidence.traces, model=name)
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
        rows.append({
            "llm": llm[name], "model": name, **bootstrapped(surplus, len(sums.pictures)), "heads": count,
            "placed": placed, "as_many": placing[placed:].sum(), "as_few": placing[: placed + 1].sum(),
            "placing": placing,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    numbers = pooled(table)
    more, less = (_by_chance(table.loc[table.groupby("llm")[tail].idxmax()], tail) for tail in ("as_many", "as_few"))
    verdict = beyond_chance(decided(numbers[1], numbers[2]), more, less)
    also = {"heads": float(table["heads"].sum()), "placed": float(table["placed"].sum()), "p_value": min(more, less)}
    return finding(numbers, verdict, table.drop(columns="placing"), **also)


def _excess(
    own: xr.Dataset, white: xr.Dataset | None, untrained: xr.Dataset | None, looks: int
) -> dict[str, float] | None:
    """Mean excess (`_least`) on one half of the heads that are above null on the other; None for few pictures.

    `above` is how many those are. Without any, it is the excess of the one that comes closest (`closest`: by how much,
    on the first half): a choice made on the first half alone, so that the other half judges it fairly. `by_chance`:
    the probability of so many heads of one untrained network above all of another; NaN without that control. `white`
    (with bounds): the excess over white pictures alone.
    """
    if pictures_of(own) < 4 or not _asked(own, white, untrained):
        return None
    first, second = split_halves(own)
    found = above_null(first, white=white, untrained=untrained)
    chosen = found["above_null"].values.ravel()
    count = int(chosen.sum())
    excess = np.where(np.isfinite(found["excess"].values), found["excess"].values, -np.inf).reshape(-1, 1)
    by_chance = np.nan if untrained is None else _above_all_others(count, int(np.isfinite(excess).sum()))
    if not count:
        chosen = top_heads(excess, 1)[:, 0]
    told = {"above": float(count), "closest": float(excess.max()), "by_chance": by_chance}
    differences = [] if white is None else [_difference(second, white, chosen, same_heads=True)]
    if untrained is not None:
        one = untrained.isel(draw=0, drop=True) if "draw" in untrained.dims else untrained
        differences.append(_difference(second, one, chosen, same_heads=False))
    plain = [bounds_of(bootstrap(values)) for values in differences]
    wide = _least([bounds_of(bootstrap(values, *of_looks(looks))) for values in differences])
    if white is not None:
        told |= {"white": plain[0]["estimate"], "white_lower": plain[0]["lower"], "white_upper": plain[0]["upper"]}
    return {**_least(plain), "surely_from": wide["lower"], "surely_to": wide["upper"], **told}


def _asked(own: xr.Dataset, *controls: xr.Dataset | None) -> bool:
    """Whether every control there is was asked some prompt of each half."""
    halves = [set(prompt_keys(half)) for half in split_halves(own)]
    return all(half & set(prompt_keys(told)) for told in controls if told is not None for half in halves)


def _above_all_others(count: int, heads: int) -> float:
    """Probability that `count` or more of `heads` exchangeable heads lie above all of as many others."""
    ranks = np.arange(count)
    return float(np.prod((heads - ranks) / (2 * heads - ranks)))


def _difference(own: xr.Dataset, control: xr.Dataset, chosen: NDArray[np.bool_], same_heads: bool) -> xr.DataArray:
    """Per sample, the chosen heads' mean log-odds minus that of a control, paired by prompt: of the same heads, or of
    the control's strongest head."""
    values, told = scores_of(own, "image_log_odds"), scores_of(control, "image_log_odds")
    mean = values.values.reshape(-1, values.sizes["sample"])[chosen].mean(axis=0)
    flat = told.values.reshape(-1, told.sizes["sample"])
    limit = flat[chosen].mean(axis=0) if same_heads else flat[strongest_head(flat)]
    index = dict(zip(prompt_keys(control), limit, strict=True))
    limits = np.array([index.get(key, np.nan) for key in prompt_keys(own)])
    return xr.DataArray(mean - limits, {"image_id": ("sample", own["image_id"].values)}, ("sample",))


def _least(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The least of several mean differences: estimate, lower, upper. To exceed all is to exceed each, so that the least
    of each bound counts."""
    return {name: min(row[name] for row in rows) for name in ("estimate", "lower", "upper")}


def _by_chance(models: pd.DataFrame, tail: str) -> float:
    """How probable it is that `as_many` strongest heads as `placed` lie in early and middle layers by chance, or
    `as_few`; all that are more so count.

    models: rows with placed, and placing, the probability of each number of heads there (hypergeometric).
    """
    together = np.ones(1)
    for placing in models["placing"]:
        together = np.convolve(together, placing)
    placed = int(models["placed"].sum())
    return float((together[placed:] if tail == "as_many" else together[: placed + 1]).sum())


def strongest_head(values: NDArray[np.floating]) -> int:
    """Place of the head of largest mean among values (head, sample), NaN left out; 0 where there is no value."""
    there = np.isfinite(values)
    sums, counts = np.where(there, values, 0).sum(axis=1), there.sum(axis=1)
    return int(np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0).argmax())
