"""What a changed head puts out instead: pure torch on the inputs of one layer's attention call.

Everything works on pairs (row of the batch, head): only what is changed is computed. Memory stays bounded: attention
rows are made in pieces, and uniform attention is a running mean that needs none.

An intervention at work in a batch: which rows, heads and positions it changes in each layer, and into what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.interventions.modes import Intervention
from visualheads.models.attention_call import AttentionCall

PIECE = 2**24
"""Attention weights held at a time: 64 MB in float32."""

Weigh = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(scores, visible keys, marked keys), each (pair, query, key) or broadcast over query → weights that sum to 1."""


@dataclass(frozen=True)
class Pairs:
    """The chosen heads of one layer: which row of the batch, which query head; queries from `first` on are changed."""

    row: Int[Tensor, " pair"]
    head: Int[Tensor, " pair"]
    first: int = 0

    def of(self, start: int, stop: int) -> Pairs:
        """Some of the pairs."""
        return replace(self, row=self.row[start:stop], head=self.head[start:stop])


def uniform_over_all(call: AttentionCall, pairs: Pairs) -> Float[Tensor, "pair query feature"]:
    """The mean of the head's values over every key, seen or not: what the released code leaves of a removed head."""
    mean = _values(call, pairs).mean(dim=1, keepdim=True)
    return mean.expand(-1, call.shape[2] - pairs.first, -1)


def uniform_over_visible(call: AttentionCall, pairs: Pairs) -> Float[Tensor, "pair query feature"]:
    """The mean of the head's values over the keys that each query sees."""
    _, _, queries, keys = call.shape
    unlimited = call.window is None or keys <= call.window
    if call.mask is None and call.causal and unlimited:
        counted = torch.arange(keys - queries + 1, keys + 1, device=call.value.device)[pairs.first :, None]
        return _values(call, pairs).cumsum(dim=1)[:, keys - queries + pairs.first :] / counted

    def weigh(scores: Tensor, visible: Tensor, _marked: Tensor) -> Tensor:
        even = visible.to(scores.dtype)
        return even / even.sum(-1, keepdim=True).clamp_min(1)

    return attended(call, pairs, None, weigh)


def hidden(scores: Tensor, visible: Tensor, marked: Tensor) -> Tensor:
    """Weights without the marked keys; a query that sees nothing else keeps what it sees."""
    others = visible & ~marked
    return _softmax(scores, torch.where(others.any(-1, keepdim=True), others, visible))


def biased(bias: float) -> Weigh:
    """Weights with `bias` added to the scores of the marked keys."""
    return lambda scores, visible, marked: _softmax(scores + bias * marked.to(scores.dtype), visible)


def redistributed(image: Bool[Tensor, "row key"]) -> Callable[[Pairs], Weigh]:
    """Weights whose share on the marked keys goes to the other `image` keys, in proportion to what they have.

    Where these have nothing, nothing is moved. Source: visual attention redistribution, Kang et al., ICLR 2025.
    """

    def of(pairs: Pairs) -> Weigh:
        own = image[pairs.row][:, None]

        def weigh(scores: Tensor, visible: Tensor, marked: Tensor) -> Tensor:
            weights = _softmax(scores, visible)
            freed = (weights * marked).sum(-1, keepdim=True)
            receivers = weights * (own & ~marked)
            held = receivers.sum(-1, keepdim=True)
            moved = weights * ~marked + receivers / held.clamp_min(torch.finfo(held.dtype).tiny) * freed
            return torch.where(held > 0, moved, weights)

        return weigh

    return of


def attended(
    call: AttentionCall, pairs: Pairs, marked: Bool[Tensor, "row key"] | None, weigh: Weigh | None = None,
    weigh_of: Callable[[Pairs], Weigh] | None = None,
) -> Float[Tensor, "pair query feature"]:  # fmt: skip
    """The heads' outputs under other weights; `weigh_of` makes the weighing for some of the pairs."""
    _, _, queries, keys = call.shape
    wanted = torch.arange(pairs.first, queries, device=call.query.device)
    visible = call.visible(wanted)
    marked = torch.zeros(call.shape[0], keys, dtype=torch.bool, device=wanted.device) if marked is None else marked
    outputs = []
    for piece in _pieces(pairs, max(1, PIECE // (len(wanted) * keys))):
        scores = _scores(call, piece)
        made = weigh_of(piece) if weigh_of is not None else weigh
        assert made is not None
        weights = made(scores, visible[piece.row], marked[piece.row][:, None])
        outputs.append(weights @ _values(call, piece))
    return torch.cat(outputs)


def _pieces(pairs: Pairs, size: int) -> Iterator[Pairs]:
    for start in range(0, len(pairs.row), size):
        yield pairs.of(start, start + size)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)


def _scores(call: AttentionCall, pairs: Pairs) -> Float[Tensor, "pair query key"]:
    query = call.query[pairs.row, pairs.head, pairs.first :].float()
    scores = query @ call.key[pairs.row, _group(call, pairs)].float().mT * call.scaling
    return call.softcap * torch.tanh(scores / call.softcap) if call.softcap else scores


def _values(call: AttentionCall, pairs: Pairs) -> Float[Tensor, "pair key feature"]:
    return call.value[pairs.row, _group(call, pairs)].float()


def _group(call: AttentionCall, pairs: Pairs) -> Int[Tensor, " pair"]:
    """The key-value head that each query head reads."""
    return pairs.head // (call.query.shape[1] // call.key.shape[1])


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
            return uniform_over_all(call, pairs)
        if mode == "uniform":
            return uniform_over_visible(call, pairs)
        total, keys = start + queries, call.shape[3]
        image = _over_keys(self.image, total, keys, call)
        if mode == "image_knockout":
            return attended(call, pairs, image, hidden)
        if self.intervention.operation.sinks:
            assert self.sinks is not None
            sinks = _over_keys(self.sinks[layer].to(self.image.device) & self.image, total, keys, call)
            if mode == "sink_removal":
                return attended(call, pairs, sinks, hidden)
            return attended(call, pairs, sinks, weigh_of=redistributed(image))
        marked = image if self.marked is None else _over_keys(self.marked, total, keys, call)
        return attended(call, pairs, marked, biased(float(self.intervention.bias or 0.0)))

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
