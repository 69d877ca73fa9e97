"""What a model's own code makes of a picture's pixels: each image token as the mean of the pixels it shows.

A module is straightened: its tower averages pixels instead of mixing them, its projector only copies. What the
processor and the model's own packing do – resize, pad, crop, cut into tiles, merge, reorder, unpad, interpolate,
insert newlines, scatter into the prompt – stays as it is. So a picture whose colours tell positions shows where each
token lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from visualheads.tasks.sample import Sample

COLOURS, NEWLINE_CHANNEL = 3, 3


class Through(nn.Module):
    """In place of a norm."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone(memory_format=torch.contiguous_format)  # some merge patches by `view`


class Copied(nn.Module):
    """In place of a projector: the mean colour of the patches that were merged, in the first channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        groups = hidden.reshape(*hidden.shape[:-1], -1, self.channels)[..., :COLOURS]
        return nn.functional.pad(groups.mean(-2), (0, self.width - COLOURS))


class ByPatches(Copied):
    """In place of Qwen's merger, whose input has one row per patch: `merged` rows after each other are one token."""

    def __init__(self, channels: int, width: int, merged: int) -> None:
        super().__init__(channels, width)
        self.merged = merged

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return super().forward(hidden.reshape(-1, self.merged * self.channels))


class Pooled(nn.Module):
    """In place of a convolutional tower: the mean colour of each cell of its feature map."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        cells = self.tower(pixels).last_hidden_state.shape[-2:]
        return BaseModelOutputWithPooling(last_hidden_state=nn.functional.adaptive_avg_pool2d(pixels, cells))


def straighten(module: Any) -> Any:
    """Straighten a small module in place and return it."""
    inner, width = module.model, module.config.get_text_config().hidden_size
    if module.config.model_type == "fast_vlm":
        inner.vision_tower = Pooled(inner.vision_tower)
        inner.multi_modal_projector = Copied(COLOURS, width)
        return module
    tower = next(getattr(inner, name) for name in ("vision_tower", "vision_model", "visual") if hasattr(inner, name))
    with torch.no_grad():
        for weight in tower.parameters():
            weight.zero_()
        for part in list(tower.modules()):
            for name, child in part.named_children():
                if "Norm" in type(child).__name__:
                    setattr(part, name, Through())
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                for colour in range(COLOURS):
                    part.weight[colour, colour] = 1 / part.weight[0, 0].numel()
                channels = part.out_channels
        if hasattr(inner, "image_newline"):
            inner.image_newline.zero_()[NEWLINE_CHANNEL] = 1
        if hasattr(tower, "merger"):
            tower.merger = ByPatches(channels, width, tower.config.spatial_merge_size**2)
        elif hasattr(inner, "connector"):
            inner.connector.modality_projection = Copied(channels, width)
        elif hasattr(inner.multi_modal_projector, "mm_input_projection_weight"):  # its pooling stays
            inner.multi_modal_projector.mm_soft_emb_norm = Through()
            inner.multi_modal_projector.mm_input_projection_weight.zero_().fill_diagonal_(1)
        else:
            inner.multi_modal_projector = Copied(channels, width)
    return module


class _Seen(Exception):
    """Ends a forward pass early."""


def image_embeddings(model: Any, picture: Image.Image) -> np.ndarray:
    """What enters the decoder at the image tokens, (image token, channel), of a model with a straightened module."""
    encoding = model.encode([Sample(id="one", image=picture, question="how many ?", answer="")])
    found: list[torch.Tensor] = []

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["inputs_embeds"])
        raise _Seen

    decoder = model.module.get_submodule(model.adapter.layers.rpartition(".")[0])
    hook = decoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.no_grad():
            model.module(**encoding)
    except _Seen:
        pass
    finally:
        hook.remove()
    return found[0][0, model.image_positions(encoding)[0]].numpy()


@dataclass(frozen=True)
class Traced:
    """Per image token, as the model's own code packs them: what of the picture it shows.

    colour      (token, 3), 0 to 1: the mean colour of the picture's pixels that it shows; NaN where it shows none
    coverage    share of the token's area that is picture, not padding
    newline     tokens that are the newline parameter
    """

    colour: np.ndarray
    coverage: np.ndarray
    newline: np.ndarray


def traced(model: Any, picture: Image.Image) -> Traced:
    """Trace a picture; black and white ones of its size tell each token's scale, whatever normalising there is."""
    plain = [Image.new("RGB", picture.size, (level,) * 3) for level in (0, 255)]
    black, white, shown = (image_embeddings(model, one)[:, :4] for one in (*plain, picture))
    span = (white - black)[:, :COLOURS]
    full = span.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.where(span > 0.05 * full, (shown - black)[:, :COLOURS] / span, np.nan)
    return Traced(colour, (span / full).mean(1), shown[:, NEWLINE_CHANNEL] > 0.5)


def positions_and_box(size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """A picture whose red grows with x, whose green grows with y, and which is blue inside `box`."""
    width, height = size
    x, y = (np.arange(width) + 0.5)[None], (np.arange(height) + 0.5)[:, None]
    red, green = np.broadcast_to(x / width, (height, width)), np.broadcast_to(y / height, (height, width))
    inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    return Image.fromarray((255 * np.stack([red, green, inside.astype(float)], axis=-1)).round().astype(np.uint8))
