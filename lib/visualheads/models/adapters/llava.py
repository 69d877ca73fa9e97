"""LLaVA's relatives: LLaVA-1.5 and ViP-LLaVA (one grid), LLaVA-NeXT and -OneVision (tiles), FastVLM (a feature map)."""

from __future__ import annotations

from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.adapters.pictures import canvas, check_tiles, check_tower, llava_settings, patch_grid
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import anyres, single_grid
from visualheads.models.token_map import TokenMap

LAYERS = "model.language_model.layers"


def one_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """LLaVA-1.5: patches of the tower's canvas, row by row."""
    check_tower(config)
    return patch_grid(config, processor, image_size)


def tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """LLaVA-1.6 (NeXT): the whole picture, then its unpadded tiles with a newline token after each row (AnyRes)."""
    check_tower(config)
    check_tiles(config, processor)
    tower = config.vision_config
    return anyres(image_size, config.image_grid_pinpoints, tower.image_size, tower.patch_size)


def limited_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """LLaVA-OneVision: LLaVA-NeXT's tiles, the tile grid shrunk where it exceeds anyres_max_N tiles."""
    check_tower(config)
    check_tiles(config, processor)
    tower = config.vision_config
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    return anyres(image_size, config.image_grid_pinpoints, tower.image_size, tower.patch_size, max_tiles=most)


def onevision_settings(config: Any) -> dict[str, Any]:
    """The tower's patches, which of them are kept, and how many tiles there may be."""
    tower = config.vision_config
    return {
        "num_image_tokens": (tower.image_size // tower.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    }


def feature_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """FastVLM: cells of a convolutional tower's last feature map, row by row, each as wide and high as its stride.

    The processor calls the stride patch_size. Raises UnsupportedModelError where the canvas is not the side the model
    was made for, or no multiple of the stride.
    """
    placed = canvas(processor, image_size)
    width, height = placed.canvas_size
    stride = int(processor.patch_size)
    if width % stride or height % stride or (width // stride) * (height // stride) != config.image_seq_length:
        raise UnsupportedModelError(
            f"pictures of {width} × {height} pixels with a stride of {stride} do not make the "
            f"{config.image_seq_length} image tokens of the model; load processor and model from the same checkpoint."
        )
    return single_grid(placed, (height // stride, width // stride))


for name in ("Llava", "VipLlava"):  # ViP-LLaVA concatenates several tower layers per patch
    register(Adapter(f"{name}ForConditionalGeneration", LAYERS, one_grid, processor_settings=llava_settings))
register(Adapter("LlavaNextForConditionalGeneration", LAYERS, tiles, processor_settings=llava_settings))
register(
    Adapter("LlavaOnevisionForConditionalGeneration", LAYERS, limited_tiles, processor_settings=onevision_settings)
)
register(Adapter("FastVlmForConditionalGeneration", LAYERS, feature_map, eager_tower=True, processor="LlavaProcessor"))
