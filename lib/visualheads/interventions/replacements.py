"""What a changed head puts out instead: pure torch on the inputs of one layer's attention call.

Everything works on pairs (row of the batch, head): only what is changed is computed. Memory stays bounded: attention
rows are made in pieces, and uniform attention is a running mean that needs none. Each mode of `interventions.modes` is
one of these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.models.attention_call import AttentionCall

PIECE = 2**24
"""Attention weights held at a time: 64 MB in float32."""

IMAGE, TEXT, LAST_PROMPT, GENERATED = range(4)
CLASSES = ("image", "text", "last prompt", "generated")
"""Classes of positions over which mode "mean" averages, in this order."""


@dataclass(frozen=True, eq=False)
class ChosenHeads:
    """The chosen heads of one layer in one pass over a batch of unpadded prompts, and what they may be changed by.

    row, head   (pair) the row of the batch, and the query head
    queries     queries of the pass; those from `first` on are changed
    start       position of the pass's first query in its prompt
    image       (row, token) image tokens of the prompts
    marked      (row, token) image tokens that the mode works on
    call        what the attention function was given; None in modes that do not read it
    bias        what the mode adds to scores
    means       (class, head, feature) mean outputs over a reference set, in the order of CLASSES
    """

    row: Int[Tensor, " pair"]
    head: Int[Tensor, " pair"]
    queries: int
    image: Bool[Tensor, "row token"]
    marked: Bool[Tensor, "row token"]
    call: AttentionCall | None = None
    start: int = 0
    first: int = 0
    bias: float = 0.0
    means: Float[Tensor, "kind head feature"] | None = None

    @property
    def attention(self) -> AttentionCall:
        """The attention call of a mode that reads it."""
        assert self.call is not None
        return self.call

    def pieces(self, size: int) -> Iterator[ChosenHeads]:
        """The pairs, so many at a time."""
        for start in range(0, len(self.row), size):
            yield replace(self, row=self.row[start : start + size], head=self.head[start : start + size])

    def over_keys(self, marks: Bool[Tensor, "row token"]) -> Bool[Tensor, "row key"]:
        """Marks of the prompts' tokens over the keys in the cache: generated ones unmarked, a sliding cache's last."""
        total = self.start + self.queries
        marks = marks.to(self.attention.key.device)
        return torch.nn.functional.pad(marks, (0, total - marks.shape[1]))[:, total - self.attention.shape[3] :]

    def scores(self) -> Float[Tensor, "pair query key"]:
        """Scores before the mask and the softmax."""
        call = self.attention
        query = call.query[self.row, self.head, self.first :].float()
        scores = query @ call.key[self.row, self._group()].float().mT * call.scaling
        return call.softcap * torch.tanh(scores / call.softcap) if call.softcap else scores

    def values(self) -> Float[Tensor, "pair key feature"]:
        """What the heads read."""
        return self.attention.value[self.row, self._group()].float()

    def _group(self) -> Int[Tensor, " pair"]:
        """The key-value head that each query head reads."""
        return self.head // (self.attention.query.shape[1] // self.attention.key.shape[1])


Outputs = Float[Tensor, "pair query feature"]
Change = Callable[[ChosenHeads], Outputs]
"""A mode's function: what the heads put out instead, at the changed queries."""
Weigh = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(scores, visible keys, marked keys, image keys), each (pair, query, key) or broadcast over query → weights."""


def zero(chosen: ChosenHeads) -> Outputs:
    """Nothing."""
    return torch.zeros((), device=chosen.row.device)


def reference_mean(chosen: ChosenHeads) -> Outputs:
    """The head's mean output over a reference set, per class of position."""
    assert chosen.means is not None
    image = chosen.image.cpu()
    classes = torch.full((len(image), chosen.queries - chosen.first), GENERATED)
    if chosen.start < image.shape[1]:
        classes = position_classes(image)[:, chosen.start + chosen.first : chosen.start + chosen.queries]
    device = chosen.row.device
    return chosen.means.to(device)[classes.to(device)[chosen.row], chosen.head[:, None]]


def uniform_over_all(chosen: ChosenHeads) -> Outputs:
    """The mean of the head's values over every key, seen or not: what the released code leaves of a removed head."""
    return chosen.values().mean(dim=1, keepdim=True).expand(-1, chosen.queries - chosen.first, -1)


def uniform_over_visible(chosen: ChosenHeads) -> Outputs:
    """The mean of the head's values over the keys that each query sees."""
    call = chosen.attention
    _, _, queries, keys = call.shape
    unlimited = call.window is None or keys <= call.window
    if call.mask is None and call.causal and unlimited:
        counted = torch.arange(keys - queries + 1, keys + 1, device=call.value.device)[chosen.first :, None]
        return chosen.values().cumsum(dim=1)[:, keys - queries + chosen.first :] / counted
    return _attended(chosen, even)


def hide_marked(chosen: ChosenHeads) -> Outputs:
    """The head's output without the marked tokens."""
    return _attended(chosen, hidden)


def bias_marked(chosen: ChosenHeads) -> Outputs:
    """The head's output with a bias on the scores of the marked tokens."""
    return _attended(chosen, biased(chosen.bias))


def redistribute_marked(chosen: ChosenHeads) -> Outputs:
    """The head's output with its attention on the marked tokens given to the other image tokens."""
    return _attended(chosen, redistributed)


def even(scores: Tensor, visible: Tensor, _marked: Tensor, _image: Tensor) -> Tensor:
    """The same weight for every visible key."""
    seen = visible.to(scores.dtype)
    return seen / seen.sum(-1, keepdim=True).clamp_min(1)


def hidden(scores: Tensor, visible: Tensor, marked: Tensor, _image: Tensor) -> Tensor:
    """Weights without the marked keys; a query that sees nothing else keeps what it sees."""
    others = visible & ~marked
    return _softmax(scores, torch.where(others.any(-1, keepdim=True), others, visible))


def biased(bias: float) -> Weigh:
    """Weights with `bias` added to the scores of the marked keys."""
    return lambda scores, visible, marked, _image: _softmax(scores + bias * marked.to(scores.dtype), visible)


def redistributed(scores: Tensor, visible: Tensor, marked: Tensor, image: Tensor) -> Tensor:
    """Weights whose share on the marked keys goes to the other image keys, in proportion to what they have.

    Where these have nothing, nothing is moved. Source: visual attention redistribution, Kang et al., ICLR 2025.
    """
    weights = _softmax(scores, visible)
    freed = (weights * marked).sum(-1, keepdim=True)
    receivers = weights * (image & ~marked)
    held = receivers.sum(-1, keepdim=True)
    moved = weights * ~marked + receivers / held.clamp_min(torch.finfo(held.dtype).tiny) * freed
    return torch.where(held > 0, moved, weights)


def position_classes(image: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """The class of each position of unpadded prompts: image, text, last prompt token."""
    classes = torch.where(image, IMAGE, TEXT)
    classes[:, -1] = LAST_PROMPT
    return classes


def _attended(chosen: ChosenHeads, weigh: Weigh) -> Outputs:
    """The heads' outputs under other weights."""
    call = chosen.attention
    wanted = torch.arange(chosen.first, chosen.queries, device=call.query.device)
    visible = call.visible(wanted)
    marked, image = chosen.over_keys(chosen.marked), chosen.over_keys(chosen.image)
    outputs = []
    for piece in chosen.pieces(max(1, PIECE // (len(wanted) * call.shape[3]))):
        keys = (visible[piece.row], marked[piece.row][:, None], image[piece.row][:, None])
        outputs.append(weigh(piece.scores(), *keys) @ piece.values())
    return torch.cat(outputs)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
