"""FastVLM: the last feature map of a convolutional tower, row by row."""

from __future__ import annotations

from typing import Any

from visualheads.errors import UnsupportedModelError
from visualheads.models.adapters.pictures import canvas
from visualheads.models.adapters.registry import Adapter, register
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap


def token_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Cells of the feature map, each as wide and high as the tower's stride; the processor calls that patch_size.

    Raises UnsupportedModelError where the canvas is not the side the model was made for, or no multiple of the stride.
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


ADAPTER = register(
    Adapter(
        "FastVlmForConditionalGeneration",
        "model.language_model.layers",
        token_map,
        eager_tower=True,
        processor="LlavaProcessor",
    )
)
