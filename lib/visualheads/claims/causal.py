"""Claims about what heads do: 5 and 8."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.bootstrap import LEVEL
from visualheads.causes import EFFECT, MAIN_TASK
from visualheads.claims.evidence import Evidence
from visualheads.claims.verdicts import (
    CONTRADICTED,
    Finding,
    all_of,
    bounds_of,
    decided,
    finding,
    has,
    missing,
    names_of,
    non_inferior,
)
from visualheads.comparison import of_task
from visualheads.confronted import ranking_agreement
from visualheads.effects import loss
from visualheads.rankings import head_count

MARGIN = 0.02
"""Accuracy that may be lost before removing heads counts as harm: two points (METHOD section 7)."""
RANKING = "image_weight"
"""The ranking whose top late heads are removed in claim 5, and which claim 8 is about."""
HALF = 0.5
"""Share of the ceiling above which attention weight “finds” the heads that matter (ours)."""
REMOVING = ("zero", "mean", "uniform", "uniform_released", "image_knockout")
"""Modes that take something from a head; the others give it more to look at."""


def late_heads_can_go(evidence: Evidence) -> Finding:
    """Claim 5: removing about 100 late heads (the same share) loses less than two points, in every model and mode.

    That harm is certain in one of them is told at a level corrected for their number (Bonferroni).
    """
    rows = []
    for mode, sweep in evidence.sweeps.items():
        if mode.split(",")[0] not in REMOVING:
            continue
        for name in names_of(sweep):
            own = sweep.sel(model=[name])
            chosen = _late_sets(own)
            if chosen is None:
                continue
            top, random = chosen
            removed = own.isel(set=[top])
            bounds = bounds_of(loss(removed).isel(model=0, set=0))
            row = {"mode": mode, "model": name, "heads": float(own["count"].values[top]), **bounds, "sweep": removed}
            row["random"] = float("nan")
            if len(random):
                row["random"] = float(loss(own.isel(set=random)).sel(bound="estimate").mean())
            rows.append(row)
    if not rows:
        return missing("no sweep removes the late heads of the released share (9.8 %) that look at the picture most")
    for row in rows:  # harm has many chances to show: its bound is of a level corrected for their number
        bound = loss(row.pop("sweep"), level=1 - (1 - LEVEL) / len(rows)).isel(model=0, set=0).sel(bound="lower")
        row["harm_from"] = float(bound)
        row["verdict"] = non_inferior(row["harm_from"], row["upper"], MARGIN)
    table = pd.DataFrame(rows)
    worst = table.loc[table["estimate"].idxmax()]
    return finding(
        worst[["estimate", "lower", "upper"]].tolist(), all_of(table["verdict"].tolist()), table,
        cells=float(len(table)), harmful=float((table["verdict"] == CONTRADICTED).sum()),
        random_there=float(worst["random"]), mean=float(table["estimate"].mean()),
        random=float(table["random"].mean()),
    )  # fmt: skip


def attention_finds_the_heads_that_matter(evidence: Evidence) -> Finding:
    """Claim 8: image weight ranks heads as their single effects do, to more than half of what noise allows."""
    if not has(evidence.traces, RANKING) or not has(evidence.effects, EFFECT):
        return missing("there are no single-head effects beside the traces")
    assert evidence.traces is not None
    if MAIN_TASK not in evidence.traces["task"].values.astype(str):
        return missing(f"no model was traced on {MAIN_TASK}, where heads are removed")
    table = ranking_agreement(of_task(evidence.traces, MAIN_TASK), evidence.effects, EFFECT, by=[RANKING])
    table = table[table["ceiling"] > 0].rename(columns={"lower": "low", "upper": "high", "overlap": "shared_top"})
    if table.empty:
        return missing("no model has both, with effects that two halves of the pictures agree on")
    table = table.assign(
        estimate=table["spearman"] / table["ceiling"], lower=table["low"] / table["ceiling"],
        upper=table["high"] / table["ceiling"],
    )  # fmt: skip
    numbers = _over_models(table)  # models are the other source of spread
    return finding(numbers, decided(numbers[1], numbers[2], HALF), table)


def _late_sets(sweep: xr.Dataset) -> tuple[int, list[int]] | None:
    """The late top set nearest to the released share, and its matched random sets; None where there is no such set."""
    needed = ("ranking", "stage", "order", "count")
    if any(name not in sweep.coords for name in needed):
        return None
    ranking, stage, order, count = (np.atleast_1d(sweep[name].values) for name in needed)
    late = (ranking == RANKING) & (stage == "late")
    there = np.asarray(sweep["correct"].notnull().any(["model", "sample"]))
    tops = np.flatnonzero(late & (order == "top") & there)
    if not len(tops):
        return None
    wanted = head_count(sweep.sizes["layer"] * sweep.sizes["head"])
    top = int(tops[np.argmin(np.abs(count[tops].astype(float) - wanted))])
    if count[top] < wanted / 2:
        return None
    random = np.flatnonzero(late & (order == "random") & (count == count[top]) & there)
    return top, random.tolist()


def _over_models(table: pd.DataFrame) -> np.ndarray:
    """Mean over models; the interval is the wider of the averaged bounds and the models' own spread (t, 95 %)."""
    from scipy import stats

    rows = table[["estimate", "lower", "upper"]].to_numpy(dtype=float)
    mean = rows.mean(axis=0)
    if len(rows) < 3:
        return mean
    spread = float(stats.t.ppf(0.975, len(rows) - 1) * rows[:, 0].std(ddof=1) / np.sqrt(len(rows)))
    return np.array([mean[0], min(mean[1], mean[0] - spread), max(mean[2], mean[0] + spread)])
