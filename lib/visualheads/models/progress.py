"""A progress bar with rate and remaining time, and quiet where transformers would show its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Wish = bool | Literal["auto"]


class Rate(ProgressColumn):
    """Samples per second, or seconds per sample where that is slower."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("– /s", style="progress.data.speed")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


def shown(wish: Wish) -> bool:
    """Whether to show a bar: "auto" shows one in terminals and notebooks."""
    if wish == "auto":
        shell = sys.modules.get("IPython")
        return sys.stderr.isatty() or (shell is not None and shell.get_ipython() is not None)
    return bool(wish)


@contextmanager
def progress_bar(title: str, total: int, wish: Wish = "auto", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of samples; it does nothing where no bar is shown."""
    if not shown(wish):
        yield lambda _count: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """No progress bars and load reports of transformers: what is wrong is told by errors."""
    from transformers.utils import logging

    if not wanted:
        yield
        return
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
