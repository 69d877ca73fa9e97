"""What can be wrong with a picture: blur, noise, darkness, fading – the low-level qualities that Q-Bench asks about."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageFilter

NONE = "none"
DISTORTIONS = ("blur", "noise", "darkness", "fading")
QUALITIES = (NONE, *DISTORTIONS)
ADJECTIVES = {  # (of a distorted picture, of one without that distortion)
    "blur": ("blurry", "sharp"),
    "noise": ("noisy", "clear"),
    "darkness": ("dark", "bright"),
    "fading": ("faded", "colourful"),
}
# Mild and strong: radius in pixels, standard deviation in grey levels, and twice the share that is left.
STRENGTHS = {"blur": (1.0, 1.8), "noise": (18.0, 34.0), "darkness": (0.5, 0.25), "fading": (0.3, 0.1)}
PALE, CONTRAST = 200, 0.6  # a faded picture's tones are drawn towards this grey level, by this factor


def draw_strength(rng: random.Random, kind: str) -> float:
    """A strength between the kind's mild and strong end; 0 for no distortion."""
    return 0.0 if kind == NONE else rng.uniform(*STRENGTHS[kind])


def distorted(image: Image.Image, kind: str, strength: float, seed: int) -> Image.Image:
    """The RGB picture with one distortion; `strength` in the kind's own unit, `seed` fixes the noise."""
    if kind == NONE:
        return image
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength))
    pixels = np.asarray(image, dtype=np.float64)
    if kind == "noise":
        pixels = pixels + np.random.default_rng(seed).normal(0, strength, pixels.shape)
    elif kind == "darkness":
        pixels = pixels * strength
    else:
        grey = pixels.mean(-1, keepdims=True)
        pixels = PALE + (grey + (pixels - grey) * strength - PALE) * CONTRAST
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
