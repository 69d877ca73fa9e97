"""How much a difference between kinds of pairs hangs on single models, and on which model has which language model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from visualheads.bootstrap import LEVEL
from visualheads.prediction import MOST_EXACT, N_DRAWN, orders


@dataclass(frozen=True, eq=False)
class ShapePairs:
    """The pairs of models of one shape: places of both models among the labels, and how alike they are."""

    labels: NDArray[np.str_]
    one: NDArray[np.int64]
    other: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: pd.DataFrame, llm: Mapping[str, str]) -> ShapePairs:
        names = list(dict.fromkeys([*pairs["group"], *pairs["other"]]))
        places = {name: place for place, name in enumerate(names)}
        one, other = (pairs[column].map(places).to_numpy() for column in ("group", "other"))
        return cls(np.array([llm[name] for name in names]), one, other, pairs["correlation"].to_numpy(dtype=float))

    @property
    def same(self) -> NDArray[np.bool_]:
        return self.labels[self.one] == self.labels[self.other]

    def difference(self, labels: NDArray[np.str_]) -> float:
        """Mean over pairs with one label minus that over pairs with two; NaN where the pairs lack one of them."""
        same = labels[self.one] == labels[self.other]
        return float(self.values[same].mean() - self.values[~same].mean()) if same.any() and not same.all() else np.nan

    def without(self, model: int) -> ShapePairs:
        """The pairs that a model (a place among the labels) has no part in."""
        kept = (self.one != model) & (self.other != model)
        return ShapePairs(self.labels, self.one[kept], self.other[kept], self.values[kept])


def jackknifed(shapes: Sequence[ShapePairs], share: NDArray[np.float64], level: float = LEVEL) -> float:
    """Half width of the interval of the difference, from leaving out each model with all its pairs (t distribution).

    From the shapes where any model can be left out; NaN where there is none.
    """
    without = [
        [shape.without(model).difference(shape.labels) for model in range(len(shape.labels))] for shape in shapes
    ]
    firm = [place for place, differences in enumerate(without) if np.isfinite(differences).all()]
    whole, weight = np.array([shapes[place].difference(shapes[place].labels) for place in firm]), share[firm]
    left = []
    for place, differences in enumerate(without[index] for index in firm):
        for difference in differences:
            changed = whole.copy()
            changed[place] = difference
            left.append(float(weight @ changed / weight.sum()))
    n = len(left)
    if not n:
        return float("nan")
    spread = np.sqrt((n - 1) / n * np.square(np.array(left) - np.mean(left)).sum())
    return float(stats.t.ppf((1 + level) / 2, n - 1) * spread)


def shuffled(shapes: Sequence[ShapePairs], share: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The difference for every order of the language models within each shape, or for drawn orders of many models."""
    found = [
        np.array([shape.difference(shape.labels[order]) for order in orders(len(shape.labels), seed + place)])
        for place, shape in enumerate(shapes)
    ]
    if len(found) == 1:
        every = found[0]
    elif np.prod([len(one) for one in found]) <= MOST_EXACT:
        every = np.array([share @ values for values in itertools.product(*found)])
    else:
        rng = np.random.default_rng(seed)
        drawn = [np.concatenate([one[:1], one[rng.integers(0, len(one), N_DRAWN - 1)]]) for one in found]
        every = share @ np.array(drawn)
    return every[np.isfinite(every)]
