"""LLaVA-1.5: one picture, one grid of the tower's patches."""

from __future__ import annotations

from typing import Any

from visualheads.models.adapters.pictures import check_tower, llava_settings, patch_grid
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Patches of the tower's canvas, row by row."""
    check_tower(config)
    return patch_grid(config, processor, image_size)


ADAPTER = register(
    Adapter(
        "LlavaForConditionalGeneration", "model.language_model.layers", token_map, processor_settings=llava_settings
    )
)  # fmt: skip
