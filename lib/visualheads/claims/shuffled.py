"""What chance would give: statistics over heads when heads change places, each language model's in the same way.

Intervals over pictures tell what these heads of these models do; whether as much could come from heads that were put
anywhere is another question, and decides claims that speak of heads as such. Models of one language model are no
independent evidence, so that their heads are shuffled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

N_SHUFFLED = 2000


@dataclass(frozen=True, eq=False)
class Scored:
    """Two scores of the same heads (head) of one model, the heads' layers, and what its heads were grown from."""

    llm: str
    one: NDArray[np.float64]
    other: NDArray[np.float64]
    layer: NDArray[np.integer]


def correlated(models: Sequence[Scored], within: bool, seed: int = 0) -> tuple[float, float]:
    """p of a mean Spearman correlation as large, and as small, when heads change places (in their layer: `within`)."""
    observed, shuffled = [], []
    for model in models:
        layer = model.layer if within else np.zeros_like(model.layer)
        order = np.argsort(layer[None] + _drawn(model, seed), axis=1, kind="stable")
        home = np.argsort(layer, kind="stable")
        one, other = (_centred_ranks(_without_layers(score, layer)[home]) for score in (model.one, model.other))
        observed.append(one @ other)
        moved = _centred_ranks(_without_layers(model.one, layer))[order]
        shuffled.append(moved @ other)
    return _tails(float(np.mean(observed)), np.mean(shuffled, axis=0))


def exchanged(
    models: Sequence[tuple[Scored, Sequence[NDArray[np.float64]]]], by_layer: bool = False, seed: int = 0
) -> tuple[float, float]:
    """p of a mean advantage as large, and as small, of `one` over the hardest control when heads exchange them.

    The advantage is Spearman's correlation with `other` minus the largest of the controls'; scores are exchanged, as
    ranks, head by head or by whole layers: heads of a layer may resemble each other.
    """
    observed, shuffled = [], []
    for model, controls in models:
        ranks = np.stack([stats.rankdata(score) for score in (model.one, *controls)])
        unit = _centred_ranks(model.other)
        _, owner = np.unique(model.layer, return_inverse=True)
        owner = owner if by_layer else np.arange(len(owner))
        rng = np.random.default_rng([seed, *model.llm.encode()])
        order = rng.random((N_SHUFFLED, len(ranks), owner.max() + 1)).argsort(axis=1)[..., owner]
        order[0] = np.arange(len(ranks))[:, None]
        told = _centred_ranks(np.take_along_axis(ranks[None], order, axis=1)) @ unit
        advantage = told[:, 0] - told[:, 1:].max(axis=1)
        observed.append(advantage[0])
        shuffled.append(advantage[1:])
    return _tails(float(np.mean(observed)), np.mean(shuffled, axis=0))


def _drawn(model: Scored, seed: int) -> NDArray[np.float64]:
    """Random numbers (shuffling, head), the same for models of one language model with as many heads."""
    rng = np.random.default_rng([seed, *model.llm.encode()])
    return rng.random((N_SHUFFLED, len(model.one)))


def _without_layers(scores: NDArray[np.float64], layer: NDArray[np.integer]) -> NDArray[np.float64]:
    _, owner = np.unique(layer, return_inverse=True)
    return scores - (np.bincount(owner, scores) / np.bincount(owner))[owner]


def _centred_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred ranks along the last axis as unit vectors; zeros for a constant score."""
    ranks = stats.rankdata(scores, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    return np.divide(ranks, norm, out=np.zeros_like(ranks), where=norm > 0)


def _tails(observed: float, shuffled: NDArray[np.float64]) -> tuple[float, float]:
    more, less = (shuffled >= observed - 1e-12).sum(), (shuffled <= observed + 1e-12).sum()
    return float((1 + more) / (1 + len(shuffled))), float((1 + less) / (1 + len(shuffled)))
