"""`visualheads …`, the command line. Exit codes: 0 done, 1 something failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

from visualheads.cli.app import main

__all__ = ["main"]
