"""LLaVA-OneVision: LLaVA-NeXT's tiles, the tile grid shrunk where it exceeds anyres_max_N tiles."""

from __future__ import annotations

from typing import Any

from visualheads.models.adapters.pictures import check_tiles, check_tower
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import anyres
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The base grid and the joined tile grid, as the model packs them."""
    check_tower(config)
    check_tiles(config, processor)
    tower = config.vision_config
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    return anyres(image_size, config.image_grid_pinpoints, tower.image_size, tower.patch_size, max_tiles=most)


def processor_settings(config: Any) -> dict[str, Any]:
    """The tower's patches, which of them are kept, and how many tiles there may be."""
    tower = config.vision_config
    return {
        "num_image_tokens": (tower.image_size // tower.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    }


ADAPTER = register(
    Adapter(
        "LlavaOnevisionForConditionalGeneration", "model.language_model.layers", token_map,
        processor_settings=processor_settings,
    )
)  # fmt: skip
