"""One short file per model family: where its layers live, and how its image tokens lie on the picture."""

from __future__ import annotations

from visualheads import plugins
from visualheads.models.adapters import (
    fast_vlm,
    gemma3,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    paligemma,
    qwen_vl,
    vip_llava,
)
from visualheads.models.adapters.registry import Adapter, adapter_of, register, supported

__all__ = [
    "Adapter",
    "adapter_of",
    "fast_vlm",
    "gemma3",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "paligemma",
    "qwen_vl",
    "register",
    "supported",
    "vip_llava",
]

plugins.load(plugins.ADAPTERS)
