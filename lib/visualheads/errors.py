"""Errors a user can act on: each names what was given, what is allowed and how to fix it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any

SHOWN_CHOICES = 12
"""How many allowed values a message lists before it only counts the rest."""
SHOWN_CHARACTERS = 200
"""How much of a value a message shows."""


class VisualHeadsError(ValueError):
    """Base of every error that visualheads raises on purpose. Catch this one to catch them all."""


class UnknownModelError(VisualHeadsError):
    """A model name that is neither in the catalogue, nor a folder, nor a hub id."""


class UnknownTaskError(VisualHeadsError):
    """A task name that is not registered."""


class UnsupportedModelError(VisualHeadsError):
    """A checkpoint or module of a class whose attention cannot be captured; the message says why."""


class CheckpointError(VisualHeadsError):
    """A checkpoint folder that is incomplete, truncated, or has pickled weights only."""


class ImageError(VisualHeadsError):
    """A picture that is missing, corrupt, too large, or lies outside the data folder."""


class RecordError(VisualHeadsError):
    """A malformed record of a benchmark file.

    `path` and `line` (1-based, None where the format has no lines) are attributes and lead the message.
    """

    def __init__(self, message: str, path: str | os.PathLike[str] | None = None, line: int | None = None) -> None:
        self.path = None if path is None else os.fspath(path)
        self.line = line
        where = self.path or ""
        if line is not None:
            where = f"{where}, line {line}" if where else f"line {line}"
        super().__init__(f"{where}: {message}" if where else message)


class BoxError(VisualHeadsError):
    """A box that is empty, not finite, or has no part inside the picture."""


class SampleError(VisualHeadsError):
    """A sample that cannot be asked: no or several pictures, no question, a wrong answer letter, a repeated id."""


class HeadError(VisualHeadsError):
    """Heads that do not exist in the model, an empty head set, or head scores that cannot be read."""


class StoreError(VisualHeadsError):
    """A result store that is missing, damaged, or cannot be written."""


class IdentityMismatch(StoreError):
    """A store made from another checkpoint, task file, precision, seed or version of the definitions.

    `differences` maps each differing key to the pair (in the store, in this run).
    """

    def __init__(self, message: str, differences: dict[str, tuple[object, object]] | None = None) -> None:
        self.differences = dict(differences or {})
        lines = [f"  {key}: store has {old!r}, this run has {new!r}" for key, (old, new) in self.differences.items()]
        super().__init__("\n".join([message, *lines]))


class SchemaError(VisualHeadsError):
    """A dataset that breaks the schema or an invariant; `violations` lists every one of them."""

    def __init__(self, violations: str | Sequence[str]) -> None:
        self.violations = (violations,) if isinstance(violations, str) else tuple(violations)
        count = len(self.violations)
        head = f"{count} violation{'' if count == 1 else 's'} of the dataset schema:"
        super().__init__("\n".join([head, *(f"  - {violation}" for violation in self.violations)]))


class DiskFullError(StoreError):
    """No space left on the disk for what was to be written."""


class DeviceMemoryError(VisualHeadsError):
    """A model, or one sample alone, that is too large for the memory of the device."""


class KernelError(VisualHeadsError):
    """A notebook whose kernel died or could not be started."""


class ParameterError(VisualHeadsError):
    """An argument outside its allowed values."""


class ModeError(ParameterError):
    """An intervention mode that is unknown, or that this model class cannot have."""


class MissingDependencyError(VisualHeadsError):
    """An optional package that the called function needs is not installed."""


def require(*modules: str, extra: str) -> None:
    """Raise MissingDependencyError, with the command that helps, unless all these modules can be imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{', '.join(missing)} cannot be imported; fix: pip install 'visualheads[{extra}]'."
        )


MOST = 2**31 - 1
"""The largest whole number taken: more is a slip, and would ask for more memory than there is."""


SEEDS = 2**64 - 1


def checked_seed(value: Any) -> int:
    """Return a seed as a whole number. Raises ParameterError for anything else."""
    return checked_whole("seed", value, 0, SEEDS)


def checked_whole(what: str, value: Any, lowest: int = 1, highest: int = MOST) -> int:
    """Return a whole number within bounds, numpy's too. Raises ParameterError for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool) and lowest <= int(value) <= highest:
        return int(value)
    raise ParameterError(got(what, value, f"a whole number from {lowest} to {highest}"))


def checked_number(what: str, value: Any, above: float, below: float) -> float:
    """Return a number between bounds, which do not belong to it. Raises ParameterError for anything else."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and above < float(value) < below:
        return float(value)
    raise ParameterError(got(what, value, f"a number above {above:g} and below {below:g}"))


def checked_path(what: str, value: Any) -> Path:
    """Return a path. Raises ParameterError for what is none, or is empty."""
    if isinstance(value, (str, Path)) and str(value) and "\0" not in str(value):
        return Path(value)
    raise ParameterError(got(what, value, "a path"))


def checked_flag(what: str, value: Any) -> bool:
    """Return True or False. Raises ParameterError for anything else."""
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's
        return bool(value)
    raise ParameterError(got(what, value, ["True", "False"], suggest=False))


def got(
    what: str, value: object, allowed: Iterable[object] | str | None = None, fix: str = "", *, suggest: bool = True
) -> str:
    """Return `what`: got `value`; did you mean …?; allowed: …; fix: …` as one line.

    `allowed` is a list of values, or a sentence that describes them. With a list, values close to a given
    string are suggested (difflib) unless `suggest` is False. `fix` is one plain imperative sentence.
    """
    parts = [f"{what}: got {shown(value)}"]
    if isinstance(allowed, str):
        parts.append(f"allowed: {allowed}")
    elif allowed is not None:
        choices = [str(choice) for choice in allowed]
        close = close_matches(str(value), choices) if suggest and isinstance(value, str) else []
        if close:
            parts.append(f"did you mean {' or '.join(repr(match) for match in close)}?")
        parts.append(f"allowed: {listed(choices)}")
    if fix:
        parts.append(f"fix: {fix}")
    return "; ".join(parts).replace("?; ", "? ")


def shown(value: object, most: int = SHOWN_CHARACTERS) -> str:
    """Return the repr of a value on one line, cut where it is longer than `most` characters."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError, OverflowError):  # such as a whole number of 5 000 digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def close_matches(value: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` of `choices` that look like `value`, upper and lower case alike, best first."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    return [by_lower[match] for match in difflib.get_close_matches(value.lower(), by_lower, n=n, cutoff=0.6)]


def listed(choices: Sequence[str], shown: int = SHOWN_CHOICES) -> str:
    """Return `a, b, c`, cut after `shown` values with a count of those left out; `(none)` for an empty list."""
    if not choices:
        return "(none)"
    if len(choices) <= shown:
        return ", ".join(choices)
    return f"{', '.join(choices[:shown])} and {len(choices) - shown} more"
