"""Text for the pages about causes, from the tables that their figures are drawn of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from visualheads.causes import MAIN_TASK, Lists
from visualheads.charts.causes import MEASURES
from visualheads.interventions.modes import MODES
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, counted, listed, percent, table
from visualheads.reduced import Removed

NEEDS_EFFECTS = "no single heads were removed in any traced model, so there is nothing to compare rankings with"
POOR = 0.5
"""R² on held-out subsets below which heads do not simply add up (ours)."""
SHOWN_RANKINGS, SHOWN_STAGES = ("image_weight", "region_weight"), ("late", "all")
"""What the table of losses shows; the figure shows the rest."""


def protocol(told: Removed) -> str:
    """What was done: on how many questions, with how many sets, in which modes, and where the heads were chosen."""
    first = next(iter(told.sweeps.values()))
    main = (first["task"].values.astype(str) == MAIN_TASK) & (first["format"].values.astype(str) == "free")
    tried = first["kl"].isel(model=0).notnull().transpose("set", "sample").values & main
    every, some = int((tried.sum(0) >= tried.any(1).sum()).sum()), int(tried.any(0).sum())
    conditions = listed(sorted({str(name) for name in first["condition"].values[tried.any(0)]}))
    orders = first["order"].values.astype(str)
    seeds = len({int(seed) for seed in first["seed"].values[orders == "random"]})
    right = float(first["clean_correct"].isel(model=0).values[tried.any(0)].mean())
    subsets = int((orders == "subset").sum())
    text = (
        f"Removed here: {counted(first.sizes['set'], 'set')} of heads, of which {int((orders == 'single').sum())} are "
        + (f"single heads and {subsets} random subsets" if subsets else "single heads")
        + f", on {counted(every, 'question')} ({conditions}"
        + (f"; the late heads of claim 5 on {some}" if some > every else "")
        + f"); without any change {percent(right)} are answered rightly. "
        f"Heads were ranked on {counted(told.pictures, 'other picture')}, so that no head is judged where it was "
        f"chosen. Every top set stands against {counted(seeds, 'random set')} with as many heads in every layer."
    )
    for name in told.sweeps:
        mode, positions = name.split(", ")
        text += f" Mode `{mode}` (positions: {positions.replace('_', ' ')}): {MODES[mode].operation}."
    again = told.repeated
    if again is not None:
        return text + (
            f"\n\n**This is the full protocol**, computed before and shipped with the book. "
            f"{counted(again.sets, 'set')} on {counted(again.samples, 'question')} were computed again for this page: "
            f"margins differ by {again.margin:.3f} logits at most, KL by {again.kl:.4f} nats, and "
            f"{percent(again.correct)} of the answers are judged otherwise. A larger difference would have stopped it."
        )
    return text + (
        f"\n\n**This is the reduced protocol** ({told.why}): few questions, few rankings and random sets. Its "
        "intervals are wide, and no verdict on a claim comes from it; `make book FULL=1` runs all of it."
    )


def losses(found: pd.DataFrame) -> str:
    """What the largest late and whole top sets lose, against matched random ones."""
    if found.empty:
        return missing("no sets of heads were removed", False)
    lines = []
    shown = found[found["ranking"].isin(SHOWN_RANKINGS) & found["stage"].isin(SHOWN_STAGES)]
    for (mode, ranking, stage), part in (shown if len(shown) else found).groupby(
        ["mode", "ranking", "stage"], sort=False
    ):
        most = int(part["count"].max())
        cells = []
        for measure in MEASURES:
            for order in ("top", "random"):
                row = part[(part["count"] == most) & (part["order"] == order) & (part["measure"] == measure)]
                if row.empty:
                    cells.append("–")
                    continue
                cells.append(_loss(row.iloc[0], measure))
        lines.append((code(str(mode)), code(str(ranking)), stage, most, *cells))
    header = (
        "mode",
        "ranking",
        "layers",
        "heads",
        "points lost, top",
        "random",
        "margin lost, top",
        "random",
        "KL, top",
    )
    return (
        table((*header, "random"), lines)
        + "\n\nMeans with 95 % intervals over pictures. A top set matters where its interval lies above that of the "
        "random heads of the same layers; a loss below 0 means that the answers were better without these heads."
    )


def effects(heads: pd.DataFrame) -> str:
    """Which single heads matter most, and how many make no difference."""
    if heads.empty:
        return missing(NEEDS_EFFECTS, False)
    best = heads.sort_values("effect", ascending=False).head(3)
    named = listed([f"{row['name']} ({row['effect']:+z.2f})" for _, row in best.iterrows()])
    small = float((heads["effect"].abs() < 0.1).mean())
    stage = heads.groupby("stage", sort=False)["effect"].mean()
    means = listed([f"{value:+z.3f} in {name} layers" for name, value in stage.items()])
    return (
        f"The heads whose removal costs most are {named} logits of the right answer's margin; {percent(small)} of all "
        f"heads change it by less than 0.1. The mean effect is {means}. One head at a time tells nothing about heads "
        "that stand in for each other."
    )


def rankings(found: pd.DataFrame, reduced: Sequence[str] = ()) -> str:
    """Which rankings find the heads that matter, as a table of means over models (claim 8).

    reduced: models whose effects come from the reduced protocol.
    """
    if found.empty:
        return missing(NEEDS_EFFECTS, False)
    lines = []
    means = found.groupby("ranking", sort=False).mean(numeric_only=True).sort_values("spearman", ascending=False)
    for name, row in means.iterrows():
        lines.append((
            code(str(name)), f"{row['spearman']:+z.2f} ({between(row['lower'], row['upper'])})",
            f"{row['within']:+z.2f}", _number(row["ceiling"]), percent(row["overlap"]), percent(row["chance"]),
        ))  # fmt: skip
    best = found.loc[found.groupby("model", sort=False)["spearman"].idxmax()]
    who = listed([f"{code(row.ranking)} in {code(row.model)}" for row in best.itertuples()])
    header = ("ranking", "ρ with the effect", "within layers", "ceiling", "top heads shared", "chance")
    text = (
        table(header, lines)
        + f"\n\nMeans over {counted(found['model'].nunique(), 'model')}; intervals are over the pictures of traces and "
        "effects, and averaged. *Ceiling* is the correlation that the noise of ranking and effects leaves room for; "
        f"*top heads shared* compares the best {listed([str(int(k)) for k in sorted(set(found['top']))])} heads of "
        "both. Scores are means over all conditions that were traced, effects are of the questions that the ablation "
        f"pages ask. The best ranking is {who}."
    )
    clear = found[found["lower"] > 0]
    text += f" {len(clear)} of {len(found)} correlations lie above 0 with their whole interval."
    if reduced:
        text += (
            f"\n\n**Reduced protocol** in {listed([code(name) for name in reduced])}: few questions, so the ceiling is "
            "low, and no verdict on claim 8 comes from there."
        )
    return text


def guesses(found: pd.DataFrame) -> str:
    """How well cheaper ways find the effects of single heads: a table, and whether heads add up."""
    if found.empty:
        return missing("no cheaper guess of the effects was made", False)
    lines = [
        (code(row["model"]), row["guess"], f"{row['spearman']:+z.2f}", percent(row["overlap"]), percent(row["chance"]),
         _number(row["r2"]))
        for row in found.to_dict("records")
    ]  # fmt: skip
    header = ("model", "guess", "ρ with the exact effects", "top heads shared", "chance", "R² on held-out subsets")
    text = table(header, lines) + (
        "\n\n*Gradient screen*: first order, one pass forth and back per question. *Many at once*: a linear fit of the "
        "margin lost to random subsets of heads, judged on subsets that took no part in it."
    )
    fits = found["r2"].dropna()
    if len(fits) and fits.min() < POOR:
        text += (
            f" An R² of {fits.min():.2f} is poor: what many heads do together is not the sum of what each does, so "
            "that ranking says little."
        )
    elif len(fits):
        text += f" With an R² of {fits.min():.2f} or more, what many heads do together is nearly a sum over them."
    return text


def held(cells: pd.DataFrame, best: pd.DataFrame) -> str:
    """Whether the best ranking holds across models, benchmarks, modes and kinds of effect."""
    if cells.empty:
        return missing(NEEDS_EFFECTS, False)
    means = cells.groupby("ranking", sort=False)["spearman"].mean().sort_values(ascending=False)
    winner = str(means.index[0])
    lines = []
    for what in ("model", "mode", "task", "effect"):
        for name, part in best.groupby(what, sort=False):
            told = part["ranking"].value_counts()
            own = cells[(cells[what] == name) & (cells["ranking"] == winner)]["spearman"]
            lines.append((what, code(str(name)), len(part), f"{code(str(told.index[0]))} ({int(told.iloc[0])})",
                          int(told.get(winner, 0)), f"{own.mean():+z.2f}" if len(own) else "–"))  # fmt: skip
    header = ("by", "which", "cells", "most often best", f"{code(winner)} best", "its mean ρ")
    share = float((best["ranking"] == winner).mean())
    verdict = "holds everywhere" if share == 1 else "holds mostly" if share > 0.5 else "does not hold"
    return (
        f"{code(winner)} has the highest mean ρ ({means.iloc[0]:+z.2f}) over {counted(len(best), 'cell')} of model, "
        f"mode, benchmark and effect, and is the best in {percent(share)} of them: a single best ranking "
        f"**{verdict}**. In {int(best['sure'].sum())} of the cells the best is better than the second by "
        "more than its interval.\n\n" + table(header, lines)
    )


def removals(found: pd.DataFrame, margin: float = 0.02) -> str:
    """What every model loses without the released share of its late heads, in every mode."""
    if found.empty:
        return missing("no sets of heads were removed in any model", False)
    lines = []
    late = found[(found["stage"] == "late") & (found["measure"] == "accuracy")]
    for (model, mode), part in late.groupby(["model", "mode"], sort=False):
        told = {str(row["order"]): row for row in part.to_dict("records")}
        if "top" not in told:
            continue
        cells = [_loss(told[order], "accuracy") if order in told else "–" for order in ("top", "random", "bottom")]
        below = "yes" if told["top"]["upper"] < margin else "no" if told["top"]["lower"] > margin else "open"
        lines.append((code(str(model)), code(str(mode)), int(told["top"]["count"]), *cells, below))
    header = ("model", "mode", "late heads", "points lost, top", "random", "bottom", f"below {100 * margin:g} points")
    return (
        table(header, lines) + "\n\nTop: the late heads with most attention on the picture, as many as the released "
        "share (9.8 %). *Open*: the interval holds the margin. Models whose full protocol is not shipped were asked "
        "few questions; their intervals are wide, and claim 5 is not judged by them."
    )


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


def _loss(told: Any, measure: str) -> str:
    scale, digits = (100, 0) if measure == "accuracy" else (1, 2)
    if told["estimate"] != told["estimate"]:
        return "–"
    number = f"{scale * told['estimate']:z.{digits}f}"
    known = told["lower"] == told["lower"]  # one picture has no interval
    return f"{number} ({between(scale * told['lower'], scale * told['upper'], digits)})" if known else number


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"
