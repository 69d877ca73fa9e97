"""How a run ends that is told to stop: with a word on how to go on, and the exit code that shells expect."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a batch system's time limit, a terminal that is closed."""


class Stopped(BaseException):
    """Raised where the process is when a signal asks it to stop: the shard in hand is dropped, never half written."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        self.kept = "what was finished is kept"
        super().__init__(signal.Signals(number).name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP end the process with exit code 130, 143 or 129, imports included."""
    before = {number: signal.signal(number, _stop) for number in STOPPING}
    try:
        yield
    except Stopped as stopped:
        again = shlex.join(["visualheads", *sys.argv[1:]])
        before = dict.fromkeys(before, signal.SIG_IGN)  # a second Ctrl-C must not end this in another way
        sys.stderr.write(f"\nStopped by {stopped}; {stopped.kept}. To go on from there: {again}\n")
        sys.exit(stopped.code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)
