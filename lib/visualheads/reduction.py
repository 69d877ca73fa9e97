"""From a batch's rows to measures and maps, inside the loop: rows are never collected over batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from visualheads.errors import SampleError
from visualheads.forward import Rows
from visualheads.geometry import TokenMap
from visualheads.measures import TokenSets, measure, whole_picture_maps

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

DYNAMIC_GRID = (16, 16)
"""Grid of mean maps where pictures have grids of different shapes (Qwen-VL): each map is resampled onto it."""


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


def common_grid(maps: Sequence[TokenMap]) -> tuple[int, int]:
    """The pictures' shared whole-picture grid (rows, columns); DYNAMIC_GRID where they differ."""
    shapes = {token_map.grid_shape for token_map in maps}
    return shapes.pop() if len(shapes) == 1 else DYNAMIC_GRID


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
