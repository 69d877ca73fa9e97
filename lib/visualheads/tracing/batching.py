"""Which samples run together, and getting their inputs ready while the model is busy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from visualheads.errors import ParameterError, got

Item = TypeVar("Item")
Ready = TypeVar("Ready")

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens per batch by default: enough to keep the device busy, little enough for its memory (and a CPU's caches)."""
AHEAD = 2
"""Batches prepared in advance: enough to hide decoding, little enough to keep memory flat."""


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of the samples of each batch: sorted by length, cut so that longest × count ≤ `batch_tokens`.

    A pure function of its arguments; a sample longer than `batch_tokens` gets a batch of its own. Equal lengths lie
    together, so most batches have no padding.
    """
    if batch_tokens < 1:
        raise ParameterError(got("batch_tokens", batch_tokens, "1 or more"))
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # sorted: the newcomer is the longest of its batch
        if batches and lengths[index] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def prefetched(items: Sequence[Item], prepare: Callable[[Item], Ready]) -> Iterator[tuple[Item, Ready]]:
    """Yield each item with `prepare(item)`, prepared up to AHEAD items in advance by a second thread.

    An exception in `prepare` is raised here, at its item. The thread ends with the iterator, also when it is abandoned.
    """
    ready: queue.Queue[tuple[Item, Ready | None, BaseException | None]] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def work() -> None:
        for item in items:
            try:
                result = (item, prepare(item), None)
            except BaseException as error:  # raised in the consuming thread
                result = (item, None, error)
            while not stop.is_set():
                try:
                    ready.put(result, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or result[2] is not None:
                return

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        for _ in items:
            item, prepared, error = ready.get()
            if error is not None:
                raise error
            yield item, prepared  # pyright: ignore[reportReturnType]
    finally:
        stop.set()
        worker.join()
