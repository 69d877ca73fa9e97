"""Which model descends from which: language model, recipe and seed of every traced model, read off its own record.

And models by descent: which share their head patterns, what changes between pairs that differ in one thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.scores import answered_by_all
from visualheads.analysis.subset import TOKENS, models_of, subset, tasks_of
from visualheads.cards import cards, miniature_folder
from visualheads.heads.losses import mean_change, share_gained
from visualheads.heads.patterns import model_agreement, pairs
from visualheads.heads.permutation import ShapePairs, shuffled
from visualheads.heads.selection import shapes_of

SAME, SEED, RETRAINED, OTHER, UNKNOWN = (
    "same language model",
    "another tuning seed",
    "second training of the language model",
    "other language model",
    "unknown language model",
)
RELATIONS = (SEED, SAME, RETRAINED, OTHER, UNKNOWN)
"""From the nearest to the farthest relation of two models of one shape, and that of a model nothing is known of."""
RECORD = "training.json"
NETWORK = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
    "intermediate_size", "rope_parameters", "rope_theta", "sliding_window",
)  # fmt: skip
"""What a language model's configuration tells of its network: not the words that it knows, which grew."""
COLUMNS = ("llm", "text_model", "family", "recipe", "parameters", "miniature", "variant")


def lineage(ds: xr.Dataset) -> pd.DataFrame:
    """What each model of a dataset descends from: language model, recipe, size and seed.

    A variant is a further training of a miniature (another seed, a second language model): a control, never one more
    model among those compared.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`.

    Returns
    -------
    pandas.DataFrame
        One row per model, by its name. Columns: llm, text_model, family, recipe, parameters (in billions; NaN where
        unknown), miniature, variant. llm, family and recipe are the dataset's coordinates, or else the
        catalogue's, "" where neither knows; text_model (the very checkpoint it was tuned from) comes from a
        miniature's training record, and is the llm where there is none.
    """
    names = models_of(ds)
    table = descent(names)
    for column in ("llm", "family", "recipe"):
        if column in ds.coords:
            told = [str(value) for value in np.atleast_1d(ds[column].values)]
            table[column] = [own or known for own, known in zip(told, table[column], strict=True)]
    table["text_model"] = [text or llm for text, llm in zip(table["text_model"], table["llm"], strict=True)]
    if "parameters" in ds.coords:
        table["parameters"] = np.atleast_1d(ds["parameters"].values).astype(float)
    return table


def language_models(ds: xr.Dataset) -> dict[str, str]:
    """The language model of each model.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`.

    Returns
    -------
    dict of str to str
        Language model by model; the model's own name where neither the dataset nor the catalogue knows it.
    """
    return {str(name): str(llm) or str(name) for name, llm in lineage(ds)["llm"].items()}


def descent(names: Sequence[str]) -> pd.DataFrame:
    """The table of `lineage` from catalogue and training records alone.

    Parameters
    ----------
    names : sequence of str
        Models.

    Returns
    -------
    pandas.DataFrame
        Rows and columns as in `lineage`; texts are empty and parameters NaN where unknown.
    """
    records = []
    for name in names:
        told = training_record(name)
        card = cards().get(name) or cards().get(str(told.get("parent", "")))
        seed = int(told.get("seed", 0))
        llm = card.llm if card else ""
        records.append(
            {
                "model": name,
                "llm": llm or str(told.get("llm", "")),
                "text_model": str(told.get("text_model", llm)),
                "family": card.family if card else str(told.get("family", "")),
                "recipe": card.recipe if card else str(told.get("recipe", "")),
                "parameters": (card.parameters if card else None) or float("nan"),
                "miniature": bool(told or (card and card.miniature)),
                "variant": seed > 0 or bool(card and card.miniature and not card.paper_name),
            }
        )
    return pd.DataFrame(records, columns=["model", *COLUMNS]).set_index("model")


def training_record(model: str) -> dict[str, Any]:
    """What a miniature's training left beside its checkpoint.

    Parameters
    ----------
    model : str
        Name of the model.

    Returns
    -------
    dict of str to Any
        The record as it was written; empty for any other model.
    """
    path = miniature_folder(model) / RECORD
    if "/" in model or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def networks(names: Iterable[str]) -> dict[str, str]:
    """What network each miniature is a training of: trainings of one with other seeds are told alike.

    Parameters
    ----------
    names : iterable of str
        Models.

    Returns
    -------
    dict of str to str
        By model, what the configuration of its checkpoint tells of the network (NETWORK) as one text; a name without a
        checkpoint is left out.
    """
    paths = {name: miniature_folder(name) / "config.json" for name in names if "/" not in name}
    configs = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    return {
        name: json.dumps({key: config.get(key) for key in NETWORK}, sort_keys=True) for name, config in configs.items()
    }


def one_kind(names: Sequence[str]) -> list[str]:
    """The checkpoints among these models, or the miniatures: whichever are of more language models, else checkpoints.

    What they were asked looks alike and is not: no statistic over models mixes their scores.

    Parameters
    ----------
    names : sequence of str
        Models.

    Returns
    -------
    list of str
        Those of one kind, in the given order.
    """
    table = descent(names)
    kinds = [table[table["miniature"] == small] for small in (False, True)]
    return [str(name) for name in max(kinds, key=lambda kind: kind["llm"].nunique()).index]


def without_variants(ds: xr.Dataset) -> xr.Dataset:
    """The models that are no further trainings of another one; all of them where nothing else is there.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the dimension `model`.

    Returns
    -------
    xarray.Dataset
        The dataset with fewer models, or as it is.
    """
    table = descent(models_of(ds))
    kept = np.flatnonzero(~table["variant"].to_numpy(dtype=bool))
    return ds.isel(model=kept) if len(kept) else ds


def _relation(table: pd.DataFrame, one: str, other: str) -> str:
    """What two models of a lineage table are to each other: one of RELATIONS."""
    a, b = table.loc[one], table.loc[other]
    if not (a["llm"] and b["llm"]):
        return UNKNOWN
    if a["llm"] != b["llm"] or a["miniature"] != b["miniature"]:
        return OTHER
    if a["text_model"] != b["text_model"]:
        return RETRAINED
    return SEED if a["recipe"] == b["recipe"] else SAME


def _matched(table: pd.DataFrame, differs: str) -> list[tuple[str, str]]:
    """Pairs of models that differ in `differs`, "recipe" or "llm", and agree in the other.

    Each pair stands once, in the table's order. A model of an unknown language
    model matches none.
    """
    known = table[table["llm"] != ""].rename(index=str)
    same = [column for column in ("llm", "recipe") if column != differs] + ["miniature"]
    return [
        (one, other)
        for (one, a), (other, b) in combinations(known.iterrows(), 2)
        if (a[same] == b[same]).all() and a[differs] != b[differs]
    ]


SIZE = re.compile(r"-?v?[\d.]+B?$|-mini$")
RECIPE, MODEL_SIZE = "recipe", "size"
CHANGES = (
    "pair", "task", "difference", "lower", "upper", "tokens_one", "tokens_other", "mean_estimate", "mean_lower",
    "mean_upper",
)  # fmt: skip


def relations(ds: xr.Dataset, measure: str = "image_weight") -> pd.DataFrame:
    """How alike the head patterns of every two models of one shape are, and what the two are to each other.

    Heads are compared place by place. Among models of other language models that is the control: their heads have no
    places in common but depth.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample).
    measure : str
        The measure whose means over samples are the pattern.

    Returns
    -------
    pandas.DataFrame
        The rows of `patterns.pairs`, nearest relation first, with the columns relation (one of RELATIONS), shape
        (layers × heads) and counted: whether the pair is among those of `kin_difference`.
    """
    table = lineage(ds)
    found = pairs(model_agreement(ds, measure))
    found["relation"] = [_relation(table, str(a), str(b)) for a, b in zip(found["group"], found["other"], strict=True)]
    place = {name: index for index, name in enumerate(RELATIONS)}
    return found.sort_values("relation", key=lambda column: column.map(place), kind="stable").reset_index(drop=True)


def without_partner(ds: xr.Dataset) -> dict[str, str]:
    """Models that enter no pair, since no other has their shape.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `image_weight` (model, layer, head, sample).

    Returns
    -------
    dict of str to str
        Their shapes by model, such as "32 × 32" (layers × heads).
    """
    shapes = _shapes(ds)
    return {name: shape for name, shape in shapes.items() if list(shapes.values()).count(shape) == 1}


def kin_difference(table: pd.DataFrame, ds: xr.Dataset) -> dict[str, float] | None:
    """Mean correlation of pairs of one language model (other recipe) minus that of pairs of other ones.

    Further trainings of a model are left out, models whose language model is unknown, and shapes that lack one kind of
    pair: there, what sets shapes apart would count as kinship. Several shapes count by their pairs of one language
    model.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `relations`.
    ds : xarray.Dataset
        The traces it is of.

    Returns
    -------
    dict of str to float, or None
        None where no shape has both kinds of pair. Else the keys:

        * same, other: the two means, shapes weighted as in the difference.
        * difference: between the two.
        * p_value: the share of the shufflings of language models among the models of a shape with at least that
          difference (one-sided); least_p: the smallest p that these models can give.
    """
    kept = _kin_pairs(table, ds)
    if kept.empty:
        return None
    told = lineage(ds)["llm"].to_dict()
    shapes = [ShapePairs.of(part, told) for _, part in kept.groupby("shape", sort=False)]
    share = np.array([shape.same.sum() for shape in shapes], dtype=float)
    share /= share.sum()
    observed = float(share @ [shape.difference(shape.labels) for shape in shapes])
    every = shuffled(shapes, share)
    return {
        "same": float(share @ [shape.values[shape.same].mean() for shape in shapes]),
        "other": float(share @ [shape.values[~shape.same].mean() for shape in shapes]),
        "difference": observed,
        "p_value": float((every >= observed - 1e-12).mean()),
        "least_p": float((every >= every.max() - 1e-12).mean()),
    }


def _kin_pairs(table: pd.DataFrame, ds: xr.Dataset) -> pd.DataFrame:
    """The rows of `relations` that speak of kinship, with the columns shape (layers × heads) and same (language model).

    Further trainings of a model (other seeds, less data, a second language model) are left out, models whose language
    model is unknown, and shapes that lack one kind of pair: there, what sets shapes apart would count as kinship.
    """
    if table.empty:
        return table
    models, shapes = lineage(ds), _shapes(ds)
    llm, variant = models["llm"].to_dict(), models["variant"].to_dict()
    own = [
        not (variant[a] or variant[b]) and bool(llm[a] and llm[b])
        for a, b in zip(table["group"], table["other"], strict=True)
    ]
    kept = table[np.array(own) & np.isfinite(table["correlation"])]
    kept = kept.assign(
        shape=[shapes[str(name)] for name in kept["group"]],
        same=[llm[a] == llm[b] for a, b in zip(kept["group"], kept["other"], strict=True)],
    )
    return kept[kept.groupby("shape")["same"].transform("nunique") == 2] if len(kept) else kept


def _shapes(ds: xr.Dataset) -> dict[str, str]:
    return {name: f"{layers} × {heads}" for name, (layers, heads) in shapes_of(ds["image_weight"]).items()}


def _series_of(llm: str) -> str:
    """A language model's series: its name without its size, such as `Vicuna` of `Vicuna-13B`."""
    return SIZE.sub("", llm)


def matched_pairs(ds: xr.Dataset, differs: str) -> list[tuple[str, str]]:
    """Pairs of models that differ in their recipe alone, or in the size of their language model alone.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces; their numbers of image tokens order pairs of recipes.
    differs : str
        RECIPE (one language model; the model with fewer image tokens first) or MODEL_SIZE (one series and recipe; the
        smaller first).

    Returns
    -------
    list of tuple of str
        (first, second), each pair once. Further trainings of a model are no pairs.
    """
    table = lineage(ds)
    table = table[~table["variant"]]
    table = table[~table.duplicated(["llm", "recipe", "miniature"])]
    if differs == RECIPE:
        found, size = _matched(table, "recipe"), {str(name): _tokens(ds, str(name)) for name in table.index}
    else:
        series, size = table["llm"].map(_series_of), table["parameters"].to_dict()
        found = [(one, other) for one, other in _matched(table, "llm") if series[one] == series[other]]
    return [(a, b) if size[a] <= size[b] else (b, a) for a, b in found]


def changes(ds: xr.Dataset, found: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """What changes from the first to the second model of each pair, per benchmark.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with answers.
    found : sequence of tuple of str
        Pairs of models, as of `matched_pairs`.

    Returns
    -------
    pandas.DataFrame
        One row per pair and benchmark that both were asked. Columns:

        * pair, task.
        * difference, lower, upper: of the shares right, second minus first, with a paired 95 % interval over pictures.
        * tokens_one, tokens_other: mean image tokens.
        * mean_estimate, mean_lower, mean_upper: the pair's mean difference over its benchmarks, each with the same
          weight; their pictures are drawn by themselves.
    """
    records = []
    for one, other in found:
        both = {task: answered_by_all(ds, (one, other), task) for task in tasks_of(ds)}
        both = {task: answers for task, answers in both.items() if answers[0].sizes["sample"]}
        moved = [first.copy(data=second.values - first.values) for first, second in both.values()]
        means = {f"mean_{bound}": value for bound, value in mean_change(moved).items()} if moved else {}
        for task, answers in both.items():
            told = share_gained(*answers)
            told["difference"] = told.pop("estimate")
            tokens = [float(subset(ds, model=name, task=task)[TOKENS].astype(float).mean()) for name in (one, other)]
            pair = {"pair": f"{one} → {other}", "task": task, "tokens_one": tokens[0], "tokens_other": tokens[1]}
            records.append({**pair, **told, **means})
    return pd.DataFrame(records, columns=list(CHANGES))


def _tokens(ds: xr.Dataset, model: str) -> float:
    """Image tokens per question, each benchmark with the same weight, as in scores over all benchmarks."""
    parts = [subset(ds, model=model, task=task)["n_image_tokens"].astype(float) for task in tasks_of(ds)]
    return float(np.mean([part.mean() for part in parts if part.size]))
