"""Pages of the book: notebooks run with parameters, the same bytes in every run, and the book built out of them.

Nothing is imported here: a process that only runs pages then starts without torch.
"""

from __future__ import annotations

from visualheads.errors import require

require("papermill", "nbformat", "nbclient", "jupyter_book", "altair", extra="book")
