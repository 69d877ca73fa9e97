"""Names of weights: the original's → those of transformers' files (read off the checkpoints and their code)."""

from __future__ import annotations

import re

TOWER = "vision_tower.vision_model."
EMBEDDING = "language_model.model.embed_tokens.weight"
OUTPUT = "language_model.lm_head.weight"

RULES = (
    (r"^model\.vision_tower\.(?:vision_tower\.)?vision_model\.", TOWER),
    (r"^model\.mm_projector\.(?:final_linear\.)?0\.", "multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.(?:final_linear\.)?2\.", "multi_modal_projector.linear_2."),
    (r"^model\.mm_projector\.clip_layernorm\.", "multi_modal_projector.projector_layernorm."),
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.(embed_tokens|layers|norm)\.", r"language_model.model.\1."),
    (r"^lm_head\.", "language_model.lm_head."),
)
TOWER_RULES = (
    (r"^vision_model\.", TOWER),
    # a tower saved by itself by newer versions of transformers
    (r"^(embeddings|pre_layrnorm|encoder|post_layernorm)\.", rf"{TOWER}\1."),
)
COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers of old checkpoints that are computed from the config."""

OTHER_HALF = re.compile(r"^(text_model\.|text_projection|visual_projection|text_embeds|logit_scale)")
"""What a CLIP folder holds beside its vision tower."""

MODULES = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.vision_tower\.(?:vision_model\.)?", TOWER),
    (r"^model\.", ""),
)


def from_original(name: str) -> str | None:
    """The new name of an original checkpoint's weight; "" for what is computed, None for an unknown name."""
    return "" if COMPUTED.search(name) else _renamed(name, RULES)


def from_tower(name: str) -> str | None:
    """The new name of a weight in a CLIP folder; "" for what a vision tower does not need, None for an unknown name."""
    return "" if COMPUTED.search(name) or OTHER_HALF.search(name) else _renamed(name, TOWER_RULES)


def from_module(name: str) -> str:
    """The name in files of a weight of a transformers module: the form that all versions of transformers read."""
    return _renamed(name, MODULES) or name


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, target in rules:
        new, changed = re.subn(pattern, target, name)
        if changed:
            return new
    return None
