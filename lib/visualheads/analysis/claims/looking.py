"""Claims about which heads look at pictures: 1 and 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.analysis.claims.rules import (
    MAIN_TASK,
    SURER,
    Choice,
    Draws,
    Evidence,
    Finding,
    Statistic,
    all_of,
    has,
    in_row,
    missing,
    sums_of,
)
from visualheads.analysis.subset import models_of, subset
from visualheads.heads.bootstrap import LEVEL, picture_sums, split_halves
from visualheads.heads.nulls import FDR, MEASURE, above_null, prompt_keys
from visualheads.heads.ranking import sample_scores, samples_with_control, top_heads

TWICE = float(np.log(2))
"""Margin of claim 1: "far more" is at least twice the odds of what a head without preference gives (ours)."""
TENTH = 0.1
"""Margin of claim 2, a share of the heads."""
EVERY_KEY = "image_log_odds"


def visual_heads_exist(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 1: heads above null on one half of the pictures exceed it far on the other, in every family.

    A family is a language model. Where no head is above null on the first half, the one that comes closest there is
    judged. Every family's interval allows for their number (Bonferroni).
    """
    compared = _compared(evidence, choice)
    if not compared:
        return missing("no model was traced beside white pictures and untrained networks")
    rows, excess = [], {}
    for name, (own, nulls, measure) in compared.items():
        first, second = split_halves(own)
        row = in_row(own, choice)
        found = above_null(first, query=row, measure=measure, **nulls)
        chosen = found["above_null"].values.ravel()
        if not chosen.any():
            chosen = top_heads(found["excess"].values.reshape(-1, 1), 1)[:, 0]
        whole = above_null(own, query=row, measure=measure, **nulls)
        told = {"model": name, "llm": evidence.llm[name], "above": int(whole["above_null"].sum())}
        told |= {"heads": int(np.isfinite(whole["p_value"]).sum())}
        if "untrained_limit" in whole:
            told |= {name: float(whole[name][0]) for name in ("untrained_limit", "untrained_pass_rate")}
        rows.append(told)
        limit = float(found["untrained_limit"][0]) if "untrained_limit" in found else None
        excess[name] = _excess(second, nulls.get("white"), limit, chosen, row, measure)
    families = list(dict.fromkeys(evidence.llm[name] for name in excess))
    level = 1 - (1 - LEVEL) / len(families)
    parts = []
    for family in families:
        own = {name: one for name, one in excess.items() if evidence.llm[name] == family}
        parts.append(evidence.part(family, own, TWICE, level=level))
    table = pd.DataFrame(rows)
    also = {"models": float(len(table)), "with_heads": float((table["above"] > 0).sum())}
    also |= {"least": float(table["above"].min()), "most": float(table["above"].max())}
    if "untrained_pass_rate" in table:
        also |= {"passing": float(table["untrained_pass_rate"].mean())}
    return Finding(parts, also=also, table=table, label=all_of([part.label for part in parts]))


def in_early_and_middle_layers(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 2: more of the heads above null lie in the first two stages than of all heads."""
    compared = _compared(evidence, choice)
    if not compared:
        return missing("no model was traced beside white pictures and untrained networks")
    each = {name: _surplus(own, nulls, measure, choice) for name, (own, nulls, measure) in compared.items()}
    part = evidence.part("surplus", each, TENTH, level=SURER)
    if not np.isfinite(part.each).any():
        return missing("no model has heads above null")
    return Finding([part], table=part.table(), also={"models": float(np.isfinite(part.each).sum())})


def _compared(evidence: Evidence, choice: Choice) -> dict[str, tuple[xr.Dataset, dict[str, Any], str]]:
    """By model: its prompts on the main benchmark, the nulls that are asked for, and the measure that is compared."""
    measure = EVERY_KEY if choice.null == "every key" else MEASURE
    wanted = ("untrained", "white") if choice.null == "every key" else tuple(choice.null.split(" and "))
    found: dict[str, tuple[xr.Dataset, dict[str, Any], str]] = {}
    if not has(evidence.traces, measure):
        return found
    assert evidence.traces is not None
    for name in models_of(evidence.traces):
        own = subset(evidence.traces, model=name, task=MAIN_TASK)
        nulls: dict[str, Any] = {}
        white = samples_with_control(evidence.traces.sel(model=[name]), ("white",))
        seen = white[measure].notnull().any([dim for dim in white[measure].dims if dim != "sample"])
        white = white.isel(sample=np.flatnonzero((white["control"].values.astype(str) == "white") & seen.values))
        if "white" in wanted and white.sizes["sample"]:
            nulls["white"] = white
        if "untrained" in wanted and evidence.null is not None and name in models_of(evidence.null):
            nulls["untrained"] = evidence.null.sel(model=[name])
        if len(nulls) == len(wanted) and own.sizes["sample"]:
            if "white" in nulls:  # prompts that were asked of white pictures too
                asked = set(prompt_keys(white))
                own = own.isel(sample=[place for place, key in enumerate(prompt_keys(own)) if key in asked])
            found[name] = (own, nulls, measure)
    return found


def _excess(
    own: xr.Dataset, white: xr.Dataset | None, limit: float | None, chosen: NDArray[np.bool_], row: str | None,
    measure: str,
) -> Statistic:  # fmt: skip
    """By how much the chosen heads exceed white pictures and the untrained limit, whichever is less; NaN never."""
    values = _chosen_mean(own, chosen, row, measure)
    compared = []
    if white is not None:
        index = dict(zip(prompt_keys(white), _chosen_mean(white, chosen, row, measure).values, strict=True))
        compared.append(values - np.array([index[key] for key in prompt_keys(own)]))
    if limit is not None:
        compared.append(values - limit)
    sums = [picture_sums(one) for one in compared]

    def least(draws: Draws) -> NDArray[np.float64]:
        weights = draws.of(len(sums[0].pictures), MAIN_TASK)
        return np.min([one.means(weights)[0] for one in sums], axis=0)

    return least


def _chosen_mean(ds: xr.Dataset, chosen: NDArray[np.bool_], row: str | None, measure: str) -> xr.DataArray:
    """Mean over the chosen heads of each sample's value."""
    values = sample_scores(ds, measure, query=row).isel(model=0)
    flat = values.values.reshape(-1, values.sizes["sample"])[chosen].astype(float)
    return xr.DataArray(flat.mean(axis=0), {"image_id": ("sample", ds["image_id"].values)}, ("sample",))


def _surplus(own: xr.Dataset, nulls: dict[str, xr.Dataset], measure: str, choice: Choice) -> Statistic:
    """Share of the heads above null in early and middle layers minus the share of all heads; NaN without such heads.

    Counts heads as `above_null` does, anew under every draw.
    """
    sums = sums_of(own, measure, choice)
    row, heads = in_row(own, choice), np.flatnonzero(sums.counts.any(axis=1))
    stage = own["depth_stage"].isel(model=0).values.astype(str)
    late = np.repeat(stage == "late", own.sizes["head"])[heads]
    untrained, differences = np.zeros(0), None
    if "untrained" in nulls:
        null = nulls["untrained"].isel(draw=slice(None, None, 2))[measure]
        null = null.sel(query=choice.row) if "query" in null.dims else null
        untrained = np.sort(null.mean("sample").values.ravel())
        untrained = untrained[np.isfinite(untrained)]
    if "white" in nulls:
        white = nulls["white"]
        values, other = (sample_scores(ds, measure, query=row).isel(model=0) for ds in (own, white))
        index = {key: place for place, key in enumerate(prompt_keys(white))}
        difference = values.copy(data=values.values - other.values[..., [index[key] for key in prompt_keys(own)]])
        paired = picture_sums(difference)
        differences = (paired.sums / np.maximum(paired.counts, 1))[heads]

    def surplus(draws: Draws) -> NDArray[np.float64]:
        weights = draws.of(len(sums.pictures), MAIN_TASK)
        p = np.zeros((len(heads), len(weights)))
        if len(untrained):
            above = len(untrained) - np.searchsorted(untrained, sums.means(weights)[heads])
            p = (1 + above) / (1 + len(untrained))
        if differences is not None:
            n = weights.sum(axis=1)
            mean, square = differences @ weights.T / n, differences**2 @ weights.T / n
            spread = np.sqrt(np.maximum(square - mean**2, 1e-12) / (n - 1))
            p = np.maximum(p, stats.t.sf(mean / spread, n - 1))
        passing = stats.false_discovery_control(p, axis=0) <= FDR
        count = passing.sum(axis=0)
        placed = (passing & ~late[:, None]).sum(axis=0)
        share = np.divide(placed, count, out=np.full(len(weights), np.nan), where=count > 0)
        return share - (~late).mean()

    return surplus
