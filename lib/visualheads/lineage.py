"""Which model descends from which: language model, recipe and seed of every traced model, read off its own record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.catalog import cards, miniature_folder

SAME, SEED, RETRAINED, OTHER, SHAPE = (
    "same language model",
    "another tuning seed",
    "second training of the language model",
    "other language model",
    "other shape",
)
RELATIONS = (SEED, SAME, RETRAINED, OTHER)
"""From the nearest to the farthest relation of two models of one shape."""
RECORD = "training.json"
COLUMNS = ("llm", "text_model", "family", "recipe", "parameters", "seed", "data_share", "miniature")


def lineage(ds: xr.Dataset) -> pd.DataFrame:
    """One row per model: llm, text_model, family, recipe, parameters (billions), seed, data_share, miniature.

    llm, family and recipe are the dataset's coordinates, or else the catalogue's; text_model (the very checkpoint it
    was tuned from), seed and data_share (share of the tuning data) come from a miniature's training record. Where
    there is none, text_model is the llm, the seed 0 and the share 1.
    """
    names = [str(name) for name in np.atleast_1d(ds["model"].values)]
    table = descent(names)
    for column in ("llm", "family", "recipe"):
        told = [str(value) for value in np.atleast_1d(ds[column].values)]
        table[column] = [own or known for own, known in zip(told, table[column], strict=True)]
    table["text_model"] = [text or llm for text, llm in zip(table["text_model"], table["llm"], strict=True)]
    table["parameters"] = np.atleast_1d(ds["parameters"].values).astype(float)
    return table


def descent(names: Sequence[str]) -> pd.DataFrame:
    """The table of `lineage` from catalogue and training records alone; parameters are NaN where unknown."""
    records = []
    for name in names:
        told, card = training_record(name), cards().get(name)
        llm = card.llm if card else ""
        records.append(
            {
                "model": name,
                "llm": llm or str(told.get("llm", "")),
                "text_model": str(told.get("text_model", llm)),
                "family": card.family if card else str(told.get("family", "")),
                "recipe": card.recipe if card else str(told.get("recipe", "")),
                "parameters": (card.parameters if card else None) or float("nan"),
                "seed": int(told.get("seed", 0)),
                "data_share": float(told.get("data_share", 1.0)),
                "miniature": bool(told or (card and card.miniature)),
            }
        )
    return pd.DataFrame(records, columns=["model", *COLUMNS]).set_index("model")


def training_record(model: str) -> dict[str, Any]:
    """What a miniature's training left beside its checkpoint; empty for any other model."""
    path = miniature_folder(model) / RECORD
    if "/" in model or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def relation(table: pd.DataFrame, one: str, other: str) -> str:
    """What two models of a lineage table are to each other: one of RELATIONS."""
    a, b = table.loc[one], table.loc[other]
    if a["llm"] != b["llm"] or a["miniature"] != b["miniature"]:
        return OTHER
    if a["text_model"] != b["text_model"]:
        return RETRAINED
    return SEED if a["recipe"] == b["recipe"] and a["data_share"] == b["data_share"] else SAME


def matched(table: pd.DataFrame, differs: str, models: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Pairs of models that differ in `differs` ("recipe", "llm" or "data_share") and agree in the others' columns.

    For "llm" the pairs share the recipe. Each pair stands once, in the table's order.
    """
    names = list(models) if models is not None else [str(name) for name in table.index]
    same = [column for column in ("llm", "recipe", "data_share") if column != differs] + ["miniature"]
    found = []
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            a, b = table.loc[one], table.loc[other]
            if all(a[column] == b[column] for column in same) and a[differs] != b[differs]:
                found.append((one, other))
    return found
