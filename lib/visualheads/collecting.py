"""Where a trace's numbers are gathered: arrays over all samples, filled batch by batch, made into a Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from torch import Tensor

from visualheads.errors import ParameterError
from visualheads.generation import Margins, decoded
from visualheads.measures import MEASURES
from visualheads.schema import MapGroup, map_group, map_groups
from visualheads.selection import head_pairs
from visualheads.tasks import scoring

if TYPE_CHECKING:
    from visualheads.forward import Outcome
    from visualheads.reduction import Layout
    from visualheads.tasks.sample import Sample
    from visualheads.vision_language import VisionLanguageModel

KEEPABLE = ("mean_map", "maps", "attention")
MAP_DIMS = ("grid_row", "grid_column")


def chosen_heads(model: VisionLanguageModel, heads: Any, keep: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Heads as (layer, head) pairs, from what `head_pairs` takes; None: all of them.

    Raises HeadError as it does, ParameterError where no maps are kept.
    """
    layers, count, _ = model.shape
    if "maps" not in keep:
        if heads is not None:
            raise ParameterError("heads= chooses whose maps are kept; add keep=('maps',), or leave heads out.")
        return ()
    if heads is None:
        return tuple((layer, head) for layer in range(layers) for head in range(count))
    return tuple(head_pairs(model, heads))


class Collector:
    """Arrays over all samples of one trace. `add` fills in a batch; `dataset` attaches labels."""

    def __init__(
        self,
        model: VisionLanguageModel,
        samples: Sequence[Sample],
        queries: Sequence[str],
        keep: Sequence[str],
        heads: Sequence[tuple[int, int]],
        grid: tuple[int, int],
        groups: Sequence[MapGroup] | None = None,
    ) -> None:
        layers, count, _ = model.shape
        shape = (layers, count, len(samples), len(queries))
        self.tokenizer, self.end_tokens = model.tokenizer, model.end_tokens
        self.samples, self.queries, self.keep, self.heads, self.grid = samples, tuple(queries), keep, heads, grid
        self.groups = tuple(groups or map_groups(samples))
        self.measures = {name: np.full(shape, np.nan, np.float32) for name in MEASURES}
        self.prediction = np.full(len(samples), "", dtype=object)
        self.correct, self.margin = (np.full(len(samples), np.nan, np.float32) for _ in range(2))
        self.n_image_tokens = np.zeros(len(samples), np.int32)
        if "mean_map" in keep:
            self.map_sum = np.zeros((layers, count, len(queries), len(self.groups), *grid), np.float32)
            self.map_count = np.zeros(len(self.groups), np.int32)
        if "maps" in keep:
            self.maps = np.full((len(samples), len(queries), len(heads), *grid), np.nan, np.float32)
        self.attention: dict[int, list[np.ndarray]] = {}
        self.is_image: dict[int, np.ndarray] = {}

    def add(self, batch: Sequence[int], outcome: Outcome, layout: Layout, mask: Tensor, margins: Margins) -> None:
        """Fill in the samples `batch` (indices into the list) from one batch's outcome. `mask` is its padding mask."""
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
        answers = decoded(self.tokenizer, outcome.answers, self.end_tokens)
        logits = outcome.logits.float().cpu()
        for row, index in enumerate(batch):
            sample = self.samples[index]
            self.prediction[index] = answers[row]
            self.correct[index] = scoring.correct(sample, answers[row])
            self.margin[index] = margins(sample, logits[row])
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
        dims = ("layer", "head", "query", "condition", *MAP_DIMS)
        if sums:
            return {
                "mean_map_sum": (("shard", *dims), self.map_sum[None]),
                "mean_map_count": (("shard", "condition"), self.map_count[None]),
            }
        count = self.map_count.astype(np.float32)[:, None, None]
        mean = np.divide(self.map_sum, count, out=np.full_like(self.map_sum, np.nan), where=count > 0)
        return {"mean_map": (dims, mean), "mean_map_count": (("condition",), self.map_count)}

    def _attention(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Keys run from each sample's first prompt token; NaN (is_image: False) after its last."""
        longest = max(rows[0].shape[-1] for found in self.attention.values() for rows in [found])
        longest = max(longest, *(rows.shape[-1] for found in self.attention.values() for rows in found))
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
