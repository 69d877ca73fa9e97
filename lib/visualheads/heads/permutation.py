"""What chance would give when models or language models change places: permutation tests (pure numpy).

Over models: whether head statistics predict benchmark scores. Models are few (nine in the paper), so that
nothing here rests on an asymptotic distribution. Over pairs of models: how far a difference between kinds of pairs
hangs on single models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST_EXACT = 5040
"""Orders of the models that are all looked at; where there are more, as many are drawn."""
N_DRAWN = 5000


def leave_one_llm_out(table: pd.DataFrame, statistics: Sequence[str], llm: dict[str, str]) -> pd.DataFrame:
    """Predict every score from the models of other LLMs: one row per model, task and statistic.

    Columns: statistic, model, task, llm, score, predicted, baseline. `predicted` is a straight line in the statistic
    with one intercept per task, fitted on models of the other LLMs; `baseline` is the mean score of those models on
    that task: what one would guess without looking at heads. Rows appear only where at least three other models have
    the task.
    """
    records = []
    for statistic in statistics:
        usable = table.dropna(subset=["score", statistic])
        groups = usable["model"].map(llm)
        for name in dict.fromkeys(groups):
            train, test = usable[groups != name], usable[groups == name]
            counts = train.groupby("task")["model"].nunique()
            train = train[train["task"].map(counts).fillna(0) >= 3]
            if train.empty or train["model"].nunique() < 3:
                continue
            mean_x, mean_y = (train.groupby("task")[column].mean() for column in (statistic, "score"))
            x = train[statistic] - train["task"].map(mean_x)
            y = train["score"] - train["task"].map(mean_y)
            slope = float((x * y).sum() / (x * x).sum()) if float((x * x).sum()) > 0 else 0.0
            for _, row in test[test["task"].isin(mean_y.index)].iterrows():
                base = float(mean_y[row["task"]])
                predicted = base + slope * float(row[statistic] - mean_x[row["task"]])
                told = {"statistic": statistic, "model": row["model"], "task": row["task"], "llm": name}
                records.append({**told, "score": float(row["score"]), "predicted": predicted, "baseline": base})
    return pd.DataFrame(records, columns=["statistic", "model", "task", "llm", "score", "predicted", "baseline"])


def errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per statistic: mean absolute error of the prediction and of the baseline, `gain` (1 − ratio of squared
    errors; above 0 the heads help), and the number of predictions."""
    records = []
    for statistic, part in predictions.groupby("statistic", sort=False):
        missed, guessed = part["score"] - part["predicted"], part["score"] - part["baseline"]
        whole = float((guessed**2).sum())
        gain = 1 - float((missed**2).sum()) / whole if whole > 0 else float("nan")
        both = {"error": float(missed.abs().mean()), "baseline": float(guessed.abs().mean())}
        records.append({"statistic": statistic, **both, "gain": gain, "n": len(part)})
    return pd.DataFrame(records, columns=["statistic", "error", "baseline", "gain", "n"])


def orders(n: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """All orders of n things, the given one first; where there are more than MOST_EXACT, it and drawn ones."""
    if math.factorial(n) <= MOST_EXACT:
        return [np.array(order) for order in itertools.permutations(range(n))]
    rng = np.random.default_rng(seed)
    return [np.arange(n), *(rng.permutation(n) for _ in range(N_DRAWN - 1))]


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


def shuffled(shapes: Sequence[ShapePairs], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference for every order of the language models within each shape, or for drawn orders of many models."""
    found = [
        np.array([shape.difference(shape.labels[order]) for order in orders(len(shape.labels), place)])
        for place, shape in enumerate(shapes)
    ]
    if len(found) == 1:
        every = found[0]
    elif np.prod([len(one) for one in found]) <= MOST_EXACT:
        every = np.array([share @ values for values in itertools.product(*found)])
    else:
        rng = np.random.default_rng(0)
        drawn = [np.concatenate([one[:1], one[rng.integers(0, len(one), N_DRAWN - 1)]]) for one in found]
        every = share @ np.array(drawn)
    return every[np.isfinite(every)]
