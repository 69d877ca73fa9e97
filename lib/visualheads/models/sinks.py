"""Sink tokens: positions that draw attention without meaning anything (Kang et al., ICLR 2025). Pure torch.

A sink token carries massive activations in a few dimensions of the residual stream, the model's sink dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visualheads.errors import ParameterError, got

SINK_THRESHOLD = 20.0
"""τ of Kang et al. for a residual stream of 4096 dimensions; one dimension then holds 9.8 % of a token's energy."""

SINK_THRESHOLD_HIDDEN = 4096

OUTLIER_RATIO = 20.0
"""How many times the token's median magnitude a sink dimension must reach to be found (ours)."""

COMMON_SHARE = 0.5
"""A dimension that is large on more than this share of tokens is a bias of the model, not a mark of sinks (ours)."""


def sink_threshold(hidden_size: int) -> float:
    """Return τ = 20·√(hidden/4096): the same share of a token's energy (400/4096) at every width."""
    return SINK_THRESHOLD * math.sqrt(hidden_size / SINK_THRESHOLD_HIDDEN)


def sink_scores(hidden: Float[Tensor, "*any hidden"], dimensions: Sequence[int]) -> Float[Tensor, "*any"]:
    """Return max over `dimensions` of |RMSNorm(hidden)[d]|, with RMSNorm(h) = h / √(mean h²), no learned scale.

    Range [0, √hidden]; 0 for an all-zero state. Raises ParameterError for no dimensions or ones out of range.
    """
    size = hidden.shape[-1]
    wrong = [d for d in dimensions if not 0 <= d < size]
    if not dimensions or wrong:
        raise ParameterError(got("sink dimensions", list(dimensions), f"at least one index from 0 to {size - 1}"))
    states = hidden.to(torch.float32)
    rms = states.square().mean(dim=-1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return states[..., list(dimensions)].abs().amax(dim=-1) / rms


def sink_tokens(hidden: Float[Tensor, "*any hidden"], dimensions: Sequence[int]) -> Bool[Tensor, "*any"]:
    """Return which tokens are sinks: `sink_scores` above `sink_threshold`. `hidden` is the layer's input."""
    return sink_scores(hidden, dimensions) > sink_threshold(hidden.shape[-1])


def find_sink_dimensions(
    hidden: Float[Tensor, "*any hidden"], visible: Bool[Tensor, "*any"] | None = None
) -> tuple[int, ...]:
    """Return the sink dimensions seen in these hidden states, strongest first; empty where there is none.

    Rule (ours, after the massive activations of Sun et al. 2024): on at least one token the dimension exceeds both
    τ after RMSNorm and 20 times that token's median magnitude; and it does so on at most half of the tokens.
    `visible` leaves padding out. States of several layers and samples may be stacked in the leading dimensions.
    """
    states = hidden.to(torch.float32)
    states = states.reshape(-1, states.shape[-1]) if visible is None else states[visible]
    if states.shape[0] == 0:
        return ()
    magnitude = states.abs()
    rms = states.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    median = magnitude.median(dim=-1, keepdim=True).values
    large = (magnitude > sink_threshold(states.shape[-1]) * rms) & (magnitude > OUTLIER_RATIO * median)
    share = large.to(torch.float32).mean(dim=0)
    peak = torch.where(large, magnitude / rms, torch.zeros_like(magnitude)).amax(dim=0)
    found = torch.nonzero((share > 0) & (share <= COMMON_SHARE)).flatten().tolist()
    return tuple(sorted(found, key=lambda d: (-float(peak[d]), d)))
