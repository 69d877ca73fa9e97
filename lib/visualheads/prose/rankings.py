"""Text for the page that holds rankings against effects, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads import titles
from visualheads.causes import Lists
from visualheads.prose.causes import NEEDS_EFFECTS, number_or_dash
from visualheads.prose.comparison import in_miniature
from visualheads.prose.words import agreeing, between, code, counted, escaped, listed, missing, percent, table

WEAK = 0.5
"""Share of the ceiling below which a ranking's correlation with the effects is called weak (ours)."""
STRONG = 0.8
"""Share of the ceiling from which it is called strong (ours)."""
SINK_FREE = "sink_free"


def rankings(found: pd.DataFrame, reduced: Sequence[str] = (), traces: xr.Dataset | None = None) -> str:
    """Which rankings find the heads that matter, as a table of means over models (claim 8).

    reduced: models whose effects come from the reduced protocol; traces: what the rankings were made from.
    """
    if found.empty:
        return missing(NEEDS_EFFECTS)
    lines = []
    means = found.groupby("ranking", sort=False).mean(numeric_only=True).sort_values("spearman", ascending=False)
    for name, row in means.iterrows():
        lines.append((
            _ranking(name), f"{row['spearman']:+z.2f} ({between(row['lower'], row['upper'])})",
            f"{row['within']:+z.2f}", number_or_dash(row["ceiling"]), percent(row["overlap"]), percent(row["chance"]),
        ))  # fmt: skip
    best = found.loc[found.groupby("model", sort=False)["spearman"].idxmax()]
    who = listed([f"{_ranking(row.ranking)} in {code(row.model)}" for row in best.itertuples()])
    header = ("ranking", "ρ with the effect", "within layers", "ceiling", "top heads shared", "chance")
    text = (
        table(header, lines)
        + f"\n\nMeans over {counted(found['model'].nunique(), 'model')}; intervals are over the pictures of traces and "
        "effects, and averaged. *Ceiling* is the correlation that the noise of ranking and effects leaves room for; "
        f"*top heads shared* compares the best {listed([str(int(k)) for k in sorted(set(found['top']))])} heads of "
        "both. Scores are means over all conditions that were traced, effects are of the questions that the ablation "
        f"pages ask. The best ranking is {who}."
    )
    up, down = int((found["lower"] > 0).sum()), int((found["upper"] < 0).sum())
    text += (
        f" Of {counted(len(found), 'correlation')}, {up} {agreeing(up, 'lies', 'lie')} above 0 with the whole interval "
        f"and {down} below.{_without_sinks(found, traces)} "
        f"{in_miniature(list(found['model'].unique()))}"
    ).rstrip()
    if reduced:
        text += (
            f"\n\n**Reduced protocol** in {listed([code(name) for name in reduced])}: few questions, so the ceiling is "
            "low, and no verdict on claim 8 comes from there."
        )
    return text


def sizes(found: pd.DataFrame) -> str:
    """What rankings share with the effects at every size of the top sets, from `overlaps.overlap_by_size`."""
    if found.empty:
        return missing(NEEDS_EFFECTS)
    names = list(dict.fromkeys(found.sort_values(["chance", "k"])["size"]))
    means = found.pivot_table(index="ranking", columns="size", values="overlap", sort=False)[names]
    means = means.loc[means.mean(axis="columns").sort_values(ascending=False, kind="stable").index]
    luck = found.groupby("size")[["chance", "limit"]].mean()
    lines = [(_ranking(name), *map(_percent, means.loc[name])) for name in means.index]
    lines.append(("*unrelated rankings, on average*", *map(_percent, luck.loc[names, "chance"])))
    lines.append(("*95 % of unrelated rankings, at most*", *map(_percent, luck.loc[names, "limit"])))
    beyond = found[found["overlap"] > found["limit"] + 1e-9]
    told = []
    for size in names:
        many, part = int((found["size"] == size).sum()), beyond[beyond["size"] == size]
        counts = part["ranking"].value_counts(sort=False)
        who = listed([f"{_ranking(name)} in {counted(int(n), 'model')}" for name, n in counts.items()])
        told.append(f"{len(part)} of {many} at {size}" + (f" ({who})" if who else ""))
    spans = {size: _span(found.loc[found["size"] == size, "k"]) for size in names}
    heads = listed([size if size == span else f"{size} ({span})" for size, span in spans.items()])
    return (
        table(("ranking", *names), lines)
        + f"\n\nShare of the best heads in common with the heads whose removal costs most, mean over "
        f"{counted(found['model'].nunique(), 'model')}, by size of both sets: {heads}. Beyond what 95 % of unrelated "
        f"rankings share: {'; '.join(told)}. With so many comparisons some lie beyond by chance, one in twenty at "
        "most, and small sets share whole heads or none. These are point estimates; the figure before has intervals."
    )


def held(cells: pd.DataFrame, best: pd.DataFrame) -> str:
    """Whether the best ranking holds across models, benchmarks, modes and kinds of effect, and how strong it is."""
    if cells.empty:
        return missing(NEEDS_EFFECTS)
    means = cells.groupby("ranking", sort=False)["spearman"].mean().sort_values(ascending=False)
    winner = str(means.index[0])
    won = cells[cells["ranking"] == winner]
    lines = []
    for what, words in {"model": code, "mode": _mode, "task": _benchmark, "effect": escaped}.items():
        for name, part in best.groupby(what, sort=False):
            told = part["ranking"].value_counts()
            own = won[won[what] == name]["spearman"]
            lines.append(("benchmark" if what == "task" else what, words(str(name)), len(part),
                          f"{_ranking(told.index[0])} ({int(told.iloc[0])})", int(told.get(winner, 0)),
                          f"{own.mean():+z.2f}" if len(own) else "–"))  # fmt: skip
    header = ("by", "which", "cells", "most often best", f"{_ranking(winner)} best", "its mean ρ")
    sure, share = int(best["sure"].sum()), float((best["ranking"] == winner).mean())
    return (
        f"Over {counted(len(best), 'cell')} of model, mode, benchmark and effect ({_most_cells(best)}), "
        f"*{_ranking(winner)}* has the highest mean ρ, {means.iloc[0]:+z.2f}{_strength(won)}."
        f"{_chosen(len(means))} It is the best in {percent(share)} of the cells. "
        f"{_by_benchmark(cells, best, winner)} In {sure} of the cells the lower bound of the best one's 95 % "
        "interval lies above the estimate of the second, whose own interval is not counted.\n\n" + table(header, lines)
    )


def _most_cells(best: pd.DataFrame) -> str:
    counts = best["task"].value_counts()
    return f"{int(counts.iloc[0])} of them {_benchmark(counts.index[0])}"


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


def _by_benchmark(cells: pd.DataFrame, best: pd.DataFrame, winner: str) -> str:
    """The winner's mean on each benchmark, and on which benchmarks another ranking has a higher one."""
    means = cells.groupby(["task", "ranking"], sort=False)["spearman"].mean().unstack("ranking")
    told = [f"{value:+z.2f} on {_benchmark(task)}" for task, value in means[winner].dropna().items()]
    if len(told) < 2:
        return "Only one benchmark was asked."
    above = means.idxmax(axis="columns")
    beaten = [
        f"{_ranking(name)} has a higher one on {_benchmark(task)}" for task, name in above.items() if name != winner
    ]
    seldom = [task for task, part in best.groupby("task", sort=False) if (part["ranking"] == winner).mean() < 0.5]
    if beaten:
        verdict = f"{listed(beaten)}: a single best ranking **does not hold** on all benchmarks."
    elif seldom:
        verdict = (
            f"it has the highest mean on each, but is the best in less than half of the cells on "
            f"{listed([_benchmark(str(task)) for task in seldom])}{_of_use(means[winner])}: that a single best ranking "
            "holds on all benchmarks **is not shown**."
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
    return (
        "" if above == len(known) else f", but on {len(known) - above} of {len(known)} the best has no relation at all"
    )


def _without_sinks(found: pd.DataFrame, traces: xr.Dataset | None) -> str:
    """Why the ranking without sinks is absent, where it is."""
    if traces is None or found.empty or SINK_FREE in set(found["ranking"]):
        return ""
    unknown = "sink_share" not in traces or not bool(np.isfinite(traces["sink_share"]).any())
    why = "no sink dimension was found in these models, so no token counts as a sink" if unknown else "it has no values"
    return f" The ranking *{_ranking(SINK_FREE)}* is absent: {why} (chapter *Sinks*)."


def published_lists(lists: Lists, folder: str) -> str:
    """Which published head lists were joined, and how to add some."""
    told = [f"{code(name)} ({code(model)})" for model, own in lists.items() for name in own]
    if told:
        return f"Joined from {code(folder)}: {listed(told)}. Heads that a list does not name are left out of its row."
    return (
        f"No published head lists are in {code(folder)}. A list of one of these models – ours, SparseMM's, "
        "Retrieval_Head's or gaze-heads' layout – put into a folder there with the model's name joins the table and "
        "the figures."
    )


def _percent(value: float) -> str:
    return "–" if value != value else percent(value)


def _span(numbers: pd.Series) -> str:
    """`3 heads`, `3 to 5 heads`."""
    low, high = int(numbers.min()), int(numbers.max())
    return counted(high, "head") if low == high else f"{low} to {high} heads"


def _mode(name: object) -> str:
    return escaped(titles.mode(str(name)))


def _ranking(name: object) -> str:
    return escaped(titles.ranking(str(name)))


def _benchmark(name: object) -> str:
    return escaped(titles.benchmark(str(name)))
