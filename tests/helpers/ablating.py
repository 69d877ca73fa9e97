"""What changed heads should give, computed without the library: a registered attention function with whole matrices.

`reference_answers` generates with transformers alone, batch size one, key-value cache on, and changes the chosen heads
inside the attention function, or their slice by a plain forward pre-hook on `o_proj`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from visualheads.models.wrapper import greedy

NAME = "whole_matrix"


@dataclass
class State:
    """What the registered function is told: the prompt and what to change."""

    mode: str = ""
    heads: frozenset[tuple[int, int]] = frozenset()
    image: Tensor | None = None
    first: int = 0
    bias: float = 0.0
    marked: Tensor | None = None
    seen: dict[int, int] = field(default_factory=dict)
    """Tokens that each layer has seen: a sliding cache holds fewer."""


STATE = State()


def _attention(module, query, key, value, mask, scaling=None, dropout=0.0, softcap=None, **kwargs):
    batch, heads, queries, features = query.shape
    keys = key.shape[2]
    repeat = heads // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT * (scaling or features**-0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(keys - queries, keys)
    if mask is None:
        visible = (torch.arange(keys)[None] <= position[:, None])[None, None].expand(batch, 1, -1, -1)
    else:
        visible = mask[..., :keys] if mask.dtype == torch.bool else mask[..., :keys] > -1e30
    visible = visible.expand(batch, heads, queries, keys)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    total = STATE.seen[module.layer_idx] = STATE.seen.get(module.layer_idx, 0) + queries
    changed = torch.arange(total - queries, total) >= STATE.first
    image = _over_keys(STATE.image, total, keys)
    for layer, head in STATE.heads:
        if layer != module.layer_idx:
            continue
        seen = visible[0, head]
        if STATE.mode == "uniform_released":
            row = torch.full((queries, keys), 1 / keys)
        elif STATE.mode == "uniform":
            row = seen / seen.sum(-1, keepdim=True)
        elif STATE.mode in ("image_knockout", "edge_knockout"):
            other = seen & ~(image if STATE.marked is None else _over_keys(STATE.marked, total, keys))
            other = torch.where(other.any(-1, keepdim=True), other, seen)
            row = scores[0, head].masked_fill(~other, -torch.inf).softmax(-1)
        elif STATE.mode in ("boost", "steer"):
            marked = image if STATE.marked is None else _over_keys(STATE.marked, total, keys)
            row = (scores[0, head] + STATE.bias * marked).masked_fill(~seen, -torch.inf).softmax(-1)
        else:
            continue
        weights[0, head, changed] = row[changed].to(weights.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _over_keys(marks: Tensor, total: int, keys: int) -> Tensor:
    over = torch.zeros(total, dtype=torch.bool)
    over[: len(marks)] = marks
    return over[total - keys :]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def attention_replaced(module: torch.nn.Module) -> Iterator[None]:
    """The text model calls the reference function; masks are made as for eager attention."""
    text = module.config.get_text_config()
    before = text._attn_implementation
    text._attn_implementation = NAME
    try:
        yield
    finally:
        text._attn_implementation = before


def decoder_layers(model) -> Sequence[torch.nn.Module]:
    return [envoy._module for envoy in model.layers]


def reference_answers(
    model,
    sample,
    heads: Sequence[tuple[int, int]],
    mode: str,
    positions: str = "all",
    *,
    bias: float = 0.0,
    marked: Tensor | None = None,
    means: Callable[[int, int, int], Tensor] | None = None,
    max_new_tokens: int = 4,
) -> tuple[Tensor, Tensor]:
    """(logits of the first token, generated tokens) with the heads changed.

    marked: image tokens that get the bias; means: (class, layer, head) → output of mode "mean".
    """
    encoding = model.encode([sample])
    image = encoding["input_ids"][0] == model.image_token_id
    first = {"all": 0, "after_image": int(image.nonzero().max()) + 1, "last_prompt": len(image) - 1}[positions]
    STATE.mode, STATE.heads, STATE.image, STATE.first = mode, frozenset(heads), image, first
    STATE.bias, STATE.marked, STATE.seen = bias, marked, {}
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(_sliced(model, index, heads, mode, first, image, means))
        for index, layer in enumerate(decoder_layers(model))
    ]
    try:
        with torch.no_grad(), greedy(model.module, 0), attention_replaced(model.module):
            out = model.module.generate(
                **dict(encoding), max_new_tokens=max_new_tokens, output_logits=True, return_dict_in_generate=True
            )
    finally:
        for hook in hooks:
            hook.remove()
        STATE.heads = frozenset()
    return out.logits[0][0], out.sequences[0, len(image) :]


def _sliced(model, index, heads, mode, first, image, means):
    seen = {"tokens": 0}
    count = model.shape.heads

    def hook(_module, args):
        start = seen["tokens"]
        inputs = args[0].clone()
        seen["tokens"] += inputs.shape[1]
        if mode not in ("zero", "mean"):
            return None
        size = inputs.shape[-1] // count
        for layer, head in heads:
            if layer != index:
                continue
            for query in range(inputs.shape[1]):
                place = start + query
                if place < first:
                    continue
                part = slice(head * size, (head + 1) * size)
                if mode == "zero":
                    inputs[:, query, part] = 0
                else:
                    if place >= len(image):
                        kind = 3
                    elif place == len(image) - 1:
                        kind = 2
                    else:
                        kind = 0 if image[place] else 1
                    inputs[:, query, part] = means(kind, layer, head)
        return (inputs,)

    return hook
