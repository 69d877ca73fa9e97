"""Files that are written whole or not at all, carry their checksums, and are checked whenever they are read.

A store is plain Zarr (format 3), written and read by zarr and xarray. What this module adds is a wrapper around zarr's
own stores that notes a checksum of everything it writes, and refuses what no longer agrees with the noted one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import platform
import shutil
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore, WrapperStore, ZipStore

from visualheads.errors import DiskFullError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
METADATA = "zarr.json"
SEAL = "seal"
"""Attribute of a JSON document that holds the checksum of everything else in it."""

DAY = 24 * 3600
_HOST = platform.node().replace(".", "-")

Checksum = tuple[int, int]
"""CRC-32 and length of a file."""


class DamageWarning(UserWarning):
    """Something is damaged, and left out or done anew."""


@contextlib.contextmanager
def refusals_told(path: Path) -> Iterator[None]:
    """Within, a full disk is DiskFullError, and anything else that the disk refuses is StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(
                f"no space left for {path}; what is done is kept: make room and run the same command again."
            ) from error
        raise StoreError(f"cannot write {path}: {error}") from error


def write_file(file: Path, raw: bytes, sync: bool = False) -> None:
    """Write a file whole or not at all, whoever else writes it at the same time; `sync`: return when it is on disk.

    Raises OSError: see `refusals_told`.
    """
    draft = draft_of(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(raw)
        if sync:
            synced([draft])
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def draft_of(path: Path) -> Path:
    """A name beside `path` for what becomes it when it is whole; it tells who writes it."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{uuid.uuid4().hex}.partial")


@contextlib.contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """The name of a folder that becomes `path` when it is whole; what still has this name in the end is removed."""
    draft = draft_of(path)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_abandoned(draft: Path) -> bool:
    """Whether the process that wrote this draft is gone. On other machines: whether it is older than a day."""
    *_, host, pid, _unique, _ending = draft.name.split(".")
    try:
        if host != _HOST:
            return time.time() - draft.stat().st_mtime > DAY
        os.kill(int(pid), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (PermissionError, ValueError):
        return False
    return False


def synced(files: Iterable[Path]) -> None:
    """Return when the contents of these files are on the disk."""
    with ThreadPoolExecutor() as pool:  # together: the file system then commits its journal once for many of them
        list(pool.map(_synced, files))


def _synced(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(raw: Any) -> Checksum:
    """CRC-32 and length of some bytes."""
    return zlib.crc32(raw), len(raw)


def consolidated(arrays: Mapping[str, bytes]) -> dict[str, Any]:
    """The part of a group's metadata that holds its arrays', so that opening a store reads one file."""
    metadata = {name: json.loads(raw) for name, raw in arrays.items()}
    return {"consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": metadata}}


def sealed(document: Mapping[str, Any]) -> bytes:
    """A JSON document with the checksum of its content among its `attributes`; `unsealed` reads it."""
    attributes = {**document["attributes"], SEAL: _seal(document)}
    return json.dumps({**document, "attributes": attributes}).encode()


def unsealed(raw: bytes) -> dict[str, Any]:
    """What `sealed` was given. Raises ValueError for anything else."""
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
        raise ValueError("it has no attributes")
    if document["attributes"].pop(SEAL, None) != _seal(document):
        raise ValueError("its content does not agree with its checksum")
    return document


def _seal(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())


class CheckedStore(WrapperStore[Any]):
    """A zarr store that notes the checksums of what it writes, and checks what it reads against those it knows.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store whose files these are.
    path : Path
        What errors call it.
    known : dict of str to Checksum
        Checksums by key. Reading a key that is there raises StoreError where its file is missing or of another content.
    group : bytes, optional
        The metadata of the root group where it was read, and checked, already.
    """

    def __init__(
        self, store: Store, path: Path, known: dict[str, Checksum] | None = None, group: bytes | None = None
    ) -> None:
        super().__init__(store)
        self.path, self.known, self.group = path, {} if known is None else known, group

    def _with_store(self, store: Store) -> CheckedStore:
        return type(self)(store, self.path, self.known, self.group)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key == METADATA and self.group is not None:
            return prototype.buffer.from_bytes(self.group)
        try:
            found = await super().get(key, prototype, byte_range)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            # a packed store checks its files itself
            raise StoreError(damage_told(self.path, key, "checksum")) from error
        known = self.known.get(key)
        if known is not None and byte_range is None:
            fault = fault_of(None if found is None else found.to_bytes(), known)
            if fault:
                raise StoreError(damage_told(self.path, key, fault))
        return found

    async def set(self, key: str, value: Buffer) -> None:
        raw = value.to_bytes()
        await asyncio.to_thread(write_file, self.path / key, raw)
        if not key.endswith(METADATA):
            self.known[key] = checksum(raw)


def fault_of(raw: bytes | None, known: Checksum) -> str:
    """What is wrong with a file; "" for nothing."""
    if raw is None:
        return "missing"
    if len(raw) < known[1]:
        return "truncated"
    return "" if checksum(raw) == tuple(known) else "checksum"


def faults(path: Path, known: Mapping[str, Checksum]) -> dict[str, str]:
    """The files of a store that are missing, truncated, or of another checksum: key → which of these."""
    told = {key: fault_of(read_file(path, key), checksum) for key, checksum in known.items()}
    return {key: fault for key, fault in told.items() if fault}


def read_file(path: Path, name: str) -> bytes | None:
    """One file of a store, a folder or a zip; None where it is missing, or where the zip cannot give it whole."""
    try:
        if path.suffix != ".zip":
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return None


def damage_told(path: Path, key: str, fault: str) -> str:
    """The message of a StoreError about one file."""
    words = {"missing": "is missing", "truncated": "is cut off"}.get(fault, "does not agree with its checksum")
    return (
        f"{path} is damaged: {key} {words}; see `visualheads verify {path}`, and trace again: what is damaged is then "
        "done anew."
    )


def as_zarr(path: Path) -> Store:
    """zarr's own store for a path, to read from: a folder, or a packed store in one file."""
    return ZipStore(path, mode="r") if path.suffix == ".zip" else LocalStore(path, read_only=True)
