"""Writing a folder that is whole or not there: into a hidden sibling first, read back and checked, then renamed."""

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
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from visualheads.errors import CheckpointError, DiskFullError, ParameterError
from visualheads.models.adapters import adapter_of
from visualheads.models.checkpoints import check_folder
from visualheads.models.conversion.sources import Words, opened, probed
from visualheads.models.conversion.weights import EMBEDDING, OUTPUT, Entry, WeightPlan
from visualheads.models.progress import quiet

LOCK = ".lock"
INDEX = "model.safetensors.index.json"
GIGABYTE = 1e9


PICTURE = (300, 200)
"""Width and height of the picture that the reloaded processor prepares: not square, so that tiles and padding count."""


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
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
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


def write_weights(plan: WeightPlan, place: Path, advance: Callable[[int], None]) -> dict[str, int]:
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
    rows = entry.shape[0] - weight.shape[0] if entry.name in (EMBEDDING, OUTPUT) else 0
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


def check_written(
    place: Path, plan: WeightPlan, sums: dict[str, int], words: Words, class_name: str, advance: Callable[[int], None]
) -> None:
    """Reload everything from the disk, one weight at a time. Raises CheckpointError where it is not what was meant."""
    check_folder(place)
    read: set[str] = set()
    for shard in range(plan.shards):
        for name, stored in opened(place / plan.shard_name(shard)):
            if checksum(stored.read()) != sums.get(name):
                raise _wrong(place, f"{name} was not written as it was converted: the disk or memory is faulty")
            read.add(name)
            advance(1)
    if read != set(sums):
        raise _wrong(place, f"{len(set(sums) ^ read)} weights are missing or too many")
    _check_class(place, class_name)
    _check_processor(place, words, class_name)


def _check_class(place: Path, class_name: str) -> None:
    """The class finds all of its weights, in their shapes; nothing is loaded into memory."""
    import transformers

    with quiet():
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            place, device_map="meta", output_loading_info=True, local_files_only=True, use_safetensors=True
        )
    module, told = loaded
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    if wrong or type(module).__name__ != class_name:
        raise _wrong(place, f"{type(module).__name__} does not find {wrong[:3]}")


def _check_processor(place: Path, words: Words, class_name: str) -> None:
    """Text is cut as before, and a picture becomes as many image tokens as the adapter says."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
    processor: Any = transformers.AutoProcessor.from_pretrained(place, local_files_only=True)
    if probed(processor.tokenizer) != words.probes:
        raise _wrong(place, "its tokenizer cuts text otherwise than the original's")
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    encoding = processor(text=prompt, images=Image.new("RGB", PICTURE), return_tensors="pt")
    count = int((encoding["input_ids"] == config.image_token_id).sum())
    expected = len(adapter_of(class_name).token_map(config, processor, PICTURE).kind)
    if config.image_token_id != words.image_id or count != expected:
        raise _wrong(place, f"a picture becomes {count} image tokens, {expected} are expected")


def _wrong(place: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the converted folder does not pass its check ({what}); {place.name} is removed again.")
