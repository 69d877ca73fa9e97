"""Which image tokens of a batch an intervention works on, where that is given: those in a box, or those named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from visualheads.errors import BoxError, ParameterError, got

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample


def in_boxes(
    model: VisionLanguageModel, samples: Sequence[Sample], image: Bool[Tensor, "sample token"],
    boxes: Mapping[str, Box], sizes: Mapping[str, tuple[int, int]],
) -> Bool[Tensor, "sample token"]:  # fmt: skip
    """The image tokens that meet each sample's box; all of them where it has none. Raises BoxError where none does."""
    marked = image.clone()
    for row, sample in enumerate(samples):
        box = boxes.get(sample.id)
        if box is None:
            continue
        inside = model.token_map(sizes[sample.id]).in_box(box)
        if not inside.any():
            raise BoxError(
                f"sample {sample.id!r}: the model sees nothing of the box {box} (it was cropped away); "
                "give a box inside the part of the picture that the model sees."
            )
        marked[row, image[row]] = torch.from_numpy(inside).to(marked.device)
    return marked


def named(
    samples: Sequence[Sample], image: Bool[Tensor, "sample token"], tokens: Mapping[str, Sequence[int]]
) -> Bool[Tensor, "sample token"]:
    """The named image tokens of each sample. Raises ParameterError for others."""
    given = torch.zeros_like(image)
    for row, sample in enumerate(samples):
        places = image[row].nonzero().flatten()
        chosen = [int(one) for one in tokens.get(sample.id, ())]
        wrong = [one for one in chosen if not 0 <= one < len(places)]
        if wrong:
            raise ParameterError(
                got(f"sample {sample.id!r}: tokens", wrong[:5], f"image tokens from 0 to {len(places) - 1}")
            )
        given[row, places[chosen]] = True
    return given
