"""The paper itself: every trace and every sweep that pages and claims need, of real checkpoints on official files.

One plan per model, made of the jobs that the book runs for its miniatures: `traces.with_controls` and the parts of
`studies.full_protocol`. What is done is not repeated, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visualheads.analysis import scores
from visualheads.analysis.models import traced
from visualheads.book.catalogue import FULL_RESULTS, MAIN_TASK
from visualheads.book.run import Report, caught, silent
from visualheads.book.traces import WORK, asked_formats, with_controls
from visualheads.cards import cards, name_of
from visualheads.errors import (
    CheckpointError,
    DeviceMemoryError,
    DiskFullError,
    KernelError,
    ModeError,
    ParameterError,
    SampleError,
    got,
)  # fmt: skip
from visualheads.models.checkpoints import resolve
from visualheads.models.devices import AUTO, chosen_device, chosen_dtype, free, main_memory
from visualheads.paths import RESULTS
from visualheads.store.stored import opened
from visualheads.store.write import pending
from visualheads.studies import full_protocol
from visualheads.tasks import task, task_names
from visualheads.tracing import cluster, trace
from visualheads.tracing.jobs import Needs, TraceJob, needs, untrained_control

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel

EFFICIENCY = 0.4
"""Share of a device's speed at multiplying matrices that a model's passes reach (ours: a rough one)."""
PASSES = 2
"""Passes per traced prompt: the prompt, and the few tokens of its answer."""
TEXT_TOKENS = 60
"""Tokens of a prompt besides its image, about."""
MATRIX = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Plan:
    """Everything that is run of one model.

    main     the trace of the main benchmark; its device, precision, questions per condition and folders are the plan's
    others   the traces of the other benchmarks
    data     folder with a folder of official files per benchmark
    judged   questions on which heads are removed
    """

    main: TraceJob
    others: tuple[TraceJob, ...]
    data: str
    judged: int
    root: str = "."

    @property
    def name(self) -> str:
        """What results call the model."""
        return name_of(self.main.model)

    @property
    def traces(self) -> list[TraceJob]:
        """Its traces with their controls, as the book makes them."""
        return with_controls(self.main, self.others)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benchmarks that are asked."""
        return (self.main.task, *(job.task for job in self.others))

    @property
    def size(self) -> int:
        """Number of its traces and parts."""
        return len(self.traces) + len(full_protocol.PARTS)

    def left(self) -> tuple[list[TraceJob], list[str]]:
        """What is not done: traces, and parts of the full protocol."""
        current = partial(full_protocol.is_current, self.name, data=Path(self.data))
        parts = [name for name in full_protocol.PARTS if not current([name])]
        return [job for job in self.traces if not _is_done(job)], parts


def plans(
    data: str | Path, models: Sequence[str] = (), root: str | Path = ".", judged: int = 64, **settings: Any
) -> tuple[list[Plan], list[str]]:
    """A plan per model, and in words which of the paper's nine have none because their checkpoint is not there.

    Parameters
    ----------
    data : folder with a folder per benchmark (looktwice, pope, mmbench, seedbench, qbench); the main one must be there.
    models : catalogue names, folders or hub ids; by default the paper's nine.
    root : the project's folder, whose results they join.
    judged : questions on which heads are removed.
    settings : further fields of every `TraceJob`, such as n, seed, device, dtype.

    Raises
    ------
    ParameterError
        The folder does not exist or holds no benchmark, or a number is out of range.
    MissingDataError
        It lacks files of the main benchmark.
    UnknownModelError, CheckpointError
        A model that was named is not there.
    """
    folder = Path(data).expanduser().resolve()
    if not folder.is_dir():
        raise ParameterError(got("data", str(data), "a folder with a folder of official files per benchmark"))
    first = task(MAIN_TASK, data=folder / MAIN_TASK)
    first.files(first.default_split())
    if judged < 1:
        raise ParameterError(got("judged", judged, "1 or more"))
    known = [name for name in task_names() if name != MAIN_TASK and (folder / name).is_dir()]
    asked = [first, *(one for name in known if not (one := task(name, data=folder / name)).missing())]
    missing: list[str] = []
    found: list[Plan] = []
    for model in models or paper_models():
        try:
            resolve(model)
        except CheckpointError as error:
            if models:
                raise
            missing.append(str(error))
            continue
        jobs = [
            TraceJob(
                model, one.name, str(folder / one.name), formats=asked_formats(one),
                results=str(Path(root) / RESULTS), **settings,
            )
            for one in asked
        ]  # fmt: skip
        found.append(Plan(jobs[0], tuple(jobs[1:]), str(folder), judged, str(root)))
    return found, missing


def paper_models() -> list[str]:
    """The catalogue's names of the paper's nine models."""
    return [card.name for card in cards().values() if card.paper_name and not card.miniature]


@dataclass(frozen=True)
class Estimate:
    """What is left of a plan and what it takes: bytes and seconds, at most; NaN where nothing tells beforehand."""

    plan: Plan
    left: tuple[str, ...]
    needs: Needs
    prompts: int
    disk: float
    seconds: float


def estimate(plan: Plan, speed: float = math.nan) -> Estimate:
    """Estimate a plan without reading weights.

    speed   floating-point operations per second that a model's passes reach (`speed_of`); NaN: the time is not told
    Raises what resolving the model and drawing the samples raise.
    """
    jobs, parts = plan.left()
    left = (*(Path(job.path).name.removesuffix(".zarr") for job in jobs), *parts)
    told = [needs(job) for job in jobs]
    main = needs(plan.main)
    layers, heads, _ = main.shape
    prompts = sum(len(job.samples) for job in jobs)
    if parts and layers and heads:
        prompts += full_protocol.passes(layers * heads, len(plan.tasks), plan.judged) // PASSES
    operations = 2 * (main.parameters or math.nan) * (main.tokens + TEXT_TOKENS) * prompts * PASSES
    return Estimate(plan, left, main, prompts, sum(one.disk for one in told), operations / speed)


def check_room(found: Estimate, device: str | None) -> None:
    """Raise DeviceMemoryError or DiskFullError where a plan cannot fit; what is not known is let pass.

    While untrained networks run the model waits in main memory: without a GPU they are there together.
    """
    memory, place = _memory_of(device), Path(found.plan.main.results)
    needed = found.needs.memory * (1 if _on_gpu(device) else 2)
    if found.left and needed > memory:
        raise DeviceMemoryError(
            f"{found.plan.name} needs about {needed / 1e9:.1f} GB and {device or 'this machine'} has "
            f"{memory / 1e9:.1f} GB; give dtype bfloat16, fewer batch tokens, or device auto to spread its layers."
        )
    place = next(folder for folder in (place, *place.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if found.disk > free:
        raise DiskFullError(
            f"{found.plan.name} needs up to {found.disk / 1e9:.1f} GB for its results and {place} has "
            f"{free / 1e9:.1f} GB free; make room, or ask fewer questions (--n)."
        )


def speed_of(device: str | None, dtype: str | None) -> float:
    """Operations per second that a model's passes reach about, from multiplying matrices for a moment; NaN where the
    device is not on this machine, as before a cluster's job."""
    try:
        place = torch.device("cuda") if device == AUTO else torch.device(chosen_device(device))
        precision = chosen_dtype(dtype, place)
    except ParameterError:
        return math.nan
    kind = precision if isinstance(precision, torch.dtype) else torch.bfloat16
    side = MATRIX.get(place.type, MATRIX["cpu"])
    matrix = torch.ones((side, side), device=place, dtype=kind)
    best = min(timeit.repeat(lambda: (matrix @ matrix)[0, 0].item(), number=1, repeat=3))  # the first one warms up
    return EFFICIENCY * 2 * side**3 / best


def run(plan: Plan, report: Report = silent, fresh: bool = False, progress: Any = False) -> list[str]:
    """Run what is left of a plan; return in words which parts its questions cannot answer.

    Raises IdentityMismatch where a store is of another run (other weights, questions, settings) unless `fresh` sets it
    aside, and what loading and tracing raise.
    """
    jobs, parts = (plan.traces, list(full_protocol.PARTS)) if fresh else plan.left()
    if not parts and not jobs:
        report(f"{plan.name}: all is done")
        return []
    free()  # memory of the model before this one, which is needed for it
    model = plan.main.loaded()
    for job in jobs:
        report(f"{plan.name}: tracing {Path(job.path).name.removesuffix('.zarr')}, {len(job.samples)} questions")
        _trace(model, job, fresh, progress)
    refused = []
    for part in parts:
        try:
            full_protocol.run_protocol(
                model, plan.tasks, Path(plan.root) / FULL_RESULTS / WORK, report, fresh, progress,
                n=plan.judged, data=Path(plan.data), most=plan.main.n, parts=[part],
            )  # fmt: skip
        except (SampleError, ModeError) as error:
            refused.append(f"{plan.name}: {part} left out: {error}")
    return refused


def run_all(
    found: Sequence[Plan], report: Report = silent, scheduler: Any = None, fresh: bool = False, progress: Any = False
) -> list[str]:
    """Run plans one after the other, or one per worker of a Dask scheduler; return what was left out.

    One that fails stops no other. Raises KernelError with all that failed.
    """
    failed: list[str] = []
    told: list[str] = []
    outcomes = (
        ((plan, *caught(run, plan, report, fresh, progress)) for plan in found)
        if scheduler is None
        else cluster.run_each(run, found, scheduler, silent, fresh)
    )
    with contextlib.closing(outcomes):
        for plan, refused, error in outcomes:
            told += refused or []
            failed += [f"{plan.name}: {error}"] if error else []
            report(f"{plan.name}: {'failed' if error else 'done'}")
    if failed:
        raise KernelError("\n".join([*failed, "What is done is kept; run the same command again for the rest."]))
    return told


def known_answers(found: Sequence[Plan]) -> list[str]:
    """Whether the models score what was published of them on POPE: a line per model whose card tells it."""
    lines = []
    for plan in found:
        for row in scores.known_answers(traced(plan.main.results, [plan.name])).to_dict("records"):
            told = "as published" if row["as_known"] else "not as published: it or its prompts differ, find out first"
            lines.append(
                f"{plan.name}: F1 on POPE {row['estimate']:.1%} ({row['lower']:.1%} to {row['upper']:.1%}), published "
                f"{row['published']:.1%}: {told}."
            )
    return lines


def _trace(model: VisionLanguageModel, job: TraceJob, fresh: bool, progress: Any) -> None:
    if not job.untrained:
        trace.trace_to_store(model, job.samples, job.path, fresh=fresh, progress=progress, **job.arguments())
        return
    _, why = untrained_control(model, job, fresh=fresh, progress=progress)
    if why:
        raise DeviceMemoryError(why)


def _is_done(job: TraceJob) -> bool:
    path = Path(job.path)
    return path.is_dir() and not pending(path) and opened(path).ids == [sample.id for sample in job.samples]


def _on_gpu(device: str | None) -> bool:
    return (device or "cuda").startswith("cuda") and torch.cuda.is_available()


def _memory_of(device: str | None) -> float:
    """Bytes of the device's memory; infinite where it cannot be told here."""
    if _on_gpu(device):
        return float(torch.cuda.mem_get_info(torch.device(device or "cuda"))[1])
    if device in (None, "cpu"):
        return float(main_memory() or math.inf)
    return math.inf
