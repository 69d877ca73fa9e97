"""Claims about what heads do: 5 and 8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.claims.evidence import Evidence
from visualheads.analysis.claims.samples import of_looks
from visualheads.analysis.claims.verdicts import (
    CONTRADICTED,
    Finding,
    all_of,
    decided,
    finding,
    has,
    missing,
    non_inferior,
)
from visualheads.analysis.effects import EFFECT, MAIN_TASK
from visualheads.analysis.rankings_vs_effects import in_format, ranking_agreement
from visualheads.analysis.subset import bounds_of, models_of, subset
from visualheads.heads.effects import excess_loss, loss, losses
from visualheads.heads.proportions import changed
from visualheads.heads.ranking import head_count

MARGIN = 0.02
"""Accuracy that may be lost before removing heads counts as harm: two points."""
RANKING = "image_weight"
"""The ranking whose top late heads are removed in claim 5, and which claim 8 is about."""
HALF = 0.5
"""Share of the ceiling above which attention weight “finds” the heads that matter (ours)."""
REMOVING = ("zero", "mean", "uniform", "uniform_released", "image_knockout")
"""Modes that take something from a head; the others give it more to look at."""


def late_heads_can_go(evidence: Evidence) -> Finding:
    """Claim 5: removing about 100 late heads (the same share) loses less than two points, in every model and mode.

    That harm is certain in one of them is told at a level corrected for their number (Bonferroni), and so is the
    interval of the worst: it was picked from many. What it loses beyond random heads is told beside.
    """
    cells = []
    for mode, sweep in evidence.sweeps.items():
        if mode.split(",")[0] not in REMOVING:
            continue
        for name in models_of(sweep):
            own = sweep.sel(model=[name])
            chosen = _late_sets(own)
            if chosen is not None:
                cells.append((mode, name, own, *chosen))
    if not cells:
        return missing("no sweep removes the late heads of the released share (9.8 %) that look at the picture most")
    table = pd.DataFrame([_cell(*cell, cells=len(cells)) for cell in cells])
    harmful = table[table["verdict"] == CONTRADICTED]
    worst = table.loc[harmful["surely_from"].idxmax() if len(harmful) else table["estimate"].idxmax()]
    found = finding(
        worst[["estimate", "surely_from", "surely_to"]].tolist(), all_of(table["verdict"].tolist()), table,
        cells=float(len(table)), harmful=float(len(harmful)),
        harmless=float((table["upper"] < MARGIN).sum()), questions=float(worst["questions"]),
        random_there=float(worst["random"]), excess=float(worst["excess"]),
        excess_lower=float(worst["excess_lower"]), excess_upper=float(worst["excess_upper"]),
        mean=float(table["estimate"].mean()), random=float(table["random"].mean()),
    )  # fmt: skip
    return replace(found, where=f"{worst['model']} ({worst['mode']})")


def _cell(mode: str, name: str, own: xr.Dataset, top: int, random: list[int], cells: int) -> dict[str, object]:
    """What the late heads of one model lose in one mode, with 95 % bounds and with those of `cells` looks at once."""
    removed = own.isel(set=[top])
    lost = losses(removed)["loss_correct"].isel(model=0, set=0)
    bounds, surely = changed(lost), changed(lost, *of_looks(cells))
    row = {"mode": mode, "model": name, "heads": float(own["count"].values[top]), **bounds}
    row |= {"questions": float(np.isfinite(removed["correct"]).sum())}
    row |= {"surely_from": surely["lower"], "surely_to": surely["upper"]}
    row |= dict.fromkeys(("random", "excess", "excess_lower", "excess_upper"), float("nan"))
    if random:
        beyond = bounds_of(excess_loss(own.isel(set=[top, *random])).isel(model=0, set=0))
        row |= {"random": float(loss(own.isel(set=random)).sel(bound="estimate").mean())}
        row |= {"excess": beyond["estimate"], "excess_lower": beyond["lower"], "excess_upper": beyond["upper"]}
    return {**row, "verdict": non_inferior(surely["lower"], bounds["upper"], MARGIN)}


def attention_finds_the_heads_that_matter(evidence: Evidence) -> Finding:
    """Claim 8: image weight ranks heads as their single effects do, to more than half of what noise allows."""
    if not has(evidence.traces, RANKING) or not has(evidence.effects, EFFECT):
        return missing("there are no single-head effects beside the traces")
    assert evidence.traces is not None and evidence.effects is not None
    if MAIN_TASK not in evidence.traces["task"].values.astype(str):
        return missing(f"no model was traced on {MAIN_TASK}, where heads are removed")
    own = in_format(subset(evidence.traces, task=MAIN_TASK))
    table = ranking_agreement(own, evidence.effects, EFFECT, by=[RANKING])
    table = table[table["ceiling"] > 0].rename(columns={"lower": "low", "upper": "high", "overlap": "shared_top"})
    if table.empty:
        return missing("no model has both, with effects that two halves of the pictures agree on")
    table = table.assign(
        estimate=table["spearman"] / table["ceiling"], lower=table["low"] / table["ceiling"],
        upper=table["high"] / table["ceiling"],
    )  # fmt: skip
    numbers = _over_models(table)  # models are the other source of spread
    told = evidence.effects.coords
    also = {
        "models": float(len(table)), "rho": float(table["spearman"].mean()),
        "beyond": float((table["spearman"] > table["unrelated"]).sum()),
        "shared": float(table["shared_top"].mean()), "chance": float(table["chance"].mean()),
    }  # fmt: skip
    found = finding(numbers, decided(numbers[1], numbers[2], HALF), table, **also)
    removal = [str(np.atleast_1d(evidence.effects[name].values)[0]) for name in ("mode", "positions") if name in told]
    return replace(found, where=", ".join(removal))


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
    wanted = head_count(_number_of_heads(sweep))
    top = int(tops[np.argmin(np.abs(count[tops].astype(float) - wanted))])
    if count[top] < wanted / 2:
        return None
    random = np.flatnonzero(late & (order == "random") & (count == count[top]) & there)
    return top, random.tolist()


def _number_of_heads(sweep: xr.Dataset) -> int:
    """Heads of a model, by the last layer and head that any set holds: sweeps of several are padded to the largest."""
    marks = sweep["heads"].isel({"model": 0} if "model" in sweep["heads"].dims else {})
    _, layer, head = np.nonzero(marks.transpose("set", "layer", "head").values)
    return int((layer.max() + 1) * (head.max() + 1))


def _over_models(table: pd.DataFrame) -> np.ndarray:
    """Mean over models; the interval is the wider of the averaged bounds and the models' own spread (t, 95 %)."""
    from scipy import stats

    rows = table[["estimate", "lower", "upper"]].to_numpy(dtype=float)
    mean = rows.mean(axis=0)
    if len(rows) < 3:
        return mean
    spread = float(stats.t.ppf(0.975, len(rows) - 1) * rows[:, 0].std(ddof=1) / np.sqrt(len(rows)))
    return np.array([mean[0], min(mean[1], mean[0] - spread), max(mean[2], mean[0] + spread)])
