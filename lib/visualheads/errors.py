"""Errors a user can act on: each names what was given, what is allowed and how to fix it."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial, wraps
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

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
MOST_DRAWS = 10**6
"""Bootstrap draws and splits at most: their weights are held in memory."""
SEEDS = 2**64 - 1


def checked_whole(what: str, value: Any, lowest: int = 1, highest: int = MOST) -> int:
    """Return a whole number within bounds, numpy's too. Raises ParameterError for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool) and lowest <= int(value) <= highest:
        return int(value)
    raise ParameterError(got(what, value, f"a whole number from {lowest} to {highest}"))


def checked_number(what: str, value: Any, above: float = -math.inf, below: float = math.inf) -> float:
    """Return a number between bounds, which do not belong to it. Raises ParameterError for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
            if above < number < below:
                return number
    bounds = "a finite number" if above == -math.inf else f"a number above {above:g} and below {below:g}"
    raise ParameterError(got(what, value, bounds))


def checked_path(what: str, value: Any) -> Path:
    """Return a path. Raises ParameterError for what is none, or is empty."""
    if isinstance(value, (str, os.PathLike)):
        with suppress(ValueError, TypeError):  # of halves of characters, and of bytes
            path = Path(value)
            if str(value) and b"\0" not in os.fsencode(path):
                return path
    raise ParameterError(got(what, value, "a path"))


def checked_text(what: str, value: Any, empty: bool = True) -> str:
    """Return a text. Raises ParameterError for anything else, and for characters that no file can hold."""
    if isinstance(value, str) and (empty or value.strip()) and not re.search("[\0\ud800-\udfff]", value):
        return value
    raise ParameterError(got(what, value, "text" if empty else "text that is not empty"))


def checked_name(what: str, value: Any, allowed: Collection[str], error: type[VisualHeadsError] | None = None) -> str:
    """Return one of the allowed names. Raises ParameterError, or `error`, for anything else."""
    if isinstance(value, str) and value in allowed:
        return value
    raise (error or ParameterError)(got(what, value, allowed))


def checked_flag(what: str, value: Any) -> bool:
    """Return True or False. Raises ParameterError for anything else."""
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's
        return bool(value)
    raise ParameterError(got(what, value, ["True", "False"], suggest=False))


def checked_names(what: str, value: Any) -> list[str]:
    """Return a list of names. Raises ParameterError for anything else, a single text too."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return list(value)
    raise ParameterError(got(what, value, "a list of names"))


def checked_dataset(what: str, value: Any) -> Any:
    """Return an xarray.Dataset. Raises ParameterError for anything else."""
    import xarray as xr

    if isinstance(value, xr.Dataset):
        return value
    raise ParameterError(got(what, value, "a Dataset of vh.trace, vh.open_store or vh.open_results"))


ARGUMENTS: dict[str, Callable[[str, Any], Any]] = {
    "seed": partial(checked_whole, lowest=0, highest=SEEDS),
    "bias": checked_number,
    "level": partial(checked_number, above=0, below=1),
    "fdr": partial(checked_number, above=0, below=1),
    **dict.fromkeys(("path", "folder", "source", "target", "tower", "adapter"), checked_path),
    **dict.fromkeys(("task_files", "revision"), checked_text),
    "kind": partial(checked_text, empty=False),
    **dict.fromkeys(("models", "variables"), checked_names),
    **dict.fromkeys(("batch_tokens", "max_new_tokens", "shard", "shard_bytes", "most", "layers"), checked_whole),
    **dict.fromkeys(("n_boot", "n_splits"), partial(checked_whole, highest=MOST_DRAWS)),
    **dict.fromkeys(
        ("fresh", "validate", "lazy", "all_samples", "overwrite", "interval", "largest", "skip_bad"), checked_flag
    ),
    "progress": lambda what, value: value if value == "auto" else checked_flag(what, value),
}
"""What a parameter of this name takes, wherever it stands."""

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments that ARGUMENTS knows, and hand them on as its checks return them; a default is not checked.

    The function then raises ParameterError for a value of the wrong type or range.
    """
    signature = inspect.signature(function)
    checks = {name: ARGUMENTS[name] for name in signature.parameters if name in ARGUMENTS}

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name in checks.keys() & given.arguments.keys():
            if given.arguments[name] is not signature.parameters[name].default:
                given.arguments[name] = checks[name](name, given.arguments[name])
        return function(*given.args, **given.kwargs)

    return run


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
