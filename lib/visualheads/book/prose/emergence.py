"""Text for the page about when visual heads appear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.emergence import AGAIN, CHOICES, FRESH, OTHER, OWN
from visualheads.analysis.models import MOMENTS as MOMENTS_FILE
from visualheads.book.prose.words import between, code, escaped, listed, missing, percent, table
from visualheads.charts.labels import moment
from visualheads.heads.ranking import head_count
from visualheads.miniatures.text_heads import STORE, UNTRAINED
from visualheads.store.read import read_attrs

ALONE = (
    "No other language model of the shape was trained: that these heads do better than an untrained network's tells "
    "that reading lists prepares heads for pictures, not yet that it takes those of this very language model."
)
READERS = {
    OWN: "the one that the model grew from",
    FRESH: "that network before its training",
    AGAIN: "a second training of it",
    OTHER: "another language model",
}
MEASURES = {"region_weight": "region weight", "image_weight": "image weight"}
ROWS = {"last_prompt": "last prompt row", "first_generated": "first generated row"}
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
        "model", "moments", "ρ of first with last", "strongest tenth of the last: in that of the first",
        "by chance",
        f"ρ ≥ {NEAR:g} from", "mean weight of these heads, first → last",
    )  # fmt: skip
    return table(header, lines)


MOMENTS = (
    "Both measures are read in the first generated row, in which visual heads are chosen everywhere but in the "
    "comparison with text below. The first moment is that of a language model that has never seen a picture, with an "
    "untrained adapter. *By chance*: what two unrelated sets of so many heads share on average. *From*: the first "
    f"moment before the last from which on ρ with the last stays at {NEAR:g} or above."
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
        f"lists that a text-only model read, both in the last prompt row, which produces the answer: by "
        f"{listed(parts)}, on average over the rows above (claim 10 counts only "
        "models with another trained language model of their shape). The text-only models "
        f"themselves count rightly in {listed(scores)} of these lists. On a picture the region is that of the one "
        "marked "
        "object, on a list all words of the asked class." + ("" if OTHER in means else f" {ALONE}")
    )


def choices(found: pd.DataFrame) -> str:
    """What comes out by other measures and rows; found: `emergence.by_choice`."""
    if found.empty:
        return ""
    there = [one for one in CHOICES if one in set(zip(found["measure"], found["query"], strict=True))]
    lines = []
    for name, rows in found.groupby("model", sort=False):
        told = rows.set_index(["measure", "query"])
        cells = [_beside(told.loc[one, "own"], told.loc[one, "control"]) if one in told.index else "–" for one in there]
        lines.append((code(str(name)), *cells))
    means = found.groupby(["measure", "query"])[["own", "control"]].mean()
    lines.append(("mean", *[_beside(means.loc[one, "own"], means.loc[one, "control"]) for one in there]))
    return (
        table(("model", *[f"{MEASURES[measure]}, {ROWS[row]}" for measure, row in there]), lines)
        + "\n\nCorrelation over heads with the lists read by the model's own text-only model and, in brackets, with "
        "those of the hardest control. The first column is the choice of claim 10. The others tell how much hangs on "
        "it: heads are chosen by image weight in the first generated row wherever this book speaks of *visual heads*."
    )


def _beside(own: float, control: float) -> str:
    return f"{own:.2f}" + (f" ({control:.2f})" if np.isfinite(control) else "")


def stores(
    moments: Mapping[str, xr.Dataset], read: Mapping[str, xr.Dataset], fresh: Mapping[str, xr.Dataset], results: str
) -> str:
    """The files with moments of training and with lists of words: what they hold, of which weights and definitions.

    read, fresh: lists by text-only model, and by the same network before its training, kept in the folder `results`.
    """
    lines = []
    for name, ds in moments.items():
        told = [json.loads(str(one)).get("identity", {}) for one in np.atleast_1d(ds["provenance"].values)]
        versions = listed(sorted({escaped(str(one.get("definitions", "–"))) for one in told}))
        held = f"{ds.sizes['model']} moments, {ds.sizes['sample']} samples each"
        lines.append((code(f"data/miniatures/{name}/{MOMENTS_FILE}"), held, _weights(told[-1]), versions))
    for ending, lists in (("", read), (UNTRAINED, fresh)):
        for name, ds in lists.items():
            place = Path(results) / f"{name}{ending}" / STORE
            told = dict(read_attrs(place).get("identity", {}))
            held, version = f"{ds.sizes['sample']} lists", escaped(str(told.get("version", "–")))
            lines.append((code(f"{results}/{name}{ending}/{STORE}"), held, _weights(told), version))
    if not lines:
        return ""
    return table(("file", "what it holds", "weights", "definitions"), lines) + (
        "\n\nOf moments the weights are those of the last, in memory, whose hash is not that of its file. Definitions: "
        "the version of the formulas. A network before its training has fresh weights; told are "
        "those of the checkpoint whose shape it has."
    )


def _weights(identity: Mapping[str, object]) -> str:
    """The first digits of the hash of the weights, as in the other tables of stores."""
    told = identity.get("weights", "")
    hashes = sorted({str(one) for one in told.values()}) if isinstance(told, Mapping) else [str(told)]
    return listed([code(one.rpartition(":")[2][:12]) for one in hashes if one]) or "–"
