"""Models by descent: which share their head patterns, and what changes between pairs that differ in one thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import head_statistics
from visualheads.analysis.lineage import RELATIONS, lineage, matched, recorded_scores, relation, tuned_pictures
from visualheads.analysis.scores import answered_by_all, score_difference
from visualheads.analysis.subset import subset, tasks_of
from visualheads.heads.losses import mean_share
from visualheads.heads.patterns import QUERY, model_agreement, pairs
from visualheads.heads.permutation import ShapePairs, jackknifed, shuffled
from visualheads.heads.selection import shapes_of

SIZE = re.compile(r"-?v?[\d.]+B?$|-mini$")
RECIPE, MODEL_SIZE = "recipe", "size"
CHANGES = (
    "pair", "one", "other", "task", "difference", "lower", "upper", "score_one", "score_other", "n", "tokens_one",
    "tokens_other", "pictures_one", "pictures_other", "whole", "mean_estimate", "mean_lower", "mean_upper",
    "image_weight", "image_log_odds", "focus_nats",
)  # fmt: skip
"""Many image tokens and few."""
Pair = tuple[str, str]


def relations(ds: xr.Dataset, measure: str = "image_weight", query: str = QUERY, seed: int = 0) -> pd.DataFrame:
    """One row per pair of models of one shape: `alike.pairs` with the columns relation (one of lineage.RELATIONS),
    shape (layers × heads) and counted (whether it is among the `kin_pairs`).

    Heads are compared place by place. Among models of other language models that is the control: their heads have no
    places in common but depth.
    """
    table = lineage(ds)
    found = pairs(model_agreement(ds, measure, query=query, seed=seed))
    found["relation"] = [relation(table, str(a), str(b)) for a, b in zip(found["group"], found["other"], strict=True)]
    shapes = _shapes(ds)
    found["shape"] = [shapes[str(name)] for name in found["group"]]
    found["counted"] = found.index.isin(kin_pairs(found, ds).index)
    place = {name: index for index, name in enumerate(RELATIONS)}
    return found.sort_values("relation", key=lambda column: column.map(place), kind="stable").reset_index(drop=True)


def without_partner(ds: xr.Dataset) -> dict[str, str]:
    """Models that enter no pair, since no other has their shape (layers × heads), with that shape."""
    shapes = _shapes(ds)
    return {name: shape for name, shape in shapes.items() if list(shapes.values()).count(shape) == 1}


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
    shapes = [ShapePairs.of(part, told) for _, part in kept.groupby("shape", sort=False)]
    share = np.array([shape.same.sum() for shape in shapes], dtype=float)
    share /= share.sum()
    observed = float(share @ [shape.difference(shape.labels) for shape in shapes])
    every = shuffled(shapes, share, seed)
    width = jackknifed(shapes, share)
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
    told, shapes = lineage(ds)["llm"].to_dict(), _shapes(ds)
    kept = kept[kept["group"].map(told).astype(bool) & kept["other"].map(told).astype(bool)]
    kept = kept.assign(
        shape=[shapes[str(name)] for name in kept["group"]],
        same=[told[a] == told[b] for a, b in zip(kept["group"], kept["other"], strict=True)],
    )
    return kept[kept.groupby("shape")["same"].transform("nunique") == 2] if len(kept) else kept


def _shapes(ds: xr.Dataset) -> dict[str, str]:
    return {name: f"{layers} × {heads}" for name, (layers, heads) in shapes_of(ds["image_weight"]).items()}


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
    no pairs."""
    table = lineage(ds)
    table = table[~table["variant"]]
    table = table[~table.duplicated(["llm", "recipe", "miniature"])]
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
    score_other, n, tokens_one, tokens_other, pictures_one, pictures_other (in visual tuning; NaN unknown), whole
    (difference over all items of the benchmark by the models' training records; NaN unknown), mean_estimate,
    mean_lower, mean_upper (the pair's `mean_change` over its benchmarks), and the change of head statistics:
    image_weight, image_log_odds, focus_nats (means over all heads).
    """
    heads = head_statistics(ds).set_index(["model", "task"])
    records = []
    for one, other in found:
        pictures = {"pictures_one": tuned_pictures(one), "pictures_other": tuned_pictures(other)}
        recorded = [recorded_scores(name) for name in (one, other)]
        means = {f"mean_{bound}": value for bound, value in mean_change(ds, [(one, other)]).items()}
        for task in tasks_of(ds):
            told = score_difference(ds, one, other, task)
            if told is None:
                continue
            a, b = heads.loc[(one, task)], heads.loc[(other, task)]
            change = {name: float(b[name] - a[name]) for name in ("image_weight", "image_log_odds", "focus_nats")}
            told["score_one"], told["score_other"] = told.pop("one"), told.pop("other")
            tokens = {"tokens_one": float(a["tokens"]), "tokens_other": float(b["tokens"])}
            pair = {"pair": f"{one} → {other}", "one": one, "other": other, "task": task}
            whole = recorded[1].get(task, np.nan) - recorded[0].get(task, np.nan)
            records.append({**pair, **told, **tokens, **pictures, "whole": whole, **means, **change})
    return pd.DataFrame(records, columns=list(CHANGES))


def mean_change(ds: xr.Dataset, found: Sequence[tuple[str, str]], seed: int = 0) -> dict[str, float]:
    """Mean change from the first to the second model of the pairs, in share right, each benchmark with the same weight.

    Keys estimate, lower, upper (95 % interval over pictures, drawn anew for every benchmark by itself, for they have
    pictures of their own; pairs share them and are paired). On the questions that all pairs with answers in common
    answered; empty where there are none.
    """
    parts = []
    for task in tasks_of(ds):
        asked = [pair for pair in found if answered_by_all(ds, pair, task)[0].sizes["sample"]]
        arrays = answered_by_all(ds, [name for pair in asked for name in pair], task) if asked else []
        if arrays and arrays[0].sizes["sample"]:
            changes = [second.values - first.values for first, second in zip(arrays[::2], arrays[1::2], strict=True)]
            parts.append(arrays[0].copy(data=np.mean(changes, axis=0)))
    return mean_share(parts, seed=seed, lowest=-1.0) if parts else {}


def _tokens(ds: xr.Dataset, model: str) -> float:
    """Image tokens per question, each benchmark with the same weight, as in scores over all benchmarks."""
    parts = [subset(ds, model=model, task=task)["n_image_tokens"].astype(float) for task in tasks_of(ds)]
    return float(np.mean([part.mean() for part in parts if part.size]))
