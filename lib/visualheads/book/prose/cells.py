"""Text on which ranking finds the heads that matter across models, modes, benchmarks and kinds of effect."""

from __future__ import annotations

import numpy as np
import pandas as pd

from visualheads.book.prose.causes import NEEDS_EFFECTS
from visualheads.book.prose.rankings import benchmark_name, mode_name, ranking_name
from visualheads.book.prose.words import code, counted, escaped, listed, missing, percent, table

WEAK = 0.5
"""Share of the ceiling below which a ranking's correlation with the effects is called weak (ours)."""
STRONG = 0.8
"""Share of the ceiling from which it is called strong (ours)."""


def held(cells: pd.DataFrame, best: pd.DataFrame) -> str:
    """Whether the best ranking holds across models, benchmarks, modes and kinds of effect, and how strong it is."""
    if cells.empty:
        return missing(NEEDS_EFFECTS)
    means = cells.groupby("ranking", sort=False)["spearman"].mean().sort_values(ascending=False)
    winner = str(means.index[0])
    won = cells[cells["ranking"] == winner]
    lines = []
    for what, words in {"model": code, "mode": mode_name, "task": benchmark_name, "effect": escaped}.items():
        for name, part in best.groupby(what, sort=False):
            told = part["ranking"].value_counts()
            own = won[won[what] == name]["spearman"]
            lines.append(("benchmark" if what == "task" else what, words(str(name)), len(part),
                          f"{ranking_name(told.index[0])} ({int(told.iloc[0])})", int(told.get(winner, 0)),
                          f"{own.mean():+z.2f}" if len(own) else "–"))  # fmt: skip
    header = ("by", "which", "cells", "most often best", f"{ranking_name(winner)} best", "its mean ρ")
    sure, share = int(best["sure"].sum()), float((best["ranking"] == winner).mean())
    return (
        f"Over {counted(len(best), 'cell')} of model, mode, benchmark and effect ({_most_cells(best)}), "
        f"*{ranking_name(winner)}* has the highest mean ρ, {means.iloc[0]:+z.2f}{_strength(won)}."
        f"{_chosen(len(means))} It is the best in {percent(share)} of the cells. {_without_depth(cells, winner)}"
        f"{_by_benchmark_name(cells, best, winner)} In {sure} of the cells the lower bound of the best one's 95 % "
        "interval lies above the estimate of the second, whose own interval is not counted.\n\n" + table(header, lines)
    )


def _without_depth(cells: pd.DataFrame, winner: str) -> str:
    """Which ranking leads where depth alone makes no agreement, and what is left of the winner there."""
    within = cells.groupby("ranking", sort=False)["within"].mean().sort_values(ascending=False)
    whole = float(cells[cells["ranking"] == winner]["spearman"].mean())
    left, best = float(within[winner]), str(within.index[0])
    told = f"Within layers, where depth alone makes no agreement, its mean ρ is {left:+z.2f}"
    if best != winner:
        told += f" and *{ranking_name(best)}* has the highest ({within.iloc[0]:+z.2f})"
    depth = ": most of its lead is in which layers it names, not in which heads of a layer" if left < whole / 2 else ""
    return f"{told}{depth}. "


def _most_cells(best: pd.DataFrame) -> str:
    counts = best["task"].value_counts()
    return f"{int(counts.iloc[0])} of them {benchmark_name(counts.index[0])}"


def _strength(won: pd.DataFrame) -> str:
    """How near the correlations of a ranking come to what noise leaves room for, in words."""
    mean, room = float(won["spearman"].mean()), float(won["ceiling"].mean())
    if not np.isfinite(room) or room <= 0:
        return ""
    kinds = {WEAK: "a weak relation", STRONG: "a moderate relation", np.inf: "a strong relation"}
    kind = "no relation" if mean <= 0 else next(words for limit, words in kinds.items() if mean < limit * room)
    return f", where noise leaves room for {room:.2f}: **{kind}** ({percent(max(0.0, mean) / room)} of that room)"


def _chosen(rankings: int) -> str:
    """That a value which was picked as the highest of several is flattered."""
    return f" It was picked as the best of {rankings}, which flatters its value." if rankings > 1 else ""


def _by_benchmark_name(cells: pd.DataFrame, best: pd.DataFrame, winner: str) -> str:
    """The winner's mean on each benchmark, and on which benchmarks another ranking has a higher one."""
    means = cells.groupby(["task", "ranking"], sort=False)["spearman"].mean().unstack("ranking")
    told = [f"{value:+z.2f} on {benchmark_name(task)}" for task, value in means[winner].dropna().items()]
    if len(told) < 2:
        return "Only one benchmark was asked."
    above = means.idxmax(axis="columns")
    beaten = [
        f"{ranking_name(name)} has a higher one on {benchmark_name(task)}"
        for task, name in above.items()
        if name != winner
    ]
    seldom = [task for task, part in best.groupby("task", sort=False) if (part["ranking"] == winner).mean() < 0.5]
    if beaten:
        verdict = f"{listed(beaten)}: a single best ranking **does not hold** on all benchmarks."
    elif seldom:
        verdict = (
            f"it has the highest mean on each{_of_use(means[winner])}. But on {len(seldom)} of them "
            f"({'; '.join(benchmark_name(str(task)) for task in seldom)}) it is the best in fewer than half of the "
            "cells: that a single best ranking holds on all benchmarks **is not shown**."
        )
    else:
        verdict = (
            "it has the highest mean on each, and is the best in half of the cells of each or more: a single best "
            f"ranking **holds** on all benchmarks{_of_use(means[winner])}."
        )
    return f"Benchmark by benchmark its mean is {listed(told)}; {verdict} {_basis(cells, winner)}"


def _basis(cells: pd.DataFrame, winner: str) -> str:
    """How many models the means over benchmarks rest on, and in how many of them alone they say the same."""
    means = cells.groupby(["model", "task", "ranking"], sort=False)["spearman"].mean().unstack("ranking")
    alone = int((means.idxmax(axis="columns") == winner).groupby("model").all().sum())
    models = cells["model"].nunique()
    return (
        "There is one model, and no interval stands behind this."
        if models == 1
        else f"This compares means over {models} models, without an interval: it is the best on every benchmark in "
        f"{alone} of them taken alone."
    )


def _of_use(means: pd.Series) -> str:
    """To be best is little where the best finds nothing: on how many benchmarks its mean is above 0."""
    known = means.dropna()
    above = int((known > 0).sum())
    return "" if above == len(known) else f", though on {len(known) - above} of {len(known)} its mean is not above 0"
