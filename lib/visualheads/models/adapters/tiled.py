"""InternVL, Idefics3 and SmolVLM: tiles of the stretched picture, then the whole; pixel shuffle merges patches."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.models.adapters.pictures import plain, resizing
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import split_tiles, tile_arrangement, tiled
from visualheads.models.token_map import TokenMap


def internvl_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
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


def idefics3_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Tile by tile, the whole picture last. The marks between tiles are text, not image tokens."""
    pictures = resizing(processor)
    side, tile = isqrt(processor.image_seq_len), plain(pictures.max_image_size)["longest_edge"]
    rows, columns = 0, 0
    if pictures.do_image_splitting:
        rows, columns = split_tiles(image_size, plain(pictures.size)["longest_edge"], tile)
    covered = side * config.scale_factor * config.vision_config.patch_size / tile
    return tiled(image_size, rows, columns, side, whole="last", covered=covered)


def idefics3_settings(config: Any) -> dict[str, Any]:
    """Tokens per tile: the tower's patches, `scale_factor` squared of them shuffled into one token."""
    tower = config.vision_config
    return {"image_seq_len": (tower.image_size // tower.patch_size) ** 2 // config.scale_factor**2}


register(
    Adapter(
        "InternVLForConditionalGeneration", "model.language_model.layers", internvl_tiles,
        processor_settings=lambda config: {"image_seq_length": config.image_seq_length},
    )
)  # fmt: skip
for name in ("Idefics3", "SmolVLM"):
    register(
        Adapter(
            f"{name}ForConditionalGeneration", "model.text_model.layers", idefics3_tiles, nested=True,
            processor_settings=idefics3_settings,
        )
    )  # fmt: skip
