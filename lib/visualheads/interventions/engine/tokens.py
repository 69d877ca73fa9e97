"""Which image tokens of a batch an intervention works on, where that is given: those in a box, or those named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from visualheads.errors import BoxError, ParameterError, got

if TYPE_CHECKING:
    from visualheads.interventions.engine.run import Job
    from visualheads.interventions.engine.text_model import Door


def in_boxes(job: Job, door: Door, owners: Sequence[int]) -> Bool[Tensor, "sample token"]:
    """The image tokens that meet each sample's box; all of them where it has none. Raises BoxError where none does."""
    marked = door.image.clone()
    for row, index in enumerate(owners):
        sample = job.samples[index]
        box = job.intervention.boxes.get(sample.id)
        if box is None:
            continue
        inside = job.model.token_map(job.settings.sizes[sample.id]).in_box(box)
        if not inside.any():
            raise BoxError(
                f"sample {sample.id!r}: the model sees nothing of the box {box} (it was cropped away); "
                "give a box inside the part of the picture that the model sees."
            )
        marked[row, door.image[row]] = torch.from_numpy(inside).to(marked.device)
    return marked


def named(job: Job, door: Door, owners: Sequence[int]) -> Bool[Tensor, "layer sample token"]:
    """The named image tokens of each sample, as sinks of every layer. Raises ParameterError for others."""
    tokens = job.intervention.tokens or {}
    given = torch.zeros_like(door.image)
    for row, index in enumerate(owners):
        sample = job.samples[index]
        places = door.image[row].nonzero().flatten()
        chosen = [int(one) for one in tokens.get(sample.id, ())]
        wrong = [one for one in chosen if not 0 <= one < len(places)]
        if wrong:
            raise ParameterError(
                got(f"sample {sample.id!r}: tokens", wrong[:5], f"image tokens from 0 to {len(places) - 1}")
            )
        given[row, places[chosen]] = True
    return given.expand(job.model.shape.layers, *given.shape)
