"""Samples through a model: attention rows, reduced to measures inside the loop, as a labelled Dataset or a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.models.devices import fitting, in_halves
from visualheads.models.progress import Wish, progress_bar
from visualheads.models.prompting import ONE_AT_A_TIME
from visualheads.store import schema, write
from visualheads.store.write import SHARD
from visualheads.tracing import batching
from visualheads.tracing.collect import Collector, Layout
from visualheads.tracing.forward import FIRST_GENERATED, Outcome, run
from visualheads.tracing.settings import (
    MAX_NEW_TOKENS,
    Settings,
    circumstance_of,
    coordinates_of,
    identity_of,
    settings_of,
)

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample


def trace(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    query: str | Sequence[str] = FIRST_GENERATED,
    keep: str | Sequence[str] = (),
    *,
    heads: Any = None,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
    seed: int = 0,
    task_files: str = "",
) -> xr.Dataset:
    """Measure every head on every sample: a Dataset with dims model, layer, head, sample (and query, see below).

    query           "first_generated" (default: the first generated token's row), "last_prompt" (the row that produces
                    the answer), "answer_span" (mean over the generated tokens); several of them add the dim `query`
    keep            more than measures: "mean_map" (…, condition, grid_row, grid_column), "maps" (sample, selected_head,
                    grid_row, grid_column), "attention" (…, key) with is_image (sample, key), left padding cut away
    heads           for keep "maps": (layer, head) pairs or a bool DataArray; default all
    batch_tokens    samples run together while longest × count stays below; default 1024 on CPUs, 16384 on GPUs
    max_new_tokens  longest answer
    progress        True, False, or "auto": a bar with rate and remaining time in terminals and notebooks
    seed            only recorded: greedy answers have no chance in them
    task_files      only recorded: the hash of the benchmark's files (its `files_hash()`); results of several models are
                    joined sample by sample where it agrees

    Variables, ranges and NaN rules: `visualheads.tracing.measures.measure`; with them prediction, correct, margin and
    n_image_tokens per sample. Batches are a pure function of the list; results do not depend on them beyond rounding.
    A free-form margin is over the other answers in this list, so it can be compared only between runs over the same
    list, and is NaN where the list has a single answer.
    Raises ParameterError, SampleError, ImageError or BoxError naming what is wrong.
    """
    settings = settings_of(model, samples, query, keep, heads, batch_tokens, max_new_tokens)
    with progress_bar(f"trace {model.name}", len(samples), progress) as advance:
        collector = _collected(model, samples, settings, advance)
    coords = coordinates_of(model, samples, settings, seed, task_files, single=isinstance(query, str))
    return schema.describe(collector.dataset(coords))


@dataclass(frozen=True)
class ShardTracer:
    """A model, a list of samples and the plan of their store: traces any shard of it, in any process."""

    model: VisionLanguageModel
    samples: Sequence[Sample]
    settings: Settings
    plan: write.Plan

    @classmethod
    def of(
        cls,
        model: VisionLanguageModel,
        samples: Sequence[Sample],
        *,
        keep: str | Sequence[str] = ("mean_map",),
        heads: Any = None,
        shard: int = SHARD,
        batch_tokens: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        task_files: str = "",
        kind: str = "trace",
    ) -> ShardTracer:
        """Check everything and plan the store, without making it. Raises what `trace` raises."""
        settings = settings_of(model, samples, schema.QUERIES, keep, heads, batch_tokens, max_new_tokens)
        plan = write.Plan(
            coordinates_of(model, samples, settings, seed, task_files),
            identity=identity_of(model, samples, settings, seed, task_files),
            circumstance=circumstance_of(model),
            shard=shard,
            keep=settings.keep,
            grid=settings.grid,
            kind=kind,
        )
        return cls(model, samples, settings, plan)

    def shard(self, index: int, advance: Callable[[int], None] = lambda _count: None) -> xr.Dataset:
        """Trace one shard, as `store.write_shard` takes it. `advance` is told the number of samples done."""
        part = self.plan.slice(index)
        collector = _collected(self.model, self.samples[part], self.settings, advance)
        return collector.dataset(self.plan.coords.isel(sample=part), sums=True)


def prepare_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    fresh: bool = False,
    **asked: Any,
) -> ShardTracer:
    """Make the store at `path`, or check that the one there is of the same run; return the tracer of its shards.

    `asked` are the keywords of `ShardTracer.of`. Raises IdentityMismatch for a store of another run.
    """
    tracer = ShardTracer.of(model, samples, **asked)
    write.create(Path(path), tracer.plan, fresh=fresh)
    return tracer


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
    """Trace into a Zarr store, shard by shard, and return it opened (lazily). What is done already is skipped.

    Both `first_generated` and `last_prompt` are stored. keep: "mean_map", or "maps" of the chosen `heads`, or both, as
    in `trace`. A killed run loses at most the shard in hand. `task_files` is the hash of the benchmark's files
    (`Benchmark.files_hash()`), `kind` what `open_results` finds the store by. Raises IdentityMismatch when the store is
    of another run (`fresh=True` starts anew beside it), and what `trace` raises.
    """
    tracer = prepare_store(
        model, samples, path, fresh=fresh, keep=keep, heads=heads, shard=shard, batch_tokens=batch_tokens,
        max_new_tokens=max_new_tokens, seed=seed, task_files=task_files, kind=kind,
    )  # fmt: skip
    path = Path(path)
    todo = write.pending(path)
    left = sum(len(samples[tracer.plan.slice(index)]) for index in todo)
    with progress_bar(f"trace {model.name}", len(samples), progress, done=len(samples) - left) as advance:
        for index in todo:
            write.write_shard(path, index, tracer.shard(index, advance), circumstance=tracer.plan.circumstance)
    return write.open_store(path)


def _collected(
    model: VisionLanguageModel, samples: Sequence[Sample], settings: Settings, advance: Callable[[int], None]
) -> Collector:
    collector = Collector(
        model, samples, settings.queries, settings.keep, settings.heads, settings.grid, settings.groups
    )
    batches = batching.plan_batches(_lengths(model, samples, settings), settings.batch_tokens)

    def prepare(batch: list[int]) -> Any:
        return model.encode([samples[index] for index in batch])

    for batch, encoding in batching.prefetched(batches, prepare):
        for part, (ready, outcome) in _run(model, samples, batch, encoding, settings):
            asked = [samples[index] for index in part]
            maps = [model.token_map(settings.sizes[sample.id]) for sample in asked]
            layout = Layout(asked, maps, model.image_positions(ready), ready["input_ids"].shape[1])
            collector.add(part, outcome, layout, ready["attention_mask"], settings.margins)
            advance(len(part))
    return collector


def _run(
    model: VisionLanguageModel, samples: Sequence[Sample], batch: list[int], encoding: Any, settings: Settings
) -> Iterator[tuple[Sequence[int], tuple[Any, Outcome]]]:
    """The batch in one piece; where memory does not suffice, in halves."""

    def traced(part: Sequence[int]) -> tuple[Any, Outcome]:
        asked = [samples[index] for index in part]
        with fitting(model, asked):
            ready = encoding if len(part) == len(batch) else model.encode(asked)
            return ready, run(model, ready, settings.queries, settings.max_new_tokens)

    return in_halves(batch, traced)


def _lengths(model: VisionLanguageModel, samples: Sequence[Sample], settings: Settings) -> list[int]:
    """Tokens of each prompt: its text's and its picture's, without decoding the picture."""
    with ONE_AT_A_TIME:
        texts = model.tokenizer([model.prompts.of(sample) for sample in samples])["input_ids"]
    maps = [model.token_map(settings.sizes[sample.id]) for sample in samples]
    return [len(text) + len(token_map) for text, token_map in zip(texts, maps, strict=True)]
