"""How a processor's own settings prepare a picture: its image processor's configuration in geometry's words.

Everything here refuses what it cannot know: a wrong box is worse than none.
"""

from __future__ import annotations

from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import Placement, TokenMap, prepared

CLASS_TOKENS = {"clip_vision_model": True, "siglip_vision_model": False}
"""Towers whose patches are one square grid, and whether a class token stands before them."""


def plain(size: Any) -> dict[str, int]:
    """A size setting (mapping or transformers' SizeDict) as a plain dictionary without empty entries."""
    items = size.items() if hasattr(size, "items") else vars(size).items()
    return {key: int(value) for key, value in items if value is not None}


def pads_to_square(pictures: Any) -> bool:
    """Whether an image processor pads to a square first, as original LLaVA-1.5 does (class LlavaImageProcessor)."""
    return bool(getattr(pictures, "do_pad", False)) and type(pictures).__name__.startswith("LlavaImageProcessor")


def resizing(processor: Any) -> Any:
    """The image processor. Raises UnsupportedModelError where it does not resize: nothing tells what the tower sees."""
    pictures = processor.image_processor
    if not pictures.do_resize:
        raise UnsupportedModelError(
            f"{type(pictures).__name__} has do_resize=False; set it to True: the picture must fit the tower."
        )
    return pictures


def canvas(processor: Any, image_size: tuple[int, int]) -> Placement:
    """Where the picture lies on the canvas that the image processor in use makes.

    Raises UnsupportedModelError where the processor does not resize.
    """
    pictures = resizing(processor)
    crop = plain(pictures.crop_size) if getattr(pictures, "do_center_crop", False) and pictures.crop_size else None
    return prepared(image_size, plain(pictures.size), crop, pad_to_square=pads_to_square(pictures))


def placement(config: Any, processor: Any, image_size: tuple[int, int]) -> Placement:
    """Where the picture lies on the canvas that the tower sees, from the image processor in use.

    Raises UnsupportedModelError where the processor does not resize, or makes a canvas that is not the tower's.
    """
    found = canvas(processor, image_size)
    side = config.vision_config.image_size
    if found.canvas_size != (side, side):
        raise UnsupportedModelError(
            f"{type(processor.image_processor).__name__} makes pictures of {found.canvas_size[0]} × "
            f"{found.canvas_size[1]} pixels, the tower takes {side} × {side}; load processor and model from the same "
            "checkpoint."
        )
    return found


def patch_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The tower's patches, row by row; what is left over on the right and below no patch sees."""
    placed = placement(config, processor, image_size)
    width, height = placed.canvas_size
    patch = config.vision_config.patch_size
    rows, columns = height // patch, width // patch
    return single_grid(placed, (rows, columns), (columns * patch, rows * patch))


def check_tower(config: Any) -> None:
    """Raise UnsupportedModelError unless the image tokens are exactly the tower's patches (the LLaVA classes)."""
    kind = config.vision_config.model_type
    if kind not in CLASS_TOKENS:
        raise UnsupportedModelError(
            f"the vision tower {kind!r} lays out its patches in a way of its own; known towers: "
            f"{', '.join(CLASS_TOKENS)}. Such a checkpoint needs an adapter that knows its tower."
        )
    strategy = getattr(config, "vision_feature_select_strategy", "default")
    if CLASS_TOKENS[kind] != (strategy == "default"):
        fault = "the class token is among" if CLASS_TOKENS[kind] else "the first patch is missing from"
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} with the tower {kind!r}: {fault} the image tokens, "
            f"so they are no grid; set it to {'default' if CLASS_TOKENS[kind] else 'full'!r}, if trained so."
        )


def llava_settings(config: Any) -> dict[str, Any]:
    """What LLaVA's processors have to know of the model (`Adapter.processor_settings`)."""
    tower = config.vision_config
    return {
        "patch_size": tower.patch_size,
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "num_additional_image_tokens": int(CLASS_TOKENS.get(tower.model_type, True)),
    }


def check_tiles(config: Any, processor: Any) -> None:
    """Raise UnsupportedModelError where processor and model cut a picture differently (AnyRes)."""
    pictures, side = resizing(processor), config.vision_config.image_size
    theirs, ours = ([list(map(int, one)) for one in who.image_grid_pinpoints] for who in (pictures, config))
    if theirs != ours:
        raise UnsupportedModelError(
            f"image_grid_pinpoints of the processor ({theirs[:3]} …) are not those of the model ({ours[:3]} …); load "
            "both from the same checkpoint."
        )
    edges = set(plain(pictures.size).values())
    if edges != {side}:
        raise UnsupportedModelError(
            f"{type(pictures).__name__} makes tiles of {sorted(edges)} pixels, the tower takes {side}; load processor "
            "and model from the same checkpoint."
        )
