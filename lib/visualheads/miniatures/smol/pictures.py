"""From a scene's picture to what the tower sees, exactly as the model's processor does it."""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from visualheads.models.smol.architecture import DEVIATION, MEAN, RESAMPLE, SIDE
from visualheads.tasks.pictures import DrawBox


def as_pixels(picture: Image.Image) -> Float[Tensor, "channel height width"]:
    """Return a picture resized to `SIDE` and normalised."""
    square = picture.convert("RGB").resize((SIDE, SIDE), RESAMPLE)
    values = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
    return (values.float() / 255 - MEAN) / DEVIATION


def as_saved(picture: Image.Image, quality: int) -> Image.Image:
    """Return a picture as it comes back from a JPEG file of this quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def draw_box(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the picture with a red rectangle around `box`, drawn as the LookTwice task draws it."""
    return DrawBox(box).apply(picture)
