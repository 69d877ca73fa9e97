"""That the language model, run alone from its own inputs, answers as the whole model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch

from visualheads.errors import UnsupportedModelError
from visualheads.interventions.text_model import Door, forward, new_cache

if TYPE_CHECKING:
    from visualheads.vision_language import VisionLanguageModel

SAME = 1e-3
"""How far the logits of the language model alone may lie from the whole model's, relative to their largest."""

_CHECKED: WeakSet[VisionLanguageModel] = WeakSet()
"""Models whose language model was found to give the whole model's logits when run alone."""


def check_alone(model: VisionLanguageModel, encoding: Any, door: Door) -> None:
    """Once per model: the language model alone, from the door on, gives the whole model's logits."""
    if model in _CHECKED:
        return
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    with torch.no_grad():
        whole = model.module(**inputs, logits_to_keep=1).logits[:, -1].float()
        # of a model in several places, the whole gives its logits where its inputs go, the head where it is
        alone = forward(model, door.kwargs, new_cache(model)).logits.float().to(whole.device)
    apart = float((whole - alone).abs().max() / whole.abs().max().clamp_min(1e-9))
    allowed = SAME if model.dtype == torch.float32 else 50 * SAME
    if not apart <= allowed:
        raise UnsupportedModelError(
            f"{type(model.module).__name__}: the language model alone gives other logits than the whole model (by "
            f"{apart:.1e} of the largest), so interventions would be wrong; install the tested version of transformers."
        )
    _CHECKED.add(model)
