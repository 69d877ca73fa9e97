"""What could pass for a finding about heads and is none: kinds of question, answer formats, guesses, few models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from helpers.model_datasets import model_dataset, questions, random_pattern
from visualheads.analysis import benchmarks as comparison
from visualheads.analysis import scores
from visualheads.heads import patterns
from visualheads.store import schema
from visualheads.tasks import registry, task


def of_seedbench(samples: int, files: str) -> xr.Dataset:
    """Made-up traces whose questions are the first of the shipped SEED-Bench, drawn from files of this hash."""
    told = task("seedbench").reading("test").questions[:samples]
    ds = model_dataset(samples=questions(("plain",), samples, "seedbench"))
    names = np.array([question.question_id for question in told], dtype=object)
    provenance = schema.provenance({"task_files": files}, {})
    return ds.assign_coords(question_id=("sample", names), provenance=("model", np.array([provenance], dtype=object)))


def test_a_difference_of_kinds_is_none_of_answers() -> None:
    ds = model_dataset(samples=questions(("plain",), 40, "seedbench"))
    kind = np.array(["count"] * 20 + ["where"] * 20, dtype=object)
    right = np.array([1] * 15 + [0] * 5 + [1] * 5 + [0] * 15)  # the first kind is easy
    focus = np.where(kind == "count", 0.8, 0.2)  # and narrowly looked at, whatever the answer
    ds["correct"][:], ds["concentration"][:] = right[None], focus[None, None, None, :, None]
    (pooled,) = comparison.right_wrong(ds, n_boot=50).to_dict("records")
    assert pooled["difference"] == pytest.approx(0.3) and pooled["lower"] > 0
    (row,) = comparison.right_wrong(ds.assign_coords(kind=("sample", kind)), n_boot=50).to_dict("records")
    assert [row[name] for name in ("difference", "lower", "upper")] == pytest.approx([0, 0, 0])


def test_kinds_come_from_the_files_that_were_asked_and_no_others() -> None:
    seedbench = task("seedbench")
    found = registry.with_kinds(of_seedbench(6, seedbench.files_hash()))["kind"].values.tolist()
    assert found == [question.stratum for question in seedbench.reading("test").questions[:6]] and "" not in found
    assert set(registry.with_kinds(of_seedbench(6, "another"))["kind"].values) == {""}
    assert set(registry.with_kinds(model_dataset().drop_vars("provenance"))["kind"].values) == {""}


def test_chance_of_letters_is_that_of_the_choices_there_are() -> None:
    qbench = task("qbench")
    asked = [question for question in qbench.reading(qbench.splits[0]).questions if question.options][:60]
    ds = model_dataset(samples=questions(("plain",), 60, "qbench"))
    names = np.array([question.question_id for question in asked], dtype=object)
    letters = np.array(["ABCD"[q.options.index(q.answer)] for q in asked], dtype=object)
    ds = ds.assign_coords(
        question_id=("sample", names), answer=("sample", letters), format=("sample", ["letters"] * 60)
    )
    from_files = [schema.provenance({"task_files": files}, {}) for files in (qbench.files_hash(), "another")]
    known, unknown = (ds.assign_coords(provenance=("model", np.array([one], dtype=object))) for one in from_files)
    expected = np.mean([1 / len(question.options) for question in asked])
    assert len({len(question.options) for question in asked}) > 1, "questions have other numbers of choices"
    assert scores._chance_of(known) == pytest.approx(expected) and scores._chance_of(unknown) == pytest.approx(1 / 4)


def in_formats(letters: Sequence[int], free: Sequence[int]) -> xr.Dataset:
    """LookTwice-QA and another benchmark, each in both formats, with patterns of these seeds."""
    tasks, forms = ("looktwice", "qbench"), ("letters", "free")
    samples = [
        replace(sample, id=f"{sample.id}-{form}") for name in tasks for form in forms
        for sample in questions(("plain",), 30, name)
    ]  # fmt: skip
    parts = np.repeat(np.arange(4), 30)
    ds = model_dataset(samples=samples, pattern=random_pattern(0))
    weights = [
        model_dataset(samples=samples, pattern=random_pattern(seed))["image_weight"].values
        for seed in (letters[0], free[0], letters[1], free[1])
    ]
    ds["image_weight"][:] = np.choose(parts[None, None, None, :, None], weights)
    form = np.array(forms, dtype=object)[parts % 2]
    return ds.assign_coords(format=("sample", form))


def test_profiles_that_differ_by_format_alone_are_no_profiles_of_tasks() -> None:
    ds = in_formats(letters=(1, 1), free=(9, 9))
    pooled = patterns.pairs(patterns.group_agreement(ds, "format"))
    assert set(pooled["verdict"]) == {patterns.DIFFERENT}
    found = patterns.task_pairs(patterns.group_agreement(ds, patterns.TASK_FORMAT))
    verdicts = found.groupby("kind")["verdict"].agg(set).to_dict()
    assert verdicts == {"letters": {patterns.ALIKE}, "free": {patterns.ALIKE}, patterns.FORMATS: {patterns.DIFFERENT}}
    assert found["kind"].value_counts()[patterns.FORMATS] == 2, "each benchmark against itself in the other format"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["A", "B"], 1 / 4), (["D", "C", "B", "A"], 1 / 256), (["C"], 1 / 3), (["A"], 1 / 2), ([], math.nan)],
)
def test_guessing_every_round_right(answers: list[str], expected: float) -> None:
    samples = questions([f"round-{place + 1}" for place in range(len(answers))] or ["round-1"], 1, "mmbench")
    coords = {"format": ["letters"] * len(samples), "answer": answers or [""]}
    ds = model_dataset(samples=samples).assign_coords(
        {name: ("sample", np.array(values, dtype=object)) for name, values in coords.items()}
    )
    assert scores._circular_chance(ds) == pytest.approx(expected, nan_ok=True)
