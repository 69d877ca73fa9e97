"""One short file per kind of image layout: where the layers of its models live, and how their image tokens lie."""

from __future__ import annotations

from visualheads import plugins
from visualheads.models.adapters import gemma, llava, qwen_vl, tiled
from visualheads.models.adapters.registry import Adapter, adapter_of, register, supported

__all__ = ["Adapter", "adapter_of", "gemma", "llava", "qwen_vl", "register", "supported", "tiled"]

plugins.load(plugins.ADAPTERS)
