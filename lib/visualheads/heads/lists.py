"""Head scores as files: our own JSON and CSV, and the layouts in which others publish theirs.

Ours, JSON:        {"format": "visualheads-head-scores", "version": 1, "by": …, "model": …, "layers": …, "heads": …,
                    "scores": [{"layer": 0, "head": 0, "score": 0.1, "lower": 0.0, "upper": 0.2}, …]}, best first
Ours, CSV:         model,layer,head,score,lower,upper (the bounds stay empty without an interval)
SparseMM and Retrieval_Head, `head_score/*.json`:   {"layer-head": [one score per detection, …], …}
gaze-heads, `gaze_head_ranking.json`:               [{"layer": 5, "head": 10, "score": 0.15}, …]

Sets without scores, as text (QRHead's YAML field `attn_head_set`, or a whole file):     14-22,13-16,…
… and as JSON:                                                                           ["14-22", …], [[14, 22], …]
Of these the listed heads score 1, all others 0.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from visualheads.errors import HeadError, ParameterError, RecordError, checked, checked_text, got, shown
from visualheads.heads.ranking import estimates
from visualheads.paths import slug_of
from visualheads.store import files

FORMAT, VERSION = "visualheads-head-scores", 1
COLUMNS = ("model", "layer", "head", "score", "lower", "upper")
LARGEST_INDEX = 4096
"""A layer or head index above this is a damaged file, not a model; it would ask for a huge array."""

LAYER_HEAD = re.compile(r"\s*L?(\d{1,5})\s*[-H]\s*(\d{1,5})\s*")
HEAD_SET = "attn_head_set"
"""QRHead's name of a set without scores."""
BOUNDS = ["lower", "estimate", "upper"]
ENDINGS = (".json", ".csv", ".yaml", ".yml", ".txt")


@dataclass(frozen=True)
class HeadScore:
    """One line of a head list; `lower` and `upper` are NaN where the list has no interval."""

    layer: int
    head: int
    score: float
    lower: float = math.nan
    upper: float = math.nan
    model: str = ""
    scored: bool = True


@checked
def export_scores(ranking: xr.DataArray, path: str | os.PathLike[str]) -> Path:
    """Write a ranking to a file, best heads first; what is written reads back equal to the last digit.

    Parameters
    ----------
    ranking : xarray.DataArray
        (layer, head), with or without `model` (one) and `bound`. Heads that are NaN are left out.
    path : path
        `.json` or `.csv`; a file that is there is replaced whole or not at all.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    HeadError
        For another suffix, several models, or other dimensions.
    DiskFullError, StoreError
        Where nothing can be written.
    """
    path = Path(path)
    if not isinstance(ranking, xr.DataArray):
        raise HeadError(got("ranking", ranking, "a DataArray (layer, head), such as vh.rank returns"))
    if path.suffix.lower() not in (".json", ".csv"):
        raise HeadError(got("file of head scores", path.name, [".json", ".csv"], suggest=False))
    scores, model = _scores(ranking)
    if path.suffix.lower() == ".csv":
        text = scores.assign(model=model)[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
    else:
        listed = [{name: value for name, value in row.items() if value == value} for row in scores.to_dict("records")]
        record = {
            "format": FORMAT,
            "version": VERSION,
            "by": str(ranking.name or ""),
            "model": model,
            "layers": ranking.sizes["layer"],
            "heads": ranking.sizes["head"],
            "scores": listed,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    with files.refusals_told(path):
        files.write_file(path, text.encode())
    return path


@checked
def read_scores(
    path: str | os.PathLike[str], shape: tuple[int, int] | None = None, model: str | None = None
) -> xr.DataArray:
    """Read a head list: ours, SparseMM's, Retrieval_Head's, gaze-heads', or a set without scores.

    The layout is told from the content. Several scores of one head (one per detection) are averaged, as their authors
    do.

    Parameters
    ----------
    path : path
        The file.
    shape : (int, int), optional
        The model's (layers, heads); by default the file's own, or the smallest that holds all listed heads.
    model : str, optional
        Names the model where the file does not.

    Returns
    -------
    xarray.DataArray
        (model, layer, head). Heads that are not listed are NaN, of a set without scores 0. With an interval in the
        file there is a last dimension `bound` ("lower", "estimate", "upper").

    Raises
    ------
    RecordError
        For malformed files.
    HeadError
        For heads outside `shape` or listed twice.
    """
    path = Path(path)
    if shape is not None and not (isinstance(shape, tuple) and len(shape) == 2):
        raise ParameterError(got("shape", shape, "(layers, heads)"))
    if not (model is None or isinstance(model, str)):
        raise ParameterError(got("model", model, "a name, or None"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecordError(got("file of head scores", str(path), "an existing file"), path) from error
    except UnicodeDecodeError as error:
        raise RecordError("not a text file in UTF-8; allowed: JSON or CSV head scores", path) from error
    by, own_shape, entries = _read(text, path)
    if not entries:
        raise RecordError("no head in the file; allowed: at least one (layer, head, score)", path)
    names = {entry.model for entry in entries if entry.model}
    if len(names) > 1:
        raise RecordError(got("models in one head list", sorted(names), "one model a file"), path)
    return _as_ranking(entries, shape or own_shape, model or next(iter(names), path.stem), by or path.stem, path)


def published(
    folder: str | os.PathLike[str], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, xr.DataArray]]:
    """The head lists in a folder that belong to these models: model → name of the list → scores (layer, head).

    shapes   (layers, heads) by model. A list in `<folder>/<model>/` is that model's; one in `<folder>` itself is the
             model's whose name it tells or has as its file name
    Unlisted heads are NaN. An absent folder holds none. Raises what `read_scores` raises, for lists of these models.
    """
    folder = Path(folder)
    slugs = {slug_of(name): name for name in shapes}
    found: dict[str, dict[str, xr.DataArray]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS):
        owner = slugs.get(path.parent.name) if path.parent != folder else None
        if owner is None:
            told = str(read_scores(path)["model"].values[0])
            owner = slugs.get(slug_of(told))
        if owner is None:
            continue
        scores = estimates(read_scores(path, shapes[owner], owner))
        found.setdefault(owner, {})[path.stem] = scores.isel(model=0, drop=True)
    return found


def _scores(ranking: xr.DataArray) -> tuple[pd.DataFrame, str]:
    """One row per head with a score, the best first; and the model."""
    extra = set(ranking.dims) - {"model", "bound"}
    if extra != {"layer", "head"} or ranking.sizes.get("model", 1) != 1:
        allowed = "layer and head, one model, and possibly bound"
        raise HeadError(got("ranking", dict(ranking.sizes), allowed, "take ds.isel(model=[0])"))
    model = str(np.atleast_1d(ranking.coords["model"].values)[0]) if "model" in ranking.coords else ""
    if "model" in ranking.dims:
        ranking = ranking.isel(model=0)
    if "bound" not in ranking.dims:
        ranking = ranking.expand_dims(bound=["estimate"])
    numbers = ranking.astype(np.float64).transpose("layer", "head", "bound").rename("score").to_series()
    table = numbers.unstack("bound").reindex(columns=["estimate", "lower", "upper"])
    table = table[np.isfinite(table["estimate"])].sort_values("estimate", ascending=False, kind="stable")
    return table.rename(columns={"estimate": "score"}).reset_index(), model


_Read = tuple[str, tuple[int, int] | None, list[HeadScore]]


def _read(text: str, path: Path) -> _Read:
    ending = path.suffix.lower()
    if ending == ".csv":
        return _read_csv(text, path)
    if ending in (".yaml", ".yml"):
        try:
            told = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecordError(f"not YAML: {shown(str(error))}", path) from error
        text = str(told.get(HEAD_SET, "")) if isinstance(told, dict) else ""
        if not text:
            raise RecordError(f"the field {HEAD_SET!r} is missing; allowed: {HEAD_SET}: 14-22,13-16", path)
    parts = [part for part in re.split(r"[,;\s]+", text) if part]
    if ending in (".txt", ".yaml", ".yml") or (parts and all(LAYER_HEAD.fullmatch(part) for part in parts)):
        return "", None, [_unscored(part, path) for part in parts]
    return _read_json(text, path)


def _read_json(text: str, path: Path) -> _Read:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error.msg}; fix: write it as one JSON value", path, error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not a head list: {error}", path) from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content.get("version") != VERSION or not isinstance(content.get("scores"), list):
            raise RecordError(got("version of the head list", content.get("version"), [VERSION]), path)
        model = str(content.get("model") or "")
        shape = (_index(content.get("layers"), "layers", path), _index(content.get("heads"), "heads", path))
        return str(content.get("by") or ""), shape, [_entry(record, path, model) for record in content["scores"]]
    if isinstance(content, dict):
        return "", None, [_layer_head_entry(key, values, path) for key, values in content.items()]
    if isinstance(content, list) and all(isinstance(entry, (str, list)) for entry in content):
        return "", None, [_unscored(entry, path) for entry in content]
    if isinstance(content, list):
        return "", None, [_entry(record, path) for record in content]
    raise RecordError(got("head scores", type(content).__name__, "an object or a list, as in the documentation"), path)


def _layer_head_entry(key: str, values: object, path: Path) -> HeadScore:
    listed = values if isinstance(values, list) else [values]
    if not listed:
        raise RecordError(f"head {key!r} has no score; allowed: at least one number", path)
    score = float(np.mean([_number(value, f"score of head {key!r}", path) for value in listed]))
    return HeadScore(*_place(key, path), score)


def _place(entry: object, path: Path) -> tuple[int, int]:
    """Layer and head."""
    match = LAYER_HEAD.fullmatch(entry) if isinstance(entry, str) else None
    pair = [int(match[1]), int(match[2])] if match else entry
    if not isinstance(pair, list) or len(pair) != 2:
        raise RecordError(got("head", entry, "'layer-head', such as '16-19', or [layer, head]"), path)
    return _index(pair[0], "layer", path), _index(pair[1], "head", path)


def _unscored(entry: object, path: Path) -> HeadScore:
    return HeadScore(*_place(entry, path), 1.0, scored=False)


def _entry(record: object, path: Path, model: str = "") -> HeadScore:
    if not isinstance(record, dict) or not {"layer", "head", "score"} <= set(record):
        raise RecordError(got("head record", record, "an object with layer, head and score"), path)
    bounds = [math.nan if record.get(n) is None else _number(record[n], n, path) for n in ("lower", "upper")]
    place = [_index(record[name], name, path) for name in ("layer", "head")]
    return HeadScore(place[0], place[1], _number(record["score"], "score", path), *bounds, model=model)


def _read_csv(text: str, path: Path) -> _Read:
    reader = csv.DictReader(text.splitlines())
    if not {"layer", "head", "score"} <= set(reader.fieldnames or ()):
        raise RecordError(got("columns", reader.fieldnames, COLUMNS), path, 1)
    entries = []
    for row in reader:
        try:
            numbers = [float(row[name]) if row.get(name) else math.nan for name in ("lower", "upper")]
            layer, head, score = int(row["layer"]), int(row["head"]), float(row["score"])
        except (TypeError, ValueError) as error:
            raise RecordError(got("head record", row, "whole numbers and a score"), path, reader.line_num) from error
        if not math.isfinite(score):
            raise RecordError(got("score", score, "a finite number"), path, reader.line_num)
        layer, head = _index(layer, "layer", path), _index(head, "head", path)
        entries.append(HeadScore(layer, head, score, *numbers, model=row.get("model") or ""))
    return "", None, entries


def _index(value: object, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_INDEX:
        raise RecordError(got(name, value, f"a whole number from 0 to {LARGEST_INDEX}"), path)
    return value


def _number(value: object, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(got(name, value, "a finite number"), path)
    return float(value)


def _as_ranking(
    entries: Sequence[HeadScore], shape: tuple[int, int] | None, model: str, by: str, path: Path
) -> xr.DataArray:
    needed = (max(entry.layer for entry in entries) + 1, max(entry.head for entry in entries) + 1)
    shape = shape or needed
    if needed[0] > shape[0] or needed[1] > shape[1]:
        told, allowed = f"layers × heads up to {needed[0]} × {needed[1]}", f"{shape[0]} × {shape[1]}"
        raise HeadError(got(f"head list {path.name}", told, allowed, "use a list of the same model"))
    has_bounds = any(not math.isnan(entry.lower) for entry in entries)
    values = np.full((1, *shape, 3), np.nan)
    listed = np.zeros(shape, dtype=bool)
    for entry in entries:
        checked_text(f"{path}: model", entry.model)
        if entry.lower > entry.upper:
            told = f"{path}: interval of layer {entry.layer}, head {entry.head}"
            raise HeadError(got(told, (entry.lower, entry.upper), "lower ≤ upper"))
        if listed[entry.layer, entry.head]:
            raise HeadError(f"{path}: layer {entry.layer}, head {entry.head} is listed twice; allowed: each head once")
        listed[entry.layer, entry.head] = True
        values[0, entry.layer, entry.head] = entry.lower, entry.score, entry.upper
    if not entries[0].scored:
        values[0, ~listed, 1] = 0.0
    coords = {"model": [model], "layer": range(shape[0]), "head": range(shape[1]), "bound": BOUNDS}
    ranking = xr.DataArray(values, coords, ("model", "layer", "head", "bound"), name=by)
    return ranking if has_bounds else ranking.sel(bound="estimate", drop=True)
