"""Connected components of many attention maps at once (pure numpy and scipy)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)
"""Neighbours within one map of a stack, none between maps: the whole stack is labelled in one call."""

FLAT_MAP = 1e-6
"""A map whose excess over its mean is below this share of its mass is constant up to rounding."""


def component_entropy(maps: NDArray[np.float32], least_mass: float) -> NDArray[np.float32]:
    """Return, for maps of shape (…, row, column), the entropy in nats over 8-connected components of ReLU(A − mean A).

    Cells that are NaN hold no token: they count neither for the mean nor for a component. NaN where a map's mass is
    below `least_mass` or where the map is constant.
    """
    n_rows, n_columns = maps.shape[-2:]
    stack = maps.reshape(-1, n_rows, n_columns).astype(np.float64)
    n_maps = len(stack)
    there = np.isfinite(stack)
    stack = np.where(there, stack, 0.0)
    mass = stack.sum(axis=(1, 2))
    cells = np.maximum(there.sum(axis=(1, 2)), 1)
    excess = np.where(there, np.maximum(stack - (mass / cells)[:, None, None], 0.0), 0.0)
    # Rounding leaves an excess of some 1e-9 on constant maps; scattered as it is, it would pass for high entropy.
    excess[excess.sum(axis=(1, 2)) <= FLAT_MAP * mass] = 0.0
    total = excess.sum(axis=(1, 2))

    labels, n_components = ndimage.label(excess > 0, structure=EIGHT_NEIGHBOURS)  # pyright: ignore[reportGeneralTypeIssues]
    flat_labels = labels.ravel()
    component_mass = np.bincount(flat_labels, weights=excess.ravel(), minlength=n_components + 1)[1:]
    owner = np.zeros(n_components + 1, dtype=np.int64)
    owner[flat_labels.astype(np.int64)] = np.repeat(np.arange(n_maps), n_rows * n_columns)
    owner = owner[1:]
    share = component_mass / total[owner]
    terms = np.where(share > 0, -share * np.log(np.where(share > 0, share, 1.0)), 0.0)
    entropy = np.bincount(owner, weights=terms, minlength=n_maps)
    # bincount of nothing forgets its weights' type, so NaN is put in by where.
    entropy = np.where((total > 0) & (mass >= least_mass), np.maximum(entropy, 0.0), np.nan)
    return entropy.astype(np.float32).reshape(maps.shape[:-2])
