"""ViP-LLaVA: LLaVA's layout; several tower layers are concatenated per patch."""

from __future__ import annotations

from visualheads.models.adapters.llava import token_map
from visualheads.models.adapters.pictures import llava_settings
from visualheads.models.adapters.registry import Adapter, register

ADAPTER = register(
    Adapter(
        "VipLlavaForConditionalGeneration", "model.language_model.layers", token_map, processor_settings=llava_settings
    )
)  # fmt: skip
