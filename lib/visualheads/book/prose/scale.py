"""Text for the comparison of recipes and sizes."""

from __future__ import annotations

import pandas as pd

from visualheads.analysis.lineage import descent, training_record, tuned_pictures
from visualheads.analysis.models import checkpoint_config, trained_parts
from visualheads.book.prose.words import between, code, escaped, listed, missing, table
from visualheads.cards import cards
from visualheads.charts.labels import benchmark, thousands

NEEDS_RECIPE = "1.5 against 1.6 needs two models of one language model with other recipes"
NEEDS_SIZE = "size needs two models of one recipe and series of language models, such as Vicuna-7B and Vicuna-13B"
BOXES = {"ViP": "drawn in many colours"}
"""How the boxes in a miniature's tuning pictures are drawn, by recipe; else in red, as in the questions asked."""


def changes(found: pd.DataFrame, needs: str) -> str:
    """Pair by pair: how scores and heads change, counted and as a table."""
    if found.empty:
        return missing(needs)
    lines = []
    for pair, rows in found.groupby("pair", sort=False):
        tokens = f"{rows['tokens_one'].mean():.0f} → {rows['tokens_other'].mean():.0f}"
        up, down = int((rows["lower"] > 0).sum()), int((rows["upper"] < 0).sum())
        mean, lower, upper = (100 * rows.iloc[0][f"mean_{bound}"] for bound in ("estimate", "lower", "upper"))
        change, whole = f"{mean:+z.1f} ({between(lower, upper, 1)})", 100 * rows["whole"].mean(skipna=False)
        means = rows[["image_weight", "image_log_odds", "focus_nats"]].mean()
        heads = f"{means['image_weight']:+z.3f}, {means['image_log_odds']:+z.2f}, {means['focus_nats']:+z.2f}"
        clear, items = f"{up} up, {down} down of {len(rows)}", f"{whole:+z.1f}" if whole == whole else "–"
        lines.append((escaped(str(pair)), tokens, change, clear, items, heads))
    header = ("pair", "image tokens", "mean change of score, points", "benchmarks with a clear change")
    told = table((*header, "over all items, points", "change of image weight, log-odds, focus (nats)"), lines)
    return (
        f"{told}{_all_items(found)}\n\nRaw image weight "
        "rises with the number of image tokens by itself; the log-odds compare with a head that looks everywhere "
        f"alike, and focus in nats does not depend on the number of tokens.{_unlike_tuning(found)}"
    )


INTERVALS = (
    "Intervals are 95 % ones over pictures: both models are paired on the questions they answered, pictures are drawn "
    "anew, each benchmark's by themselves, since benchmarks have pictures of their own, and every benchmark weighs the "
    "same in the mean. Each allows for changes that so few pictures need not show. A change is clear where its "
    "interval does not hold 0. *Over all items* is the same change by the models' training records, which score every "
    "item of the benchmarks, counted as here but without an interval: the questions that were traced are a part of "
    "them."
)
"""How the changes of `changes` and their intervals are made, once on a page."""


def _all_items(found: pd.DataFrame) -> str:
    """What the training records tell of the same changes over all items, and where that is something else."""
    known = found[found["whole"].notna()]
    if known.empty:
        return ""
    other_sign = [
        f"{escaped(str(pair))} ({100 * rows['mean_estimate'].iloc[0]:+z.1f} and {100 * rows['whole'].mean():+z.1f})"
        for pair, rows in found.groupby("pair", sort=False)
        if _opposed(rows["whole"].mean(skipna=False), rows["mean_estimate"].iloc[0])
    ]
    outside = [
        f"{escaped(str(row.pair))} on {escaped(benchmark(str(row.task)))} ({100 * row.difference:+z.1f}, "
        f"{between(100 * row.lower, 100 * row.upper, 1)}; all items {100 * row.whole:+z.1f})"
        for row in known.itertuples()
        if not row.lower <= row.whole <= row.upper
    ]
    flipped = sum(_opposed(row.whole, row.difference) for row in known.itertuples())
    text = f"\n\nOver all items, single benchmarks change with the other sign in {flipped} of {len(known)} cases"
    text += f", and beyond the interval of the traced questions in {len(outside)}"
    text += f": {listed(outside)}." if outside else "."
    if other_sign:
        text += f" **The mean has the other sign over all items** for {listed(other_sign)}: it tells no direction."
    return text


def _opposed(one: float, other: float) -> bool:
    """Whether two changes have other signs, as far as they are told (in points, to one digit)."""
    return round(100 * one, 1) * round(100 * other, 1) < 0


def _unlike_tuning(found: pd.DataFrame) -> str:
    """What else differs in pairs whose models were tuned on different numbers of pictures."""
    unlike = found[found["pictures_one"].notna() & (found["pictures_one"] != found["pictures_other"])]
    unlike = unlike.drop_duplicates("pair").dropna(subset=["pictures_other"])
    if unlike.empty:
        return ""
    told = [f"{row.pair}: {row.pictures_one:,.0f} and {row.pictures_other:,.0f}" for row in unlike.itertuples()]
    return (
        " **Something else differs too:** the number of pictures seen in visual tuning, each once, by the recipes' own "
        f"schedules ({escaped('; '.join(told))})."
    )


def recipes(found: pd.DataFrame) -> str:
    """What differs between the recipes of the pairs compared, besides the number of image tokens; a table.

    found: `kinship.changes` of pairs that differ in their recipe.
    """
    if found.empty:
        return ""
    tokens = {**found.groupby("one")["tokens_one"].mean(), **found.groupby("other")["tokens_other"].mean()}
    lines = []
    for name in dict.fromkeys([*found["one"], *found["other"]]):
        recipe, pictures = str(descent([name]).loc[name, "recipe"]), tuned_pictures(name)
        tuned = pictures == pictures
        lines.append((
            code(name), recipe, f"{tokens[name]:.0f}", _features(name),
            trained_parts(training_record(name), recipe) or "–",
            thousands(int(pictures)) if tuned else "–", BOXES.get(recipe, "drawn in red") if tuned else "–",
        ))  # fmt: skip
    header = (
        "model", "recipe", "image tokens", "features of the tower", "trained in tuning", "pictures in tuning",
        "boxes in them",
    )  # fmt: skip
    return (
        "Recipes differ in several things at once, so that no change above is one of image tokens alone:\n\n"
        + table(header, lines)
    )


def _features(name: str) -> str:
    """Which layers of the vision tower the adapter reads."""
    layers = checkpoint_config(name).get("vision_feature_layer")
    if layers is None:
        card = cards().get(name)
        return escaped(card.vision) if card and card.vision else "–"
    if isinstance(layers, int):
        return "last layer" if layers == -1 else f"layer {layers}"
    return f"{len(layers)} layers, joined ({escaped(', '.join(str(layer) for layer in layers))})"
