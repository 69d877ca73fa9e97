"""Kinds of questions, which stores do not hold, from the benchmarks' files that the samples were drawn from."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import xarray as xr

from visualheads.catalog import data_folder
from visualheads.errors import UnknownTaskError
from visualheads.tasks import registry
from visualheads.tasks.records import MissingDataError


def with_kinds(ds: xr.Dataset) -> xr.Dataset:
    """The dataset (model, …, sample) with `kind` along sample: the kind of question, as the benchmark's files tell it.

    SEED-Bench and MMBench name kinds, Q-Bench what is asked and about what; POPE's are yes and no, LookTwice-QA's the
    right counts (`Question.stratum`). "" where the shipped files are not those that the samples came from, or that is
    unknown.
    """
    tasks, questions = (np.atleast_1d(ds[name].values).astype(str) for name in ("task", "question_id"))
    kinds = np.full(len(tasks), "", dtype=object)
    if "provenance" not in ds.coords:
        return ds.assign_coords(kind=("sample", kinds))
    seen = np.asarray(ds["n_image_tokens"].transpose("model", "sample").values, dtype=float) > 0
    for told, own in zip(np.atleast_1d(ds["provenance"].values).astype(str), seen, strict=True):
        asked = json.loads(told).get("identity", {}).get("task_files", "")
        for task in dict.fromkeys(tasks[own]):
            files = asked.get(task, "") if isinstance(asked, dict) else str(asked)
            known = _kinds(task, str(data_folder()), files) if files else {}
            for place in np.flatnonzero(own & (tasks == task)):
                kinds[place] = kinds[place] or known.get(questions[place], "")
    return ds.assign_coords(kind=("sample", kinds))


@lru_cache(maxsize=32)
def _kinds(task: str, folder: str, files: str) -> dict[str, str]:
    """Question → kind in the files of the data folder; empty where their hash is another one than `files`."""
    del folder  # where the registry looks: another folder is another entry
    try:
        benchmark = registry.task(task)
        if benchmark.files_hash() != files:
            return {}
        there = [split for split in benchmark.splits if not benchmark.missing(split)]
        return {q.question_id: q.stratum for split in there for q in benchmark.reading(split).questions}
    except (UnknownTaskError, MissingDataError):
        return {}
