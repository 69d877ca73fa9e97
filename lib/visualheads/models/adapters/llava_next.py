"""LLaVA-1.6 (NeXT): the whole picture, then its unpadded tiles with a newline token after each row (AnyRes)."""

from __future__ import annotations

from typing import Any

from visualheads.models.adapters.pictures import check_tiles, check_tower, llava_settings
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import anyres
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The base grid and the joined tile grid, as the model packs them."""
    check_tower(config)
    check_tiles(config, processor)
    tower = config.vision_config
    return anyres(image_size, config.image_grid_pinpoints, tower.image_size, tower.patch_size)


ADAPTER = register(
    Adapter(
        "LlavaNextForConditionalGeneration", "model.language_model.layers", token_map, processor_settings=llava_settings
    )
)  # fmt: skip
