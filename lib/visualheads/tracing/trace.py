"""Samples through a model: attention rows, reduced to measures inside the loop, as a labelled Dataset or a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.errors import checked
from visualheads.models.devices import fitting, in_halves
from visualheads.models.progress import Wish, progress_bar
from visualheads.store import read, schema, write
from visualheads.store.write import SHARD
from visualheads.tracing.collect import Collector
from visualheads.tracing.forward import LAST_PROMPT, Outcome, plan_batches, prefetched, run
from visualheads.tracing.settings import (
    MAX_NEW_TOKENS,
    Settings,
    check_unchanged,
    circumstance_of,
    coordinates_of,
    identity_of,
    settings_of,
)

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample


@checked
def trace(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    query: str | Sequence[str] = LAST_PROMPT,
    keep: str | Sequence[str] = (),
    *,
    heads: Any = None,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
    seed: int = 0,
    task_files: str = "",
) -> xr.Dataset:
    """Measure every head on every sample.

    Parameters
    ----------
    model : VisionLanguageModel
        From `vh.load` or `vh.wrap`.
    samples : sequence of Sample
        What is asked, each sample with an id of its own.
    query : str or sequence of str
        The attention row: "last_prompt" (the last prompt token's, which produces the answer), "first_generated" (the
        first generated token's, as in the paper's code), "answer_span" (mean over the generated tokens). Several of
        them add the dimension `query`.
    keep : str or sequence of str
        More than measures: "mean_map" (…, map_condition, grid_row, grid_column), "maps" (sample, selected_head,
        grid_row, grid_column), "attention" (…, key) with is_image (sample, key), left padding cut away.
    heads : (layer, head) pairs or bool DataArray, optional
        Whose maps are kept with "maps"; by default all.
    batch_tokens : int, optional
        Samples run together while longest × count stays below; default 1024 on CPUs, 16384 on GPUs.
    max_new_tokens : int
        Longest answer, in tokens.
    progress : bool or "auto"
        "auto": a bar with rate and remaining time in terminals and notebooks.
    seed : int
        Only recorded: greedy answers have no chance in them.
    task_files : str
        Only recorded: the hash of the benchmark's files (its `files_hash()`); results of several models are joined
        sample by sample where it agrees.

    Returns
    -------
    xarray.Dataset
        Dims model, layer, head, sample (and query). Variables, ranges and NaN rules are those of
        `visualheads.tracing.measures.measure`; with them prediction, correct, margin and n_image_tokens per sample.
        A free-form margin is over the other answers in this list, so it can be compared only between runs over the
        same list, and is NaN where the list has a single answer. Results do not depend on batches beyond rounding.

    Raises
    ------
    SampleError, ImageError, BoxError, ParameterError, HeadError
        Naming what is wrong, before anything runs where it can be known before.
    """
    settings = settings_of(model, samples, query, keep, heads, batch_tokens, max_new_tokens)
    with progress_bar(f"trace {model.name}", len(samples), progress) as advance:
        measured = _measured(model, samples, settings, advance)
    coords = coordinates_of(model, samples, settings, seed, task_files, single=isinstance(query, str))
    return schema.describe(measured.dataset(coords))


@dataclass(frozen=True)
class ShardTracer:
    """A model, a list of samples and their store: traces what any shard of it lacks, in any process."""

    model: VisionLanguageModel
    samples: Sequence[Sample]
    settings: Settings
    plan: write.StorePlan
    path: Path

    @property
    def todo(self) -> dict[int, list[str]]:
        """The samples of this list that are still to be traced, by shard."""
        return write.todo(self.path, self.plan.samples)

    def shard(self, index: int, advance: Callable[[int], None] = lambda _count: None) -> xr.Dataset:
        """Trace what a shard lacks, as `store.write_shard` takes it; all that was asked of it where it lacks nothing.

        advance: is told the number of samples done.
        """
        ids = self.todo.get(index) or write.asked_of(self.path, index, self.plan.samples)
        place = {name: place for place, name in enumerate(self.plan.samples)}
        chosen = [place[name] for name in ids]
        measured = _measured(self.model, [self.samples[one] for one in chosen], self.settings, advance)
        return measured.dataset(self.plan.coords.isel(sample=chosen), sums=True)


@checked
def prepare_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    keep: str | Sequence[str] = ("mean_map",),
    heads: Any = None,
    shard: int = SHARD,
    fresh: bool = False,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    task_files: str = "",
    kind: str = "trace",
) -> ShardTracer:
    """Make the store at `path`, or check that the one there is of the same run, and add the samples that it lacks.

    Parameters are those of `trace_to_store`. Returns the tracer of its shards. Raises IdentityMismatch for a store of
    another run, and what `trace` raises.
    """
    settings = settings_of(model, samples, schema.QUERIES, keep, heads, batch_tokens, max_new_tokens)
    plan = write.StorePlan(
        coordinates_of(model, samples, settings, seed, task_files),
        identity=identity_of(model, settings, seed, task_files),
        circumstance=circumstance_of(model),
        shard=shard,
        keep=settings.keep,
        grid=settings.grid,
        kind=kind,
        hashes=settings.hashes,
        answers=settings.answers,
    )
    return ShardTracer(model, samples, settings, plan, write.create(Path(path), plan, fresh=fresh))


@checked
def trace_to_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    keep: str | Sequence[str] = ("mean_map",),
    heads: Any = None,
    shard: int = SHARD,
    fresh: bool = False,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
    seed: int = 0,
    task_files: str = "",
    kind: str = "trace",
) -> xr.Dataset:
    """Trace into a Zarr store, shard by shard. What the store holds already is not traced again.

    A killed run loses at most the shard in hand; a shard with a damaged file is traced anew.

    Parameters
    ----------
    model, samples, heads, batch_tokens, max_new_tokens, progress, seed, task_files
        As in `trace`; `task_files` is a benchmark's `files_hash()`.
    path : path
        The store, `….zarr`. Samples that it lacks are added to it.
    keep : str or sequence of str
        "mean_map", or "maps" of the chosen `heads`, or both. Rows `first_generated` and `last_prompt` are both kept.
    shard : int
        Samples per shard.
    fresh : bool
        Start anew beside a store that is there.
    kind : str
        What `open_results` finds the store by.

    Returns
    -------
    xarray.Dataset
        These samples, opened lazily. Where the store holds more, mean maps that are over others too are NaN.

    Raises
    ------
    IdentityMismatch
        Where the store is of another run – other weights, processor or settings, or the same sample id with another
        question, picture or prompt –, and what `trace` raises.
    """
    tracer = prepare_store(
        model, samples, path, keep=keep, heads=heads, shard=shard, fresh=fresh, batch_tokens=batch_tokens,
        max_new_tokens=max_new_tokens, seed=seed, task_files=task_files, kind=kind,
    )  # fmt: skip
    todo = tracer.todo
    done = len(samples) - sum(map(len, todo.values()))
    with progress_bar(f"trace {model.name}", len(samples), progress, done=done) as advance:
        for index in todo:
            part = tracer.shard(index, advance)
            write.write_shard(tracer.path, index, part, circumstance=tracer.plan.circumstance)
    return read.open_asked(tracer.path, tracer.plan.samples, tracer.plan.answers)


def _measured(
    model: VisionLanguageModel, samples: Sequence[Sample], settings: Settings, advance: Callable[[int], None]
) -> Collector:
    """The loop: batches are planned, encoded while the model is busy, run, and their rows reduced to measures."""
    collector = Collector(model, samples, settings)
    batches = plan_batches([settings.lengths[sample.id] for sample in samples], settings.batch_tokens)

    def encode(batch: Sequence[int]) -> Any:
        return model.encode([samples[index] for index in batch])

    for batch, encoding in prefetched(batches, encode):

        def traced(part: Sequence[int], batch: Sequence[int] = batch, encoding: Any = encoding) -> tuple[Any, Outcome]:
            with fitting(model, [samples[index] for index in part]):
                ready = encoding if len(part) == len(batch) else encode(part)
                return ready, run(model, ready, settings.queries, settings.max_new_tokens)

        for part, (ready, outcome) in in_halves(batch, traced):  # in one piece, where memory suffices
            collector.add(part, ready, outcome)
            advance(len(part))
    check_unchanged(settings, samples)
    return collector
