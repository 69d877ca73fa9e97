"""The explorer: one picture, one question, and where every head looks – as a page, in the book, live in JupyterLab."""

from __future__ import annotations

from visualheads.explorer.looking import explore, look
from visualheads.explorer.shown import Explorer

__all__ = ["Explorer", "explore", "look"]
