"""Where results lie: `<results>/<model>/<task>.zarr`, names of models in file names, the checkout, tables in files,
and the browser."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path("data/results")
"""The folder of results, seen from the project's folder."""


def project_folder(inside: Path | None = None) -> Path | None:
    """The checkout: the given (current) folder, or the nearest above it that holds notebooks/ and _config.yml.

    None outside any checkout.
    """
    here = inside or Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def enter_project() -> None:
    """Go to the project's folder from one inside it; elsewhere nothing changes.

    Jupyter starts a kernel in its notebook's folder. Paths in notebooks are seen from the project's, as `make book`
    runs them.
    """
    folder = project_folder()
    if folder is not None:
        os.chdir(folder)


MADE = {"_build", "__pycache__", ".ipynb_checkpoints"}
"""Folders of what is made anew at any time."""


def state_of(*places: Path) -> str:
    """Hash of the names, sizes and times of change of files and of all files in folders; nothing is read."""
    digest = hashlib.sha256()
    for place in places:
        for folder, below, files in os.walk(place) if place.is_dir() else [(str(place.parent), [], [place.name])]:
            below[:] = sorted(set(below) - MADE)
            for path in (Path(folder, name) for name in sorted(files)):
                found = path.stat() if path.exists() else None
                digest.update(f"{path} {found and (found.st_size, found.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser_program() -> str | None:
    """Where Chromium, or a browser built on it, is installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def slug_of(name: str) -> str:
    """A file name for a model: the last two parts of a path or hub id; all but letters, digits and "." become "-".

    Only letters without accents stay; a name with others ends in a mark of its own, so that no two are called alike.
    """
    parts = [part for part in re.split(r"[/\\]+", name) if part not in ("", ".", "..")]
    text = "-".join(parts[-2:])
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "model"
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:6]
    return slug if text.isascii() else f"{slug}-{mark}"


def store_path(results: str | os.PathLike[str], model: str, task: str) -> Path:
    """The store of a model's trace on a task."""
    return Path(results) / slug_of(model) / f"{task}.zarr"


def read_table(module: str, name: str) -> Any:
    """What a YAML file holds that lies beside a module, whose `__file__` is given."""
    return yaml.safe_load(Path(module).with_name(name).read_text(encoding="utf-8"))
