"""What fits into a device's memory: caches of keys and values are bounded, and what is too much is cut in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from visualheads.errors import DeviceMemoryError

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample
    from visualheads.vision_language import VisionLanguageModel

Item = TypeVar("Item")
Done = TypeVar("Done")

CACHE_BYTES = {"cpu": 3 * 2**29, "cuda": 2**34}
"""Most memory for the keys and values that are held at a time: 17 rows of 640 tokens in each of a 7B's three caches."""


def rows_of_cache(model: VisionLanguageModel, length: int, caches: int = 1) -> int:
    """Rows of `length` tokens, at least one, that `caches` held at the same time may each have within CACHE_BYTES."""
    text = model.config.get_text_config()
    layers, heads, groups = model.shape
    feature = getattr(text, "head_dim", None) or text.hidden_size // heads
    row = 2 * layers * groups * feature * length * model.dtype.itemsize
    return max(1, CACHE_BYTES.get(model.device.type, CACHE_BYTES["cpu"]) // (row * caches))


def in_halves(items: Sequence[Item], run: Callable[[Sequence[Item]], Done]) -> Iterator[tuple[Sequence[Item], Done]]:
    """`run(items)` in one piece; where memory does not suffice, in halves: each piece with what it gave.

    Raises torch.OutOfMemoryError where one item alone is too much; `fitting` tells which.
    """
    try:
        done = run(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    else:
        yield items, done
        return
    # outside of the handler, whose traceback holds on to what the failed run had made
    torch.cuda.empty_cache()
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from in_halves(half, run)


@contextmanager
def fitting(model: VisionLanguageModel, samples: Sequence[Sample]) -> Iterator[None]:
    """Around work on these samples: raises DeviceMemoryError where memory does not suffice and there is only one."""
    try:
        yield
    except torch.OutOfMemoryError:
        if len(samples) > 1:
            raise
        raise DeviceMemoryError(
            f"sample {samples[0].id!r} alone does not fit into the memory of {model.device}; use a smaller model, "
            "dtype='bfloat16', or device='auto' to spread the layers."
        ) from None
