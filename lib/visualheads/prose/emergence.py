"""Text for the page about when visual heads appear."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from visualheads.emergence import FRESH, OTHER, OWN
from visualheads.prose.words import between, code, listed, missing, percent, table
from visualheads.rankings import head_count
from visualheads.titles import moment

ALONE = (
    "No other language model of the shape was trained: that these heads do better than an untrained network's tells "
    "that reading lists prepares heads for pictures, not yet that it takes those of this very language model."
)
READERS = {
    OWN: "the one that the model grew from",
    FRESH: "that network before its training",
    OTHER: "another language model",
}
NEAR = 0.9
"""Rank correlation with the last moment from which on a pattern counts as its last form (ours)."""


def moments(found: pd.DataFrame, expected: Mapping[str, float]) -> str:
    """When the heads of the end can be told, model by model.

    found: `emergence.moment_table`; expected: the `chances` of its models.
    """
    if found.empty:
        return missing("moments of training are kept only with miniatures that were trained here")
    lines = []
    for name, rows in found.groupby("model", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        lines.append((
            code(str(name)), len(rows), f"{first['rho']:.2f}", percent(first["shared"]),
            percent(expected[str(name)]) if str(name) in expected else "–", _near_from(rows),
            f"{first['top']:.2f} → {last['top']:.2f}",
        ))  # fmt: skip
    header = (
        "model", "moments", "ρ of first with last", "of the last's strongest tenth, already strongest", "by chance",
        f"ρ ≥ {NEAR:g} from", "mean weight of these heads, first → last",
    )  # fmt: skip
    return table(header, lines)


MOMENTS = (
    "The first moment is that of a language model that has never seen a picture, with an untrained adapter. *By "
    "chance*: what two unrelated sets of so many heads share on average. *From*: the first moment before the last from "
    f"which on ρ with the last stays at {NEAR:g} or above."
)
"""What the tables of `moments` tell, once on a page."""


def chances(moments: Mapping[str, xr.Dataset]) -> dict[str, float]:
    """What share of its strongest heads a random set of as many would hold, by model."""
    heads = {name: ds.sizes["layer"] * ds.sizes["head"] for name, ds in moments.items()}
    return {name: head_count(n) / n for name, n in heads.items()}


def _near_from(rows: pd.DataFrame) -> str:
    """The moment from which on the pattern stays near its last form, in words."""
    near = (rows["rho"] >= NEAR).to_numpy()
    since = len(near) - int(near[::-1].argmin()) if not near.all() else 0
    return moment(str(rows.iloc[since]["moment"])) if since < len(near) - 1 else "only at the end"


def text_heads(found: pd.DataFrame, right: Mapping[str, float]) -> str:
    """Are the visual heads the list-reading heads of the text-only model (claim 10)?"""
    if found.empty:
        return missing("the comparison with text needs a model whose text-only checkpoint is there too")
    lines = []
    for row in found.itertuples():
        told = f"{row.rho:.2f} ({between(row.lower, row.upper)})"
        lines.append(
            (
                code(row.model),
                code(row.text_model),
                row.kind,
                told,
                f"{row.within:.2f}",
                f"{row.ceiling:.2f}",
            )
        )
    means = found.groupby("kind", sort=False)["rho"].mean()
    parts = [f"{means[kind]:.2f} where that was {words}" for kind, words in READERS.items() if kind in means]
    scores = [f"{percent(value)} ({code(name)})" for name, value in right.items()]
    return (
        table(("model", "lists read by", "which is", "ρ (95 % interval)", "within layers", "ceiling"), lines)
        + "\n\nOver heads, attention on the asked region of pictures correlates with attention on the asked words of "
        f"lists that a text-only model read: by {listed(parts)}, on average over the rows above (claim 10 counts only "
        "models with another trained language model of their shape). The text-only models "
        f"themselves count rightly in {listed(scores)} of these lists. On a picture the region is that of the one "
        "marked "
        "object, on a list all words of the asked class." + ("" if OTHER in means else f" {ALONE}")
    )
