"""The localization ranking's elbow and heads of lowest entropy, under weights of pictures (Kang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from visualheads.heads.bootstrap import PictureSums, picture_weights


def elbow(sums: NDArray[np.floating]) -> float:
    """Return the value at the elbow of the sorted values: where they lie farthest from the chord of first and last.

    −inf where there is no elbow (fewer than three values, or all on the chord), so that every value lies above it.
    """
    ordered = np.sort(sums[np.isfinite(sums)])
    if len(ordered) < 3:
        return -np.inf
    chord = np.linspace(ordered[0], ordered[-1], len(ordered))
    distance = np.abs(ordered - chord)
    return float(ordered[distance.argmax()]) if distance.max() > 1e-9 else -np.inf


def above_elbow(means: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which heads lie above the elbow of their means."""
    return means > elbow(means)


def lowest_entropy(entropy: NDArray[np.floating], wanted: int) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return what gives, of heads (head) above the elbow, those `wanted` of lowest entropy in each sample.

    entropy   (head, sample); ties go to the lower head index
    The result is 1 for these (head, sample), 0 for other heads, NaN where a head has no entropy.
    """
    there = np.isfinite(entropy)
    order = np.argsort(entropy, axis=0, kind="stable")  # once for all sets of heads; NaN is last
    ordered = np.take_along_axis(there, order, axis=0)

    def among(above: NDArray[np.bool_]) -> NDArray[np.float64]:
        eligible = above[order] & ordered
        lowest = np.zeros(entropy.shape)
        np.put_along_axis(lowest, order, eligible & (np.cumsum(eligible, axis=0) <= wanted), axis=0)
        return np.where(there, lowest, np.nan)

    return among


@dataclass(frozen=True, eq=False)
class LocalizationSums(PictureSums):
    """Sums per picture whose heads are chosen anew under every row of weights.

    weights   of image weight, (head, picture): its weighted means give the elbow
    among     sums per picture of the ranking with these heads (head) above the elbow; kept, as draws often agree

    A mask of heads that was computed once on all pictures would be shared by both halves of a split and by all draws
    of a bootstrap, which then agree by it.
    """

    weights: PictureSums
    above: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
    among: Callable[[NDArray[np.bool_]], PictureSums]
    known: dict[bytes, PictureSums] = field(default_factory=dict)

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ranking (head, replicate) for weights (replicate, picture)."""
        found = np.full((len(self.sums), len(weights)), np.nan)
        masks = np.stack([self.above(means) for means in self.weights.means(weights).T])
        for mask in np.unique(masks, axis=0):
            rows = np.flatnonzero((masks == mask).all(axis=1))
            key = mask.tobytes()
            if key not in self.known:
                self.known[key] = self.among(mask)
            found[:, rows] = self.known[key].means(weights[rows])
        return found

    def drawn(self, n_boot: int, seed: int) -> NDArray[np.float64]:
        """Return bootstrap rankings (head, replicate), all heads with the same draws: one elbow is that of all."""
        known = np.asarray(self.counts.any(axis=0))
        if not known.any():
            return np.full((len(self.sums), n_boot), np.nan)
        return self.of(known).means(picture_weights(int(known.sum()), n_boot, seed))

    def of(self, chosen: NDArray[np.bool_]) -> LocalizationSums:
        """Return the sums over some of the pictures."""
        few, among = super().of(chosen), self.among
        return LocalizationSums(
            few.sums, few.counts, few.pictures, self.weights.of(chosen), self.above, lambda mask: among(mask).of(chosen)
        )
