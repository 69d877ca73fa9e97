"""The record that each shard of a store leaves when it is done: whom it measured, where, and its files' checksums.

A record is written when all files of its shard are on disk, and makes the shard done. The store's array `done`, marked
after it, tells other readers of Zarr the same, and this one of a record that is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visualheads.errors import StoreError
from visualheads.store import files

FOLDER = "shards"


@dataclass(frozen=True)
class Record:
    """A shard that is done, or done for some of its samples.

    samples        ids of those that are measured, in the store's order
    files          checksum of every file that was written, by key
    circumstance   on what it was measured; empty: what the store says
    answers        what its margins are over
    """

    samples: tuple[str, ...]
    files: Mapping[str, files.Checksum] = field(default_factory=dict)
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    answers: str = ""


def record_key(index: int) -> str:
    """The file of a shard's record within its store."""
    return f"{FOLDER}/{index}.json"


def read_record(path: Path, index: int) -> Record | None:
    """The record of a shard; None where there is none. Raises StoreError for a damaged one."""
    try:
        attributes = files.unsealed((path / record_key(index)).read_bytes())["attributes"]
        checksums = {key: (crc, length) for key, (crc, length) in attributes["files"].items()}
        return Record(tuple(attributes["samples"]), checksums, attributes["circumstance"], str(attributes["answers"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(files.damage_told(path, record_key(index), "checksum")) from error


def write_record(path: Path, index: int, record: Record) -> None:
    """Put the record there, on disk when this returns. Raises OSError."""
    attributes = {
        "samples": list(record.samples),
        "files": dict(sorted(record.files.items())),
        "circumstance": dict(record.circumstance),
        "answers": record.answers,
    }
    files.write_file(path / record_key(index), files.sealed({"attributes": attributes}), sync=True)
