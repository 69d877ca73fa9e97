"""What a changed head puts out instead: pure torch on the inputs of one layer's attention call.

Everything works on pairs (row of the batch, head): only what is changed is computed. Memory stays bounded: attention
rows are made in pieces, and uniform attention is a running mean that needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.capture import AttentionCall

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
