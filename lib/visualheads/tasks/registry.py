"""Benchmarks by name. A new one is a new file with a class under `@register`, and its name in `MODULES`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from visualheads.errors import ParameterError, UnknownTaskError, got
from visualheads.tasks.benchmark import Benchmark

MODULES = ("looktwice", "pope", "mmbench", "seedbench", "qbench")
"""Modules of `visualheads.tasks` that register benchmarks."""

_REGISTERED: dict[str, type[Benchmark]] = {}
Kind = TypeVar("Kind", bound=type[Benchmark])


def register(kind: Kind) -> Kind:
    """Class decorator: make a Benchmark known by its name. Raises ParameterError for a name already taken."""
    if kind.name in _REGISTERED:
        raise ParameterError(f"a benchmark named {kind.name!r} is registered already; give the new one its own name.")
    _REGISTERED[kind.name] = kind
    return kind


def task_names() -> tuple[str, ...]:
    """Names of all benchmarks."""
    for module in MODULES:
        import_module(f"visualheads.tasks.{module}")
    return tuple(_REGISTERED)


def task(name: str, data: str | Path | None = None, **settings: Any) -> Benchmark:
    """A benchmark by name: "looktwice", "pope", "mmbench", "seedbench" or "qbench".

    data      a folder with the official files; None: the shipped scenes (`data/scenes/<name>` of the project, or of
              the folder that the environment variable VISUALHEADS_DATA names)
    settings  of the benchmark, such as `highest` of looktwice

    Raises UnknownTaskError, MissingDataError for a folder that does not exist, ParameterError for unknown settings.
    Files are read when samples are asked for.
    """
    names = task_names()
    if name not in names:
        raise UnknownTaskError(got("task", name, names))
    kind = _REGISTERED[name]
    try:
        return kind(data, **settings)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ParameterError(f"task {name!r} does not have these settings: {', '.join(settings)}.") from None
