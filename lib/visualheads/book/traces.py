"""Every miniature traced on every shipped benchmark, once, before the pages that read it; done work is not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from visualheads.book import page as inputs
from visualheads.book.catalogue import FULL_RESULTS, MAIN_TASK, shipped
from visualheads.book.page import Page, parameters_of
from visualheads.book.run import Countdown, Report, caught, one_thread, side_by_side, silent
from visualheads.cards import data_folder, miniature_folder
from visualheads.errors import IdentityMismatch, ParameterError, StoreError, got
from visualheads.models.loading import load, untrained
from visualheads.models.smol import base_weights
from visualheads.paths import RESULTS, slug_of
from visualheads.store import files as disk
from visualheads.store.stored import opened
from visualheads.store.write import pending
from visualheads.studies import full_protocol, stored_model
from visualheads.studies.shipped import NULL, path_of
from visualheads.tasks import Benchmark, task, task_names
from visualheads.tracing.jobs import TraceJob
from visualheads.tracing.measures import DEFINITIONS_VERSION, MEASURES
from visualheads.tracing.trace import trace_to_store

BOOK_N = {"pope": 48, "mmbench": 30, "seedbench": 100, "qbench": 100}
"""Questions per condition that the book asks (looktwice: the model page's own number); --full asks all."""
OTHER_UNTRAINED_N = 16
"""Questions per condition of the other benchmarks that an untrained network is asked: charts need its level alone."""
TEMPLATE = Path("notebooks/model.ipynb")
LOADED = ("device", "dtype", "adapter", "prompt", "system", "chat_template")
"""Parameters of a page that say how its model is loaded; "" for the default."""
STAMP = "traced.json"
"""Beside the stores: what each was made from, so that a second build need not load any model to see it is done."""


def shipped_tasks() -> list[str]:
    """The benchmarks whose scenes are shipped, complete."""
    return [name for name in task_names() if (data_folder() / "scenes" / name).is_dir() and not task(name).missing()]


def taught(model: str) -> tuple[str, ...]:
    """The shipped benchmarks that a miniature was trained for, by its training record: others are not asked of it."""
    path = miniature_folder(model) / "training.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = {MAIN_TASK, *record.get("benchmarks", {})}
    return tuple(name for name in shipped_tasks() if name in known)


def book_jobs(root: Path, models: Sequence[str], pages: Sequence[Page], full: bool = False) -> list[TraceJob]:
    """One job per miniature and shipped benchmark, the same of its untrained network, and white pictures for the
    benchmark of its page. Further trainings of a miniature, which have no page, are asked the main benchmark alone.

    Where a model's page has parameters of its own, its benchmark is traced with them.
    """
    results = str(root / (FULL_RESULTS if full else RESULTS))
    own = {str(page.parameters.get("model")): page_job(root, page) for page in pages}
    asked = book_questions(root)
    jobs: list[TraceJob] = []
    for model in models:
        main = own.get(model)
        others = [
            TraceJob(
                model, name, formats=asked_formats(task(name)), n=None if full else asked.get(name), results=results
            )
            for name in (taught(model) if main else (MAIN_TASK,))
            if main is None or name != main.task
        ]
        jobs += others if main is None else with_controls(main, others, marked=model == models[0])
    return jobs


def asked_formats(benchmark: Benchmark) -> tuple[str, ...]:
    """The answer formats in which pages ask a benchmark: all of the main one, the first of the others."""
    return tuple(benchmark.formats if benchmark.name == MAIN_TASK else benchmark.formats[:1])


def with_controls(main: TraceJob, others: Sequence[TraceJob], marked: bool = False) -> list[TraceJob]:
    """What pages and claims read of a model: its traces, white pictures on the main benchmark, an untrained network
    where no null is shipped, and on every benchmark where charts mark the untrained level (the first model's)."""
    untrained = [main.fresh_network()] if marked or not path_of(main.model, NULL).is_file() else []
    untrained += [job.fresh_network(OTHER_UNTRAINED_N) for job in others if marked]
    return [main, main.white(), *others, *untrained]


def book_questions(root: Path) -> dict[str, int]:
    """Questions per condition that the book asks, by benchmark: as many of the main one as a model's page does."""
    return {MAIN_TASK: int(parameters_of(root / TEMPLATE)["n"].default), **BOOK_N}


def page_job(root: Path, page: Page) -> TraceJob:
    """The trace that a model's page reads: what its notebook asks for, so that it finds all done."""
    told = {name: parameter.default for name, parameter in parameters_of(page.template).items()} | dict(page.parameters)
    loaded: dict[str, Any] = {option: str(told.get(option) or "") or None for option in LOADED}
    name, data = str(told["task"]), str(root / str(told["data"])) if told["data"] else None
    return TraceJob(
        str(told["model"]),
        name,
        data,
        formats=tuple(task(name, data=data).formats),
        n=int(told["n"]),
        seed=int(told["seed"]),
        batch_tokens=int(told["batch_tokens"]) or None,
        results=str(root / str(told["results"])),
        answer_prefix=str(told.get("answer_prefix") or ""),
        **loaded,
    )


def trace_all(
    root: str | Path, pages: Sequence[Page], full: bool = False, workers: int | None = None, report: Report = silent
) -> list[str]:
    """Trace all `book_jobs` that are not done, several side by side; return what failed, in words.

    A store of another run – other weights, scenes, questions – is set aside and made anew: these are the book's own.
    """
    root = Path(root).resolve()
    if not (root / TEMPLATE).is_file():
        return []
    names = [card.name for card in shipped()]
    todo = [(job, made) for job in book_jobs(root, names, pages, full) if not _is_done(job, made := made_from(job))]
    if not todo:
        return []
    made_of = dict(sorted(todo, key=lambda pair: _size(pair[0]), reverse=True))
    failed: list[str] = []
    left = Countdown([_size(job) for job in made_of])
    with one_thread():
        for job, _, why in side_by_side(trace_one, list(made_of), workers):
            told = f"{job.model} on {Path(job.path).name.removesuffix('.zarr')}"
            if why:
                failed.append(f"trace of {told}: {why}")
            else:
                _stamp(job, made_of[job])
            report(f"{'failed: trace of' if why else 'traced'} {told} ({left.step(_size(job))})")
    return failed


def trace_one(job: TraceJob) -> None:
    """Run one job in this process."""
    torch.set_num_threads(1)
    model, samples = _loaded(job.model, job.device, job.dtype), job.samples
    model = untrained(model, job.seed) if job.untrained else model
    other = Path(job.path).exists() and opened(job.path).ids != [sample.id for sample in samples]
    try:
        trace_to_store(model, samples, job.path, progress=False, fresh=other, **job.arguments())
    except IdentityMismatch:
        trace_to_store(model, samples, job.path, progress=False, fresh=True, **job.arguments())


@cache
def _loaded(model: str, device: str | None, dtype: str | None) -> Any:
    return load(model, device=device, dtype=dtype)


def made_from(job: TraceJob) -> str:
    """Hash of everything that decides a job's store."""
    described = asdict(job) | {"results": "", "definitions": DEFINITIONS_VERSION, "measures": MEASURES}
    files = inputs.files_hash([miniature_folder(job.model), *inputs.task_places(job.task, job.data)])
    return hashlib.sha256(f"{json.dumps(described, sort_keys=True)} {files}".encode()).hexdigest()


def _is_done(job: TraceJob, made: str) -> bool:
    path = Path(job.path)
    try:
        return path.is_dir() and _stamps(job).get(_key(job)) == made and not pending(path)
    except StoreError:  # tracing tells what is damaged, and stops no other
        return False


def _stamp(job: TraceJob, made: str) -> None:
    path = Path(job.results) / STAMP
    with disk.refusals_told(path):
        disk.write_file(path, json.dumps({**_stamps(job), _key(job): made}, indent=1, sort_keys=True).encode())


def _stamps(job: TraceJob) -> dict[str, str]:
    """Nothing where the file is damaged: what is done is then found in the stores, and stamped again."""
    path = Path(job.results) / STAMP
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _key(job: TraceJob) -> str:
    return f"{slug_of(job.model)}/{Path(job.path).name}"


def _size(job: TraceJob) -> int:
    """About how long a job takes: bytes of weights × samples; longest first keeps all processors busy to the end."""
    weights = sum(path.stat().st_size for path in miniature_folder(job.model).glob("*.safetensors"))
    tiles = 3 if "1.6" in job.model else 1
    return max(weights, 1) * tiles * (job.n or 1000) * (6 if job.task == "looktwice" else 3)


JOINED = "smol-1.5"
"""The model on a real language model, which runs its own parts of the protocol."""
WORK = "protocol"
"""Below the folder of full results: what is unfinished, to be gone on with."""


def full_models() -> list[str]:
    """The miniatures with a page of their own, and the model on a real language model where its base weights are."""
    ready = [JOINED] if base_weights.is_prepared(base_weights.base_folder()) else []
    return [*ready, *(card.name for card in shipped() if card.paper_name)]


def run_full(
    root: str | Path, models: Sequence[str] | None = None, workers: int | None = None, force: bool = False,
    report: Report = silent,
) -> list[str]:  # fmt: skip
    """Run the full protocol of these miniatures (all) unless it is shipped already; return what failed, in words.

    A single one reports every step. Raises ParameterError for a model that is not there.
    """

    def holds(name: str) -> bool:
        try:
            current = full_protocol.is_current
            return current(name, stored_model.PARTS) if name == JOINED else current(name)
        except StoreError:  # running it tells what is damaged, and stops no other
            return False

    known = full_models()
    wrong = [name for name in models or () if name not in known]
    if wrong:
        raise ParameterError(got("model", wrong[0], known, "train it, or prepare its base weights, first"))
    asked = list(models or known)
    todo = [name for name in asked if force or not holds(name)]
    for name in asked:
        if name not in todo:
            report(f"{name}: the full protocol is up to date")
    if not todo:
        return []
    work = str(Path(root).resolve() / FULL_RESULTS / WORK)
    if len(todo) == 1:
        _, why = caught(run_one, todo[0], work, force, report)
        return [f"full protocol of {todo[0]}: {why}"] if why else []
    failed: list[str] = []
    with one_thread():
        for name, _, why in side_by_side(partial(run_one, work=work, force=force), todo, workers):
            failed += [f"full protocol of {name}: {why}"] if why else []
            report(f"{name}: the full protocol {'failed' if why else 'is done'}")
    return failed


def run_one(model: str, work: str, force: bool = False, report: Report = silent) -> None:
    """Run one model's in this process."""
    torch.set_num_threads(1)
    joined = model == JOINED
    own: dict[str, Any] = {"parts": stored_model.PARTS, **stored_model.SIZES} if joined else {}
    tasks = stored_model.TASKS if joined else taught(model)
    full_protocol.run_protocol(load(model, device="cpu"), tasks, work, report, force, **own)
