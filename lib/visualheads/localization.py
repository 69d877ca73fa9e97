"""The localization ranking under weights of pictures: which heads lie above its elbow hangs on the pictures too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from visualheads.bootstrap import PictureSums, picture_weights

if TYPE_CHECKING:
    from collections.abc import Callable


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
