"""`visualheads …`, the command line.

Exit codes: 0 done, 1 something failed, 2 bad input, 129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM.
"""

from __future__ import annotations

from collections.abc import Sequence

from visualheads.cli.signals import stoppable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in SystemExit with one of the exit codes."""
    with stoppable():
        from visualheads.cli.app import run  # takes a second, in which a signal is heard already

        run(argv)
