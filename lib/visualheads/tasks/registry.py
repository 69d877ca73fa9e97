"""Benchmarks by name: a class under `@register` in a module of `MODULES`, of a plug-in, or of your own."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from visualheads import plugins
from visualheads.errors import ParameterError, UnknownTaskError, got
from visualheads.paths import slug_of
from visualheads.tasks.benchmark import Benchmark

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
    names = task_names()
    if name not in names:
        raise UnknownTaskError(got("task", name, names))
    if data is not None and not isinstance(data, (str, Path)):
        raise ParameterError(got(f"task {name}: data", data, "a path, or None for the shipped scenes"))
    kind = _REGISTERED[name]
    try:
        return kind(data, **settings)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ParameterError(f"task {name!r} does not have these settings: {', '.join(settings)}.") from None
