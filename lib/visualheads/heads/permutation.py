"""What chance would give when models or language models change places: permutation tests (pure numpy).

Over models: whether head statistics go with, or predict, benchmark scores. Models are few (nine in the paper), so that
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
from scipy import stats

from visualheads.heads.agreement import spearman, unit_ranks
from visualheads.heads.bootstrap import LEVEL

FEWEST_MODELS = 4
"""Below it a permutation test cannot reach 5 %: three models have six orders (see `least_p`)."""
MOST_EXACT = 5040
"""Orders of the models that are all looked at; where there are more, as many are drawn."""
N_DRAWN = 5000


def correlations(
    table: pd.DataFrame, statistics: Sequence[str], seed: int = 0, llm: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One row per statistic: statistic, rho, p_value, models, tasks; NaN rho where too few models have it.

    `table` has one row per model and task with the columns model, task, score and the statistics. rho is Spearman's
    correlation over models within a task, averaged over tasks weighted by their number of models. The p value is two-
    sided and exact where the orders of models can be looked at one by one: whole models are permuted, so that scores
    of one model on several tasks stay together. Statistics with fewer than FEWEST_MODELS models have p NaN. With `llm`,
    the language model of each model, these are what counts as a model (`by_language_model`).
    """
    records = []
    for statistic in statistics:
        told = table if llm is None else by_language_model(table, [statistic], llm)
        scores, values = (_matrix(told, column) for column in ("score", statistic))
        there = np.isfinite(scores) & np.isfinite(values)
        models = there.any(axis=1)
        scores, values, there = scores[models], values[models], there[models]
        n = len(scores)
        rho = _mean_rho(scores, values, there) if n >= 3 else float("nan")
        p = float("nan")
        if n >= FEWEST_MODELS and np.isfinite(rho):
            found = _permuted_rho(scores, values, there, orders(n, seed))
            found = found[np.isfinite(found)]  # an order may leave no task with models enough to correlate
            p = float((np.abs(found) >= abs(rho) - 1e-12).mean())
        tasks = int((there.sum(axis=0) >= 3).sum())
        records.append({"statistic": statistic, "rho": rho, "p_value": p, "models": n, "tasks": tasks})
    return pd.DataFrame(records, columns=["statistic", "rho", "p_value", "models", "tasks"])


def by_language_model(table: pd.DataFrame, statistics: Sequence[str], llm: Mapping[str, str]) -> pd.DataFrame:
    """Scores and statistics with one row per language model (as `model`) and task: means over its models.

    Models tuned from one language model resemble each other, so that permuting them one by one makes p too small.
    """
    known = table.dropna(subset=["score", *statistics])  # a mean of scores and one of heads are of the same models
    named = known.assign(model=known["model"].map(llm))
    return named.groupby(["model", "task"], sort=False)[["score", *statistics]].mean().reset_index()


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


def least_p(n: int, tasks: int = 2) -> float:
    """The least p that `correlations` can give for n models with scores on so many tasks.

    1/n!, and with one task 2/n!, since the order that turns all ranks round correlates as strongly; where orders are
    drawn, 1/N_DRAWN, since the given one is always among them.
    """
    every = math.factorial(n)
    return 1 / N_DRAWN if every > MOST_EXACT else min((1 if tasks > 1 else 2) / every, 1.0)


def _matrix(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Values (model, task) of a column; NaN where there is no row."""
    return table.pivot_table(index="model", columns="task", values=column, dropna=False).to_numpy(dtype=float)


def _mean_rho(scores: NDArray[np.float64], values: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    total = weight = 0.0
    for task in range(scores.shape[1]):
        chosen = there[:, task]
        n = int(chosen.sum())
        if n < 3:
            continue
        rho = spearman(np.stack([scores[chosen, task], values[chosen, task]]))[0, 1]
        if np.isfinite(rho):
            total, weight = total + n * float(rho), weight + n
    return total / weight if weight else float("nan")


def _permuted_rho(
    scores: NDArray[np.float64], values: NDArray[np.float64], there: NDArray[np.bool_], orders: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Mean rho for every order of the models. Without gaps ranks only change places, so that all are one product."""
    if not there.all():
        return np.array([_mean_rho(scores[order], values, there & there[order]) for order in orders])
    one, other = unit_ranks(scores.T), unit_ranks(values.T)
    known = np.isfinite(one[:, 0]) & np.isfinite(other[:, 0])
    return np.einsum("ton,tn->ot", one[known][:, np.array(orders)], other[known]).mean(axis=1)


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
