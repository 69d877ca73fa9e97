"""InternVL: tiles of the stretched picture, then the whole picture; pixel shuffle merges 2 × 2 patches."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.models.adapters.pictures import plain, resizing
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import tile_arrangement, tiled
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Tile by tile, the whole picture last; a single tile is the whole picture."""
    pictures = resizing(processor)
    size = plain(pictures.size)
    side = isqrt(processor.image_seq_length)
    patch, _ = config.vision_config.patch_size
    covered = side * patch / config.downsample_ratio / size["width"]
    rows, columns = 1, 1
    if pictures.max_patches > 1:
        tile = (size["width"], size["height"])
        rows, columns = tile_arrangement(image_size, tile, pictures.min_patches, pictures.max_patches)
    return tiled(image_size, rows, columns, side, whole="last", covered=covered)


ADAPTER = register(
    Adapter(
        "InternVLForConditionalGeneration", "model.language_model.layers", token_map,
        processor_settings=lambda config: {"image_seq_length": config.image_seq_length},
    )
)  # fmt: skip
