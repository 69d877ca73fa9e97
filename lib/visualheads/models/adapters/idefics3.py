"""Idefics3 and SmolVLM: tiles of the stretched picture with text marks between them, then the whole picture."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.models.adapters.pictures import plain, resizing
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import split_tiles, tiled
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Tile by tile, the whole picture last. The marks between tiles are text, not image tokens."""
    pictures = resizing(processor)
    side, tile = isqrt(processor.image_seq_len), plain(pictures.max_image_size)["longest_edge"]
    rows, columns = 0, 0
    if pictures.do_image_splitting:
        rows, columns = split_tiles(image_size, plain(pictures.size)["longest_edge"], tile)
    covered = side * config.scale_factor * config.vision_config.patch_size / tile
    return tiled(image_size, rows, columns, side, whole="last", covered=covered)


def processor_settings(config: Any) -> dict[str, Any]:
    """Tokens per tile: the tower's patches, `scale_factor` squared of them shuffled into one token."""
    tower = config.vision_config
    return {"image_seq_len": (tower.image_size // tower.patch_size) ** 2 // config.scale_factor**2}


ADAPTERS = tuple(
    register(
        Adapter(
            f"{name}ForConditionalGeneration", "model.text_model.layers", token_map, nested=True,
            processor_settings=processor_settings,
        )
    )
    for name in ("Idefics3", "SmolVLM")
)  # fmt: skip
