"""How a processor's own settings prepare a picture: its image processor's configuration in geometry's words."""

from __future__ import annotations

from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.geometry import Placement, prepared


def plain(size: Any) -> dict[str, int]:
    """A size setting (mapping or transformers' SizeDict) as a plain dictionary without empty entries."""
    items = size.items() if hasattr(size, "items") else vars(size).items()
    return {key: int(value) for key, value in items if value is not None}


def pads_to_square(pictures: Any) -> bool:
    """Whether an image processor pads to a square first, as original LLaVA-1.5 does (class LlavaImageProcessor)."""
    return bool(getattr(pictures, "do_pad", False)) and type(pictures).__name__.startswith("LlavaImageProcessor")


def placement(processor: Any, image_size: tuple[int, int]) -> Placement:
    """Where the picture lies on the canvas that the tower sees, from the image processor in use.

    Raises UnsupportedModelError where the processor does not resize: the canvas would depend on the picture.
    """
    pictures = processor.image_processor
    if not pictures.do_resize:
        raise UnsupportedModelError(
            f"{type(pictures).__name__} has do_resize=False; set it to True: the picture must fit the tower."
        )
    crop = plain(pictures.crop_size) if getattr(pictures, "do_center_crop", False) and pictures.crop_size else None
    return prepared(image_size, plain(pictures.size), crop, pad_to_square=pads_to_square(pictures))
