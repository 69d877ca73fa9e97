"""Text for the pages about causes, from the tables that their figures are drawn of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.effects import EXCESS, MAIN_TASK, ORDERS, random_draws
from visualheads.book.prose.comparison import in_miniature
from visualheads.book.prose.words import between, code, counted, escaped, listed, missing, percent, table
from visualheads.charts import labels
from visualheads.charts.effects import MEASURES
from visualheads.charts.verdicts import telling_digits
from visualheads.interventions.engine.editor import CLASSES
from visualheads.interventions.modes import MODES
from visualheads.studies.ablation import ROUNDING, TOLERANCE, Removed

NEEDS_EFFECTS = "no single heads were removed in any traced model, so there is nothing to compare rankings with"
POOR = 0.5
"""R² on held-out subsets below which a sum over heads tells less than half of what many do together (ours)."""
NEARLY = 0.9
"""R² from which what many heads do together is called nearly a sum (ours)."""
SCREEN = "*Gradient screen*: first order, one pass forth and back per question."
KINDS = {"top": "top", "random": "random", "bottom": "bottom", "single": "single heads", "subset": "random subsets"}
"""What the sets of a sweep are, by their order."""
SHOWN_RANKINGS, SHOWN_STAGES = ("image_weight", "region_weight"), ("late", "all")
"""What the table of losses shows; the figure shows the rest."""


def protocol(told: Removed) -> str:
    """What was done: on how many questions, with how many sets, in which modes, and where the heads were chosen."""
    first = next(iter(told.sweeps.values()))
    orders = first["order"].values.astype(str)
    tried = _tried(first)
    every = tried.sum(0) == tried.any(1).sum()
    further = tried.any(0) & ~every
    text = (
        f"Removed here: {counted(first.sizes['set'], 'set')} of heads, each judged on the same {_asked(first, every)}."
    )
    if further.any():
        some = int(tried[:, further].any(1).sum())
        text += f" {some} of them, the late heads of claim 5 and their random controls, were also judged on "
        text += f"{_asked(first, further, 'further ')}."
    seeds = len({int(seed) for seed in first["seed"].values[orders == "random"]})
    text += (
        f" Heads were ranked on {counted(told.pictures, 'other picture')}, so that no head is judged where it was "
        f"chosen. Every top set stands against {counted(seeds, 'random set')} with as many heads in every layer: the "
        f"layer's other heads, and top heads only where too few others are left. {_distinct(first)}"
    ).rstrip()
    if any(name.split(", ")[0] == "mean" for name in told.sweeps):
        # the full protocol's, which takes as many questions of one half as it judges of the other
        text += (
            f" The reference set of mode `mean` is the first {int(every.sum())} of the questions on which heads were "
            f"ranked; its means are taken by class of position ({listed(CLASSES)} tokens)."
        )
    header = ("mode", "positions", "sets", "of which", "what becomes of a head")
    text += f" {in_miniature([str(name) for name in first['model'].values])}".rstrip()
    text += f"\n\n{table(header, [_sets_of(name, ds) for name, ds in told.sweeps.items()])}"
    again = told.repeated
    if again is not None:
        return text + (
            f"\n\n**This is the full protocol**, computed before and shipped with the book. "
            f"{counted(again.sets, 'set')} on {counted(again.samples, 'question')} were computed again for this page: "
            f"beyond the {percent(ROUNDING)} by which a shipped number may be rounded, margins differ by "
            f"{again.margin:.3f} logits at most and KL by {again.kl:.4f} nats; {percent(again.correct)} of the answers "
            f"are judged otherwise. More than {TOLERANCE['margin']:g} logits, {TOLERANCE['kl']:g} nats or "
            f"{100 * TOLERANCE['correct']:g} % of the answers would have stopped the page."
        )
    return text + (
        f"\n\n**This is the reduced protocol** ({told.why}): few questions, few rankings and random sets. Its "
        "intervals are wide, and no verdict on a claim comes from it; `make book FULL=1` runs all of it."
    )


def _tried(sweep: xr.Dataset) -> np.ndarray:
    """Which sets (set, sample) were judged on which free questions of the main benchmark, else of the first one."""
    tasks = sweep["task"].values.astype(str)
    asked = (tasks == (MAIN_TASK if MAIN_TASK in tasks else tasks[0])) & (sweep["format"].values.astype(str) == "free")
    return sweep["kl"].isel(model=0).notnull().transpose("set", "sample").values & asked


def _asked(sweep: xr.Dataset, which: np.ndarray, more: str = "") -> str:
    """Some of a sweep's questions: how many, in which conditions, and how many are answered rightly."""
    conditions = listed(sorted({str(name) for name in sweep["condition"].values[which]}))
    right = percent(float(sweep["clean_correct"].isel(model=0).values[which].mean()))
    return f"{counted(int(which.sum()), f'{more}question')} ({conditions}; {right} are answered rightly without change)"


def _distinct(sweep: xr.Dataset) -> str:
    """How many of the random draws differ, and how many hold heads of the top set."""
    found = random_draws(sweep)
    alike, shared = found[found["distinct"] < found["drawn"]], found[found["shared"] > 0]
    if found.empty:
        return ""
    text = f"The draws differ from each other in {len(found) - len(alike)} of {counted(len(found), 'top set')}"
    if len(alike):
        worst = alike.loc[(alike["distinct"] / alike["drawn"]).idxmin()]
        text += f"; in the others some are alike, at worst {worst['distinct']} of {worst['drawn']} are distinct"
    if len(shared):
        text += (
            f". For {len(shared)} too few others are left, so that a draw holds up to {shared['shared'].max()} of the "
            "top heads"
        )
    return f"{text}."


def _sets_of(name: str, sweep: xr.Dataset) -> tuple[object, ...]:
    """A line of the table of modes: how many sets were removed in this one, of which kinds."""
    mode, positions = name.split(", ")
    orders = sweep["order"].values.astype(str)[_tried(sweep).any(1)]
    kinds = listed([f"{(orders == kind).sum()} {words}" for kind, words in KINDS.items() if kind in orders])
    operation = MODES[mode].operation
    return (escaped(labels.mode(mode)), labels.POSITIONS.get(positions, positions), len(orders), kinds, operation)


def losses(found: pd.DataFrame) -> str:
    """What the largest late and whole top sets lose, against matched random ones."""
    if found.empty:
        return missing("no sets of heads were removed")
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
        asked = sorted(set(part.loc[(part["count"] == most) & part["order"].isin(["top", "random"]), "samples"]))
        lines.append(
            (
                escaped(labels.mode(str(mode))),
                escaped(labels.ranking(str(ranking))),
                stage,
                most,
                " and ".join(str(int(n)) for n in asked),
                *cells,
            )
        )
    header = (
        "mode", "ranking", "layers", "heads", "questions", "points lost, top", "random", "margin lost, top", "random",
        "KL, top", "random",
    )  # fmt: skip
    return (
        table(header, lines)
        + "\n\nMeans with 95 % intervals over pictures. A top set matters where it loses more than random other heads "
        "of the same layers; intervals are over pictures, and which heads were drawn at random is not in them. A loss "
        "below 0 means that the answers were better without these heads."
    )


def effects(heads: pd.DataFrame) -> str:
    """Which single heads matter most, and how many make no difference."""
    if heads.empty:
        return missing(NEEDS_EFFECTS)
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


def guesses(found: pd.DataFrame) -> str:
    """How well cheaper ways find the effects of single heads: a table, and whether heads add up."""
    if found.empty:
        return missing("no cheaper guess of the effects was made")
    lines = [
        (code(row["model"]), row["guess"], f"{row['spearman']:+z.2f}", percent(row["overlap"]), percent(row["chance"]),
         number_or_dash(row["r2"]))
        for row in found.to_dict("records")
    ]  # fmt: skip
    header = ("model", "guess", "ρ with the exact effects", "top heads shared", "chance", "R² on held-out subsets")
    text = table(header, lines) + (
        f"\n\n{SCREEN} *Many at once*: a linear fit of the margin lost to random subsets of heads; each subset is "
        "judged by a fit to others."
    )
    if found["r2"].isna().all():
        return table(header, lines) + f"\n\n{SCREEN}"
    poor = found[found["r2"] < POOR]
    fits = found["r2"].dropna()
    if len(poor):
        who = listed([f"{row.r2:.2f} in {code(row.model)}" for row in poor.itertuples()])
        text += (
            f" Below {POOR:g} (R² is {who}) what many heads do together is mostly no sum of what each does, or noise, "
            "so that ranking says little there."
        )
    else:
        least, more = float(fits.min()), " or more" if len(fits) > 1 else ""
        told = (
            "what many heads do together is nearly a sum over them"
            if least >= NEARLY
            else f"{percent(least)}{more} of the variance of what many heads do together is a sum over them; the rest "
            "is noise, or what heads do only in company"
        )
        text += f" With an R² of {least:.2f}{more}, {told}."
    return text


def removals(found: pd.DataFrame, margin: float = 0.02) -> str:
    """What every model loses without the released share of its late heads, in every mode.

    `found` is a `causes.released_share` with the columns of `causes.beyond_random`.
    """
    if found.empty:
        return missing("no sets of heads were removed in any model")
    lines = []
    late = found[(found["stage"] == "late") & (found["measure"] == "accuracy")]
    tops = late[late["order"] == "top"]
    for (model, mode), part in late.groupby(["model", "mode"], sort=False):
        told = {str(row["order"]): row for row in part.to_dict("records")}
        if "top" not in told:
            continue
        cells = [_loss(told[order], "accuracy", margin) if order in told else "–" for order in ORDERS]
        asked = [str(int(told[order]["samples"])) if order in told else "–" for order in ORDERS]
        below = "yes" if told["top"]["upper"] < margin else "no" if told["top"]["lower"] > margin else "open"
        lines.append((
            code(str(model)), escaped(labels.mode(str(mode))), int(told["top"]["count"]), ", ".join(asked), *cells[:2],
            _draws(told.get("random")), _excess(told["top"]), cells[2], below,
        ))  # fmt: skip
    header = (
        "model", "mode", "late heads", "questions: top, random, bottom", "points lost, top", "random",
        "single random draws", "top beyond random", "bottom", f"below {100 * margin:g} points",
    )  # fmt: skip
    draws = late.loc[late["order"] == "random", "sets"]
    return (
        f"{in_miniature(list(dict.fromkeys(late['model'].astype(str))))}\n\n".lstrip() + table(header, lines)
        + "\n\nTop: the late heads with most attention on the picture, as many as 100 are of 1 024 heads (9.8 % of all "
        "heads). Means with 95 % intervals over pictures"
        + (f"; *random* is the mean over {_span(draws)} draws of other heads of the same layers (top heads only "
           "where too few others are left), and beside it stand the smallest and the largest loss of one draw"
           if len(draws) else "")
        + ". *Yes* and *no* go by each row's own interval, *open* ones hold the margin; claim 5 corrects for their "
        "number before it calls a loss certain. Models whose full protocol is not shipped were asked "
        "few questions; their intervals are wide, and claim 5 is not judged by them." + _meaning(tops)
    )  # fmt: skip


def _excess(told: Any) -> str:
    """What a top set loses beyond its random controls, in points; digits tell on which side of 0 its bounds lie."""
    return _loss(dict(zip(("estimate", "lower", "upper"), map(told.get, EXCESS), strict=True)), "accuracy", 0.0)


def _meaning(tops: pd.DataFrame) -> str:
    """What the losses beyond random heads say that the losses do not."""
    known = tops["excess"].notna()
    if not known.any():
        return ""
    above, below = int((tops["excess_lower"] > 0).sum()), int((tops["excess_upper"] < 0).sum())
    return (
        "\n\n*Top beyond random* is what the top heads lose more than the mean of the random draws, paired over "
        f"pictures, as claim 5 tells it beside its verdict. Where its interval lies above 0 ({above or 'none'} of "
        f"{counted(int(known.sum()), 'row')}), these heads matter more than others of their layers, however little is "
        f"lost without them; where it lies below 0 ({below or 'none'}), others matter more. A small loss by itself is "
        "no evidence that these heads do nothing special, unless random heads of the same layers lose as little; where "
        "the interval holds 0, it is open whether they do."
    )


def _draws(told: Any) -> str:
    """The smallest and the largest loss of one random draw, in points."""
    if told is None or told["set_lowest"] != told["set_lowest"]:
        return "–"
    return between(100 * told["set_lowest"], 100 * told["set_highest"], 1)


def _span(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _loss(told: Any, measure: str, margin: float | None = None) -> str:
    """A loss with its interval; with as many digits as tell on which side of the margin its bounds lie."""
    scale, digits = (100, 1) if measure == "accuracy" else (1, 2)
    if told["estimate"] != told["estimate"]:
        return "–"
    bounds = (scale * told["lower"], scale * told["upper"])
    if margin is not None:
        digits = telling_digits(bounds, scale * margin, digits)
    number = f"{scale * told['estimate']:z.{digits}f}"
    return (
        f"{number} ({between(*bounds, digits)})" if told["lower"] == told["lower"] else number
    )  # one picture has none


def number_or_dash(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"
