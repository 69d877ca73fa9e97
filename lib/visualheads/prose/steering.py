"""Text for the page about steering, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import xarray as xr

from visualheads.claims.gather import FEWEST_SAMPLES
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, counted, listed, percent, table

NOTHING = "no shipped miniature was traced on LookTwice, so nothing was steered"
SMALL = (
    "\n\n**This is the reduced protocol**: few scenes, sets and strengths. Its intervals are wide; `make book FULL=1` "
    "runs all of it."
)


def protocol(found: Mapping[str, Mapping[str, xr.Dataset]]) -> str:
    """What was done, on how many pictures, with which heads."""
    steered, boosted, grounded = (found[name] for name in ("steering", "boost", "grounding"))
    if not steered:
        return missing(NOTHING, False)
    name, first = next(iter(steered.items()))
    counts = sorted({int(c) for c, order in _sets(first) if order == "top"})
    seeds = sum(order == "random" and int(c) == counts[-1] for c, order in _sets(first))
    pictures = len(set(first["image_id"].values.astype(str)))
    biases = listed([f"{bias:g}" for bias in first["bias"].values])
    where = str(first["positions"].values[0]).replace("_", " ")
    ranking = next(str(name) for name in first["ranking"].values if str(name))
    few = min(ds.sizes["sample"] for ds in boosted.values())
    text = (
        f"Models: {listed([code(one) for one in steered])}. In {code(name)}, "
        f"{counted(first.sizes['sample'], 'object')} in "
        f"{counted(pictures, 'picture')} were steered to (bias {biases}, positions: {where}) with the best "
        f"{listed([str(c) for c in counts])} heads by {code(ranking)}, with {counted(seeds, 'random set')} of as many "
        f"heads in every layer for each, and with all heads. Heads were ranked on other pictures. "
        f"{counted(next(iter(boosted.values())).sizes['sample'], 'question')} were boosted, and the objects of "
        f"{counted(next(iter(grounded.values())).sizes['sample'], 'question')} located."
    )
    return text + (SMALL if few < FEWEST_SAMPLES else "")


def answers(found: pd.DataFrame) -> str:
    """Whether answers move to the object steered to, more than with random heads."""
    if found.empty:
        return missing(NOTHING, False)
    lines = []
    own = found[found["order"].isin(["top", "all"])]
    for (model, condition), part in own.groupby(["model", "condition"], sort=False):
        bias = _usual(part["bias"])
        part = part[part["bias"] == bias]
        top = part[part["order"] == "top"]
        most = top[top["count"] == top["count"].max()].set_index("measure")
        every = part[part["order"] == "all"].set_index("measure")
        best, margin, whole = most.loc["accuracy"], most.loc["margin"], every.loc["accuracy"]
        lines.append((
            code(str(model)), condition, percent(best["clean"]), best["what"], _points(best), _points(best, "excess"),
            _logits(margin), _logits(margin, "excess"), _points(whole),
        ))  # fmt: skip
    header = (
        "model", "situation", "before", "heads", "points moved", "more than random", "margin gained",
        "more than random", "all heads, points",
    )  # fmt: skip
    top = found[(found["order"] == "top")]
    sure = {measure: top[(top["measure"] == measure) & (top["excess_lower"] > 0)] for measure in ("accuracy", "margin")}
    worse = found[(found["order"] == "all") & (found["measure"] == "accuracy")]
    text = (
        table(header, lines)
        + "\n\n*Before* is how often the unchanged model already gives the answer that is right of the object steered "
        "to. Intervals are 95 %, paired over pictures. "
    )
    cells = top[top["measure"] == "accuracy"]
    text += (
        f"Of {counted(len(cells), 'comparison')} of top heads with random ones, {len(sure['accuracy'])} move answers "
        f"more with the whole interval, and {len(sure['margin'])} the margin. "
    )
    down = int((worse["upper"] < 0).sum())
    text += (
        f"Steering all heads moves answers away from the object in {down} of {len(worse)} cases for certain: a bias "
        "on every head drowns the question."
        if down
        else f"Steering all heads never certainly moves answers away from the object ({len(worse)} cases)."
    )
    return text


def strengths(found: pd.DataFrame) -> str:
    """Whether accuracy rises or falls with the bias on all image keys."""
    if found.empty:
        return missing("nothing was boosted", False)
    lines = []
    own = found[found["measure"] == "accuracy"]
    for (model, what), part in own.groupby(["model", "what"], sort=False):
        zero = part[part["bias"] == 0].iloc[0]
        best = part.loc[part["estimate"].idxmax()]
        cells = [f"{percent(one['estimate'])} ({_between(one)})" for one in (part.iloc[0], zero, part.iloc[-1])]
        lines.append((code(str(model)), what, *cells, f"{best['bias']:+g}" if best["bias"] else "0 (unchanged)"))
    low, high = own["bias"].min(), own["bias"].max()
    header = ("model", "heads", f"bias {low:g}", "unchanged", f"bias {high:g}", "most right at")
    rises = sum(
        bool((part["lower"].max()) > part[part["bias"] == 0]["upper"].iloc[0])
        for _, part in own.groupby(["model", "what"])
    )
    return (
        table(header, lines)
        + f"\n\nShares of right answers with 95 % intervals. In {rises} of {len(lines)} cases some strength lies above "
        "the unchanged model with its whole interval. A bias that helps would mean that the heads look at the picture "
        "too little; one that harms when it is negative, that they need what they see."
    )


def boxes(found: pd.DataFrame, baselines: pd.DataFrame) -> str:
    """How well the best heads point at the object, against random heads and no heads at all."""
    if found.empty:
        return missing("nothing was located", False)
    lines = []
    rule = str(found["rule"].iloc[0])
    own = found[found["rule"] == rule]
    for (model, ranking), part in own.groupby(["model", "ranking"], sort=False):
        cells = []
        for measure in ("hit", "iou"):
            one = part[part["measure"] == measure].set_index("heads")
            best = int(one["estimate"].idxmax())
            cells += [_share(one.loc[1], measure), f"{_share(one.loc[best], measure)} with {best}"]
        lines.append((code(str(model)), code(str(ranking)), *cells))
    header = (
        "model", "heads by", "on the object, 1 head", "most", "overlap, 1 head", "most",
    )  # fmt: skip
    told = []
    for model, part in baselines.groupby("model", sort=False):
        at = part.set_index("what")["estimate"]
        told.append(
            f"{code(str(model))}: a random patch {percent(at['a random patch'])}, the picture's middle "
            f"{percent(at['middle'])}, overlap of the whole picture {at['whole']:.2f}"
        )
    return (
        table(header, lines)
        + f"\n\nWithout any head: {'; '.join(told)}. *On the object* is the pointing game: the strongest patch of the "
        "added maps lies in a box of the kind asked about; *overlap* is the intersection over union of the box around "
        f"the strongest part of the map ({rule}) with the nearest of them."
    )


def example(names: Sequence[str], found: pd.DataFrame) -> tuple[str, str] | None:
    """(model, ranking) whose pictures are shown: the first model, and the ranking that points best there."""
    own = found[
        (found["model"] == next(iter(names), "")) & (found["measure"] == "hit") & (found["ranking"] != "random")
    ]
    if own.empty:
        return None
    return str(names[0]), str(own.loc[own["estimate"].idxmax(), "ranking"])


def _sets(ds: xr.Dataset) -> list[tuple[int, str]]:
    return list(zip(ds["count"].values.tolist(), ds["order"].values.astype(str).tolist(), strict=True))


def _usual(biases: pd.Series) -> float:
    known = sorted(set(biases))
    return 4.0 if 4.0 in known else known[0]


def _points(row: pd.Series, name: str = "estimate") -> str:
    return _signed(row, name, 100, 0)


def _logits(row: pd.Series, name: str = "estimate") -> str:
    return _signed(row, name, 1, 2)


def _signed(row: pd.Series, name: str, scale: float, digits: int) -> str:
    lower, upper = ("lower", "upper") if name == "estimate" else (f"{name}_lower", f"{name}_upper")
    if row[name] != row[name]:
        return "–"
    bounds = f" ({between(scale * row[lower], scale * row[upper], digits)})" if row[lower] == row[lower] else ""
    return f"{scale * row[name]:+z.{digits}f}{bounds}"


def _share(row: pd.Series, measure: str) -> str:
    if measure == "hit":
        return f"{percent(row['estimate'])} ({_between(row)})"
    return f"{row['estimate']:.2f} ({between(row['lower'], row['upper'])})"


def _between(row: pd.Series) -> str:
    return between(100 * row["lower"], 100 * row["upper"], 0)
