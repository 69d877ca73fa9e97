"""Benchmarks and adapters of others: packages with entry points, and modules named with --import.

A package names its modules in pyproject.toml; importing them registers what they hold:

    [project.entry-points."visualheads.tasks"]
    counting = "my_package.counting"

    [project.entry-points."visualheads.adapters"]
    my_vision = "my_package.my_vision"
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from visualheads.errors import ParameterError, got

TASKS, ADAPTERS = "visualheads.tasks", "visualheads.adapters"
VARIABLE = "VISUALHEADS_IMPORT"
"""Environment variable with the modules and files to import: kernels of pages and child processes inherit it."""
PREFIX = "visualheads_import_"
"""Files are imported under names of their own: one called random.py must not take the standard library's place."""


def use(names: Sequence[str]) -> None:
    """Import modules or .py files that register benchmarks or adapters, here and in processes started from here.

    Raises
    ------
    ParameterError
        For a module that does not exist or fails.
    """
    found = [_located(name) for name in names]
    for name in found:
        _imported(name)
    if found:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*named(), *found]))


def named() -> tuple[str, ...]:
    """Return the modules and files that `use` was given, for processes elsewhere."""
    return tuple(name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name)


def load(group: str) -> None:
    """Import what packages offer for a group, TASKS or ADAPTERS, and what `use` was given.

    A package that fails is warned of: it must not take the others with it. Raises ParameterError for a failing module
    that `use` was given.
    """
    for name in named():
        _imported(name)
    _load_packages(group)


@cache
def _load_packages(group: str) -> None:
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:  # what others' code may raise, nobody knows
            warnings.warn(
                f"the plug-in {point.name!r} ({point.value}, group {point.group}) cannot be used: "
                f"{type(error).__name__}: {error}; correct or uninstall it.",
                stacklevel=2,
            )


def _located(name: str) -> str:
    """A file's full path, so that other processes find it; a module's name as it is."""
    if not name or "\0" in name:
        raise ParameterError(got("--import", name, "a module, or a file that exists"))
    path = Path(name) if name.endswith(".py") else Path(*name.split(".")).with_suffix(".py")
    if path.is_file():
        return str(path.resolve())
    if name.endswith(".py"):
        raise ParameterError(got("--import", name, "a module, or a file that exists"))
    return name


def _imported(name: str) -> None:
    module = name
    if name.endswith(".py"):  # two folders may hold files of one name
        module = f"{PREFIX}{Path(name).stem}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    if module in sys.modules:
        return
    try:
        if name.endswith(".py"):
            _import_file(module, name)
        else:
            importlib.import_module(module)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # what others' code may raise, nobody knows
        sys.modules.pop(module, None)
        told = f"{type(error).__name__}: {error}"
        raise ParameterError(f"--import {name}: {told}; correct it, or leave it out.") from error


def _import_file(module: str, path: str) -> None:
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise ParameterError(got("--import", path, "a Python file"))
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    spec.loader.exec_module(made)
