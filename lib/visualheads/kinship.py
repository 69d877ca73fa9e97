"""Models by descent: which share their head patterns, and what changes between pairs that differ in one thing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.alike import QUERY, model_agreement, pairs, shapes_of
from visualheads.answered import mean_share
from visualheads.bootstrap import LEVEL
from visualheads.comparison import (
    CIRCULAR,
    answered_by_all,
    head_statistics,
    in_all_rounds,
    of_model,
    score_difference,
    tasks_of,
)
from visualheads.lineage import RELATIONS, lineage, matched, relation, tuned_pictures
from visualheads.prediction import MOST_EXACT, N_DRAWN, orders

SIZE = re.compile(r"-?v?[\d.]+B?$|-mini$")
RECIPE, MODEL_SIZE = "recipe", "size"
ALL_TASKS = "all benchmarks"
Pair = tuple[str, str]


def relations(ds: xr.Dataset, measure: str = "image_weight", query: str = QUERY, seed: int = 0) -> pd.DataFrame:
    """One row per pair of models of one shape: `alike.pairs` with the column relation (one of lineage.RELATIONS).

    Heads are compared place by place. Among models of other language models that is the control: their heads have no
    places in common but depth.
    """
    table = lineage(ds)
    found = pairs(model_agreement(ds, measure, query=query, seed=seed))
    found["relation"] = [relation(table, str(a), str(b)) for a, b in zip(found["group"], found["other"], strict=True)]
    place = {name: index for index, name in enumerate(RELATIONS)}
    return found.sort_values("relation", key=lambda column: column.map(place), kind="stable").reset_index(drop=True)


def kin_difference(table: pd.DataFrame, ds: xr.Dataset, seed: int = 0) -> dict[str, float] | None:
    """Mean correlation of pairs of one language model (other recipe) minus that of pairs of other ones, with p.

    Keys same and other (means, shapes weighted as in the difference), difference, lower, upper (jackknife over models,
    which pairs share; NaN where one model makes all pairs of a kind), p_value (share of the shufflings of language
    models among the models of a shape with at least that difference, one-sided; exact for few models), p_less (with at
    most that difference), pairs_same, pairs_other, least_p (the smallest p that these models can give). Pairs are
    `kin_pairs`; several shapes count by their pairs of one language model. None where no shape has both kinds of pair.
    """
    kept = kin_pairs(table, ds)
    if kept.empty:
        return None
    told = lineage(ds)["llm"].to_dict()
    shapes = [_Shape.of(part, told) for _, part in kept.groupby("shape", sort=False)]
    share = np.array([shape.same.sum() for shape in shapes], dtype=float)
    share /= share.sum()
    observed = float(share @ [shape.difference(shape.labels) for shape in shapes])
    every = _shuffled(shapes, share, seed)
    width = _jackknifed(shapes, share)
    same = kept["same"].to_numpy(dtype=bool)
    return {
        "same": float(share @ [shape.values[shape.same].mean() for shape in shapes]),
        "other": float(share @ [shape.values[~shape.same].mean() for shape in shapes]),
        "difference": observed,
        "lower": observed - width,
        "upper": observed + width,
        "p_value": float((every >= observed - 1e-12).mean()),
        "p_less": float((every <= observed + 1e-12).mean()),
        "least_p": float((every >= every.max() - 1e-12).mean()),
        "pairs_same": int(same.sum()),
        "pairs_other": int((~same).sum()),
    }


def kin_pairs(table: pd.DataFrame, ds: xr.Dataset) -> pd.DataFrame:
    """The rows of `relations` that speak of kinship, with the columns shape (layers × heads) and same (language model).

    Further trainings of a model (other seeds, less data, a second language model) are left out, models whose language
    model is unknown, and shapes that lack one kind of pair: there, what sets shapes apart would count as kinship.
    """
    kept = without_variant_pairs(table, ds)
    told, shapes = lineage(ds)["llm"].to_dict(), shapes_of(ds["image_weight"])
    kept = kept[kept["group"].map(told).astype(bool) & kept["other"].map(told).astype(bool)]
    kept = kept.assign(
        shape=["{} × {}".format(*shapes[str(name)]) for name in kept["group"]],
        same=[told[a] == told[b] for a, b in zip(kept["group"], kept["other"], strict=True)],
    )
    return kept[kept.groupby("shape")["same"].transform("nunique") == 2] if len(kept) else kept


@dataclass(frozen=True, eq=False)
class _Shape:
    """The pairs of models of one shape: places of both models among the labels, and how alike they are."""

    labels: NDArray[np.str_]
    one: NDArray[np.int64]
    other: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: pd.DataFrame, llm: Mapping[str, str]) -> _Shape:
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

    def without(self, model: int) -> _Shape:
        """The pairs that a model (a place among the labels) has no part in."""
        kept = (self.one != model) & (self.other != model)
        return _Shape(self.labels, self.one[kept], self.other[kept], self.values[kept])


def _jackknifed(shapes: Sequence[_Shape], share: NDArray[np.float64], level: float = LEVEL) -> float:
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


def _shuffled(shapes: Sequence[_Shape], share: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
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


def without_variant_pairs(table: pd.DataFrame, ds: xr.Dataset) -> pd.DataFrame:
    """The rows of `relations` with a correlation whose models are no further trainings of another one."""
    if table.empty:
        return table
    variant = lineage(ds)["variant"].to_dict()
    own = [not (variant[a] or variant[b]) for a, b in zip(table["group"], table["other"], strict=True)]
    return table[np.array(own) & np.isfinite(table["correlation"])]


def series_of(llm: str) -> str:
    """A language model's series: its name without its size, such as `Vicuna` of `Vicuna-13B`."""
    return SIZE.sub("", llm)


def matched_pairs(ds: xr.Dataset, differs: str) -> list[tuple[str, str]]:
    """Pairs of models that differ in their recipe (`RECIPE`: the one with fewer image tokens first) or in the size of
    their language model (`MODEL_SIZE`: same series and recipe, the smaller first). Further trainings of a model are
    no pairs, but those with another share of the tuning data, which are paired among themselves."""
    table = lineage(ds)
    table = table[~table["variant"] | (table["data_share"] < 1)]
    table = table[~table.duplicated(["llm", "recipe", "data_share"])]
    if differs == RECIPE:
        tokens = {str(name): _tokens(ds, str(name)) for name in table.index}
        found = matched(table, "recipe")
        return [(a, b) if tokens[a] <= tokens[b] else (b, a) for a, b in found]
    found = [p for p in matched(table, "llm") if series_of(table.loc[p[0], "llm"]) == series_of(table.loc[p[1], "llm"])]
    size = table["parameters"].to_dict()
    return [(a, b) if size[a] <= size[b] else (b, a) for a, b in found]


def changes(ds: xr.Dataset, found: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """What changes from the first to the second model of each pair, per benchmark.

    Columns: pair, one, other, task, difference (share right), lower, upper (paired, over pictures), score_one,
    score_other, n, tokens_one, tokens_other, pictures_one, pictures_other (in visual tuning; NaN unknown), and the
    change of head statistics: image_weight, image_log_odds, focus_nats (means over all heads).
    """
    heads = head_statistics(ds).set_index(["model", "task"])
    records = []
    for one, other in found:
        pictures = {"pictures_one": tuned_pictures(one), "pictures_other": tuned_pictures(other)}
        for task in tasks_of(ds):
            told = score_difference(ds, one, other, task)
            if told is None:
                continue
            a, b = heads.loc[(one, task)], heads.loc[(other, task)]
            change = {name: float(b[name] - a[name]) for name in ("image_weight", "image_log_odds", "focus_nats")}
            told["score_one"], told["score_other"] = told.pop("one"), told.pop("other")
            tokens = {"tokens_one": float(a["tokens"]), "tokens_other": float(b["tokens"])}
            pair = {"pair": f"{one} → {other}", "one": one, "other": other, "task": task}
            records.append({**pair, **told, **tokens, **pictures, **change})
    return pd.DataFrame(records)


def tokens_and_data(ds: xr.Dataset) -> pd.DataFrame:
    """Every model that has a variant tuned on less data, and these variants: the score over all benchmarks.

    Columns: model, llm, recipe, data_share, tokens, estimate, lower, upper (bootstrap over pictures, each benchmark
    with the same weight), n.
    """
    table = lineage(ds)
    less = table[table["data_share"] < 1]
    keys = set(zip(less["llm"], less["recipe"], strict=True))
    table = table[~table["variant"] | (table["data_share"] < 1)]
    chosen = [str(n) for n in table.index if (table.loc[n, "llm"], table.loc[n, "recipe"]) in keys]
    records = []
    for name in chosen:
        told = overall(ds, name)
        if told:
            row = {column: table.loc[name, column] for column in ("llm", "recipe", "data_share")}
            records.append({"model": name, **row, "tokens": _tokens(ds, name), **told})
    return pd.DataFrame(
        records, columns=["model", "llm", "recipe", "data_share", "tokens", "estimate", "lower", "upper", "n"]
    )


def interaction(ds: xr.Dataset, more: Pair, less: Pair, seed: int = 0) -> dict[str, float] | None:
    """What more tokens bring with all the data minus what they bring with less, in share right.

    more, less   with all the data and with less: the model of many image tokens, and that of few
    Keys estimate, lower, upper: on the questions that all four models answered, paired, each benchmark with the same
    weight, pictures drawn anew. None where they share none.
    """
    parts = []
    for task in tasks_of(ds):
        first, second, third, fourth = answered_by_all(ds, (*more, *less), task)
        if first.sizes["sample"]:
            parts.append(first.copy(data=first.values - second.values - (third.values - fourth.values)))
    return mean_share(parts, seed=seed, lowest=-2.0) if parts else None


def overall(ds: xr.Dataset, model: str, seed: int = 0) -> dict[str, float]:
    """Share right with every benchmark weighing the same, its 95 % interval, and n; empty without answers."""
    parts = []
    for task in tasks_of(ds):
        part = of_model(ds, model, task)["correct"].isel(model=0).load()
        if np.isfinite(part).any():
            parts.append(in_all_rounds(part) if task == CIRCULAR else part)
    return {**mean_share(parts, seed=seed), "n": sum(int(np.isfinite(part).sum()) for part in parts)} if parts else {}


def _tokens(ds: xr.Dataset, model: str) -> float:
    return float(of_model(ds, model)["n_image_tokens"].astype(float).mean())
