"""How many of the best heads a ranking shares with the causal one, at every size told of results. Numpy and xarray."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from visualheads.agreement import top_k_overlap
from visualheads.causes import EFFECT, Lists, usable
from visualheads.heads import TOP_COUNTS, TOP_SHARES
from visualheads.rankings import FULL_SIZE, head_count, rank

COLUMNS = ("model", "ranking", "size", "k", "heads", "overlap", "chance", "limit")
LIMIT = 0.95
"""Share of unrelated rankings that have no more heads in common than `limit`."""


def top_sizes(n_heads: int) -> dict[str, int]:
    """The sizes of top sets that results are told for, by name, smallest first.

    `TOP_SHARES` of the heads, at least one; on models of full size `TOP_COUNTS` as well. Of sizes that are the same
    number the share is named.
    """
    named = {f"{100 * share:g} %": head_count(n_heads, share) for share in TOP_SHARES}
    counts = [count for count in TOP_COUNTS if n_heads >= FULL_SIZE and count not in named.values()]
    every = {**named, **{f"{count} heads": count for count in counts}}
    return dict(sorted(every.items(), key=lambda item: item[1]))


def overlap_by_size(
    traces: xr.Dataset, effects: xr.Dataset | None, lists: Lists | None = None, by: Sequence[str] | None = None,
    effect: str = EFFECT,
) -> pd.DataFrame:  # fmt: skip
    """Top-k overlap of each ranking with the effects of single heads: one row per model, ranking and size.

    size, k   of the top sets, from `top_sizes`; heads: those that have both scores, of which shares are taken
    overlap   share of the k best heads that both name, [0, 1]
    chance    what two unrelated rankings share on average: k / heads
    limit     what 95 % of unrelated rankings do not exceed (hypergeometric)
    effect    variable of `effects` (model, layer, head, sample); lists: published head lists; by: only these rankings
    Empty where no model has effects. Rankings that are constant, or have fewer than three heads, are left out. Heads
    tied at the last place count by lot, on average. Point estimates: `confronted.ranking_agreement` has intervals, at
    one size.
    """
    rows = []
    known = set() if effects is None else set(np.atleast_1d(effects["model"].values).astype(str).tolist())
    for name in np.atleast_1d(traces["model"].values).astype(str).tolist():
        if effects is None or name not in known:
            continue
        part = traces.sel(model=[name])
        shape = {dim: part[dim] for dim in ("layer", "head")}
        causal = _flat(rank(effects.sel(model=[name]).reindex(shape), effect).isel(model=0))
        scores = {one: rank(part, one).isel(model=0) for one in usable(part) if by is None or one in by}
        scores |= {key: values.reindex(shape) for key, values in (lists or {}).get(name, {}).items()}
        for ranking, values in scores.items():
            pair = np.stack([_flat(values), causal])
            pair = pair[:, np.isfinite(pair).all(axis=0)]
            heads = pair.shape[1]
            if heads < 3 or (np.ptp(pair, axis=1) == 0).any():
                continue
            for size, k in top_sizes(heads).items():
                rows.append({
                    "model": name, "ranking": ranking, "size": size, "k": k, "heads": heads,
                    "overlap": float(top_k_overlap(pair, k)[0, 1]), "chance": k / heads,
                    "limit": float(stats.hypergeom.ppf(LIMIT, heads, k, k)) / k,
                })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _flat(scores: xr.DataArray) -> np.ndarray:
    return scores.transpose("layer", "head").values.astype(np.float64).ravel()
