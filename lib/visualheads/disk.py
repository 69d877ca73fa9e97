"""Files that are written whole or not at all, and what a disk refuses told as errors a user can act on."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from visualheads.errors import DiskFullError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(file: Path, raw: bytes) -> None:
    """Whole or not at all, whoever else writes it at the same time. Raises OSError: see `refusals_told`."""
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        try:
            draft.write_bytes(raw)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(raw)
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


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
