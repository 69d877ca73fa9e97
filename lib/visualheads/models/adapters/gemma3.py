"""Gemma 3: one stretched picture, patches pooled to a square of tokens that see each other both ways."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.adapters.pictures import placement
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The pooled grid. Raises UnsupportedModelError for pan and scan, which adds crops of its own."""
    if getattr(processor.image_processor, "do_pan_and_scan", False):
        raise UnsupportedModelError(
            "Gemma 3's pan and scan adds crops to the picture; set image_processor.do_pan_and_scan to False."
        )
    side = isqrt(config.mm_tokens_per_image)
    tower = config.vision_config
    pooled = tower.image_size // tower.patch_size // side
    reach = side * pooled * tower.patch_size
    return single_grid(placement(config, processor, image_size), (side, side), (reach, reach))


def placeholder(processor: Any) -> str:
    """The begin-of-image token: the processor puts the image tokens after it."""
    return str(processor.boi_token)


ADAPTER = register(
    Adapter(
        "Gemma3ForConditionalGeneration", "model.language_model.layers", token_map, placeholder,
        nested=True, bidirectional=True,
        processor_settings=lambda config: {"image_seq_length": config.mm_tokens_per_image},
    )
)  # fmt: skip
