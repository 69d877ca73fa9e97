"""Which model descends from which: language model, recipe and seed of every traced model, read off its own record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.subset import models_of
from visualheads.cards import cards, miniature_folder

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
COLUMNS = ("llm", "text_model", "family", "recipe", "parameters", "seed", "miniature", "variant")


def lineage(ds: xr.Dataset) -> pd.DataFrame:
    """One row per model: llm, text_model, family, recipe, parameters (billions), seed, miniature, variant.

    llm, family and recipe are the dataset's coordinates, or else the catalogue's, "" where neither knows; text_model
    (the very checkpoint it was tuned from) and seed come from a miniature's training record. Where there is none,
    text_model is the llm, and the seed 0. A variant is a further training of a miniature (another seed, a second
    language model): a control, never one more model among those compared.
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
    """Language model of each model; the model's own name where neither the dataset nor the catalogue knows it."""
    return {str(name): str(llm) or str(name) for name, llm in lineage(ds)["llm"].items()}


def descent(names: Sequence[str]) -> pd.DataFrame:
    """The table of `lineage` from catalogue and training records alone; parameters are NaN where unknown."""
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
                "seed": seed,
                "miniature": bool(told or (card and card.miniature)),
                "variant": seed > 0 or bool(card and card.miniature and not card.paper_name),
            }
        )
    return pd.DataFrame(records, columns=["model", *COLUMNS]).set_index("model")


def training_record(model: str) -> dict[str, Any]:
    """What a miniature's training left beside its checkpoint; empty for any other model."""
    path = miniature_folder(model) / RECORD
    if "/" in model or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def tuned_pictures(model: str) -> float:
    """Pictures that a miniature saw in its visual tuning, each once; NaN for any other model."""
    tuning = training_record(model).get("stages", {}).get("tuning", {})
    return float(tuning["steps"] * tuning["batch"]) if {"steps", "batch"} <= set(tuning) else float("nan")


def recorded_scores(model: str) -> dict[str, float]:
    """Share right over all items of each benchmark, from a miniature's training record; empty for any other model.

    Counted as scores of traces are: LookTwice-QA in all its conditions, MMBench in questions right in every round.
    """
    record = training_record(model)
    told = {task: entry for task, entry in record.get("benchmarks", {}).items() if "seen" in entry}
    if "looktwice" in told and "seen" in record.get("pooled", {}):
        told["looktwice"] = record["pooled"]
    return {
        task: float(entry.get("figures", {}).get("circular", entry["seen"]["accuracy"])) for task, entry in told.items()
    }


def networks(names: Iterable[str]) -> dict[str, str]:
    """What network each miniature is a training of: trainings of one with other seeds are told alike.

    Read off the configurations of their checkpoints (NETWORK); a name without one is left out.
    """
    paths = {name: miniature_folder(name) / "config.json" for name in names if "/" not in name}
    configs = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    return {
        name: json.dumps({key: config.get(key) for key in NETWORK}, sort_keys=True) for name, config in configs.items()
    }


def one_kind(names: Sequence[str]) -> list[str]:
    """The checkpoints among these models, or the miniatures: whichever are of more language models, else checkpoints.

    What they were asked looks alike and is not: no statistic over models mixes their scores.
    """
    table = descent(names)
    kinds = [table[table["miniature"] == small] for small in (False, True)]
    return [str(name) for name in max(kinds, key=lambda kind: kind["llm"].nunique()).index]


def without_variants(ds: xr.Dataset) -> xr.Dataset:
    """The models that are no further trainings of another one; all of them where nothing else is there."""
    table = descent(models_of(ds))
    kept = np.flatnonzero(~table["variant"].to_numpy(dtype=bool))
    return ds.isel(model=kept) if len(kept) else ds


def relation(table: pd.DataFrame, one: str, other: str) -> str:
    """What two models of a lineage table are to each other: one of RELATIONS."""
    a, b = table.loc[one], table.loc[other]
    if not (a["llm"] and b["llm"]):
        return UNKNOWN
    if a["llm"] != b["llm"] or a["miniature"] != b["miniature"]:
        return OTHER
    if a["text_model"] != b["text_model"]:
        return RETRAINED
    return SEED if a["recipe"] == b["recipe"] else SAME


def matched(table: pd.DataFrame, differs: str, models: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Pairs of models that differ in `differs`, "recipe" or "llm", and agree in the other.

    Each pair stands once, in the table's order. A model of an unknown language
    model matches none.
    """
    names = [name for name in map(str, table.index if models is None else models) if table.loc[name, "llm"]]
    same = [column for column in ("llm", "recipe") if column != differs] + ["miniature"]
    found = []
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            a, b = table.loc[one], table.loc[other]
            if all(a[column] == b[column] for column in same) and a[differs] != b[differs]:
                found.append((one, other))
    return found
