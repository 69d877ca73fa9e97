"""Where the layers of each family's models live, and how their image tokens lie: mappings, no arithmetic."""

from __future__ import annotations

from math import isqrt
from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.adapters.registry import (
    Adapter,
    canvas,
    check_tiles,
    check_tower,
    image_token,
    llava_settings,
    patch_grid,
    placement,
    plain,
    register,
    resizing,
)
from visualheads.models.token_layouts import anyres, merged_patches, single_grid, split_tiles, tile_arrangement, tiled
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
