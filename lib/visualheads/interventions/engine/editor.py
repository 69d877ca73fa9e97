"""An intervention at work in a batch: which rows, heads, positions and image tokens it changes, and into what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from visualheads.errors import BoxError, ParameterError, got
from visualheads.interventions.engine.replacements import ChosenHeads
from visualheads.interventions.modes import Intervention
from visualheads.models.attention_call import AttentionCall

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample


@dataclass(frozen=True, eq=False)
class Editor:
    """An intervention for the rows of a batch of unpadded prompts of one length; rows may have different heads.

    heads    which heads of each row are changed
    image    which tokens of the prompt are image tokens
    marked   which of them the mode works on, in each layer
    first    the first position that is changed
    """

    intervention: Intervention
    heads: Bool[Tensor, "row layer head"]
    image: Bool[Tensor, "row token"]
    marked: Bool[Tensor, "layer row token"]
    first: int = 0

    @property
    def reads_attention(self) -> bool:
        """Whether the mode needs the attention call."""
        return self.intervention.operation.attention

    def touches(self, layer: int) -> bool:
        """Whether any row has a changed head in this layer."""
        return bool(self.heads[:, layer].any())

    def rows(self, index: Int[Tensor, " row"]) -> Editor:
        """The same for some of the rows, or for repeated ones."""
        return replace(self, heads=self.heads[index], image=self.image[index], marked=self.marked[:, index])

    def chosen(
        self, layer: int, queries: int, call: AttentionCall | None, start: int, device: torch.device
    ) -> ChosenHeads:
        """The changed heads of a layer in a pass of so many queries, the first of them at position `start`."""
        row, head = self.heads[:, layer].nonzero(as_tuple=True)
        reference = self.intervention.reference
        return ChosenHeads(
            row.to(device), head.to(device), queries, self.image, self.marked[layer], call, start,
            max(0, self.first - start), self.intervention.bias or 0.0,
            None if reference is None else reference.means[:, layer],
        )  # fmt: skip

    def edited(self, layer: int, inputs: Tensor, call: AttentionCall | None, start: int) -> Tensor:
        """The input of a layer's output projection (row, query, head · feature) with the chosen heads' parts changed.

        `start` is the position of the pass's first query; `call` may be None in modes that need no attention.
        """
        chosen = self.chosen(layer, inputs.shape[1], call, start, inputs.device)
        if chosen.first >= chosen.queries:
            return inputs
        changed = inputs.clone(memory_format=torch.contiguous_format)
        parts = changed.view(*inputs.shape[:2], self.heads.shape[2], -1)
        parts[chosen.row, chosen.first :, chosen.head] = self.intervention.operation.change(chosen).to(inputs.dtype)
        return changed


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
