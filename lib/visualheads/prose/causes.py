"""Text for the pages about causes, from the tables that their figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from visualheads.charts.causes import MEASURES
from visualheads.claims.gather import FEWEST_SAMPLES
from visualheads.interventions.modes import MODES
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, counted, listed, percent, table

NEEDS_EFFECTS = "no single heads were removed in any traced model, so there is nothing to compare rankings with"


def protocol(sweeps: Mapping[str, xr.Dataset], chosen_on: xr.Dataset) -> str:
    """What was done: on how many questions, with how many sets, in which modes, and where the heads were chosen."""
    first = next(iter(sweeps.values()))
    n, sets = first.sizes["sample"], first.sizes["set"]
    conditions = listed(sorted({str(name) for name in first["condition"].values}))
    pictures = len({str(name) for name in chosen_on["image_id"].values})
    orders = first["order"].values.astype(str)
    seeds = len({int(seed) for seed in first["seed"].values[orders == "random"]})
    right = float(first["clean_correct"].mean())
    text = (
        f"Removed here: {counted(sets, 'set')} of heads, of which {int((orders == 'single').sum())} are single heads, "
        f"on {counted(n, 'question')} ({conditions}); without any change {percent(right)} are answered rightly. "
        f"Heads were ranked on {counted(pictures, 'other picture')}, so that no head is judged where it was chosen. "
        f"Every top set stands against {counted(seeds, 'random set')} with as many heads in every layer."
    )
    for name, sweep in sweeps.items():
        where = str(sweep["positions"].values[0]).replace("_", " ")
        text += f" Mode `{name}` (positions: {where}): {MODES[name].operation}."
    if n < FEWEST_SAMPLES:
        text += (
            f"\n\n**This is the reduced protocol**: fewer than {FEWEST_SAMPLES} questions, few rankings and random "
            "sets. Its intervals are wide, and no verdict on a claim comes from it; `make book FULL=1` runs all of it."
        )
    return text


def losses(found: pd.DataFrame) -> str:
    """What the largest late and whole top sets lose, against matched random ones."""
    if found.empty:
        return missing("no sets of heads were removed", False)
    lines = []
    for (mode, ranking, stage), part in found.groupby(["mode", "ranking", "stage"], sort=False):
        most = int(part["count"].max())
        cells = []
        for measure in MEASURES:
            for order in ("top", "random"):
                row = part[(part["count"] == most) & (part["order"] == order) & (part["measure"] == measure)]
                if row.empty:
                    cells.append("–")
                    continue
                told, scale = row.iloc[0], 100 if measure == "accuracy" else 1
                digits = 0 if scale == 100 else 2
                bounds = between(scale * told["lower"], scale * told["upper"], digits)
                known = told["lower"] == told["lower"]  # one picture has no interval
                number = f"{scale * told['estimate']:.{digits}f}" if told["estimate"] == told["estimate"] else "–"
                cells.append(f"{number} ({bounds})" if known else number)
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
    named = listed([f"{row['name']} ({row['effect']:+.2f})" for _, row in best.iterrows()])
    small = float((heads["effect"].abs() < 0.1).mean())
    stage = heads.groupby("stage", sort=False)["effect"].mean()
    means = listed([f"{value:+.3f} in {name} layers" for name, value in stage.items()])
    return (
        f"The heads whose removal costs most are {named} logits of the right answer's margin; {percent(small)} of all "
        f"heads change it by less than 0.1. The mean effect is {means}. One head at a time tells nothing about heads "
        "that stand in for each other."
    )


def rankings(found: pd.DataFrame, fewest: int = 0) -> str:
    """Which rankings find the heads that matter, as a table of means over models (claim 8)."""
    if found.empty:
        return missing(NEEDS_EFFECTS, False)
    lines = []
    means = found.groupby("ranking", sort=False).mean(numeric_only=True).sort_values("spearman", ascending=False)
    for name, row in means.iterrows():
        lines.append((
            code(str(name)), f"{row['spearman']:+.2f} ({between(row['lower'], row['upper'])})", f"{row['within']:+.2f}",
            _number(row["ceiling"]), f"{percent(row['overlap'])}", f"{percent(row['chance'])}",
        ))  # fmt: skip
    best = found.loc[found.groupby("model", sort=False)["spearman"].idxmax()]
    who = listed([f"{code(row.ranking)} in {code(row.model)}" for row in best.itertuples()])
    header = ("ranking", "ρ with the effect", "within layers", "ceiling", "top heads shared", "chance")
    text = (
        table(header, lines)
        + f"\n\nMeans over {counted(found['model'].nunique(), 'model')}; intervals are over the pictures of the traces "
        "and averaged. *Ceiling* is the correlation that the noise of ranking and effects leaves room for; *top heads "
        f"shared* compares the best {listed([str(int(k)) for k in sorted(set(found['top']))])} heads of both. "
        "Scores are means over all conditions that were traced, effects are of the questions that the ablation pages "
        f"ask. The best ranking is {who}."
    )
    clear = found[found["lower"] > 0]
    text += f" {len(clear)} of {len(found)} correlations lie above 0 with their whole interval."
    if fewest and fewest < FEWEST_SAMPLES:
        text += (
            f"\n\n**Reduced protocol**: effects come from {fewest} questions a model, so the ceiling is low and "
            "no verdict on claim 8 comes from this page."
        )
    return text


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"
