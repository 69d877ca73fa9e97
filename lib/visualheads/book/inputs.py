"""Hashes of everything that goes into a page or into the book: equal hashes, nothing to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from visualheads.book.clean import RECORD
from visualheads.book.page import Page
from visualheads.cards import data_folder
from visualheads.errors import VisualHeadsError
from visualheads.store.files import METADATA
from visualheads.store.read import PACKED, read_attrs
from visualheads.store.stored import FOLDER
from visualheads.store.variables import UNTRAINED
from visualheads.store.write import todo
from visualheads.tasks import task

LIBRARY = Path(__file__).resolve().parents[1]
RENDERING = ("book", "cli")
"""Rooms that turn pages into a book but decide no number and no chart on them …"""
ON_PAGES = ("book/text.py", "book/tables.py", "book/cost.py", "book/cost_sweeps.py")
"""… but for these, which notebooks call."""
WORDING = "analysis/claims/claims.yml"
"""Words of one page alone: that page names the file among its data."""
BIG = 8_000_000
"""Bytes from which a file counts by size and time of change instead of content: real benchmarks are gigabytes."""
TRACES = ("trace", UNTRAINED)
"""Kinds of the stores that pages compare."""
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}


def page_hash(page: Page, parameters: dict[str, Any]) -> str:
    """Hash of a page's template, title, parameters, data and of the rooms of the library that compute it.

    Other notebooks do not count: a changed sentence runs its own page again, and no other.
    """
    digest = hashlib.sha256()
    told = [page.slug, page.title, page.command, {name: parameters[name] for name in sorted(parameters)}]
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for path in (page.template, *_computing(), *(file for place in page.data for file in _files(place))):
        _add(digest, path)
    if page.stores is not None:
        told = stores_told(page.stores, page.last, page.only, page.but)
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def stores_told(results: Path, every: bool = False, only: str = "", but: str = "") -> dict[str, Any]:
    """What the traces of a folder of results are: identity and shards not done, by path; packed ones by size and time.

    every: all other stores too, such as sweeps, which pages make themselves; only: of one folder, but: without those
    whose name begins so.
    Raises StoreError for a damaged store.
    """
    told: dict[str, Any] = {}
    folder = only or "*"
    live = (path for path in sorted(results.glob(f"{folder}/*.zarr")) if not but or not path.name.startswith(but))
    for path in live:
        changed = tuple(place.stat().st_mtime_ns for place in (path / METADATA, path / FOLDER) if place.exists())
        kind, *state = _state(path, changed)
        if every or kind in TRACES:
            told[path.relative_to(results).as_posix()] = state
    for path in sorted(results.glob(f"{folder}/*{PACKED}")):
        stat = path.stat()
        told[path.relative_to(results).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return told


@cache
def _state(path: Path, changed: tuple[int, ...]) -> tuple[Any, ...]:
    """Kind and identity of a store, and how many shards are left; every page asks for the same stores."""
    del changed  # what changed is another entry
    attrs = read_attrs(path)
    return attrs.get("kind"), attrs.get("identity"), len(todo(path)) if "shard" in attrs else 0


def files_hash(places: Iterable[Path]) -> str:
    """Hash of files and folders: names and contents."""
    digest = hashlib.sha256()
    for place in places:
        for path in _files(place):
            _add(digest, path)
    return digest.hexdigest()


def task_places(name: str, data: str | Path | None) -> tuple[Path, ...]:
    """What decides a benchmark's samples: the folder of the shipped scenes, or a given folder's annotation files.

    Pictures of a given folder do not count, as they do not in a store's identity: there may be a hundred thousand.
    """
    if not data:
        return (data_folder() / "scenes" / name,)
    try:
        return tuple(task(name, data=data).annotations())
    except VisualHeadsError:  # running the page tells what is wrong
        return ()


def recorded(output: Path) -> dict[str, Any]:
    """What an executed page tells about its making; empty where there is no such page."""
    if not output.is_file():
        return {}
    notebook = json.loads(output.read_text(encoding="utf-8"))  # without a check of its form, which takes a second
    return dict(notebook["metadata"].get(RECORD, {}))


def is_current(page: Page, parameters: dict[str, Any]) -> bool:
    """Whether the page is there and was made from what is there now."""
    return recorded(page.output).get("inputs") == page_hash(page, parameters)


def _computing() -> list[Path]:
    """The library's files that decide what a page shows."""
    named = {path: path.relative_to(LIBRARY).as_posix() for path in _files(LIBRARY)}
    return [
        path
        for path, name in named.items()
        if name in ON_PAGES or (name.partition("/")[0] not in RENDERING and name != WORDING)
    ]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    found = (path for path in place.rglob("*") if path.is_file() and not SKIPPED & set(path.parts))
    return sorted(path for path in found if path.suffix != ".pyc")


def _add(digest: Any, path: Path) -> None:
    stat = path.stat()
    digest.update(path.name.encode())
    if stat.st_size >= BIG:
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    else:
        digest.update(_content(path, stat.st_size, stat.st_mtime_ns))


@cache
def _content(path: Path, size: int, changed: int) -> bytes:
    """Hash of a file; every page asks for the same checkpoints and scenes."""
    del size, changed  # a file that changed is another entry
    return hashlib.sha256(path.read_bytes()).digest()
