"""The words for what stores and tables name by identifiers: one map for charts and prose. An unknown name stays."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

BENCHMARKS = {
    "looktwice": "LookTwice-QA", "pope": "POPE", "mmbench": "MMBench", "seedbench": "SEED-Bench", "qbench": "Q-Bench",
}  # fmt: skip
RANKINGS = {
    "image_weight": "image weight",
    "region_weight": "region weight",
    "weight_concentration": "weight × concentration",
    "sink_free": "image weight without sinks",
}
"""Rankings whose name is no word; the others (gaze, detection, published lists) go by their own."""
ANSWER_FORMATS = {"free": "in free form", "letters": "with letters"}
POSITIONS = {"all": "all positions", "after_image": "after the image"}
FIGURES = {
    "recall": "objects found",
    "precision": "found ones right",
    "box_accuracy": "in the box or not",
    "box_recall": "those in the box",
    "general": "count, marked kind",
    "object": "count, named kind",
    "super": "count, category",
    "number": "count, other wording",
    "name": "what is marked",
    "exists": "is there one",
    "which": "which is there",
    "location": "where it is",
    "relation": "where from another",
    "quality": "picture quality",
    "distortion": "which distortion",
    "appearance": "how it looks",
    "letters": "any, with options",
    "tally": "numbers in tallies",
}
"""What the curves of training measure."""
MOMENTS = {"adapter": "before alignment", "aligned": "after alignment"}


def benchmark(name: str) -> str:
    """`LookTwice-QA, letters` for `looktwice, letters`."""
    task, comma, rest = name.partition(", ")
    return BENCHMARKS.get(task, task) + comma + rest


def in_sentence(text: str) -> str:
    """A text that a record holds, with the benchmarks in it by their titles."""
    return re.sub(rf"\b({'|'.join(BENCHMARKS)})\b", lambda match: BENCHMARKS[match[0]], text)


def ranking(name: str) -> str:
    """`weight × concentration` for `weight_concentration`."""
    return RANKINGS.get(name, name.replace("_", " "))


def mode(name: str) -> str:
    """`zero, after the image` for `zero, after_image`."""
    done, comma, positions = name.partition(", ")
    return done.replace("_", " ") + comma + POSITIONS.get(positions, positions)


def figure(name: str) -> str:
    """`objects found` for `recall`: what a curve of training measures."""
    return FIGURES.get(name, name.replace("_", " "))


def moment(name: str) -> str:
    """`step 5 000 of tuning` for `tuning-5000`: a moment of training."""
    kind, _, step = name.partition("-")
    if not step.isdigit():
        return name
    if kind == "final":
        return f"the end (step {thousands(int(step))})"
    return MOMENTS.get(kind, f"step {thousands(int(step))} of {kind}")


def thousands(number: int) -> str:
    """`5 000`, with a space that does not break."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


OF_COLUMN: dict[str, Callable[[str], str]] = {
    "task": benchmark, "group": benchmark, "other": benchmark, "ranking": ranking, "mode": mode, "moment": moment,
}  # fmt: skip
"""Columns of tables whose values have words."""


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table with words for the identifiers in those of its columns that OF_COLUMN names."""
    told = {name: table[name].map(str).map(words) for name, words in OF_COLUMN.items() if name in table.columns}
    return table.assign(**told) if told else table
