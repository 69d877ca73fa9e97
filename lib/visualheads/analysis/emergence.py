"""When visual heads appear: head patterns through the moments of training, and on text before it (numpy, xarray)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.lineage import RECORD, training_record
from visualheads.analysis.subset import models_of
from visualheads.cards import catalogue_order, data_folder
from visualheads.errors import ParameterError, got
from visualheads.heads.agreement import spearman, spearman_brown, split_half, without_layer_means
from visualheads.heads.bootstrap import (
    LEVEL,
    PictureSums,
    centred_interval,
    half_weights,
    picture_sums,
    picture_weights,
)
from visualheads.heads.ranking import ROW, head_count, rank, sample_scores, top_heads
from visualheads.heads.selection import label

N_BOOT = 500
N_SPLITS = 20
OWN, FRESH, OTHER = "the model it grew from", "that network before its training", "another language model"
AGAIN = "a second training of that language model"
MEASURE = "region_weight"
"""What stands for looking at the asked object, as on lists: the row that produces the answer (claim 10)."""
CHOICES = tuple((measure, row) for measure in (MEASURE, "image_weight") for row in (ROW, "first_generated"))
"""Measures and rows by which heads could be said to look at pictures."""
FEWEST = 3


def moment_table(moments: Mapping[str, xr.Dataset], measure: str = "image_weight") -> pd.DataFrame:
    """Head patterns through training: how near each moment's is to the last one.

    Parameters
    ----------
    moments : mapping of str to xarray.Dataset
        By model, traces with one entry along `model` per moment and its `training_step`; an entry's name tells the
        moment behind "@".
    measure : str
        The measure whose means over samples are the pattern.

    Returns
    -------
    pandas.DataFrame
        One row per model and moment, in the order of training. Columns: model, moment, step, rho (Spearman over heads
        with the last moment, in [−1, 1]), within (the same after removing layer means), top (mean of the heads that are
        the strongest at the end, as many as in detection), shared (share of those strongest heads that are among the
        strongest here). Heads without a value at any moment do not count.
    """
    parts = []
    for name, ds in moments.items():
        scores = rank(ds, measure).transpose("model", "layer", "head")
        order = np.argsort(ds["training_step"].values, kind="stable")
        layer = np.repeat(np.arange(scores.sizes["layer"]), scores.sizes["head"])
        flat = scores.values.reshape(scores.sizes["model"], -1)[order]
        heads = np.isfinite(flat).all(axis=0)
        if heads.sum() < FEWEST:
            continue
        flat, layer = flat[:, heads], layer[heads]
        top = top_heads(flat.T, head_count(int(heads.sum())))
        rho, within = (spearman(part)[-1] for part in (flat, without_layer_means(flat, layer)))
        columns = {"rho": rho, "within": within, "top": flat[:, top[:, -1]].mean(axis=1)}
        moment = [str(one).split("@")[-1] for one in ds["model"].values[order]]
        step, shared = ds["training_step"].values[order].astype(int), top[top[:, -1]].mean(axis=0)
        parts.append(pd.DataFrame({"model": name, "moment": moment, "step": step, **columns, "shared": shared}))
    columns = ["model", "moment", "step", "rho", "within", "top", "shared"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def with_text(
    ds: xr.Dataset,
    text: Mapping[str, xr.Dataset],
    grown_from: Mapping[str, str],
    *,
    untrained: Mapping[str, xr.Dataset] | None = None,
    networks: Mapping[str, str] | None = None,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """How far heads of tuned models do on pictures what they did on text lists.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of tuned models (model, layer, head, sample).
    text : mapping of str to xarray.Dataset
        Traced lists by name of the text-only model (`text_heads.text_heads`).
    grown_from : mapping of str to str
        The text-only model of each tuned model; models whose own one is missing in `text` are left out.
    untrained : mapping of str to xarray.Dataset, optional
        Traced lists of fresh networks, by name of the text-only model.
    networks : mapping of str to str, optional
        What network each text-only model is a training of (`lineage.networks`): AGAIN are those of one network.
    n_boot : int
        Draws of pictures and of lists, each by themselves.

    Returns
    -------
    pandas.DataFrame
        One row per tuned and text-only model of one shape. Columns: model, text_model, kind (OWN, FRESH, AGAIN or
        OTHER), rho (Spearman over heads of MEASURE on pictures, in the row last_prompt, with `asked_weight` on lists,
        in [−1, 1]), lower, upper (95 %, percentiles centred on the estimate), within (after removing layer means),
        ceiling (√ of the two split-half reliabilities, stepped up to full length; NaN for fewer than three pictures or
        lists).
    """
    records = []
    for index, name in enumerate(models_of(ds)):
        own = grown_from.get(str(name), "")
        if own not in text:
            continue
        seen = picture_sums(sample_scores(ds.isel(model=[index]), MEASURE))
        shape = (ds.sizes["layer"], ds.sizes["head"])
        for kind, text_name, lists in _readers(own, text, untrained, networks):
            told = picture_sums(_padded(lists["asked_weight"].isel(model=0), shape))
            row = _related(seen, told, shape, n_boot)
            if row is not None:
                records.append({"model": str(name), "text_model": text_name, "kind": kind, **row})
    return pd.DataFrame(records, columns=["model", "text_model", "kind", "rho", "lower", "upper", "within", "ceiling"])


def by_choice(
    ds: xr.Dataset,
    text: Mapping[str, xr.Dataset],
    grown_from: Mapping[str, str],
    *,
    untrained: Mapping[str, xr.Dataset] | None = None,
    networks: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """How much the correlations of `with_text` owe to their measure and attention row.

    All are on the samples that have a region.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of tuned models (model, layer, head, sample).
    text : mapping of str to xarray.Dataset
        Traced lists by name of the text-only model.
    grown_from : mapping of str to str
        The text-only model of each tuned model.
    untrained : mapping of str to xarray.Dataset, optional
        Traced lists of fresh networks, by name of the text-only model.
    networks : mapping of str to str, optional
        What network each text-only model is a training of.

    Returns
    -------
    pandas.DataFrame
        One row per model and choice of CHOICES that the dataset holds. Columns: model, measure, query, own (Spearman
        over heads with the lists of the model's own text-only model), control (the largest with those of any other
        reader of its shape; NaN where there is none).
    """
    if MEASURE in ds:
        region = ds[MEASURE].notnull()
        ds = ds.isel(sample=np.flatnonzero(region.any([dim for dim in region.dims if dim != "sample"])))
    there = ds["query"].values.astype(str).tolist() if "query" in ds.dims else [ROW]
    chosen = [(measure, row) for measure, row in CHOICES if measure in ds and row in there]
    records = []
    for name in models_of(ds):
        own = grown_from.get(str(name), "")
        readers = _readers(own, text, untrained, networks) if own in text else []
        for measure, row in chosen:
            rho: dict[bool, list[float]] = {True: [], False: []}
            for kind, _, lists in readers:
                heads = _head_pairs(ds, lists, str(name), measure, row)
                if len(heads) >= FEWEST:
                    rho[kind == OWN].append(float(spearman(heads[["text", "picture"]].to_numpy(dtype=float).T)[0, 1]))
            if rho[True]:
                told = {"own": rho[True][0], "control": max(rho[False], default=float("nan"))}
                records.append({"model": str(name), "measure": measure, "query": row, **told})
    return pd.DataFrame(records, columns=["model", "measure", "query", "own", "control"])


def _readers(
    own: str,
    text: Mapping[str, xr.Dataset],
    untrained: Mapping[str, xr.Dataset] | None,
    networks: Mapping[str, str] | None,
) -> list[tuple[str, str, xr.Dataset]]:
    """Kind, name and lists of all that read lists, from a model's own text-only model on."""
    known = networks or {}
    again = [name for name in text if name != own and name in known and known[name] == known.get(own)]
    found = [(OWN, own, text[own])]
    if untrained and own in untrained:
        found.append((FRESH, own, untrained[own]))
    found += [(AGAIN, name, text[name]) for name in again]
    return found + [(OTHER, name, lists) for name, lists in text.items() if name not in (own, *again)]


def _head_pairs(
    ds: xr.Dataset, lists: xr.Dataset, model: str, measure: str = MEASURE, query: str = ROW
) -> pd.DataFrame:
    """One row per head of a tuned model: layer, head, name, text (asked_weight on lists), picture (the measure).

    Empty where the model that read the lists has another shape. Raises ParameterError for a model that is not in `ds`.
    """
    names = ds["model"].values.astype(str).tolist()
    if model not in names:
        raise ParameterError(got("model", model, names))
    asked = query if "query" in ds.dims else None
    one = ds.isel(model=[names.index(model)])
    seen = rank(one, measure, query=asked).isel(model=0).transpose("layer", "head").values
    told = _padded(lists["asked_weight"].isel(model=0), seen.shape).mean("sample").values
    same = np.array_equal(np.isfinite(seen), np.isfinite(told))
    layer, head = np.nonzero(np.isfinite(seen) & same)
    names = list(map(label, layer.tolist(), head.tolist()))
    both = {"text": told[layer, head], "picture": seen[layer, head]}
    return pd.DataFrame({"layer": layer, "head": head, "name": names, **both})


def all_head_pairs(ds: xr.Dataset, text: Mapping[str, xr.Dataset], grown_from: Mapping[str, str]) -> pd.DataFrame:
    """What every head of tuned models did on lists of its own text-only model, and does on pictures.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of tuned models (model, layer, head, sample).
    text : mapping of str to xarray.Dataset
        Traced lists by name of the text-only model.
    grown_from : mapping of str to str
        The text-only model of each tuned model; models whose own one is missing in `text` are left out.

    Returns
    -------
    pandas.DataFrame
        One row per model and head. Columns: layer, head, name, text (mean attention on the asked words of lists, in [0,
        1]), picture (mean of MEASURE, in the row last_prompt), model. Models whose text-only model has another
        shape have no rows.
    """
    columns = ["layer", "head", "name", "text", "picture", "model"]
    parts = []
    for name in models_of(ds):
        own = grown_from.get(str(name), "")
        if own in text:
            parts.append(_head_pairs(ds, text[own], str(name)).assign(model=str(name)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _padded(values: xr.DataArray, shape: tuple[int, ...]) -> xr.DataArray:
    """(layer, head, sample) with NaN for layers and heads that only other models have; all NaN if it is larger."""
    array = values.transpose("layer", "head", "sample")
    full = np.full((*shape, array.sizes["sample"]), np.nan)
    if array.sizes["layer"] <= shape[0] and array.sizes["head"] <= shape[1]:
        full[: array.sizes["layer"], : array.sizes["head"]] = array.values
    return xr.DataArray(full, {"sample": array["sample"].values}, ("layer", "head", "sample"))


def _related(seen: PictureSums, told: PictureSums, shape: tuple[int, int], n_boot: int) -> dict[str, float] | None:
    """Correlation of two patterns with noise of their own; None where their heads are not the same places."""
    layer = np.repeat(np.arange(shape[0]), shape[1])
    there = [(one.counts.sum(axis=1) > 0) for one in (seen, told)]
    if not np.array_equal(*there) or there[0].sum() < FEWEST:
        return None
    heads = there[0]

    def pair(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([seen.means(first)[heads].T, told.means(second)[heads].T], axis=1)

    n_seen, n_told = len(seen.pictures), len(told.pictures)
    whole = pair(np.ones((1, n_seen)), np.ones((1, n_told)))[0]
    rho = float(spearman(whole)[0, 1])
    within = float(spearman(without_layer_means(whole, layer[heads]))[0, 1])
    drawn = pair(picture_weights(n_seen, n_boot, 0), picture_weights(n_told, n_boot, 1))
    replicates = spearman(drawn)[:, 0, 1]
    ceiling = np.sqrt(_reliability(seen, heads) * _reliability(told, heads))
    bounds = centred_interval(np.array(rho), replicates, LEVEL, -1.0, 1.0)
    return {"rho": rho, "lower": float(bounds[0]), "upper": float(bounds[1]), "within": within, "ceiling": ceiling}


def _reliability(one: PictureSums, heads: NDArray[np.bool_]) -> float:
    """Split-half Spearman over heads, stepped up to full length (Spearman–Brown), clipped to [0, 1]."""
    if len(one.pictures) < FEWEST:
        return float("nan")
    first = half_weights(len(one.pictures), N_SPLITS)
    halves = np.stack([one.means(first)[heads].T, one.means(1 - first)[heads].T], axis=1)
    return float(np.clip(spearman_brown(split_half(halves)), 0.0, 1.0))


Records = Mapping[str, Mapping[str, Any]]
SCORES = (
    "model", "task", "kind", "estimate", "lower", "upper", "n", "chance", "white", "question_only", "above_chance",
)  # fmt: skip


def training_records() -> dict[str, dict[str, Any]]:
    """The records of all miniatures that were trained.

    Returns
    -------
    dict of str to dict
        By model, in the catalogue's order, then by name.
    """
    names = [path.parent.name for path in (data_folder() / "miniatures").glob(f"*/{RECORD}")]
    found = {name: training_record(name) for name in catalogue_order(names)}
    return {name: record for name, record in found.items() if record.get("stages")}


def stage_table(records: Records) -> pd.DataFrame:
    """Steps and time of every stage of training.

    All miniatures share a tower, those of one language model that, and a short tuning its parent's alignment.

    Parameters
    ----------
    records : mapping of str to mapping
        Training records by miniature, as of `training_records`.

    Returns
    -------
    pandas.DataFrame
        One row per miniature and stage. Columns: model, stage, steps, batch, minutes, shared (an earlier row has the
        same run).
    """
    rows, known = [], set()
    for name, record in records.items():
        text, parent = record.get("text_model", ""), record.get("parent") or name
        for stage, told in record["stages"].items():
            run = {"tower": ("tower",), text: (text,), "alignment": ("alignment", parent)}.get(stage, (stage, name))
            rows.append({
                "model": name, "stage": "language model" if stage == text else stage, "steps": told["steps"],
                "batch": told["batch"], "minutes": told["seconds"] / 60, "shared": run in known,
            })  # fmt: skip
            known.add(run)
    return pd.DataFrame(rows, columns=["model", "stage", "steps", "batch", "minutes", "shared"])


def score_table(records: Records) -> pd.DataFrame:
    """Scores over all shipped items, by miniature and benchmark, and by kind of question where told.

    Parameters
    ----------
    records : mapping of str to mapping
        Training records by miniature, as of `training_records`.

    Returns
    -------
    pandas.DataFrame
        Columns: model, task, kind ("" for the whole benchmark), estimate, lower, upper (share right with its 95 %
        interval, in [0, 1]), n, chance, white and question_only (the share of random answers of the right form, of the
        same model with white pictures, and of the best answerer that sees only the question; NaN where not measured),
        above_chance (clearly above chance and that answerer).
    """
    rows = []
    for name, record in records.items():
        for task, whole in record.get("benchmarks", {}).items():
            kinds = whole.get("kinds", {})
            rows += [
                _scored(name, task, kind, told)
                for kind, told in {"": whole, **(kinds if len(kinds) > 1 else {})}.items()
                if "seen" in told
            ]
    return pd.DataFrame(rows, columns=list(SCORES))


def target_table(records: Records) -> pd.DataFrame:
    """What was asked of each miniature, and whether it was reached.

    Parameters
    ----------
    records : mapping of str to mapping
        Training records by miniature, as of `training_records`.

    Returns
    -------
    pandas.DataFrame
        One row per target. Columns: model, what, wanted, found, reached.
    """
    rows = [{"model": name, **entry} for name, record in records.items() for entry in record.get("targets", ())]
    return pd.DataFrame(rows, columns=["model", "what", "wanted", "found", "reached"])


def _scored(model: str, task: str, kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    seen = told["seen"]
    return {
        "model": model, "task": task, "kind": kind, "estimate": seen["accuracy"], "lower": seen["low"],
        "upper": seen["high"], "n": int(seen["n"]), "chance": told.get("chance", float("nan")),
        "white": told.get("blind", {}).get("accuracy", float("nan")),
        "question_only": told.get("question_only", {}).get("accuracy", float("nan")),
        "above_chance": bool(told.get("above_chance")),
    }  # fmt: skip
