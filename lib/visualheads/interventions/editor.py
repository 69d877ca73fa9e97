"""An intervention at work in a batch: which rows, heads and positions it changes in each layer, and into what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from visualheads.capture import AttentionCall
from visualheads.interventions import edits
from visualheads.interventions.edits import Pairs
from visualheads.interventions.modes import Intervention

IMAGE, TEXT, LAST_PROMPT, GENERATED = range(4)
CLASSES = ("image", "text", "last prompt", "generated")
"""Classes of positions over which mode "mean" averages, in this order."""


def position_classes(image: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """The class of each position of unpadded prompts: image, text, last prompt token."""
    classes = torch.where(image, IMAGE, TEXT)
    classes[:, -1] = LAST_PROMPT
    return classes


@dataclass(frozen=True, eq=False)
class Editor:
    """An intervention for the rows of a batch of unpadded prompts of one length; rows may have different heads.

    heads    which heads of each row are changed
    image    which tokens of the prompt are image tokens
    marked   which tokens a biasing mode biases; None: the image tokens
    sinks    which image tokens are sinks, per layer; needed by the modes that work on sinks
    first    the first position that is changed
    """

    intervention: Intervention
    heads: Bool[Tensor, "row layer head"]
    image: Bool[Tensor, "row token"]
    marked: Bool[Tensor, "row token"] | None = None
    sinks: Bool[Tensor, "layer row token"] | None = None
    first: int = 0

    @property
    def reads_attention(self) -> bool:
        """Whether `edited` needs the attention call."""
        return self.intervention.operation.attention

    def touches(self, layer: int) -> bool:
        """Whether any row has a changed head in this layer."""
        return bool(self.heads[:, layer].any())

    def rows(self, index: Int[Tensor, " row"]) -> Editor:
        """The same for some of the rows, or for repeated ones."""
        return Editor(
            self.intervention,
            self.heads[index],
            self.image[index],
            None if self.marked is None else self.marked[index],
            None if self.sinks is None else self.sinks[:, index],
            self.first,
        )

    def edited(self, layer: int, inputs: Tensor, call: AttentionCall | None, start: int) -> Tensor:
        """The input of a layer's output projection (row, query, head · feature) with the chosen heads' parts changed.

        `start` is the position of the pass's first query; `call` may be None in modes that need no attention.
        """
        queries = inputs.shape[1]
        first = max(0, self.first - start)
        if first >= queries:
            return inputs
        row, head = self.heads[:, layer].nonzero(as_tuple=True)
        pairs = Pairs(row.to(inputs.device), head.to(inputs.device), first)
        changed = inputs.clone(memory_format=torch.contiguous_format)
        parts = changed.view(*inputs.shape[:2], self.heads.shape[2], -1)
        parts[pairs.row, first:, pairs.head] = self.outputs(layer, pairs, call, start, queries).to(inputs.dtype)
        return changed

    def outputs(self, layer: int, pairs: Pairs, call: AttentionCall | None, start: int, queries: int) -> Tensor:
        """What the pairs put out instead, (pair, query, feature); a single 0 in mode "zero"."""
        mode = self.intervention.mode
        if mode == "zero":
            return torch.zeros((), device=pairs.row.device)
        if mode == "mean":
            return self._mean(layer, pairs, start, queries)
        assert call is not None
        if mode == "uniform_released":
            return edits.uniform_over_all(call, pairs)
        if mode == "uniform":
            return edits.uniform_over_visible(call, pairs)
        total, keys = start + queries, call.shape[3]
        image = _over_keys(self.image, total, keys, call)
        if mode == "image_knockout":
            return edits.attended(call, pairs, image, edits.hidden)
        if self.intervention.operation.sinks:
            assert self.sinks is not None
            sinks = _over_keys(self.sinks[layer].to(self.image.device) & self.image, total, keys, call)
            if mode == "sink_removal":
                return edits.attended(call, pairs, sinks, edits.hidden)
            return edits.attended(call, pairs, sinks, weigh_of=edits.redistributed(image))
        marked = image if self.marked is None else _over_keys(self.marked, total, keys, call)
        return edits.attended(call, pairs, marked, edits.biased(float(self.intervention.bias or 0.0)))

    def _mean(self, layer: int, pairs: Pairs, start: int, queries: int) -> Tensor:
        reference = self.intervention.reference
        assert reference is not None
        prompt = self.image.shape[1]
        classes = torch.full((len(self.image), queries - pairs.first), GENERATED)
        if start < prompt:
            classes = position_classes(self.image.cpu())[:, start + pairs.first : start + queries]
        means = reference.means[:, layer].to(pairs.row.device)
        return means[classes.to(pairs.row.device)[pairs.row], pairs.head[:, None]]


def _over_keys(marks: Bool[Tensor, "row token"], total: int, keys: int, call: AttentionCall) -> Bool[Tensor, "row key"]:
    """Marks of the prompt's tokens over the keys in the cache: generated tokens unmarked, a sliding cache's last."""
    marks = marks.to(call.key.device)
    return torch.nn.functional.pad(marks, (0, total - marks.shape[1]))[:, total - keys :]
