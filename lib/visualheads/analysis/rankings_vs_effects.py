"""Observational rankings confronted with causal effects: which finds the heads that matter. Numpy and xarray.

Rankings against effects in every cell: model, benchmark, mode and kind of effect. Numpy and xarray.

How many of the best heads a ranking shares with the causal one, at every size told of results. Numpy and xarray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.analysis.effects import ATTRIBUTION, EFFECT, MAIN_TASK, Lists, effects_of, usable
from visualheads.analysis.subset import models_of, subset
from visualheads.heads.agreement import agreement, spearman, top_k_overlap, without_layer_means
from visualheads.heads.bootstrap import LEVEL, PictureSums, centred_interval, picture_sums, picture_weights
from visualheads.heads.ranking import FULL_SIZE, head_count, rank, score_sums
from visualheads.heads.selection import TOP_COUNTS, TOP_SHARES

AGREEMENT_COLUMNS = (
    "model", "ranking", "spearman", "lower", "upper", "within", "unrelated", "ceiling",
    "overlap", "overlap_lower", "overlap_upper", "chance", "top", "heads", "placed",
)  # fmt: skip
N_BOOT = 500
SCORED, REMOVED = 0, 1
"""Seeds: the pictures of rankings and those of effects are drawn each by themselves."""

Case = tuple[xr.Dataset | None, str]
"""Effects of single heads, dims (model, layer, head, sample), and the variable that counts."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A score of every head of one model, with what noise does to it.

    mean          (head) over pictures, layer after layer
    draws         (draw, head) means over drawn pictures; of what has no noise of its own, the mean again
    reliability   split-half Spearman; 1 of what has no noise, NaN of a single picture
    """

    mean: NDArray[np.float64]
    draws: NDArray[np.float64]
    reliability: float


def ranking_agreement(
    traces: xr.Dataset, effects: xr.Dataset | None, effect: str = EFFECT, lists: Lists | None = None,
    by: Sequence[str] | None = None, n_boot: int = N_BOOT, query: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """How well each observational ranking finds the heads that matter: one row per model and ranking.

    spearman, lower, upper   rank correlation over heads with the effects; interval over the pictures of both, of what
                             so many pictures give on average (`bootstrap.centred_interval`)
    within                   the same after removing layer means, so that depth alone makes no agreement
    unrelated                what 95 % of unrelated rankings of as many heads do not exceed, up or down
    ceiling                  √(reliability of the ranking · reliability of the effects): the most that noise allows
    overlap, overlap_*       share of the `top` best heads that both name; chance: that of two unrelated rankings
    heads, placed            how many have both scores; how many of them the ranking places alone: no other has theirs
    effect   variable of `effects` (model, layer, head, sample); lists: published head lists, without noise of their own
    by       only these rankings; default all that the traces have what they need for
    query    the attention row of the rankings; default the one that each is of (`rankings.rank`)
    Empty where no model has effects. Rankings without a finite correlation are left out.
    """
    return ranking_agreements(traces, {"": (effects, effect)}, lists, by, n_boot, query).drop(columns="case")


def ranking_agreements(
    traces: xr.Dataset, cases: Mapping[str, Case], lists: Lists | None = None, by: Sequence[str] | None = None,
    n_boot: int = N_BOOT, query: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """`ranking_agreement` with several effects at once, in the column `case`: the rankings are measured only once."""
    rows = []
    for name in models_of(traces):
        part = traces.sel(model=[name])
        shape = {dim: part[dim] for dim in ("layer", "head")}
        found = {
            case: _effects(effects.sel(model=[name]).reindex(shape), variable, n_boot)
            for case, (effects, variable) in cases.items()
            if effects is not None and variable in effects and name in effects["model"].values.astype(str)
        }
        if not found:
            continue
        rankings = _rankings(part, [one for one in usable(part) if by is None or one in by], n_boot, query)
        for key, scores in (lists or {}).get(name, {}).items():
            values = scores.reindex(shape).transpose("layer", "head").values.astype(np.float64).ravel()
            rankings[key] = Measured(values, np.repeat(values[None], n_boot, axis=0), 1.0)
        layer = np.repeat(np.arange(part.sizes["layer"]), part.sizes["head"])
        for case, effect in found.items():
            for ranking, scores in rankings.items():
                row = _confronted(scores, effect, layer)
                if row:
                    rows.append({"case": case, "model": name, "ranking": ranking, **row})
    return pd.DataFrame(rows, columns=["case", *AGREEMENT_COLUMNS])


def over_models(found: pd.DataFrame) -> pd.DataFrame:
    """Mean over models of `ranking_agreement`: ranking, estimate, lower and upper (of the models), models; best first.

    Bounds are the lowest and the highest model: how far models differ, not how sure one of them is.
    """
    each = found.groupby("ranking", sort=False)["spearman"]
    table = each.agg(estimate="mean", lower="min", upper="max", models="size").reset_index()
    return table.sort_values("estimate", ascending=False, ignore_index=True)


def _rankings(part: xr.Dataset, names: Sequence[str], n_boot: int, query: str | None) -> dict[str, Measured]:
    """Rankings of one model by name."""
    if not names:
        return {}
    told = agreement(part, by=names, n_boot=1, query=query)["reliability"].isel(model=0)
    return {
        name: _measured(score_sums(part, name, query=query), float(told.sel(ranking=name)), n_boot, SCORED)
        for name in names
    }


def _effects(effects: xr.Dataset, variable: str, n_boot: int) -> Measured:
    """Effects of one model's heads."""
    told = agreement(effects, by=[variable], n_boot=1)["reliability"]
    sums = picture_sums(effects[variable].isel(model=0).transpose("layer", "head", "sample"))
    return _measured(sums, float(told.isel(model=0, ranking=0)), n_boot, REMOVED)


def _measured(sums: PictureSums, reliability: float, n_boot: int, seed: int) -> Measured:
    mean = sums.means(np.ones((1, len(sums.pictures))))[:, 0]
    if len(sums.pictures) < 2:
        return Measured(mean, np.full((n_boot, len(mean)), np.nan), reliability)
    return Measured(mean, sums.means(picture_weights(len(sums.pictures), n_boot, seed)).T, reliability)


def _confronted(scores: Measured, effect: Measured, layer: NDArray[np.integer]) -> dict[str, float]:
    """A row of the table; empty where there is no finite correlation."""
    heads = np.isfinite(scores.mean) & np.isfinite(effect.mean)
    if heads.sum() < 3:
        return {}
    pair = np.stack([scores.mean[heads], effect.mean[heads]])
    observed, k = spearman(pair)[0, 1], head_count(int(heads.sum()))
    if not np.isfinite(observed):
        return {}
    shared = top_k_overlap(pair, k)[0, 1]
    room = float(np.clip(scores.reliability * effect.reliability, 0, 1))
    drawn = np.stack([scores.draws[:, heads], effect.draws[:, heads]], axis=1)
    drawn = drawn[:, :, np.isfinite(drawn).all(axis=(0, 1))]
    bounds, overlaps = [np.nan, np.nan], [np.nan, np.nan]
    if drawn.shape[-1]:
        replicates = spearman(drawn)[:, 0, 1]
        bounds = centred_interval(observed, replicates, LEVEL, -1.0, 1.0).tolist()
        overlaps = centred_interval(shared, top_k_overlap(drawn, k)[:, 0, 1], LEVEL, 0.0, 1.0).tolist()
    return {
        "spearman": float(observed), "lower": bounds[0], "upper": bounds[1],
        "within": float(spearman(without_layer_means(pair, layer[heads]))[0, 1]), "ceiling": float(np.sqrt(room)),
        "unrelated": unrelated(int(heads.sum())), 
        "overlap": float(shared), "overlap_lower": overlaps[0], "overlap_upper": overlaps[1],
        "chance": k / int(heads.sum()), "top": k, "heads": int(heads.sum()),
        "placed": int((np.unique(pair[0], return_counts=True)[1] == 1).sum()),
    }  # fmt: skip


def unrelated(n_heads: int, level: float = LEVEL) -> float:
    """The Spearman correlation that this share of unrelated rankings does not exceed, up or down: 0 ± z/√(n − 1)."""
    return min(1.0, float(stats.norm.ppf((1 + level) / 2)) / np.sqrt(n_heads - 1))


def in_format(ds: xr.Dataset, form: str = "free") -> xr.Dataset:
    """The samples of the format that effects were measured in, where any was asked in it; else all of them."""
    same = np.flatnonzero(ds["format"].values.astype(str) == form)
    return ds.isel(sample=same) if len(same) else ds


CELL = ("mode", "task", "effect")
GUESS_COLUMNS = ("model", "guess", "spearman", "overlap", "chance", "r2")


def agreement_by_cell(
    traces: xr.Dataset, sweeps: Mapping[str, xr.Dataset], attributed: xr.Dataset | None = None,
    lists: Lists | None = None, n_boot: int = N_BOOT,
) -> pd.DataFrame:  # fmt: skip
    """`ranking_agreement` in every mode, on every benchmark and by every effect: columns CELL in front of its own.

    mode     as in `sweeps`; task: the benchmark, with its format where it was asked in several
    effect   "margin", "KL" (what changes without the head alone) or "many" (its share when many go at once, in the
             mode of `attributed`)
    """
    places: dict[tuple[str, str], dict[tuple[str, str, str], Case]] = {}
    for mode, sweep in sweeps.items():
        for task, form in _asked(sweep):
            main = task == MAIN_TASK and form == "free"
            effects, cases = effects_of(sweep, task, form), places.setdefault((task, form), {})
            label = task if form == "free" or task != MAIN_TASK else f"{task}, {form}"
            cases[mode, label, "margin"] = (effects, EFFECT)
            if main:
                cases[mode, label, "KL"] = (effects, "effect_kl")
            if main and attributed is not None and mode == _mode_of(attributed):
                cases[mode, label, "many"] = (attributed, ATTRIBUTION)
    parts = []
    for (task, form), cases in places.items():
        named = {str(number): case for number, case in enumerate(cases.values())}
        cells = pd.DataFrame(list(cases), columns=list(CELL), index=list(named))
        for name in models_of(traces):
            own = subset(traces, model=name, task=task)
            if own.sizes["sample"]:
                found = ranking_agreements(in_format(own, form), named, lists, n_boot=n_boot)
                parts.append(found.join(cells, on="case"))
    columns = [*CELL, *AGREEMENT_COLUMNS]
    if not parts:
        return pd.DataFrame(columns=columns)
    whole = pd.concat(parts, ignore_index=True)
    order = {mode: place for place, mode in enumerate(sweeps)}
    return whole.sort_values("mode", key=lambda mode: mode.map(order), kind="stable", ignore_index=True)[columns]


def best_rankings(cells: pd.DataFrame) -> pd.DataFrame:
    """The best ranking of every model and cell: columns CELL, model, ranking, spearman, lower, upper, runner_up, and
    `sure`: whether its interval lies above the estimate of the second."""
    rows = []
    for key, part in cells.groupby([*CELL, "model"], sort=False):
        ordered = part.sort_values("spearman", ascending=False)
        best, second = ordered.iloc[0], (ordered.iloc[1] if len(ordered) > 1 else None)
        rows.append({
            **dict(zip((*CELL, "model"), key, strict=True)),  # pyright: ignore[reportArgumentType]
            **{name: best[name] for name in ("ranking", "spearman", "lower", "upper")},
            "runner_up": "" if second is None else second["ranking"],
            "sure": second is None or bool(best["lower"] > second["spearman"]),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=[*CELL, "model", "ranking", "spearman", "lower", "upper", "runner_up", "sure"])


def guesses(sweep: xr.Dataset | None, attributed: xr.Dataset | None) -> pd.DataFrame:
    """How well cheap guesses find the exact effect of each head alone: one row per model and guess.

    guess      "gradient screen" (first order) or "many at once" (linear attribution from random subsets)
    spearman, overlap, chance   with the exact effects, over heads; r2 of the linear attribution on held-out subsets
    """
    effects = effects_of(sweep)
    rows = []
    for name in [] if effects is None else effects["model"].values.astype(str):
        assert effects is not None and sweep is not None
        exact = effects.sel(model=name)[EFFECT].mean("sample").values.ravel()
        found: dict[str, tuple[xr.DataArray, float]] = {}
        if "screen_margin" in sweep:
            found["gradient screen"] = (sweep["screen_margin"].sel(model=name), float("nan"))
        if attributed is not None and name in attributed["model"].values.astype(str):
            one = attributed.sel(model=name)
            found["many at once"] = (one[ATTRIBUTION], float(one["r2"]))
        for guess, (values, r2) in found.items():
            guessed = values.mean("sample").transpose("layer", "head").values.ravel()
            both = np.isfinite(exact) & np.isfinite(guessed)
            if both.sum() < 3:
                continue
            pair, k = np.stack([exact[both], guessed[both]]), head_count(int(both.sum()))
            rows.append({
                "model": name, "guess": guess, "spearman": float(spearman(pair)[0, 1]),
                "overlap": float(top_k_overlap(pair, k)[0, 1]), "chance": k / int(both.sum()), "r2": r2,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(GUESS_COLUMNS))


def _mode_of(attributed: xr.Dataset) -> str:
    """The mode and positions of a sweep that heads' shares come from, as sweeps are named."""
    return ", ".join(str(np.atleast_1d(attributed[name].values)[0]) for name in ("mode", "positions"))


def _asked(sweep: xr.Dataset) -> list[tuple[str, str]]:
    tasks, forms = (sweep[name].values.astype(str).tolist() for name in ("task", "format"))
    return sorted(set(zip(tasks, forms, strict=True)), key=lambda pair: (pair[0] != MAIN_TASK, pair))


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
    known = set() if effects is None else set(models_of(effects))
    for name in models_of(traces):
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
