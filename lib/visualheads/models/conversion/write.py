"""Writing a folder that is whole or not there: into a hidden sibling first, renamed when it has been checked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from visualheads.errors import CheckpointError, DiskFullError, ParameterError
from visualheads.models.conversion import plan as keys
from visualheads.models.conversion.plan import Entry, Plan
from visualheads.models.conversion.sources import opened

LOCK = ".lock"
INDEX = "model.safetensors.index.json"
GIGABYTE = 1e9


@contextlib.contextmanager
def hidden_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends well, and is removed otherwise.

    What a killed run left there is removed, with a warning. Raises ParameterError where the target exists and may not
    be replaced, or another process is writing it.
    """
    check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target.with_name(f".{target.name}.converting")
    with _locked(place, target):
        left = [path for path in place.iterdir() if path.name != LOCK]
        if left:
            warnings.warn(f"removed {place}: {len(left)} files that an interrupted conversion left.", stacklevel=3)
            for path in left:
                path.unlink()
        done = False
        try:
            yield place
            done = True
        finally:
            if not done:
                shutil.rmtree(place, ignore_errors=True)
        (place / LOCK).unlink(missing_ok=True)
        aside = target.with_name(f".{target.name}.replaced")
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        place.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def check_target(target: Path, overwrite: bool) -> None:
    """Raise ParameterError unless `target` is free, or is a checkpoint's folder that may be replaced."""
    if not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise ParameterError(f"{target} exists; name another target, or replace it with --overwrite (overwrite=True).")
    if target.is_symlink() or not (target / "config.json").is_file():
        raise ParameterError(f"{target} is no checkpoint folder and is not replaced; remove it, or name another one.")


@contextlib.contextmanager
def _locked(place: Path, target: Path) -> Iterator[None]:
    """Hold the hidden folder's lock; it goes with the process, however that ends."""
    place.mkdir(exist_ok=True)
    with open(place / LOCK, "w", encoding="utf-8") as lock:
        try:
            import fcntl
        except ImportError:  # no such locks on this system: two conversions into one target are the user's care
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ParameterError(f"another conversion is writing {target}; wait for it, or name another one.") from None
        yield


def check_room(place: Path, size: int) -> None:
    """Raise DiskFullError unless `size` bytes fit on the disk of `place`."""
    free = shutil.disk_usage(place).free
    if free < size:
        raise DiskFullError(
            f"{place.parent} has {free / GIGABYTE:.1f} GB free, {size / GIGABYTE:.1f} GB are needed; make room, or "
            "name a target on another disk."
        )


def write_weights(plan: Plan, place: Path, advance: Callable[[int], None]) -> dict[str, int]:
    """Write all shards of a plan, one source file after the other; return name → checksum of what was written.

    In memory are one source file (mapped from the disk where possible) and one shard. Raises CheckpointError for
    weights that are not finite, DiskFullError.
    """
    sums: dict[str, int] = {}
    shard: dict[str, Tensor] = {}
    at = 0
    for file in plan.files:
        wanted = plan.of(file)
        for origin, stored in opened(file):
            entry = wanted.get(origin)
            if entry is None:
                continue
            if entry.shard != at:
                _save(shard, place / plan.shard_name(at))
                shard, at = {}, entry.shard
            weight = converted(stored.read(), entry, plan.dtype)
            if not bool(torch.isfinite(weight).all()):
                raise CheckpointError(f"{origin} in {file} has values that are no finite numbers; fetch it again.")
            shard[entry.name], sums[entry.name] = weight, checksum(weight)
            advance(1)
    _save(shard, place / plan.shard_name(at))
    if plan.shards > 1:
        names = {entry.name: plan.shard_name(entry.shard) for entry in plan.entries}
        index = {"metadata": {"total_size": plan.size}, "weight_map": dict(sorted(names.items()))}
        write_json(place / INDEX, index)
    return sums


def converted(weight: Tensor, entry: Entry, dtype: torch.dtype) -> Tensor:
    """The weight in its final dtype and shape; never a view of the file it comes from."""
    rows = entry.shape[0] - weight.shape[0] if entry.name in (keys.EMBEDDING, keys.OUTPUT) else 0
    if rows:
        weight = grown(weight, rows)
    return weight.to(dtype, copy=True).contiguous()


def grown(weight: Float[Tensor, "token hidden"], rows: int) -> Float[Tensor, "more hidden"]:
    """`weight` with `rows` rows more, each the mean of the others (ours).

    The logit of an added token is then the mean of all logits, never above the highest one: answers stay as they were.
    """
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows, -1)])


def checksum(weight: Tensor) -> int:
    """CRC-32 of a weight's bytes."""
    return zlib.crc32(weight.contiguous().view(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file and wait until it is on the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _save(shard: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(shard, path, metadata={"format": "pt"})
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise DiskFullError(
                f"no space left for {path.name}; make room, or name a target on another disk."
            ) from error
        raise CheckpointError(f"{path.name} cannot be written ({error}).") from error
