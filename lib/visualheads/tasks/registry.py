"""Benchmarks by name: a class under `@register` in a module of `MODULES`, of a plug-in, or of your own."""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads import plugins
from visualheads.cards import data_folder
from visualheads.errors import ParameterError, UnknownTaskError, checked_name, got
from visualheads.paths import slug_of
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.records import MissingDataError

MODULES = ("looktwice", "pope", "multiple_choice", "table")
"""Modules of `visualheads.tasks` that register benchmarks."""

_REGISTERED: dict[str, type[Benchmark]] = {}
Kind = TypeVar("Kind", bound=type[Benchmark])


def register(kind: Kind) -> Kind:
    """Make a Benchmark known by its name: a class decorator.

    Raises
    ------
    ParameterError
        For what is no Benchmark, or for the name of another; running a class's own cell or file again replaces it.
    """
    if not (isinstance(kind, type) and issubclass(kind, Benchmark) and slug_of(str(kind.name)) == kind.name):
        raise ParameterError(got("register", kind, "a subclass of Benchmark with a name of letters, digits and -"))
    if kind.name in _REGISTERED and _origin(_REGISTERED[kind.name]) != _origin(kind):
        raise ParameterError(f"a benchmark named {kind.name!r} is registered already; give the new one its own name.")
    _REGISTERED[kind.name] = kind
    return kind


def _origin(kind: type[Benchmark]) -> tuple[str, str]:
    """The file (in notebooks the module) and the name of a class."""
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None) or kind.__module__, kind.__qualname__


def task_names() -> tuple[str, ...]:
    """Return the names of all benchmarks, those of plug-ins included.

    Returns
    -------
    tuple of str
        What `task` takes.
    """
    for module in MODULES:
        import_module(f"visualheads.tasks.{module}")
    plugins.load(plugins.TASKS)
    return tuple(_REGISTERED)


def task(name: str, data: str | Path | None = None, **settings: Any) -> Benchmark:
    """Return a benchmark by name. Its files are read when samples are asked for.

    Parameters
    ----------
    name : str
        One of `task_names()`.
    data : path, optional
        A folder with the official files; of "table" the table itself. By default the shipped scenes,
        `data/scenes/<name>` of the project or of the folder that the environment variable VISUALHEADS_DATA names.
    **settings
        Of the benchmark, such as `highest` of looktwice.

    Returns
    -------
    Benchmark
        Its `samples(condition=…, n=…)` are what `trace` takes.

    Raises
    ------
    UnknownTaskError
        For a name that is not registered.
    MissingDataError
        For a folder or table that does not exist.
    ParameterError
        For settings that the benchmark does not have.
    """
    checked_name("task", name, task_names(), UnknownTaskError)
    if data is not None and not isinstance(data, (str, Path)):
        raise ParameterError(got(f"task {name}: data", data, "a path, or None for the shipped scenes"))
    kind = _REGISTERED[name]
    try:
        return kind(data, **settings)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ParameterError(f"task {name!r} does not have these settings: {', '.join(settings)}.") from None


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
        for called in dict.fromkeys(tasks[own]):
            files = asked
            while isinstance(files, dict):  # by store, and of shipped ones by benchmark
                files = files.get(called, "")
            known = _of_files(called, str(data_folder()), files) if files else {}
            for place in np.flatnonzero(own & (tasks == called)):
                found[place] = found[place] or known.get(names[place])
    return found


@lru_cache(maxsize=32)
def _of_files(called: str, folder: str, files: str) -> dict[str, Known]:
    """What the files of the data folder tell of each question by id; none where their hash is not `files`."""
    del folder  # where the registry looks: another folder is another entry
    try:
        benchmark = task(called)
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
