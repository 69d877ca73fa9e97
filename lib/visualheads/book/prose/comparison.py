"""What pages compare, what kind of evidence that is and where it is from; and the comparison of conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis import lineage
from visualheads.analysis.benchmarks import tasks_of
from visualheads.analysis.models import WHITE
from visualheads.book.prose.conditions import ANSWERED
from visualheads.book.prose.words import agreeing, between, code, counted, escaped, listed, missing, table
from visualheads.charts.labels import benchmark
from visualheads.heads.patterns import ALIKE, DIFFERENT, MARGIN
from visualheads.tasks.prompts import RECTANGLE

__all__ = ["compared", "condition_kinds", "in_miniature", "missing", "sources"]

MINIATURE = "mini-"


def compared(ds: xr.Dataset) -> str:
    """Which models and benchmarks a page compares, and what kind of evidence that is; further trainings are no models
    compared."""
    own = lineage.without_variants(ds)
    names = [str(name) for name in np.atleast_1d(own["model"].values)]
    text = f"Compared here: {counted(len(names), 'model')} ({listed([code(name) for name in names])}) on "
    return f"{text}{listed([escaped(benchmark(task)) for task in tasks_of(ds)])}. {in_miniature(names)}".rstrip()


def in_miniature(names: Sequence[str]) -> str:
    """What kind of evidence models are, where some or all of them are miniatures; nothing where none is."""
    small = [name for name in names if name.startswith(MINIATURE)]
    if not small:
        return ""
    if len(small) < len(names):
        which = f"{listed([code(name) for name in small])} {agreeing(len(small), 'is a miniature', 'are miniatures')}"
        found = f"what is found in {agreeing(len(small), 'it', 'them')}"
        mixed = " Means over models are over both kinds here; the page of claims judges each kind by itself."
    else:
        which = "The model here is a miniature" if len(small) == 1 else "All models here are miniatures"
        found, mixed = "what is found", ""
    return (
        f"{which}, asked about scenes of pictograms in the benchmarks' formats: {found} holds **in miniature**, is no "
        f"evidence about large models, and scores do not compare with published ones.{mixed}"
    )


def sources(ds: xr.Dataset, results: str = "data/results") -> str:
    """The stores that a page was made from: their place, the weights and the definitions, one line per model."""
    lines = []
    for index, name in enumerate(np.atleast_1d(ds["model"].values).astype(str)):
        one = ds.isel(model=index)
        seen = one["n_image_tokens"].astype(float).values > 0
        tasks = list(dict.fromkeys(one["task"].values.astype(str)[seen].tolist()))
        white = int((seen & (one["control"].values.astype(str) == WHITE)).sum())
        samples = f"{int(seen.sum()) - white}" + (f" (and {white} with white pictures)" if white else "")
        told = json.loads(str(one["provenance"].item())).get("identity", {})
        weights = told.get("weights", "")
        hashes = sorted(set(weights.values())) if isinstance(weights, dict) else [str(weights)]
        shown = listed([code(value.rpartition(":")[2][:12]) for value in hashes if value]) or "–"
        stores = listed([code(task) for task in tasks])
        lines.append((code(name), stores, samples, shown, escaped(str(told.get("definitions", "–")))))
    return (
        table(("model", "stores", "samples", "weights", "definitions"), lines)
        + f"\n\nA store is `{results}/<model>/<benchmark>.zarr` (with white pictures: `…-white.zarr`; untrained "
        "networks: `…-untrained.zarr`); *definitions* is the version of the formulas. The numbers of this "
        "page are computed from these when the page runs, and where it tells of training from the "
        "records beside the checkpoints."
    )


def condition_kinds(pairs: pd.DataFrame) -> str:
    """What drawing the box and naming the object do to head patterns, one paragraph per answer format.

    `pairs` is a result of `patterns.pairs`.
    """
    if pairs.empty:
        return "No model was traced in two of these conditions."
    parts = [
        f"*{ANSWERED.get(str(form), f'Answered as {form}')}.* {_kinds(rows)}"
        for form, rows in pairs.groupby("format", sort=False)
    ]
    return "\n\n".join(parts)


def _kinds(pairs: pd.DataFrame) -> str:
    parts = []
    for kind, rows in pairs.groupby("kind", sort=False):
        counts = rows["verdict"].value_counts()
        worst = rows.loc[rows["shortfall"].idxmax()]
        alike, different = int(counts.get(ALIKE, 0)), int(counts.get(DIFFERENT, 0))
        open_ = len(rows) - alike - different
        parts.append(
            f"For **{kind}** ({counted(len(rows), 'pair')}), {alike} {agreeing(alike, 'is', 'are')} alike, "
            f"{different} {agreeing(different, 'differs', 'differ')} and {open_} {agreeing(open_, 'is', 'are')} "
            f"undecided; the mean shortfall is {rows['shortfall'].mean():.3f}, "
            f"the largest {worst['shortfall']:.3f} "
            f"({worst['group']} against {worst['other']} in {worst['model']}; 95 % interval "
            f"{between(worst['lower'], worst['upper'], 3)})."
        )
    return " ".join(parts)


SHORTFALL = (
    "*Shortfall* is how far a pair's rank correlation stays below what two halves of the same condition reach; a pair "
    f"is *alike* where its whole interval lies below {MARGIN:g} (ours), *different* where it lies above 0 and not "
    "below that margin. The paper says that the box changes nothing and the name does (claim 4), of how much heads "
    "look at the picture. In free form, a prompt with the box also has the sentence "
    f"“{RECTANGLE.strip()}” (the paper's released code): what differs between its pairs with and "
    "without the box may be due to the box or to that sentence. With letters the box alone is added."
)
"""What `condition_kinds` counts and what its pairs differ in, told once on a page."""
