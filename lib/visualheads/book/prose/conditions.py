"""Text for the comparison of conditions."""

from __future__ import annotations

import math

import xarray as xr

from visualheads.analysis import head_tables
from visualheads.book.prose.words import between, percent
from visualheads.charts.labels import ANSWER_FORMATS
from visualheads.tasks.prompts import RECTANGLE

NO_REFERENT = "plain-general"
ANSWERED = {"free": "Answered in free form", "letters": "Answered with one of the letters A–D"}
SAID = f"In free form the prompt with the box also says “{RECTANGLE.strip()}”"


def condition_scores(ds: xr.Dataset) -> str:
    """Best and worst condition, and what the box and the name change."""
    table = head_tables.accuracy_table(ds)
    if table.empty:
        return "The answers of these samples are unknown, so nothing is scored."
    parts = []
    for form, group in table.groupby("format", sort=False):
        best, worst = group.loc[group["estimate"].idxmax()], group.loc[group["estimate"].idxmin()]
        way = ANSWERED.get(str(form), f"Answered as {form}")
        if len(group) == 1:
            parts.append(f"{way}, {percent(best['estimate'])} of {int(best['n'])} questions are right.")
            continue
        parts.append(
            f"{way}, accuracy runs from {percent(worst['estimate'])} ({worst['condition']}) to "
            f"{percent(best['estimate'])} ({best['condition']}), with {int(best['n'])} questions each."
        )
    text = " ".join(parts)
    if NO_REFERENT in set(table["condition"]):
        text += (
            f" In `{NO_REFERENT}` the question says “these” and nothing in the picture says which, so that an "
            "answer can only be chosen among the numbers there are: scores tell how well a model guesses. The paper "
            "asks it, too."
        )
    return text


def pattern_correlations(
    ds: xr.Dataset, one: str, other: str, query: str = head_tables.QUERY
) -> dict[str, dict[str, float]]:
    """Correlation of two conditions' head patterns across halves (value), and its ceiling: their own split-half
    correlations; by answer format, without formats that lack a condition."""
    found = {}
    for form in head_tables.formats(ds):
        part = head_tables.where(ds, format=form)
        if not {one, other} <= set(head_tables.conditions(part)):
            continue
        table = head_tables.pattern_agreement(part, query=query).set_index(["condition", "other"])["value"]
        # a pattern that disagrees with its own other half has no reliability: nothing can agree with it
        own = math.sqrt(max(0.0, float(table[(one, one)])) * max(0.0, float(table[(other, other)])))
        found[form] = {"value": float(table[(one, other)]), "ceiling": own}
    return found


def condition_agreement(ds: xr.Dataset, query: str = head_tables.QUERY) -> str:
    """What drawing the box and naming the object do to the head pattern."""
    texts = []
    for words, one, other, more in (
        ("Drawing the box (plain-object against visual-object)", "plain-object", "visual-object", SAID),
        ("Naming the object (visual-general against visual-object)", "visual-general", "visual-object", ""),
    ):
        found = pattern_correlations(ds, one, other, query)
        if not found:
            continue
        told = [
            f"ρ = {at['value']:.3f} {ANSWER_FORMATS.get(form, form)} (two halves of one condition: {at['ceiling']:.3f})"
            for form, at in found.items()
        ]
        texts.append(f"{words}: the two patterns of image weight over heads correlate with {' and '.join(told)}.")
        if more and "free" in found:
            texts.append(more)
    if not texts:
        return "This task has a single condition."
    return (
        " ".join(texts)
        + " A value at the ceiling means that the two conditions differ by no more than two samples of pictures do. "
        "Halves never share a picture, so that no pair profits from common noise."
    )


def accuracy_sentence(ds: xr.Dataset) -> str:
    """Accuracy over all conditions, with interval."""
    table = head_tables.accuracy_table(ds, by=("task",))
    if table.empty:
        return ""
    told = table.iloc[0]
    return f"{percent(told['estimate'])} right (95 % interval {between(100 * told['lower'], 100 * told['upper'], 0)} %)"
