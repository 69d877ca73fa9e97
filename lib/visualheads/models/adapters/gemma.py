"""Gemma 3 and PaliGemma 1 and 2: one stretched picture that is seen both ways, by itself or with the whole prompt."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.adapters.pictures import patch_grid, placement
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap


def pooled_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Gemma 3: patches pooled to a square of tokens.

    Raises UnsupportedModelError for pan and scan, which adds crops of its own.
    """
    if getattr(processor.image_processor, "do_pan_and_scan", False):
        raise UnsupportedModelError(
            "Gemma 3's pan and scan adds crops to the picture; set image_processor.do_pan_and_scan to False."
        )
    side = isqrt(config.mm_tokens_per_image)
    tower = config.vision_config
    pooled = tower.image_size // tower.patch_size // side
    reach = side * pooled * tower.patch_size
    return single_grid(placement(config, processor, image_size), (side, side), (reach, reach))


def begin_of_image(processor: Any) -> str:
    """The begin-of-image token: Gemma 3's processor puts the image tokens after it."""
    return str(processor.boi_token)


def softcap(config: Any) -> bool:
    """PaliGemma 2 (Gemma 2) caps its attention scores."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def paligemma_settings(config: Any) -> dict[str, Any]:
    """Tokens per picture: the tower's patches."""
    tower = config.vision_config
    return {"image_processor.image_seq_length": (tower.image_size // tower.patch_size) ** 2}


register(
    Adapter(
        "Gemma3ForConditionalGeneration", "model.language_model.layers", pooled_grid, begin_of_image,
        nested=True, bidirectional=True,
        processor_settings=lambda config: {"image_seq_length": config.mm_tokens_per_image},
    )
)  # fmt: skip
register(
    Adapter(
        "PaliGemmaForConditionalGeneration", "model.language_model.layers", patch_grid,
        bidirectional=True, softcap=softcap, processor_settings=paligemma_settings,
    )
)  # fmt: skip
