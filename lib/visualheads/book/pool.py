"""Jobs side by side in processes of their own: one that fails, or is killed, stops no other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from visualheads.book.warm_kernels import end_with_parent
from visualheads.errors import VisualHeadsError

Job = TypeVar("Job")

KILLED = (
    "its process was killed, most often for lack of memory; run the same command again, with fewer side by side "
    "(--workers)"
)


class Workers:
    """Processes for jobs, started as they are needed and kept until the `with` block ends: they stay warm.

    number: jobs at a time, by default one per processor
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = number or processors()
        self._idle: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_error: object) -> None:
        for pool in self._idle:
            pool.shutdown(cancel_futures=True)

    def run(
        self, run: Callable[[Job], Any], jobs: Sequence[Job], started: Callable[[Job], None] = lambda _job: None
    ) -> Iterator[tuple[Job, Any, str]]:
        """Every job with what `run` gave and, where it failed, why in words; in the order in which they end.

        Parameters
        ----------
        run : goes to other processes, so it must pickle; a VisualHeadsError that it raises is a failure in words.
        jobs : in the order in which they start.
        started : is told of every job that starts.

        Each process has one job at a time, so that it is known whose process was killed; the others get a new one.
        """
        left = list(reversed(jobs))
        busy: dict[Future[Any], tuple[Job, ProcessPoolExecutor]] = {}
        try:
            while left or busy:
                while left and len(busy) < self.number:
                    pool = self._idle.pop() if self._idle else _process()
                    try:
                        future = pool.submit(run, left[-1])
                    except BrokenProcessPool:  # killed while it had nothing to do
                        pool.shutdown()
                        continue
                    busy[future] = left.pop(), pool
                    started(busy[future][0])
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    job, pool = busy.pop(future)
                    self._idle.append(pool)
                    try:
                        found, why = future.result(), ""
                    except BrokenProcessPool:
                        self._idle.pop().shutdown()
                        found, why = None, KILLED
                    except VisualHeadsError as error:
                        found, why = None, str(error)
                    yield job, found, why
        finally:
            self._idle += [pool for _, pool in busy.values()]


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_parent)


def side_by_side(
    run: Callable[[Job], Any], jobs: Sequence[Job], workers: int | None = None
) -> Iterator[tuple[Job, Any, str]]:
    """Every job of one kind, in processes that end with them; see `Workers.run`."""
    with Workers(workers) as pool:
        yield from pool.run(run, jobs)


def processors() -> int:
    """Those this process may use; containers often have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
