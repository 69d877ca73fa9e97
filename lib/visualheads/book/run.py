"""Pages run with papermill: one single-threaded kernel a page, several side by side, the same bytes in every run."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import nbformat
from papermill.engines import NBClientEngine, papermill_engines

from visualheads.book import page as inputs
from visualheads.book.page import ONCE, Page, adapted, checked, cleaned
from visualheads.book.warm_kernels import end_with_parent, use_warm_kernels
from visualheads.errors import KernelError, VisualHeadsError
from visualheads.paths import read_table

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
                        future = pool.submit(caught, run, left[-1])
                    except BrokenProcessPool:  # killed while it had nothing to do
                        pool.shutdown()
                        continue
                    busy[future] = left.pop(), pool
                    started(busy[future][0])
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    job, pool = busy.pop(future)
                    self._idle.append(pool)
                    try:
                        found, why = future.result()
                    except BrokenProcessPool:
                        self._idle.pop().shutdown()
                        found, why = None, KILLED
                    yield job, found, why
        finally:
            self._idle += [pool for _, pool in busy.values()]


def caught(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a function returns, and in words what it raised: errors with fields do not travel, and hold on to models."""
    try:
        return function(*arguments), ""
    except VisualHeadsError as error:
        return None, str(error)


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


NAME = "visualheads-page"
SAVE_EVERY = 30.0
"""Seconds. A page of 70 cells and 4 MB is otherwise written 144 times, which took as long as running it."""


class PageEngine(NBClientEngine):
    """papermill's engine, saving the unfinished page at most every SAVE_EVERY seconds, and at its end or failure."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
        """Run all cells; see papermill's `Engine`."""
        save, saved = nb_man.save, time.monotonic()

        def seldom(**options: Any) -> None:
            nonlocal saved
            if time.monotonic() - saved >= SAVE_EVERY:
                save(**options)
                saved = time.monotonic()

        nb_man.save = seldom
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)
        finally:
            nb_man.save = save  # papermill writes the end through it, also after a failed cell or a dead kernel


papermill_engines.register(NAME, PageEngine)

KERNEL_ENVIRONMENT: dict[str, str] = read_table(__file__, "kernels.yml")["environment"]
QUIET_KERNEL = ["--IPKernelApp.log_level=CRITICAL"]
"""Kernels warn at every start that they listen on a local port without encryption, and call it an error that they are
interrupted before they are shut down. What cells raise comes through papermill."""
WARM_FROM = 2
"""Pages per worker from which on warm kernels start sooner: warming up takes as long as it saves on one or two."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Report = Callable[[str], None]


def silent(_line: str) -> None:
    """Report nothing."""


def run_page(page: Page, root: str | Path = ".", force: bool = False) -> bool:
    """Run a page unless it is current; return whether it ran. The page appears whole or not at all.

    Raises ParameterError before anything runs for parameters the template does not have; KernelError when a cell fails
    or the kernel dies: the page as far as it came is kept as `<slug>.partial.ipynb`.
    """
    root = Path(root).resolve()
    parameters = checked(page.template, page.parameters)
    lasting = {name: value for name, value in parameters.items() if name not in ONCE}
    force = force or any(parameters.get(name) for name in ONCE)
    if not force and inputs.is_current(page, lasting):
        inputs.put_words(page)
        return False
    page.output.parent.mkdir(parents=True, exist_ok=True)
    source = page.output.with_name(f".{page.output.stem}.source.ipynb")
    nbformat.write(adapted(page), source)
    record = {"inputs": inputs.page_hash(page, lasting), "words": inputs.words_hash(page)}
    record |= {"parameters": lasting, "title": page.title}
    try:
        _execute(source, page, parameters, root)
    finally:
        source.unlink(missing_ok=True)
    notebook = nbformat.read(page.partial, as_version=4)
    nbformat.write(cleaned(notebook, record), page.partial)
    page.partial.rename(page.output)
    return True


class Countdown:
    """How far jobs are, and how long the rest may take, by the pace so far.

    sizes: about how much each job takes, in any unit
    """

    def __init__(self, sizes: Sequence[float]) -> None:
        self.total, self.done, self.started = len(sizes), 0, time.monotonic()
        self.work = self.left = float(sum(sizes))

    def step(self, size: float = 1.0) -> str:
        """Count one more as done: `3 of 28, about 4 min left`."""
        self.done += 1
        self.left -= size
        if self.done == self.total:
            return f"{self.done} of {self.total}"
        seconds = (time.monotonic() - self.started) / (self.work - self.left) * self.left
        told = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
        return f"{self.done} of {self.total}, about {told} left"


def run_pages(
    pages: Iterable[Page],
    root: str | Path = ".",
    workers: int | None = None,
    force: bool = False,
    report: Report = silent,
) -> list[Page]:
    """Run all pages that are not current; return those that ran. One failing page does not stop the others.

    Parameters
    ----------
    pages, root : the pages, and the project's folder in which their kernels work.
    workers : pages side by side, by default one per processor.
    force : run current pages too.
    report : takes a line on every page that starts and ends, with the time that is left.

    Raises
    ------
    KernelError
        All that failed: a cell, a kernel or a process that died, parameters, or a damaged store.
    """
    pages = list(pages)
    failed: list[str] = []
    done: list[Page] = []

    def finish(page: Page, why: str, place: str = "") -> None:
        if why:
            told = f"page {page.title!r}: "
            failed.append(why if why.startswith(told) else told + why)
        else:
            done.append(page)
        report(f"{'failed:' if why else 'ran'} {page.title}{place and f' ({place})'}")

    def stale(page: Page) -> bool:
        try:
            if force or not inputs.is_current(page, checked(page.template, page.parameters)):
                return True
            inputs.put_words(page)
        except VisualHeadsError as error:
            finish(page, str(error))
        return False

    warm = False
    with Workers(workers) as pool:
        for last in (False, True):  # the last ones are stale only by what the others left
            todo = [page for page in pages if page.last == last and stale(page)]
            warm = warm or len(todo) > WARM_FROM * pool.number
            left = Countdown([1.0] * len(todo))
            run = partial(_run_one, root=root, warm=warm)
            for page, _, why in pool.run(run, todo, lambda page: report(f"running {page.title}")):
                finish(page, why, left.step())
    if failed:
        raise KernelError("\n\n".join(failed))
    return done


def _run_one(page: Page, root: str | Path, warm: bool) -> None:
    if warm:
        use_warm_kernels()
    run_page(page, root, force=True)


def _execute(source: Path, page: Page, parameters: dict[str, Any], root: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        with one_thread():
            papermill.execute_notebook(
                str(source), str(page.partial), parameters=parameters, kernel_name="python3", cwd=str(root),
                progress_bar=False, log_output=False, extra_arguments=QUIET_KERNEL, engine_name=NAME,
            )  # fmt: skip
    except PapermillExecutionError as error:
        last = COLOURS.sub("", str(error.evalue)).strip()
        raise KernelError(
            f"page {page.title!r}: cell {error.exec_count} failed with {error.ename}: {last}\n"
            f"The page as far as it came: {page.partial}"
        ) from error
    except (DeadKernelError, RuntimeError) as error:  # nbclient's word for a kernel that dies while it starts
        if not isinstance(error, DeadKernelError) and "Kernel died" not in str(error):
            raise
        raise KernelError(
            f"page {page.title!r}: the kernel died, most often for lack of memory; give fewer samples or smaller "
            f"batches. The page as far as it came: {page.partial}"
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """The environment of kernels and tracing processes, for those started within."""
    before = {name: os.environ[name] for name in KERNEL_ENVIRONMENT if name in os.environ}
    os.environ.update(KERNEL_ENVIRONMENT)
    try:
        yield
    finally:
        for name in KERNEL_ENVIRONMENT:
            os.environ.pop(name, None)
        os.environ.update(before)
