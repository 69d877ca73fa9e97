"""SmolLM2 that learned to see: base weights from packages, what was learned here, and the model both make."""

from __future__ import annotations

from visualheads.models.smol.base_weights import base_folder, prepare_base
from visualheads.models.smol.joined_model import (
    export,
    join,
    read_learned,
    weights_identity,
    with_untrained_projector,
)

__all__ = [
    "base_folder",
    "export",
    "join",
    "prepare_base",
    "read_learned",
    "weights_identity",
    "with_untrained_projector",
]
