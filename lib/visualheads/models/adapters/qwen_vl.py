"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures in their own shape, 2 × 2 patches merged into one token."""

from __future__ import annotations

from typing import Any

from visualheads.models.adapters.pictures import plain, resizing
from visualheads.models.adapters.registry import Adapter, image_token, register
from visualheads.models.token_layouts import merged_patches
from visualheads.models.token_map import TokenMap


def token_map(_config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The merged patches of the resized picture, row by row."""
    pictures = resizing(processor)
    size = plain(pictures.size)  # here these two are numbers of pixels
    return merged_patches(
        image_size, pictures.patch_size, pictures.merge_size, size["shortest_edge"], size["longest_edge"]
    )


def placeholder(processor: Any) -> str:
    """The image token between its start and end marks."""
    return f"<|vision_start|>{image_token(processor)}<|vision_end|>"


def processor_settings(config: Any) -> dict[str, Any]:
    """How the tower cuts a picture; the image processor cuts it, so both have to agree."""
    tower = config.vision_config
    return {
        "image_processor.patch_size": tower.patch_size,
        "image_processor.merge_size": tower.spatial_merge_size,
        "image_processor.temporal_patch_size": tower.temporal_patch_size,
    }


for name in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL"):
    register(
        Adapter(
            f"{name}ForConditionalGeneration", "model.language_model.layers", token_map, placeholder,
            processor_settings=processor_settings,
        )
    )  # fmt: skip
