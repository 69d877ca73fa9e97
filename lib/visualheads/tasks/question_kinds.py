"""Kinds of questions and their choices, which stores do not hold, from the files that the samples were drawn from."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.cards import data_folder
from visualheads.errors import UnknownTaskError
from visualheads.tasks import registry
from visualheads.tasks.records import MissingDataError


class Known(NamedTuple):
    """What is kept of a question: its files may hold pictures."""

    kind: str
    options: int


def with_kinds(ds: xr.Dataset) -> xr.Dataset:
    """The dataset (model, …, sample) with `kind` along sample: the kind of question, as the benchmark's files tell it.

    SEED-Bench and MMBench name kinds, Q-Bench what is asked and about what; POPE's are yes and no, LookTwice-QA's the
    right counts (`Question.stratum`). "" where the shipped files are not those that the samples came from, or that is
    unknown.
    """
    kinds = [known.kind if known else "" for known in _known(ds)]
    return ds.assign_coords(kind=("sample", np.array(kinds, dtype=object)))


def option_counts(ds: xr.Dataset) -> NDArray[np.int64]:
    """How many choices the benchmark's files give to each sample's question, (sample); 0 where that is unknown."""
    return np.array([known.options if known else 0 for known in _known(ds)], dtype=np.int64)


def _known(ds: xr.Dataset) -> list[Known | None]:
    """What the files that each sample came from tell of its question; None where these are not in the data folder."""
    tasks, names = (np.atleast_1d(ds[name].values).astype(str) for name in ("task", "question_id"))
    found: list[Known | None] = [None] * len(tasks)
    if "provenance" not in ds.coords:
        return found
    seen = np.asarray(ds["n_image_tokens"].transpose("model", "sample").values, dtype=float) > 0
    for told, own in zip(np.atleast_1d(ds["provenance"].values).astype(str), seen, strict=True):
        asked = json.loads(told).get("identity", {}).get("task_files", "")
        for task in dict.fromkeys(tasks[own]):
            files = asked.get(task, "") if isinstance(asked, dict) else str(asked)
            known = _of_files(task, str(data_folder()), files) if files else {}
            for place in np.flatnonzero(own & (tasks == task)):
                found[place] = found[place] or known.get(names[place])
    return found


@lru_cache(maxsize=32)
def _of_files(task: str, folder: str, files: str) -> dict[str, Known]:
    """What the files of the data folder tell of each question by id; none where their hash is not `files`."""
    del folder  # where the registry looks: another folder is another entry
    try:
        benchmark = registry.task(task)
        if benchmark.files_hash() != files:
            return {}
        there = [split for split in benchmark.splits if not benchmark.missing(split)]
        return {
            q.question_id: Known(q.stratum, len(q.options))
            for split in there
            for q in benchmark.reading(split).questions
        }
    except (UnknownTaskError, MissingDataError):
        return {}
