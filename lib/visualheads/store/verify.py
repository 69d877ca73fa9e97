"""Is every file of a store as it was written? And a store whose damaged shards are to be done anew."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from visualheads.errors import StoreError
from visualheads.store import files
from visualheads.store.layout import DONE, FORMAT
from visualheads.store.shards import read_record, record_key
from visualheads.store.stored import Stored, opened

MARK = b"\x01"
"""Content of the file that marks a shard as done."""
UNREADABLE_FILE = "unreadable"


def verify(path: str | Path) -> dict[str, str]:
    """Read every file of a store and compare it with its checksum.

    Parameters
    ----------
    path : path
        A store, packed or not.

    Returns
    -------
    dict of str to str
        The damaged files, each with "missing", "truncated", "checksum", or – in stores of layout 1, which have no
        checksums – "unreadable". Empty for a sound store.

    Raises
    ------
    StoreError
        Where not even the store's own metadata can be read.
    """
    stored = opened(path)
    found = files.faults(stored.path, dict(stored.files.known)) | _metadata(stored)
    if stored.attrs["visualheads_store"] != FORMAT:
        return found | _unreadable(stored)
    for told in damaged_shards(stored).values():
        found |= told
    return found | {_mark(index): "missing" for index in _unmarked(stored)}


def repair(path: str | Path) -> list[int]:
    """Make the damaged shards of a store undone, so that the next trace does them anew; return which they were.

    Raises StoreError where the store's metadata cannot be read, or nothing can be written.
    """
    stored = opened(path)
    undone = []
    with files.refusals_told(stored.path):
        for index in damaged_shards(stored):
            undone.append(index)
            (stored.path / _mark(index)).unlink(missing_ok=True)
            (stored.path / record_key(index)).unlink(missing_ok=True)
        for index in _unmarked(stored):
            files.write_file(stored.path / _mark(index), MARK)
    return undone


def _unmarked(stored: Stored) -> list[int]:
    """The shards that are done, and whose mark for other readers is not there, or damaged."""
    if "shard" not in stored.attrs or stored.attrs["visualheads_store"] != FORMAT:
        return []
    done = [index for index in range(stored.n_shards) if (stored.path / record_key(index)).exists()]
    return [index for index in done if files.read_file(stored.path, _mark(index)) != MARK]


def damaged_shards(stored: Stored) -> dict[int, dict[str, str]]:
    """The damaged files of every shard that has any: shard → key → what is wrong."""
    if "shard" not in stored.attrs or stored.attrs["visualheads_store"] != FORMAT:
        return {}
    found = {index: _faults(stored.path, index) for index in range(stored.n_shards)}
    return {index: told for index, told in found.items() if told}


def _faults(path: Path, index: int) -> dict[str, str]:
    mark = files.read_file(path, _mark(index))
    try:
        record = read_record(path, index)
    except StoreError:
        return {record_key(index): "checksum"}
    if record is None:
        return {} if mark is None else {record_key(index): "missing"}
    return files.faults(path, record.files)


def _mark(index: int) -> str:
    return f"{DONE}/c.{index}"


def _metadata(stored: Stored) -> dict[str, str]:
    """The arrays' own metadata, of which the group's holds a copy."""
    known = json.loads(stored.files.group or b"{}")["consolidated_metadata"]["metadata"]
    found = {}
    for name, told in known.items():
        key = f"{name}/{files.METADATA}"
        raw = files.read_file(stored.path, key)
        try:
            same = raw is not None and json.loads(raw) == told
        except ValueError:
            same = False
        if not same:
            found[key] = "missing" if raw is None else "checksum"
    return found


def _unreadable(stored: Stored) -> dict[str, str]:
    found = {}
    if stored.path.suffix == ".zip":
        with zipfile.ZipFile(stored.path) as archive:
            damaged = archive.testzip()
        found = {damaged: "checksum"} if damaged else {}
    for name in sorted(stored.group.array_keys()):
        try:
            stored.values(name)
        except StoreError:
            found[name] = UNREADABLE_FILE
    return found
