"""LLaVA-1.5: one picture, one grid of the tower's patches."""

from __future__ import annotations

from typing import Any

from visualheads.adapters.pictures import placement
from visualheads.adapters.registry import Adapter, register
from visualheads.geometry import TokenMap
from visualheads.layouts import single_grid


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Patches of the tower's canvas, row by row."""
    canvas = placement(processor, image_size)
    width, height = canvas.canvas_size
    patch = config.vision_config.patch_size
    return single_grid(canvas, (height // patch, width // patch))


ADAPTER = register(Adapter("LlavaForConditionalGeneration", "model.language_model.layers", token_map))
