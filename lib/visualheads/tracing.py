"""Samples through a model: attention rows, reduced to measures inside the loop, as a labelled Dataset or a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from PIL import Image

from visualheads import batching, provenance, schema, store
from visualheads.collecting import KEEPABLE, Collector, chosen_heads
from visualheads.errors import ParameterError, SampleError, VisualHeadsError, got
from visualheads.forward import FIRST_GENERATED, QUERIES, Outcome, run
from visualheads.generation import Margins
from visualheads.measures import DEFINITIONS_VERSION
from visualheads.plan import SHARD
from visualheads.progress import Wish, progress_bar
from visualheads.reduction import Layout, common_grid
from visualheads.tasks.sample import Sample, as_lazy

if TYPE_CHECKING:
    from visualheads.models import VisionLanguageModel

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens per batch by default: enough to keep the device busy, little enough for its memory (and a CPU's caches)."""

MAX_NEW_TOKENS = 16
"""Longest answer by default; generation ends with the last answer of its batch, so short answers cost what they need."""


@dataclass(frozen=True)
class _Settings:
    queries: tuple[str, ...]
    keep: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    grid: tuple[int, int]
    batch_tokens: int
    max_new_tokens: int
    margins: Margins
    conditions: tuple[str, ...]
    sizes: dict[str, tuple[int, int]]


def trace(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    query: str | Sequence[str] = FIRST_GENERATED,
    keep: Sequence[str] = (),
    *,
    heads: Any = None,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
    seed: int = 0,
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

    Variables, ranges and NaN rules: `visualheads.measures.measure`; with them prediction, correct, margin and
    n_image_tokens per sample. Batches are a pure function of the list; results do not depend on them beyond rounding.
    Raises ParameterError, SampleError, ImageError or BoxError naming what is wrong.
    """
    _check(samples)
    settings = _settings(model, samples, query, keep, heads, batch_tokens, max_new_tokens)
    with progress_bar(f"trace {model.name}", len(samples), progress) as advance:
        collector = _collected(model, samples, settings, advance)
    coords = _coordinates(model, samples, settings, seed, single=isinstance(query, str))
    return schema.describe(collector.dataset(coords))


def trace_to_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    keep: Sequence[str] = ("mean_map",),
    shard: int = SHARD,
    fresh: bool = False,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
    seed: int = 0,
    task_files: str = "",
) -> xr.Dataset:
    """Trace into a Zarr store, shard by shard, and return it opened (lazily). What is done already is skipped.

    Both `first_generated` and `last_prompt` are stored. A killed run loses at most the shard in hand. `task_files` is
    the hash of the benchmark's files (`provenance.hash_files`). Raises IdentityMismatch when the store is of another
    run (`fresh=True` starts anew beside it), and what `trace` raises.
    """
    _check(samples)
    path = Path(path)
    settings = _settings(model, samples, schema.QUERIES, keep, None, batch_tokens, max_new_tokens)
    plan = store.Plan(
        _coordinates(model, samples, settings, seed, task_files=task_files),
        identity=identity_of(model, samples, seed, task_files, max_new_tokens),
        circumstance=circumstance_of(model),
        shard=shard,
        keep=settings.keep,
        grid=settings.grid,
    )
    store.create(path, plan, fresh=fresh)
    todo = store.pending(path)
    left = sum(len(samples[plan.slice(index)]) for index in todo)
    with progress_bar(f"trace {model.name}", len(samples), progress, done=len(samples) - left) as advance:
        for index in todo:
            part = samples[plan.slice(index)]
            coords = plan.coords.isel(sample=plan.slice(index))
            dataset = _collected(model, part, settings, advance).dataset(coords, sums=True)
            store.write_shard(path, index, dataset, circumstance=plan.circumstance)
    return store.open_store(path)


def identity_of(
    model: VisionLanguageModel, samples: Sequence[Sample], seed: int, task_files: str, max_new_tokens: int
) -> dict[str, str | int]:
    """What decides the numbers of a trace; stores of another identity are never mixed."""
    kind = str(model.dtype).removeprefix("torch.")
    made = provenance.identity(
        checkpoint=model.identity["checkpoint"],
        revision=model.identity["revision"],
        weights=model.identity["weights"],
        task_files=task_files,
        definitions=DEFINITIONS_VERSION,
        dtype=kind,
        seed=seed,
        samples=provenance.hash_samples(samples),
    )
    return {**made, "max_new_tokens": max_new_tokens}


def circumstance_of(model: VisionLanguageModel) -> dict[str, str]:
    """What should not decide the numbers: versions, device, attention implementation."""
    attention = str(getattr(model.config.get_text_config(), "_attn_implementation", ""))
    return dict(_circumstance(model.device.type, attention))


@cache
def _circumstance(device: str, attention: str) -> dict[str, str]:
    return provenance.circumstance(device=device, attention=attention)  # asks for package versions: some 10 ms


def _collected(
    model: VisionLanguageModel, samples: Sequence[Sample], settings: _Settings, advance: Callable[[int], None]
) -> Collector:
    collector = Collector(
        model, samples, settings.queries, settings.keep, settings.heads, settings.grid, settings.conditions
    )
    batches = batching.plan_batches(_lengths(model, samples, settings), settings.batch_tokens)

    def prepare(batch: list[int]) -> Any:
        return model.encode([samples[index] for index in batch])

    for batch, encoding in batching.prefetched(batches, prepare):
        for part, ready, outcome in _run(model, samples, batch, encoding, settings):
            asked = [samples[index] for index in part]
            positions = model.image_positions(ready)
            maps = [model.token_map(settings.sizes[sample.id]) for sample in asked]
            layout = Layout(asked, maps, positions, ready["input_ids"].shape[1])
            collector.add(part, outcome, layout, ready["attention_mask"], settings.margins)
            advance(len(part))
    return collector


def _run(
    model: VisionLanguageModel, samples: Sequence[Sample], batch: list[int], encoding: Any, settings: _Settings
) -> list[tuple[list[int], Any, Outcome]]:
    """The batch in one piece; where memory does not suffice, in halves."""
    try:
        return [(batch, encoding, run(model, encoding, settings.queries, settings.max_new_tokens))]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise VisualHeadsError(
                f"sample {samples[batch[0]].id!r} alone does not fit into the memory of {model.device}; use a smaller "
                "model, dtype='bfloat16', or device='auto' to spread the layers."
            ) from None
    torch.cuda.empty_cache()
    halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
    return [
        done
        for half in halves
        for done in _run(model, samples, half, model.encode([samples[index] for index in half]), settings)
    ]


def _settings(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    query: str | Sequence[str],
    keep: Sequence[str],
    heads: Any,
    batch_tokens: int | None,
    max_new_tokens: int,
) -> _Settings:
    queries = (query,) if isinstance(query, str) else tuple(query)
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    for name, values, allowed in (("query", queries, QUERIES), ("keep", kept, KEEPABLE)):
        for value in values:
            if value not in allowed:
                raise ParameterError(got(name, value, allowed))
        if len(set(values)) < len(values):
            raise ParameterError(got(name, values, f"each of {', '.join(allowed)} at most once"))
    if not queries:
        raise ParameterError(got("query", queries, QUERIES, "ask for at least one"))
    if max_new_tokens < 1:
        raise ParameterError(got("max_new_tokens", max_new_tokens, "1 or more"))
    tokens = batch_tokens if batch_tokens is not None else BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
    if tokens < 1:
        raise ParameterError(got("batch_tokens", tokens, "1 or more"))
    sizes = {sample.id: _size(sample) for sample in samples}
    grid = common_grid([model.token_map(size) for size in set(sizes.values())])
    margins = Margins(model.tokenizer, samples)
    chosen, conditions = chosen_heads(model, heads, kept), schema.conditions_of(samples)
    return _Settings(queries, kept, chosen, grid, tokens, max_new_tokens, margins, conditions, sizes)


def _check(samples: Sequence[Sample]) -> None:
    if isinstance(samples, Sample) or not isinstance(samples, Sequence):
        raise SampleError(f"samples: got a {type(samples).__name__}; give a list of vh.Sample.")
    if not samples:
        raise SampleError("samples: got an empty list; give at least one vh.Sample.")
    for index, sample in enumerate(samples):
        if not isinstance(sample, Sample):
            raise SampleError(f"samples[{index}] is a {type(sample).__name__}; give vh.Sample objects.")
    ids = [sample.id for sample in samples]
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})[:5]
        raise SampleError(f"sample ids are not unique: {', '.join(twice)}; give every sample its own id.")


def _size(sample: Sample) -> tuple[int, int]:
    """(width, height) of a sample's picture, from its header alone."""
    return sample.image.size if isinstance(sample.image, Image.Image) else as_lazy(sample.image).size()


def _lengths(model: VisionLanguageModel, samples: Sequence[Sample], settings: _Settings) -> list[int]:
    """Tokens of each prompt: its text's and its picture's, without decoding the picture."""
    texts = model.tokenizer([model.prompt(sample.question) for sample in samples])["input_ids"]
    maps = [model.token_map(settings.sizes[sample.id]) for sample in samples]
    return [len(text) + len(token_map) for text, token_map in zip(texts, maps, strict=True)]


def _coordinates(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    settings: _Settings,
    seed: int,
    single: bool = False,
    task_files: str = "",
) -> xr.Dataset:
    card = model.card
    identity = identity_of(model, samples, seed, task_files, settings.max_new_tokens)
    return schema.coordinates(
        model.name,
        samples,
        model.shape.layers,
        model.shape.heads,
        queries=None if single else settings.queries,
        llm=card.llm if card else "",
        family=card.family if card else "",
        recipe=card.recipe if card else "",
        parameters=model.parameters,
        provenance=schema.provenance(identity, circumstance_of(model)),
        conditions=settings.conditions if "mean_map" in settings.keep else None,
    )
