"""Text for the page about steering, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import xarray as xr

from visualheads.analysis.steering import objects_steered
from visualheads.book.prose.comparison import in_miniature
from visualheads.book.prose.words import agreeing, between, code, counted, escaped, listed, missing, percent, table
from visualheads.charts.labels import POSITIONS
from visualheads.charts.labels import ranking as ranking_title
from visualheads.charts.steering import RULES
from visualheads.studies.evidence import FEWEST_SAMPLES

NOTHING = "no shipped miniature was traced on LookTwice, so nothing was steered"
KINDS = {
    "top": (
        "top heads with random ones",
        "answers move more towards the object in {} and less in {}; the margin grows more in {} and less in {}",
    ),
    "all": (
        "all heads with none",
        "answers move towards the object in {} and away from it in {}; the margin grows in {} and shrinks in {}",
    ),
}
"""Which heads are steered → what is compared, and what intervals on either side of 0 mean."""
BOOSTED = {
    "top": ("top heads with none", "change", "with the top heads in {} and {} of {}"),
    "random": ("random heads with none", "change", "with as many random heads in {} and {} of {}"),
    "top and random": ("top heads with random ones", "excess", "with the top heads more than with random ones"
                       " in {}, and less in {}, of {}"),
    "all": ("all heads with none", "change", "with all heads in {} and {} of {}"),
}  # fmt: skip
"""Which heads are boosted → what is compared, by which columns, and where right answers grow and shrink."""
SIGNS = {"negative": -1, "positive": 1}
BY_CHANCE = "About one in forty would lie on either side by the chance of the pictures alone"
WIDENED = (
    "Where no answer changed in one direction, that end of an interval of points that holds 0 is the exact binomial "
    "bound for so many pictures, which is why few pictures have wide intervals even where nothing changed."
)


def protocol(found: Mapping[str, Mapping[str, xr.Dataset]]) -> str:
    """What was done, on how many pictures, with which heads."""
    steered, boosted, grounded = (found[name] for name in ("steering", "boost", "grounding"))
    if not steered:
        return missing(NOTHING)
    name, first = next(iter(steered.items()))
    counts = sorted({int(c) for c, order in _sets(first) if order == "top"})
    seeds = sum(order == "random" and int(c) == counts[-1] for c, order in _sets(first))
    pictures = len(set(first["image_id"].values.astype(str)))
    biases = listed([f"{bias:g}" for bias in first["bias"].values])
    ranking = escaped(ranking_title(next(str(name) for name in first["ranking"].values if str(name))))
    text = (
        f"Models: {listed([code(one) for one in steered])}. In {code(name)}, "
        f"{counted(objects_steered(first), 'object')} in {counted(pictures, 'picture')} were steered to, in "
        f"{counted(first.sizes['sample'], 'question')} (bias {biases}, positions: {_positions(first)}), with the best "
        f"{listed([str(c) for c in counts])} heads by {ranking}, with {counted(seeds, 'random set')} of as many "
        f"heads in every layer for each, and with all heads. Heads were ranked on other pictures. In "
        f"{counted(next(iter(boosted.values())).sizes['sample'], 'question')} the whole picture was boosted "
        f"(positions: {_positions(next(iter(boosted.values())))}) with the best {counts[-1]}, with as many random "
        "ones, and with all heads; and the objects of "
        f"{counted(next(iter(grounded.values())).sizes['sample'], 'question')} were located."
    )
    reduced = [one for one, ds in boosted.items() if ds.sizes["sample"] < FEWEST_SAMPLES]
    if len(steered) > 1:
        text += " Other models were asked alike, with numbers of heads after their size"
        text += ", but those of the reduced protocol." if reduced else "."
    return f"{text} {in_miniature(list(steered))}".rstrip() + (_small(reduced, len(boosted)) if reduced else "")


def _small(reduced: Sequence[str], models: int) -> str:
    where = "" if len(reduced) == models else f" in {listed([code(name) for name in reduced])}"
    return (
        f"\n\n**This is the reduced protocol**{where}: few scenes, sets and strengths. Its intervals are wide; "
        "`make book FULL=1` runs all of it."
    )


def answers(found: pd.DataFrame) -> str:
    """Whether answers move to the object steered to, more or less than with random heads, bias by bias."""
    if found.empty:
        return missing(NOTHING)
    lines, shown = [], []
    own = found[found["order"].isin(["top", "all"])]
    for (model, condition), part in own.groupby(["model", "condition"], sort=False):
        bias = _usual(part["bias"])
        shown.append(bias)
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
    at = listed([f"{bias:g}" for bias in sorted(set(shown))])
    return (
        table(header, lines) + f"\n\nShown at bias {at}, for the largest number of top heads. "
        "*Before* is how often the unchanged model already gives the answer that is right of the object steered to. "
        f"Intervals are 95 %, paired over pictures. {WIDENED}\n\n" + _tails(found)
    )


def _tails(found: pd.DataFrame) -> str:
    """How many comparisons lie off 0 with their whole interval on either side, bias by bias: a table, and its sum."""
    lines, sums = [], []
    for order, (what, words) in KINDS.items():
        lower, upper = ("excess_lower", "excess_upper") if order == "top" else ("lower", "upper")
        of_kind = found[(found["order"] == order) & found[lower].notna()]
        for bias, part in of_kind.groupby("bias"):
            cells = [_sides(part[part["measure"] == name], lower, upper) for name in ("accuracy", "margin")]
            lines.append((what, f"{bias:g}", cells[0][2], *cells[0][:2], *cells[1][:2]))
        if of_kind.empty:
            continue
        sides = [_sides(of_kind[of_kind["measure"] == name], lower, upper) for name in ("accuracy", "margin")]
        told = words.format(*sides[0][:2], *sides[1][:2])
        sums.append(f" Of {counted(sides[0][2], 'comparison')} of {what}, {told}.")
    header = ("compared", "bias", "comparisons", "answers: more", "less", "margin: more", "less")
    return (
        table(header, lines)
        + "\n\n*More* and *less*: how many comparisons have their whole 95 % interval above 0, and below it (towards "
        f"the object steered to, or away from it); the others are open. {BY_CHANCE}; which heads were drawn at random "
        f"adds to it, so that many on both sides show no effect of the top heads.{''.join(sums)}"
    )


def _sides(part: pd.DataFrame, lower: str, upper: str) -> tuple[int, int, int]:
    """Intervals wholly above 0, wholly below, and all."""
    return int((part[lower] > 0).sum()), int((part[upper] < 0).sum()), len(part)


def strengths(found: pd.DataFrame) -> str:
    """What a bias on all image keys does to right answers and margins: values, then paired changes by its sign."""
    if found.empty:
        return missing("nothing was boosted")
    lines = []
    own = found[found["measure"] == "accuracy"]
    for (model, what), part in own.groupby(["model", "what"], sort=False):
        zero = part[part["bias"] == 0].iloc[0]
        best = part.loc[part["estimate"].idxmax()]
        best = zero if zero["estimate"] == best["estimate"] else best
        cells = [f"{percent(one['estimate'])} ({_between(one)})" for one in (part.iloc[0], zero, part.iloc[-1])]
        lines.append((code(str(model)), what, *cells, f"{best['bias']:+g}" if best["bias"] else "0 (unchanged)"))
    low, high = own["bias"].min(), own["bias"].max()
    header = ("model", "heads", f"bias {low:g}", "unchanged", f"bias {high:g}", "most right at")
    where = listed([POSITIONS.get(str(name), str(name)) for name in sorted(set(own["positions"]))])
    return (
        table(header, lines)
        + f"\n\nShares of right answers with 95 % intervals; the bias acts at these positions: {where}. *Most right "
        "at* is the best strength on these very questions, which flatters it.\n\n" + _changes(found)
    )


def _changes(found: pd.DataFrame) -> str:
    """How many paired changes lie off 0 with their whole interval, kind by kind and sign by sign: a table, its sum."""
    lines, sums = [], []
    looked = {sign: sorted({bias for bias in found["bias"] if bias * side > 0}) for sign, side in SIGNS.items()}
    for sign, side in SIGNS.items():
        told = []
        for kind, (what, column, words) in BOOSTED.items():
            lower, upper = f"{column}_lower", f"{column}_upper"
            part = found[(found["order"] == kind.split()[0]) & (found["bias"] * side > 0) & found[lower].notna()]
            if part.empty:
                continue
            cells = [_sides(part[part["measure"] == name], lower, upper) for name in ("accuracy", "margin")]
            lines.append((what, sign, cells[0][2], *cells[0][:2], *cells[1][:2]))
            told.append(words.format(*cells[0]))
        if told:
            sums.append(f" At {sign} strengths right answers grow and shrink {'; '.join(told)}.")
    header = ("compared", "strengths", "comparisons", "right answers: more", "fewer", "margin: more", "less")
    each = [
        f"{len(biases)} {sign} {agreeing(len(biases), 'one', 'ones')} ({', '.join(f'{bias:g}' for bias in biases)})"
        for sign, biases in looked.items()
        if biases
    ]
    models, kinds = found["model"].nunique(), found.loc[found["order"] == "random", "sets"]
    drawn = (
        " Random heads are as many as the top ones in every layer, and the mean of "
        f"{counted(int(kinds.max()), 'set')}, which narrows their intervals; which were drawn is not in them."
        if len(kinds)
        else ""
    )
    return (
        table(header, lines)
        + f"\n\nIn {counted(models, 'model')} every strength is compared with the unchanged model, question by "
        f"question: {listed(each)}. *More*, *fewer* and *less*: how many of these comparisons have the whole 95 % "
        "interval of their difference, paired over pictures, above 0 or below it; the others are open. "
        f"{BY_CHANCE}, and the comparisons of one model share their pictures, so that such ones come together.{drawn}"
        f"{''.join(sums)} A bias that helps would fit heads that look at the picture too little; a negative one that "
        "harms, heads that need what they see."
    )


def boxes(found: pd.DataFrame, baselines: pd.DataFrame) -> str:
    """How well the best heads point at the object, against random heads and no heads at all."""
    if found.empty:
        return missing("nothing was located")
    lines = []
    rule = str(found["rule"].iloc[0])
    own = found[found["rule"] == rule]
    for (model, ranking), part in own.groupby(["model", "ranking"], sort=False):
        cells = []
        for measure in ("hit", "iou"):
            one = part[part["measure"] == measure].set_index("heads")
            best = int(one["estimate"].idxmax())
            cells += [_share(one.loc[1], measure), f"{_share(one.loc[best], measure)} with {best}"]
        lines.append((code(str(model)), escaped(ranking_title(str(ranking))), *cells))
    header = (
        "model", "heads by", "on the object, 1 head", "most", "overlap, 1 head", "most",
    )  # fmt: skip
    same: dict[str, list[str]] = {}
    for model, part in baselines.groupby("model", sort=False):
        at = part.set_index("what")["estimate"]
        words = (
            f"a random patch {percent(at['a random patch'])}, the picture's middle {percent(at['middle'])}, overlap of "
            f"the whole picture {at['whole']:.2f}"
        )
        same.setdefault(words, []).append(code(str(model)))
    told = [words if len(same) == 1 else f"{listed(names)}: {words}" for words, names in same.items()]
    return (
        table(header, lines)
        + f"\n\nWithout any head: {'; '.join(told)}. *On the object* is the pointing game: the centre of the strongest "
        "patch of the added maps lies in a box of the kind asked about; *overlap* is the intersection over union of "
        f"the box around the strongest part of the map ({RULES.get(rule, rule)}) with the nearest of them. *Most* is "
        "the best number of heads on these very pictures, which flatters it."
    )


def example(names: Sequence[str], found: pd.DataFrame) -> tuple[str, str] | None:
    """(model, ranking) whose pictures are shown: the first model, and the ranking that points best there."""
    own = found[
        (found["model"] == next(iter(names), "")) & (found["measure"] == "hit") & (found["ranking"] != "random")
    ]
    if own.empty:
        return None
    return str(names[0]), str(own.loc[own["estimate"].idxmax(), "ranking"])


def _positions(ds: xr.Dataset) -> str:
    name = str(ds["positions"].values[0])
    return POSITIONS.get(name, name)


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
