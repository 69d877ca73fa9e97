"""What a result was made from (identity) and on what (circumstance): plain dictionaries of text, no clock times."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from visualheads.errors import CheckpointError
from visualheads.tasks.sample import picture_hash

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

PACKAGES = ("visualheads", "torch", "transformers", "nnsight", "numpy", "xarray", "zarr")
HASH_LENGTH = 16
"""Hex digits kept of a SHA-256: 64 bits tell any two files apart, and fit on a line."""
NOT_PLAIN = ("image", "boxes")
"""Fields of a sample whose text depends on more than their value, or that samples of older stores lack."""
HUB_BLOB = re.compile(r"[0-9a-f]{64}")


def circumstance(*, device: str = "cpu", attention: str = "") -> dict[str, str]:
    """What should not decide the numbers: versions of packages and Python, device, attention implementation."""
    told = {"device": device, "attention": attention, "python": platform.python_version()}
    return told | {name: version_of(name) for name in PACKAGES}


def version_of(package: str) -> str:
    """The installed version of a package; "" where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def hash_weights(folder: str | Path) -> str:
    """Hash of the safetensors files of a checkpoint folder, names and contents; "" for a folder without any.

    Files that are links into a hub cache are not read: the name of the linked blob is its hash.
    Raises CheckpointError when the folder is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}; give a folder that holds *.safetensors.")
    files = sorted(folder.glob("*.safetensors"))
    return hash_list(f"{file.name} {_digest(file)}" for file in files) if files else ""


def hash_samples(samples: Sequence[Sample]) -> str:
    """Hash of a list of samples: everything of each, in order."""
    return hash_list([hash_sample(sample) for sample in samples])


def hash_list(hashes: Iterable[str]) -> str:
    """Hash of hashes, in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:HASH_LENGTH]


def hash_sample(sample: Sample, prompt: str = "") -> str:
    """Hash of everything that decides a sample's numbers: its fields, its picture's content, and the rendered prompt.

    Raises ImageError for a picture that is missing.
    """
    plain = [getattr(sample, field.name) for field in dataclasses.fields(sample) if field.name not in NOT_PLAIN]
    boxes = sorted((name, tuple(found)) for name, found in (sample.boxes or {}).items())
    told = (plain, boxes, picture_hash(sample), prompt)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:HASH_LENGTH]


def _digest(path: Path) -> str:
    target = path.resolve()
    if path.is_symlink() and HUB_BLOB.fullmatch(target.name):
        return target.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
