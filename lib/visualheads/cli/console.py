"""Where the command line prints, and with which exit codes it ends."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from visualheads.models.progress import Wish

FAILED, BAD_INPUT = 1, 2
SHOWN_SKIPPED = 20

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


class _Told:
    quiet = False


def be_quiet(quiet: bool) -> None:
    """Whether bars, notes and reports are left out, and only results and errors are printed."""
    _Told.quiet = quiet


def bar() -> Wish:
    """Whether a bar of progress is shown, as the library takes it."""
    return False if _Told.quiet else "auto"


def as_json(told: object) -> None:
    """Print a result for a script."""
    sys.stdout.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")


def say(line: str) -> None:
    """Print a line as it is: names and paths may hold brackets."""
    out.print(line, markup=False, highlight=False)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print warnings as single lines without the place in the code they come from."""
    shown = warnings.showwarning

    def note(message: Warning | str, *_rest: object, **_more: object) -> None:
        if _Told.quiet:
            return
        err.print("[yellow]Note:[/]", end=" ")
        err.print(str(message), markup=False, highlight=False)

    warnings.showwarning = note
    try:
        yield
    finally:
        warnings.showwarning = shown
