"""Each benchmark's own figures with intervals, and head statistics by benchmark, from traced answers (xarray)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.benchmarks import LETTERS, in_all_rounds, of_model, tasks_of
from visualheads.heads.bootstrap import LEVEL, N_BOOT, bootstrap, interval, picture_ids, picture_weights
from visualheads.heads.patterns import QUERY
from visualheads.heads.proportions import most_unseen, share_bounds
from visualheads.heads.ranking import sample_scores
from visualheads.tasks.scoring import said_yes

COLUMNS = ("model", "task", "figure", "estimate", "lower", "upper", "n")
NO_REFERENT = "plain-general"
STATISTICS = {"image_weight": "image weight", "concentration": "concentration", "focus_nats": "focus (nats)"}


def own_figures(ds: xr.Dataset, *, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0) -> pd.DataFrame:
    """What each benchmark reports of each model: model, task, figure, estimate, lower, upper, n (prompts that count).

    looktwice   accuracy over all conditions, and over those whose question has a referent
    pope        accuracy, precision, recall, F1 (yes is the positive class), share of yes, and accuracy by condition
    mmbench     circular (questions right in every round), vanilla (the first round), and accuracy over all prompts
    others      accuracy

    All are shares in [0, 1]; intervals are a bootstrap over pictures. NaN where a denominator is zero. Samples without
    a known answer and controls do not count. Source: the benchmarks' papers (see `tasks.scoring`); intervals ours.
    """
    records = []
    for name in np.atleast_1d(ds["model"].values).astype(str):
        for task in tasks_of(ds):
            part = of_model(ds, str(name), task)
            part = part.isel(sample=np.flatnonzero(np.isfinite(part["correct"].isel(model=0).values.astype(float))))
            if not part.sizes["sample"]:
                continue
            for figure, told in _figures(part, task, n_boot, level, seed).items():
                records.append({"model": str(name), "task": task, "figure": figure, **told})
    return pd.DataFrame(records, columns=list(COLUMNS))


def statistic_intervals(
    ds: xr.Dataset, fresh: xr.Dataset | None = None, query: str | None = QUERY, seed: int = 0
) -> pd.DataFrame:
    """Mean over all heads of each of STATISTICS, by benchmark.

    Columns: model, task, statistic, estimate, lower, upper, untrained.

    Intervals are a bootstrap over pictures; `untrained` is the same mean of the untrained network of `fresh`, which
    goes by the model's name, NaN without it.
    """
    records = []
    for name in np.atleast_1d(ds["model"].values).astype(str):
        for task in tasks_of(ds):
            for measure, words in STATISTICS.items():
                values = _mean_of_heads(ds, str(name), task, measure, query)
                if values is None:
                    continue
                bounds = bootstrap(values, seed=seed)
                told = {bound: float(bounds.sel(bound=bound)) for bound in ("estimate", "lower", "upper")}
                control = None if fresh is None else _mean_of_heads(fresh, str(name), task, measure, query)
                untrained = float("nan") if control is None else float(control.mean())
                row = {"model": str(name), "task": task, "statistic": words}
                records.append({**row, **told, "untrained": untrained})
    return pd.DataFrame(records, columns=["model", "task", "statistic", "estimate", "lower", "upper", "untrained"])


def _mean_of_heads(ds: xr.Dataset, model: str, task: str, measure: str, query: str | None) -> xr.DataArray | None:
    """Per sample the mean over heads; None where the model was not asked this benchmark."""
    if measure not in ds or model not in ds["model"].values.astype(str):
        return None
    part = of_model(ds, model, task)
    if not part.sizes["sample"]:
        return None
    asked = query if "query" in part.dims else None
    values = sample_scores(part, measure, query=asked).isel(model=0).mean(["layer", "head"], skipna=True)
    return values if bool(np.isfinite(values).any()) else None


def _figures(part: xr.Dataset, task: str, n_boot: int, level: float, seed: int) -> dict[str, dict[str, float]]:
    correct = np.asarray(part["correct"].isel(model=0).values, dtype=float)
    conditions = part["condition"].values.astype(str)

    def share(values: NDArray[np.float64], of: NDArray[np.bool_] | None = None) -> dict[str, float]:
        chosen = np.ones(len(values), dtype=bool) if of is None else of
        counted = chosen.astype(float)
        images = picture_ids(part).astype(str)
        return _ratio(values * counted, counted, images, int(chosen.sum()), n_boot, level, seed)

    found = {"accuracy": share(correct)}
    if task == "looktwice":
        kept = conditions != NO_REFERENT
        if kept.any() and not kept.all():
            found["accuracy, questions with a referent"] = share(correct, kept)
    if task == "pope":
        truth = np.array([said_yes(answer) for answer in part["answer"].values.astype(str)])
        said = np.array([said_yes(told) for told in part["prediction"].isel(model=0).values.astype(str)])
        both = (truth & said).astype(float)
        images, n = picture_ids(part).astype(str), len(truth)
        found["precision"] = _ratio(both, said.astype(float), images, int(said.sum()), n_boot, level, seed)
        found["recall"] = _ratio(both, truth.astype(float), images, int(truth.sum()), n_boot, level, seed)
        found["F1"] = _ratio(2 * both, said.astype(float) + truth, images, n, n_boot, level, seed)
        found["share of yes"] = share(said.astype(float))
        found |= {f"accuracy, {name}": share(correct, conditions == name) for name in dict.fromkeys(conditions)}
    if task == "mmbench":
        whole = in_all_rounds(part["correct"].isel(model=0).load())
        ones = np.ones(whole.sizes["sample"])
        images = picture_ids(whole).astype(str)
        circular = _ratio(np.asarray(whole.values, dtype=float), ones, images, len(ones), n_boot, level, seed)
        lettered = part["format"].values.astype(str) == LETTERS
        first = (conditions == "round-1") & (lettered if lettered.any() else True)
        found = {
            "circular": circular,
            "vanilla (first round)": share(correct, first),
            "accuracy, all rounds": found["accuracy"],
        }
    return found


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], images: NDArray[np.str_], n: int, n_boot: int,
    level: float, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Σ above / Σ below, a share, with a bootstrap over pictures; draws without a denominator are left out.

    No bound is nearer to 0 or 1 than what so many pictures may hide (`answered.most_unseen`), as in `share_right`.
    """
    pictures, owner = np.unique(images, return_inverse=True)
    top, bottom = (np.bincount(owner, weights=values, minlength=len(pictures)) for values in (above, below))
    if bottom.sum() == 0:
        return {"estimate": float("nan"), "lower": float("nan"), "upper": float("nan"), "n": n}
    weights = picture_weights(len(pictures), n_boot, seed)
    drawn_top, drawn_bottom = weights @ top, weights @ bottom
    there = drawn_bottom > 0
    low, high = interval(drawn_top[there] / drawn_bottom[there], level)
    low, high = share_bounds(low, high, most_unseen(int((bottom > 0).sum()), level))
    return {"estimate": float(top.sum() / bottom.sum()), "lower": float(low), "upper": float(high), "n": n}
