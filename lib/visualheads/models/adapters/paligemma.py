"""PaliGemma 1 and 2: one stretched picture before the text; the whole prompt sees itself both ways."""

from __future__ import annotations

from typing import Any

from visualheads.models.adapters.pictures import patch_grid
from visualheads.models.adapters.registry import Adapter, register


def softcap(config: Any) -> bool:
    """PaliGemma 2 (Gemma 2) caps its attention scores."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def processor_settings(config: Any) -> dict[str, Any]:
    """Tokens per picture: the tower's patches."""
    tower = config.vision_config
    return {"image_processor.image_seq_length": (tower.image_size // tower.patch_size) ** 2}


ADAPTER = register(
    Adapter(
        "PaliGemmaForConditionalGeneration", "model.language_model.layers", patch_grid,
        bidirectional=True, softcap=softcap, processor_settings=processor_settings,
    )
)  # fmt: skip
