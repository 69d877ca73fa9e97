"""Text about one model on several benchmarks: their own figures, and what its heads do on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import head_means
from visualheads.analysis.head_tables import QUERY
from visualheads.book.prose.training import CHAPTER
from visualheads.book.prose.words import between, code, counted, escaped, listed, missing, table
from visualheads.charts.labels import benchmark, thousands
from visualheads.heads.agreement import agreement
from visualheads.heads.ranking import real_samples

NEEDS_BENCHMARKS = "the answers of these samples are unknown, so no benchmark has a score"
NEEDS_SEVERAL = "a comparison of benchmarks needs this model traced on two of them (`visualheads book` traces all)"
REFERENT, ROUNDS = "accuracy, questions with a referent", "accuracy, all rounds"
"""Accuracies over the very prompts that the training record's accuracy counts."""
STABLE = 0.5
"""Split-half reliability from which the order of heads is called one of the network, not of the pictures (ours)."""
KEYS = {
    "accuracy": "accuracy", "circular": "circular", "precision": "precision", "recall": "recall", "F1": "f1",
    "share of yes": "yes_rate",
}  # fmt: skip
"""Figure → its name in a training record; the others were not measured with white pictures."""


def own_figures(found: pd.DataFrame, record: Mapping[str, Any] | None = None) -> str:
    """Every benchmark's own figures of one model, beside chance, blind and question-only where training measured them.

    found: `figures.own_figures` of one model; record: its training record.
    """
    if found.empty:
        return missing(NEEDS_BENCHMARKS)
    known = (record or {}).get("benchmarks", {})
    lines, samples = [], []
    for task, rows in found.groupby("task", sort=False):
        told = known.get(task, {})
        whole = _whole(rows["figure"].tolist())
        for place, row in enumerate(rows.to_dict("records")):
            shown = _share(row["estimate"], row["lower"], row["upper"])
            title = escaped(benchmark(str(task)))
            over_all = row["figure"] == whole
            beside = [
                _percent(told.get("chance")) if over_all else "–",
                _percent(_blind(told, row["figure"], over_all)),
                _percent(told.get("question_only", {}).get("accuracy")) if over_all else "–",
            ]
            lines.append((title if place == 0 else "", escaped(row["figure"]), shown, row["n"], *beside))
            items = told.get("seen", {}).get("n", 0)
            if over_all and items > row["n"]:
                samples.append(f"{thousands(row['n'])} of {thousands(items)} of {title}")
    header = ("benchmark", "figure", "% (95 % interval)", "prompts", "chance %", "white picture %", "question only %")
    text = table(header, lines)
    text += (
        "\n\nFigures are computed from the answers in this model's stores, as each benchmark defines them: POPE counts "
        "yes as the positive class; MMBench's *circular* counts a question where all rounds, with the choices moved "
        "on, are right, *vanilla* asks once. Intervals are over pictures."
    )
    if samples:
        text += f" They are from samples: {listed(samples)}; over all items: the chapter *{CHAPTER}*."
    return text + (_of_record(known) if known else "")


def _of_record(known: Mapping[str, Any]) -> str:
    """What the columns from the training record are, and whether its scores lie above what needs no picture."""
    low = [escaped(benchmark(name)) for name, told in known.items() if told and not told.get("above_chance")]
    verdict = (
        f"accuracy is not clearly above chance and questions alone on {listed(low)}."
        if low
        else "accuracy lies above chance and above questions alone with its whole interval on every benchmark."
    )
    return (
        " The last three columns come from `training.json` beside the checkpoint, over all shipped items in the "
        "benchmark's first format (LookTwice-QA in both, without questions that have no referent): random answers of "
        "the right form, the same model with white pictures, and the best answerer that sees only questions and knows "
        "how frequent each answer is (of the other questions). Chance and questions alone are told beside the accuracy "
        f"over all prompts that they belong to. In that record, over all items, {verdict} The record's intervals are "
        "over pictures for MMBench and POPE; for LookTwice-QA they take prompts as independent and are too narrow."
    )


def _whole(figures: list[str]) -> str:
    """The figure that is the accuracy over all prompts which the training record counts."""
    return next((name for name in (REFERENT, ROUNDS) if name in figures), "accuracy")


def _blind(told: Mapping[str, Any], figure: str, over_all: bool) -> float | None:
    """The same figure with white pictures; None where it was not measured."""
    if over_all and "blind" in told:
        return told["blind"]["accuracy"]
    return told.get("blind_figures", {}).get(KEYS.get(figure, ""))


def by_benchmark(found: pd.DataFrame) -> str:
    """How far weight and concentration differ between benchmarks, from `figures.statistic_intervals` of one model."""
    if found.empty or found["task"].nunique() < 2:
        return missing(NEEDS_SEVERAL)
    parts = []
    for words, rows in found.groupby("statistic", sort=False):
        low, high = rows.loc[rows["estimate"].idxmin()], rows.loc[rows["estimate"].idxmax()]
        apart = "do not overlap" if high["lower"] > low["upper"] else "overlap"
        fresh = rows["untrained"].dropna()
        control = (
            f"; in an untrained network of the same shape it is {between(fresh.min(), fresh.max())}"
            if len(fresh) else ""
        )  # fmt: skip
        parts.append(
            f"Mean {words} runs from {low['estimate']:.3f} ({benchmark(low['task'])}) to "
            f"{high['estimate']:.3f} ({benchmark(high['task'])}), whose intervals {apart}{control}."
        )
    return " ".join(parts)


def untrained_heads(trained: pd.DataFrame, fresh: pd.DataFrame | None) -> str:
    """How far trained heads lie from those of untrained networks of their shapes: two `comparison.head_statistics`."""
    if fresh is None or fresh.empty:
        return missing("no untrained network was traced")
    both = trained.merge(fresh, on=["model", "task"], suffixes=("", "_fresh"))
    if both.empty:
        return missing("no untrained network of these models' shapes was traced")
    parts = []
    for name, words in (("image_weight", "image weight"), ("concentration", "concentration")):
        own, other = both[name], both[f"{name}_fresh"]
        parts.append(
            f"mean {words} is {between(other.min(), other.max())} in untrained networks, "
            f"{between(own.min(), own.max())} in trained ones"
        )
    pairs = counted(len(both), "pair")
    return (
        f"Crosses: networks with random weights of the same shapes ({pairs} of model and benchmark): "
        f"{listed(parts)}. Image tokens are most of a prompt, so even such a network gives them most of its attention, "
        "evenly spread: what training makes is the distance from the crosses."
    )


def against_untrained(ds: xr.Dataset, control: xr.Dataset | None, why: str = "it was not asked for") -> str:
    """Mean and spread over heads of a model and of the untrained network of its shape, and how stable their order.

    why   there is no control
    """
    if control is None:
        return missing(f"the untrained network of this shape was not traced ({escaped(why.rstrip('.'))})")
    parts, spreads = [], []
    for name, words in (("image_weight", "image weight"), ("concentration", "concentration")):
        told = []
        for one in (ds, control):
            values = head_means(real_samples(one), name)
            values = values[np.isfinite(values)]
            told.append((values.mean(), values.min(), values.max(), values.std()) if len(values) else (np.nan,) * 4)
        (mean, low, high, spread), (fresh, fresh_low, fresh_high, fresh_spread) = told
        parts.append(
            f"{words}: trained {mean:.2f} (heads from {between(low, high)}, standard deviation {spread:.3f}), "
            f"untrained {fresh:.2f} (from {between(fresh_low, fresh_high)}, {fresh_spread:.3f})"
        )
        if spread > 0:
            spreads.append(f"{fresh_spread / spread:.2f} times as widely over {words}")
    text = f"Mean over heads of {'; '.join(parts)}."
    if spreads:
        text += f" Untrained heads spread {listed(spreads)} as trained ones do."
    own, other = (_stability(one) for one in (ds, control))
    if np.isfinite(other):
        text += (
            f" Their order by image weight correlates between halves of the pictures with ρ = {other:.2f} (corrected "
            f"to all pictures; trained: {own:.2f})"
        )
        text += (
            ": random weights alone make heads differ, whatever the picture, so to differ is no sign of learning by "
            "itself."
            if other >= STABLE
            else "."
        )
    return text


def _stability(ds: xr.Dataset) -> float:
    """Split-half reliability of the heads' order by image weight, as `vh.agreement` has it; NaN of a single picture."""
    return float(agreement(ds, by=["image_weight"], n_boot=1, query=QUERY)["reliability"].isel(model=0, ranking=0))


def figure_table(found: pd.DataFrame) -> str:
    """Every model's own figures of the benchmarks that have several, from `figures.own_figures`."""
    several = found[found.groupby("task")["figure"].transform("nunique") > 1] if len(found) else found
    several = (
        several[~several["figure"].isin(["accuracy"]) | (several["task"] != "looktwice")] if len(several) else found
    )
    if several.empty:
        return missing("no benchmark with several figures was traced")
    columns = list(dict.fromkeys(zip(several["task"], several["figure"], strict=True)))
    lines = []
    for model, rows in several.groupby("model", sort=False):
        by_name = {(row["task"], row["figure"]): row for row in rows.to_dict("records")}
        cells = []
        for column in columns:
            row = by_name.get(column)
            cells.append("–" if row is None else _share(row["estimate"], row["lower"], row["upper"], 0))
        lines.append((code(str(model)), *cells))
    header = [f"{benchmark(task)}: {figure}, %" for task, figure in columns]
    return table(("model", *[escaped(name) for name in header]), lines)


def _percent(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{100 * value:.0f}"


def _share(estimate: float, lower: float, upper: float, digits: int = 1) -> str:
    if not np.isfinite(estimate):
        return "–"
    return f"{100 * estimate:z.{digits}f} ({between(100 * lower, 100 * upper, digits)})"
