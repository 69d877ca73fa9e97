"""From a batch's rows to measures and maps, inside the loop: rows are never collected over batches.

Where a trace's numbers are gathered: arrays over all samples, filled batch by batch, made into a Dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from visualheads.errors import SampleError
from visualheads.models.token_map import TokenMap
from visualheads.models.wrapper import decoded
from visualheads.store.schema import map_group
from visualheads.tasks import scoring
from visualheads.tracing.forward import Rows
from visualheads.tracing.measures import MEASURES, TokenSets, measure, whole_picture_maps

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample
    from visualheads.tracing.forward import Outcome
    from visualheads.tracing.settings import Settings


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
        return torch.stack([_resampled(one, grid) for one in own])


def _resampled(maps: Float[Tensor, "*lead row column"], grid: tuple[int, int]) -> Float[Tensor, "*lead row2 column2"]:
    rows, columns = (_shares(old, new) for old, new in zip(maps.shape[-2:], grid, strict=True))
    return rows @ maps @ columns.mT


def _shares(old: int, new: int) -> Float[Tensor, "new old"]:
    """Share of each old cell that falls into each new one, along an axis; columns sum to 1."""
    edges_old = torch.linspace(0, 1, old + 1)
    edges_new = torch.linspace(0, 1, new + 1)
    low = torch.maximum(edges_old[None, :-1], edges_new[:-1, None])
    high = torch.minimum(edges_old[None, 1:], edges_new[1:, None])
    return (high - low).clamp_min(0) * old


MAP_DIMS = ("grid_row", "grid_column")


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
                self.map_count[self.groups.index(map_group(sample))] += 1
            if "attention" in self.keep:
                self.is_image[index] = layout.image[row, int(mask.shape[1] - mask[row].sum()) :].numpy()

    def _add_maps(self, indices: np.ndarray, place: int, maps: np.ndarray) -> None:
        for row, index in enumerate(indices):
            if "mean_map" in self.keep:
                self.map_sum[:, :, place, self.groups.index(map_group(self.samples[index]))] += maps[row]
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
            variables["maps"] = (("sample", "query", "selected_head", *MAP_DIMS), self.maps)
        if "attention" in self.keep:
            variables |= self._attention()
        return coords.assign(_labelled(variables, single="query" not in coords.dims))

    def _mean_maps(self, sums: bool) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        dims = ("layer", "head", "query", "map_condition", *MAP_DIMS)
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
