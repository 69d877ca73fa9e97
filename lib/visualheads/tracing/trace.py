"""Samples through a model: attention rows, reduced to measures inside the loop, as a labelled Dataset or a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from visualheads.errors import SampleError, checked
from visualheads.models.devices import fitting, in_halves
from visualheads.models.progress import Wish, progress_bar
from visualheads.models.token_map import TokenMap
from visualheads.models.wrapper import decoded
from visualheads.store import read, schema, write
from visualheads.store.stored import GRID_DIMS
from visualheads.store.variables import QUERIES
from visualheads.tasks import scoring
from visualheads.tracing.forward import LAST_PROMPT, Outcome, Rows, plan_batches, prefetched, run
from visualheads.tracing.measures import MEASURES, TokenSets, measure, resampled, whole_picture_maps
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


class Layout:
    """Where the image tokens of a batch lie: among the keys, on the grid, in the asked region.

    Built once per batch; `sets` makes the token sets of one query's rows.
    """

    def __init__(
        self, samples: Sequence[Sample], maps: Sequence[TokenMap], positions: Sequence[Tensor], prompt: int
    ) -> None:
        for sample, token_map, where in zip(samples, maps, positions, strict=True):
            if len(where) != len(token_map):
                raise SampleError(
                    f"sample {sample.id!r}: the prompt has {len(where)} image tokens, its picture {len(token_map)}; "
                    "remove image tokens from the question."
                )
        shape = (len(samples), prompt)
        self.image = torch.zeros(shape, dtype=torch.bool)
        self.patch, self.region = torch.zeros_like(self.image), torch.zeros_like(self.image)
        self.row = torch.full(shape, -1, dtype=torch.long)
        self.column = torch.full(shape, -1, dtype=torch.long)
        self.grid = tuple(max(edges) for edges in zip(*(token_map.grid_shape for token_map in maps), strict=True))
        self.shapes = [token_map.grid_shape for token_map in maps]
        for index, (sample, token_map, where) in enumerate(zip(samples, maps, positions, strict=True)):
            self.image[index, where] = True
            self.patch[index, where] = torch.from_numpy(token_map.is_patch.copy())
            self.row[index, where] = torch.from_numpy(token_map.whole_row)
            self.column[index, where] = torch.from_numpy(token_map.whole_column)
            if sample.box is not None:
                self.region[index, where] = torch.from_numpy(token_map.in_box(sample.box))

    def sets(self, rows: Rows, sinks: Tensor | None) -> TokenSets:
        """Token sets with the layers folded into the batch (layer-major), for rows of shape (layer · batch, …)."""
        layers, batch, _, keys = rows.attention.shape
        device = rows.attention.device

        def folded(values: Tensor, fill: int | bool) -> Tensor:
            values = torch.nn.functional.pad(values.to(device), (0, keys - values.shape[-1]), value=fill)
            values = values if values.ndim == 3 else values.expand(layers, batch, keys)
            return values.reshape(layers * batch, keys)

        return TokenSets(
            image=folded(self.image, False),
            patch=folded(self.patch, False),
            region=folded(self.region, False),
            visible=rows.visible.reshape(layers * batch, keys),
            row=folded(self.row, -1),
            column=folded(self.column, -1),
            sink=None if sinks is None else folded(sinks, False),
        )

    def measures(self, rows: Rows, sinks: Tensor | None) -> dict[str, NDArray[np.float32]]:
        """Every measure, each of shape (batch, layer, head)."""
        layers, batch, heads, _ = rows.attention.shape
        found = measure(rows.attention.flatten(0, 1)[:, :, None], self.sets(rows, sinks), self.grid)
        return {
            name: values.reshape(layers, batch, heads).transpose(0, 1).cpu().numpy() for name, values in found.items()
        }

    def maps(self, rows: Rows, grid: tuple[int, int]) -> Float[Tensor, "batch layer head row column"]:
        """Attention per cell of the whole-picture grid, on the CPU; 0 where a patch is out of sight.

        Where a picture's own grid differs from `grid`, its map is resampled, keeping its mass.
        """
        layers, batch = rows.attention.shape[:2]
        flat = whole_picture_maps(rows.attention.flatten(0, 1)[:, :, None], self.sets(rows, None), self.grid)
        maps = torch.nan_to_num(flat[:, :, 0]).unflatten(0, (layers, batch)).transpose(0, 1).cpu()
        if all(shape == grid for shape in self.shapes):
            return maps
        own = [one[..., : shape[0], : shape[1]] for one, shape in zip(maps, self.shapes, strict=True)]
        return torch.stack([resampled(one, grid) for one in own])


class Collector:
    """Arrays over all samples of one trace. `add` fills in a batch; `dataset` attaches labels."""

    def __init__(self, model: VisionLanguageModel, samples: Sequence[Sample], settings: Settings) -> None:
        layers, count, _ = model.shape
        shape = (layers, count, len(samples), len(settings.queries))
        self.model, self.samples, self.settings = model, samples, settings
        self.queries, self.keep, self.heads, self.grid = settings.queries, settings.keep, settings.heads, settings.grid
        self.groups = settings.groups
        self.measures = {name: np.full(shape, np.nan, np.float32) for name in MEASURES}
        self.prediction = np.full(len(samples), "", dtype=object)
        self.correct, self.margin = (np.full(len(samples), np.nan, np.float32) for _ in range(2))
        self.n_image_tokens = np.zeros(len(samples), np.int32)
        if "mean_map" in self.keep:
            self.map_sum = np.zeros((layers, count, len(self.queries), len(self.groups), *self.grid), np.float32)
            self.map_count = np.zeros(len(self.groups), np.int32)
        if "maps" in self.keep:
            self.maps = np.full((len(samples), len(self.queries), len(self.heads), *self.grid), np.nan, np.float32)
        self.attention: dict[int, list[np.ndarray]] = {}
        self.is_image: dict[int, np.ndarray] = {}

    def add(self, batch: Sequence[int], encoding: Any, outcome: Outcome) -> None:
        """Fill in the samples `batch` (indices into the list) from what their encoding gave."""
        asked, mask = [self.samples[index] for index in batch], encoding["attention_mask"]
        token_maps = [self.model.token_map(self.settings.sizes[sample.id]) for sample in asked]
        layout = Layout(asked, token_maps, self.model.image_positions(encoding), mask.shape[1])
        indices = np.asarray(batch)
        for place, query in enumerate(self.queries):
            rows = outcome.rows[query]
            for name, values in layout.measures(rows, outcome.sinks).items():
                self.measures[name][:, :, indices, place] = values.transpose(1, 2, 0)
            if "mean_map" in self.keep or "maps" in self.keep:
                self._add_maps(indices, place, layout.maps(rows, self.grid).numpy())
            if "attention" in self.keep:
                for row, index in enumerate(batch):
                    seen = rows.attention[:, row, :, int(mask.shape[1] - mask[row].sum()) :]
                    self.attention.setdefault(index, []).append(seen.cpu().numpy())
        answers = decoded(self.model.tokenizer, outcome.answers, self.model.end_tokens)
        logits = outcome.logits.float().cpu()
        for row, (index, sample) in enumerate(zip(batch, asked, strict=True)):
            self.prediction[index] = answers[row]
            self.correct[index] = scoring.correct(sample, answers[row])
            self.margin[index] = self.settings.margins(sample, logits[row])
            self.n_image_tokens[index] = int(layout.image[row].sum())
            if "mean_map" in self.keep:
                self.map_count[self.groups.index(schema.map_group(sample))] += 1
            if "attention" in self.keep:
                self.is_image[index] = layout.image[row, int(mask.shape[1] - mask[row].sum()) :].numpy()

    def _add_maps(self, indices: np.ndarray, place: int, maps: np.ndarray) -> None:
        for row, index in enumerate(indices):
            if "mean_map" in self.keep:
                self.map_sum[:, :, place, self.groups.index(schema.map_group(self.samples[index]))] += maps[row]
            if "maps" in self.keep:
                layers, heads = zip(*self.heads, strict=True)
                self.maps[index, place] = maps[row, list(layers), list(heads)]

    def dataset(self, coords: xr.Dataset, sums: bool = False) -> xr.Dataset:
        """The variables on `coords`. Without the dimension `query` there, that of a single query is dropped.

        sums: mean maps as `mean_map_sum`, one shard of a store.
        """
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: (("layer", "head", "sample", "query"), values) for name, values in self.measures.items()
        }
        variables |= {
            name: (("sample",), getattr(self, name)) for name in ("prediction", "correct", "margin", "n_image_tokens")
        }
        if "mean_map" in self.keep:
            variables |= self._mean_maps(sums)
        if "maps" in self.keep:
            variables["maps"] = (("sample", "query", "selected_head", *GRID_DIMS), self.maps)
        if "attention" in self.keep:
            variables |= self._attention()
        return coords.assign(_labelled(variables, single="query" not in coords.dims))

    def _mean_maps(self, sums: bool) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        dims = ("layer", "head", "query", "map_condition", *GRID_DIMS)
        if sums:
            return {"mean_map_sum": (("shard", *dims), self.map_sum[None])}
        count = self.map_count.astype(np.float32)[:, None, None]
        mean = np.divide(self.map_sum, count, out=np.full_like(self.map_sum, np.nan), where=count > 0)
        return {"mean_map": (dims, mean), "mean_map_count": (("map_condition",), self.map_count)}

    def _attention(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Keys run from each sample's first prompt token; NaN (is_image: False) after its last."""
        longest = max(rows.shape[-1] for found in self.attention.values() for rows in found)
        layers, heads = next(iter(self.attention.values()))[0].shape[:2]
        values = np.full((layers, heads, len(self.samples), len(self.queries), longest), np.nan, np.float32)
        image = np.zeros((len(self.samples), longest), dtype=bool)
        for index, found in self.attention.items():
            image[index, : len(self.is_image[index])] = self.is_image[index]
            for place, rows in enumerate(found):
                values[:, :, index, place, : rows.shape[-1]] = rows
        return {
            "attention": (("layer", "head", "sample", "query", "key"), values),
            "is_image": (("sample", "key"), image),
        }


def _labelled(
    variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]], single: bool
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Every variable with the dimension `model` in front; with a single query its dimension is dropped."""
    labelled = {}
    for name, (dims, values) in variables.items():
        if single and "query" in dims:
            values = np.take(values, 0, axis=dims.index("query"))
            dims = tuple(dim for dim in dims if dim != "query")
        labelled[name] = (("model", *dims), values[None])
    return labelled


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
        Samples run together while longest × count stays below; default 8192 on CPUs, 16384 on GPUs.
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


@dataclass(frozen=True)
class StoreSettings:
    """What decides a store of traces besides model and samples: see `trace_to_store`, whose defaults these are."""

    keep: str | Sequence[str] = ("mean_map",)
    heads: Any = None
    shard: int = write.SHARD
    batch_tokens: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0
    task_files: str = ""
    kind: str = "trace"


def prepare_store(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    asked: StoreSettings,
    fresh: bool = False,
) -> ShardTracer:
    """Make the store at `path`, or check that the one there is of the same run, and add the samples that it lacks.

    Returns the tracer of its shards. Raises IdentityMismatch for a store of another run, and what `trace` raises.
    """
    settings = settings_of(model, samples, QUERIES, asked.keep, asked.heads, asked.batch_tokens, asked.max_new_tokens)
    plan = write.StorePlan(
        coordinates_of(model, samples, settings, asked.seed, asked.task_files),
        identity=identity_of(model, settings, asked.seed, asked.task_files),
        circumstance=circumstance_of(model),
        shard=asked.shard,
        keep=settings.keep,
        grid=settings.grid,
        kind=asked.kind,
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
    shard: int = write.SHARD,
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
    asked = StoreSettings(keep, heads, shard, batch_tokens, max_new_tokens, seed, task_files, kind)
    tracer = prepare_store(model, samples, path, asked, fresh)
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
