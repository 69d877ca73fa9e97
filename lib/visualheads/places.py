"""Where results lie: `<results>/<model>/<task>.zarr`, and what a model is called in file names."""

from __future__ import annotations

import os
import re
from pathlib import Path

RESULTS = Path("data/results")
"""The folder of results, seen from the project's folder."""


def slug_of(name: str) -> str:
    """A file name for a model: the last two parts of a path or hub id; all but letters, digits and "." become "-"."""
    parts = [part for part in re.split(r"[/\\]+", name) if part not in ("", ".", "..")]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts[-2:])).strip("-.") or "model"


def store_path(results: str | os.PathLike[str], model: str, task: str) -> Path:
    """The store of a model's trace on a task."""
    return Path(results) / slug_of(model) / f"{task}.zarr"
