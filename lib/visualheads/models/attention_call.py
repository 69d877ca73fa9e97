"""Attention rows out of a running model: the queries, keys and mask of each layer's attention call, through nnsight.

The model keeps its own fast attention (SDPA, flash). One softmax row per chosen query is recomputed from the call's
inputs in float32; the query × key matrix of a whole prompt is never built. Interventions reuse the same operations:
`AttentionCall` tells what a call was given, `with_bias` gives the inputs with a bias added before the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.errors import ParameterError, UnsupportedModelError, got

CALL_NAME = "attention_interface"
"""Every attention module of transformers 5 ends in one call of a function by this name; its inputs are what we read."""


@dataclass(frozen=True)
class AttentionCall:
    """What one layer's attention function was given in one forward pass.

    query    (batch, head, query, feature), after rotary embedding and q-norm
    key      (batch, key_value_head, key, feature), from the cache, not repeated for grouped queries
    value    the same for the values
    mask     None (plain causal), bool (True = visible) or additive float (batch, 1 or head, query, key), or
             (batch, key) padding mask as flash attention takes it
    scaling  factor on query · key
    softcap  scores become softcap · tanh(scores / softcap); None: not used
    window   keys further back than this are invisible; only used where the mask does not say so itself
    causal   whether a missing mask means causal
    """

    query: Float[Tensor, "batch head query feature"]
    key: Float[Tensor, "batch key_value_head key feature"]
    value: Float[Tensor, "batch key_value_head key feature"]
    mask: Tensor | None
    scaling: float
    softcap: float | None = None
    window: int | None = None
    causal: bool = True

    @classmethod
    def from_inputs(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AttentionCall:
        """Read the inputs `(module, query, key, value, mask, …), kwargs` of an attention call.

        Raises UnsupportedModelError for inputs of another form: a wrong number is worse than none.
        """
        if len(args) < 4 or not all(isinstance(value, Tensor) and value.ndim == 4 for value in args[1:4]):
            found = [type(value).__name__ for value in args]
            raise UnsupportedModelError(
                f"the attention call got {found}; expected (module, query, key, value, mask) with 4-dimensional "
                "tensors. Use transformers 5.x classes, which call their attention in this form."
            )
        module, query, key, value = args[:4]
        mask = args[4] if len(args) > 4 else kwargs.get("attention_mask")
        if mask is not None and not isinstance(mask, Tensor):
            raise UnsupportedModelError(
                f"the attention mask is a {type(mask).__name__}; tensors and None can be read. "
                "Load the model with attn_implementation='sdpa'."
            )
        causal = kwargs.get("is_causal")
        return cls(
            query=query,
            key=key,
            value=value,
            mask=mask,
            scaling=float(kwargs.get("scaling") or query.shape[-1] ** -0.5),
            softcap=kwargs.get("softcap"),
            window=kwargs.get("sliding_window"),
            causal=bool(getattr(module, "is_causal", True) if causal is None else causal),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, queries, keys)."""
        batch, heads, queries, _ = self.query.shape
        return batch, heads, queries, self.key.shape[2]

    def scores(self, rows: Int[Tensor, " query"]) -> Float[Tensor, "batch head query key"]:
        """Scaled (and soft-capped) query · key of the chosen queries, float32, before the mask."""
        batch, heads, _, keys = self.shape
        groups, features = self.key.shape[1], self.query.shape[3]
        chosen = self.query[:, :, rows].float().reshape(batch, groups, heads // groups * len(rows), features)
        scores = (chosen @ self.key.float().mT).reshape(batch, heads, len(rows), keys) * self.scaling
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores

    def masked(
        self, scores: Float[Tensor, "batch head query key"], rows: Int[Tensor, " query"]
    ) -> Float[Tensor, "batch head query key"]:
        """The scores with invisible keys at −∞ (the lowest float32), whatever form the mask has."""
        keys = self.shape[3]
        lowest = torch.finfo(scores.dtype).min
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[:, :, rows, :keys]
            # `lowest` + score would overflow to −∞ and a fully masked row to NaN
            return scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else (scores + mask).clamp_min(lowest)
        visible = self._implied(rows)
        return scores if visible is None else scores.masked_fill(~visible, lowest)

    def mixed(self, rows: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query feature"]:
        """The values averaged by attention rows: what the attention call returns for these queries, in float32."""
        batch, heads, queries, keys = rows.shape
        groups = self.value.shape[1]
        grouped = rows.reshape(batch, groups, heads // groups * queries, keys)
        return (grouped @ self.value.float()).reshape(batch, heads, queries, -1)

    def visible(self, rows: Sequence[int] | Int[Tensor, " query"] = (-1,)) -> Bool[Tensor, "batch query key"]:
        """Which keys in the cache the chosen queries can see (never padding, never outside the window)."""
        batch, _, queries, keys = self.shape
        wanted = torch.as_tensor(rows, device=self.query.device) % queries
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[:, 0, wanted, :keys]
            seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            return seen.expand(batch, -1, -1)
        implied = self._implied(wanted)
        if implied is None:
            return torch.ones(batch, len(wanted), keys, dtype=torch.bool, device=self.query.device)
        return implied[:, 0].expand(batch, len(wanted), keys)

    def _implied(self, rows: Int[Tensor, " query"]) -> Bool[Tensor, "batch 1 query key"] | None:
        _, _, queries, keys = self.shape
        if self.mask is not None and self.mask.ndim != 2:
            raise UnsupportedModelError(
                f"the attention mask has {self.mask.ndim} dimensions; 2 (batch, key) and 4 (batch, head, query, key) "
                "can be read. Load the model with attn_implementation='sdpa'."
            )
        if self.mask is not None and self.mask.shape[1] < keys:
            raise UnsupportedModelError(
                f"the padding mask tells of {self.mask.shape[1]} keys, the cache holds {keys}: a static cache with "
                "flash attention, in which the keys in use are not known. Use the default cache, or "
                "attn_implementation='sdpa'."
            )
        padding = None if self.mask is None else self.mask[:, -keys:].bool()[:, None, None, :]
        if queries == 1 and (self.window is None or keys <= self.window):
            return padding  # the newest token sees every key that is there
        order = torch.arange(keys, device=rows.device)
        last = (rows + keys - queries)[:, None]
        visible = torch.ones(len(rows), keys, dtype=torch.bool, device=rows.device)
        if self.causal:
            visible &= order <= last
        if self.window is not None:
            visible &= order > last - self.window
        visible = visible[None, None]
        return visible if padding is None else visible & padding

    def rows(self, rows: Sequence[int] | Int[Tensor, " query"] = (-1,)) -> Float[Tensor, "batch head query key"]:
        """Softmax attention of the chosen queries over the keys in the cache, float32 under any model dtype.

        `rows` count from the start of this pass's queries, negative ones from the end. Each row is ≥ 0 and sums to 1.
        Heads are query heads. Key indices count within the cache: see `align`.
        """
        wanted = torch.as_tensor(rows, device=self.query.device) % self.shape[2]
        return self.masked(self.scores(wanted), wanted).softmax(-1)


def align(rows: Float[Tensor, "*lead key"], total: int) -> Float[Tensor, "*lead total"]:
    """The rows over all `total` tokens so far: a sliding-window cache holds only the last ones, the others get 0."""
    missing = total - rows.shape[-1]
    return torch.nn.functional.pad(rows, (missing, 0)) if missing > 0 else rows[..., -total:]


def attention_operation(attention: Any) -> Any:
    """The nnsight operation of one attention module's call. Raises UnsupportedModelError where there is none.

    `attention` is the nnsight envoy of a `self_attn`. Do this once, outside any trace: it parses the source.
    """
    names = [name for name in attention.source.names if name.startswith(CALL_NAME)]
    if not names:
        raise UnsupportedModelError(
            f"{type(attention._module).__name__} does not call `{CALL_NAME}`, so its attention cannot be read. "
            "Use a class of transformers 5.x that follows the attention interface."
        )
    return getattr(attention.source, names[-1])


def read(operation: Any) -> AttentionCall:
    """Read an attention operation's inputs. Only inside a trace, in the order in which the layers run."""
    args, kwargs = operation.inputs
    return AttentionCall.from_inputs(args, kwargs)


def with_bias(
    inputs: tuple[Sequence[Any], Mapping[str, Any]], bias: Float[Tensor, "batch head query key"]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An attention call's inputs with `bias` added to its scores, to be assigned back to `operation.inputs`.

    The mask becomes additive float of shape (batch, head, query, key); −∞ on a key hides it. `bias` broadcasts.
    """
    args, kwargs = inputs
    call = AttentionCall.from_inputs(args, kwargs)
    _, _, queries, keys = call.shape
    lowest = torch.finfo(call.query.dtype).min
    rows = torch.arange(queries, device=call.query.device)
    mask = call.mask
    if mask is not None and mask.ndim == 4 and mask.dtype != torch.bool:
        added = mask[..., :keys] + bias
    else:
        visible = mask[..., :keys] if mask is not None and mask.ndim == 4 else call._implied(rows)
        added = bias if visible is None else bias.masked_fill(~visible, lowest)
    added = added.to(call.query.dtype).clamp_min(lowest)
    head = (*args[:4], added.expand(*added.shape[:2], queries, keys), *args[5:])
    return head, {name: value for name, value in kwargs.items() if name != "attention_mask"}


SINK_THRESHOLD = 20.0
"""τ of Kang et al. for a residual stream of 4096 dimensions; one dimension then holds 9.8 % of a token's energy."""

SINK_THRESHOLD_HIDDEN = 4096

OUTLIER_RATIO = 20.0
"""How many times the token's median magnitude a sink dimension must reach to be found (ours)."""

COMMON_SHARE = 0.5
"""A dimension that is large on more than this share of tokens is a bias of the model, not a mark of sinks (ours)."""

SINK_RULE = "2"
"""Part of the identity of what is measured of a model with sink dimensions: raised whenever the rules here change."""


def sink_threshold(hidden_size: int) -> float:
    """Return τ = 20·√(hidden/4096): the same share of a token's energy (400/4096) at every width."""
    return SINK_THRESHOLD * math.sqrt(hidden_size / SINK_THRESHOLD_HIDDEN)


def sink_scores(hidden: Float[Tensor, "*any hidden"], dimensions: Sequence[int]) -> Float[Tensor, "*any dimension"]:
    """Return |RMSNorm(hidden)[d]| of each of `dimensions`, with RMSNorm(h) = h / √(mean h²), no learned scale.

    Range [0, √hidden]; 0 for an all-zero state. Raises ParameterError for no dimensions or ones out of range.
    """
    size = hidden.shape[-1]
    wrong = [d for d in dimensions if not 0 <= d < size]
    if not dimensions or wrong:
        raise ParameterError(got("sink dimensions", list(dimensions), f"at least one index from 0 to {size - 1}"))
    states = hidden.to(torch.float32)
    rms = states.square().mean(dim=-1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return states[..., list(dimensions)].abs() / rms[..., None]


def sink_tokens(
    hidden: Float[Tensor, "*any token hidden"], dimensions: Sequence[int], *kinds: Bool[Tensor, "*any token"]
) -> Bool[Tensor, "*any token"]:
    """Return which tokens are sinks: `sink_scores` of any dimension above `sink_threshold`.

    A dimension that is so large on more than half of a prompt's tokens of one kind is a bias there and marks none.

    hidden   the layer's input
    kinds    which tokens are image tokens, and which are text tokens; others are no sinks
    """
    large = sink_scores(hidden, dimensions) > sink_threshold(hidden.shape[-1])
    sinks = torch.zeros_like(large)
    for kind in kinds:
        of_kind = kind.to(hidden.device)[..., None]
        marked = large & of_kind
        sinks |= marked & (marked.sum(-2, keepdim=True) <= COMMON_SHARE * of_kind.sum(-2, keepdim=True))
    return sinks.any(-1)


def find_sink_dimensions(hidden: Float[Tensor, "*any hidden"]) -> tuple[int, ...]:
    """Return the sink dimensions seen in these hidden states, strongest first; empty where there is none.

    Rule (ours, after the massive activations of Sun et al. 2024): on at least one token the dimension exceeds both
    τ after RMSNorm and 20 times that token's median magnitude; and it does so on at most half of the tokens.
    States of several layers and samples may be stacked in the leading dimensions.
    """
    states = hidden.to(torch.float32).reshape(-1, hidden.shape[-1])
    magnitude = states.abs()
    rms = states.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    median = magnitude.median(dim=-1, keepdim=True).values
    large = (magnitude > sink_threshold(states.shape[-1]) * rms) & (magnitude > OUTLIER_RATIO * median)
    share = large.to(torch.float32).mean(dim=0)
    peak = torch.where(large, magnitude / rms, torch.zeros_like(magnitude)).amax(dim=0)
    found = torch.nonzero((share > 0) & (share <= COMMON_SHARE)).flatten().tolist()
    return tuple(sorted(found, key=lambda d: (-float(peak[d]), d)))
