"""Models by descent: which share their head patterns, and what changes between pairs that differ in one thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.alike import QUERY, model_agreement, pairs
from visualheads.bootstrap import bootstrap
from visualheads.comparison import head_statistics, in_all_rounds, of_model, score_difference, tasks_of
from visualheads.lineage import RELATIONS, lineage, matched, relation, tuned_pictures
from visualheads.prediction import N_DRAWN

SIZE = re.compile(r"-?v?[\d.]+B?$|-mini$")
RECIPE, MODEL_SIZE = "recipe", "size"
ALL_TASKS = "all benchmarks"


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

    Keys same, other, difference, p_value (share of shufflings of the language models among the models of a shape with
    at least that difference, one-sided), pairs_same, pairs_other. Further trainings of a model (other seeds, less data,
    a second language model) are compared beside it, and do not count here. None where one kind of pair is missing.
    """
    kept = without_variant_pairs(table, ds)
    if kept.empty:
        return None
    told = lineage(ds)["llm"].to_dict()
    same = np.array([told[a] == told[b] for a, b in zip(kept["group"], kept["other"], strict=True)])
    values = kept["correlation"].to_numpy()
    if not same.any() or same.all():
        return None
    observed = float(values[same].mean() - values[~same].mean())
    names = list(dict.fromkeys([*kept["group"], *kept["other"]]))
    rng = np.random.default_rng(seed)
    labels = np.array([told[name] for name in names])
    one, other = (
        kept[column].map({name: i for i, name in enumerate(names)}).to_numpy() for column in ("group", "other")
    )
    found = []
    for _ in range(N_DRAWN):
        drawn = rng.permutation(labels)
        alike = drawn[one] == drawn[other]
        if alike.any() and not alike.all():
            found.append(float(values[alike].mean() - values[~alike].mean()))
    p = (1 + sum(value >= observed - 1e-12 for value in found)) / (1 + len(found))
    means = {"same": float(values[same].mean()), "other": float(values[~same].mean())}
    return {
        **means,
        "difference": observed,
        "p_value": p,
        "pairs_same": int(same.sum()),
        "pairs_other": int((~same).sum()),
    }


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


def overall(ds: xr.Dataset, model: str, seed: int = 0) -> dict[str, float]:
    """Share right with every benchmark weighing the same, its 95 % interval, and n; empty without answers."""
    parts, images = [], []
    for task in tasks_of(ds):
        part = of_model(ds, model, task)["correct"].isel(model=0).load()
        if not np.isfinite(part).any():
            continue
        part = in_all_rounds(part) if task == "mmbench" else part
        parts.append(np.asarray(part.values, dtype=float))
        images.append([f"{task} {image}" for image in part["image_id"].values.astype(str)])
    if not parts:
        return {}
    n = sum(len(part) for part in parts)
    weighted = np.concatenate([part * (n / (len(parts) * len(part))) for part in parts])
    ids = np.array([image for some in images for image in some], dtype=object)
    bounds = bootstrap(xr.DataArray(weighted, {"image_id": ("sample", ids)}, ("sample",)), seed=seed)
    return {**{bound: float(bounds.sel(bound=bound)) for bound in ("estimate", "lower", "upper")}, "n": n}


def _tokens(ds: xr.Dataset, model: str) -> float:
    return float(of_model(ds, model)["n_image_tokens"].astype(float).mean())
