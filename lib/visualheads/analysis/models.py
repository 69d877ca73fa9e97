"""All traced models side by side: what they are, and where their visual heads lie (numpy and xarray)."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import head_means
from visualheads.analysis.lineage import descent, training_record, without_variants
from visualheads.analysis.subset import models_of, subset
from visualheads.cards import DEFAULT_MODEL, Card, cards, catalogue_order, data_folder, miniature_folder
from visualheads.errors import ParameterError, StoreError
from visualheads.heads.nulls import above_null
from visualheads.heads.ranking import samples_with_control, strongest
from visualheads.heads.selection import shapes_of
from visualheads.models.provenance import hash_list
from visualheads.paths import slug_of
from visualheads.store import combine
from visualheads.store.combine import open_results
from visualheads.store.read import open_store, paths_in, read_attrs
from visualheads.store.upkeep import LIVE, is_current, kept, last_changed
from visualheads.store.variables import STAGES, UNTRAINED

MEASURES = (
    "image_weight", "region_weight", "concentration", "focus_nats", "image_log_odds", "image_log_odds_no_sink",
    "region_lift", "concentration_no_sink", "sink_share", "spatial_entropy", "top_share",
)  # fmt: skip
"""What pages, claims and ablations read of traces."""
ANSWERS = ("prediction", "correct", "margin", "n_image_tokens")
TRAINED_PARTS = {
    "1.5": "adapter, language model", "ViP": "adapter, language model", "1.6": "adapter, language model, tower",
}  # fmt: skip
"""What LLaVA's recipes train in visual tuning (the first stage trains the adapter alone); ViP keeps its tower too.
Told of models without a training record; a miniature's tells its own."""
WHITE = "white"
USUAL = (640, 480)
"""Width and height of the picture that a model without a card tells its image tokens of: COCO's."""
MOMENTS = "moments.zarr.zip"
TOGETHER, KEPT_BYTES = "together", 400_000_000
"""Kind of the store that holds a folder's traces joined, and the most bytes that are kept so."""


def traced(
    results: str | Path = "data/results",
    models: Sequence[str] | None = None,
    variants: bool = False,
) -> xr.Dataset:
    """All results of a folder in memory, answers and `MEASURES` only: what the comparisons read.

    Parameters
    ----------
    results : str or Path
        The folder of results, one folder per model.
    models : sequence of str, optional
        Only these, in this order. By default all, in the catalogue's order, then by name.
    variants : bool
        Keep further trainings of a miniature too (`lineage.without_variants`); named models are always kept.

    Returns
    -------
    xarray.Dataset
        Traces (model, layer, head, sample, …), samples with white pictures among them (`control`). Layers and heads
        that a model lacks and samples that it did not see are NaN.

    Raises
    ------
    StoreError
        Nothing was traced there.
    ParameterError
        None of `models` was traced.
    """
    ds = _read_once(Path(results), models)
    names = [str(name) for name in ds["model"].values]
    wanted = catalogue_order(names) if models is None else list(models)
    chosen = [names.index(name) for name in wanted if name in names]
    if not chosen:
        raise ParameterError(f"none of {', '.join(wanted)} is in {results}; there are: {', '.join(names)}.")
    ds = ds.isel(model=chosen)
    return ds if variants or models is not None else without_variants(ds)


def _read_once(results: Path, models: Sequence[str] | None) -> xr.Dataset:
    """`open_results` in memory, kept beside the stores as one: opening some sixty takes ten times as long.

    Not kept beside packed stores alone, which come from elsewhere; where a store was left out as damaged, which is told
    every time; nor more than fits well (`KEPT_BYTES`).
    """
    there = paths_in(results)
    stores = {path.relative_to(results).as_posix(): last_changed(path) for path in there}
    variables = [*MEASURES, *ANSWERS]
    identity = {"variables": variables, "models": list(models or ()), "stores": stores}
    identity["code"] = last_changed(combine.__file__)
    path = results / f"{TOGETHER}-{hash_list(identity['models'])[:8]}{LIVE}"
    if is_current(path, TOGETHER, identity):
        return open_store(path).load(scheduler="synchronous")
    with warnings.catch_warnings(record=True) as told:
        ds = open_results(results, models=models, variables=variables, lazy=False)
    for one in told:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if any(path.suffix == LIVE for path in there) and not told and ds.nbytes < KEPT_BYTES:
        with contextlib.suppress(StoreError):  # a folder of someone else's can be read all the same
            kept(path, TOGETHER, identity, lambda: ds)
    return ds


def main_model(ds: xr.Dataset) -> str:
    """The model that chapters take as their example: the default one where it was traced, else the first.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`.

    Returns
    -------
    str
        The model's name.
    """
    names = models_of(ds)
    return DEFAULT_MODEL if DEFAULT_MODEL in names else names[0]


def examples(ds: xr.Dataset) -> list[str]:
    """Return the models to show in a running example.

    Parameters
    ----------
    ds : Dataset
        Traces along `model`.

    Returns
    -------
    list of str
        The miniatures of `one_per_recipe`: other models that were traced may be large, or lie where only their page
        knows.
    """
    small = [name for name in models_of(ds) if name in cards() and cards()[name].miniature]
    return one_per_recipe(ds.sel(model=small)) if small else []


def one_per_recipe(ds: xr.Dataset) -> list[str]:
    """The main model, then the first traced model of every other recipe.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`; recipes are the catalogue's, or a training record's.

    Returns
    -------
    list of str
        Names of models, no two of one recipe.
    """
    names = sorted(models_of(ds), key=lambda name: name != main_model(ds))
    return list(descent(names).groupby("recipe", sort=False).head(1).index)


def untrained(results: str | Path = "data/results", models: Sequence[str] | None = None) -> xr.Dataset | None:
    """Traces of networks with random weights, in memory, under the names of the trained models of their shapes.

    Parameters
    ----------
    results : str or Path
        The folder of results.
    models : sequence of str, optional
        Only the networks of these models' shapes. By default all, without those of further trainings of a miniature.

    Returns
    -------
    xarray.Dataset or None
        Traces (model, layer, head, sample, …); None where there are none.
    """
    own = None if models is None else set(map(slug_of, models))
    there = [path for path in paths_in(Path(results)) if own is None or path.parent.name in own]
    if not any(read_attrs(path).get("kind") == UNTRAINED for path in there):
        return None
    ds = open_results(results, kind=UNTRAINED, models=models, variables=(*MEASURES, "n_image_tokens"), lazy=False)
    return ds if models is not None else without_variants(ds)


def visual_heads(ds: xr.Dataset, task: str = "looktwice", fresh: xr.Dataset | None = None) -> pd.DataFrame:
    """How many heads look at pictures, and where the strongest lie, by model.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample) with `image_weight` and `image_log_odds`; those with white pictures are a
        null.
    task : str
        The benchmark whose samples count.
    fresh : xarray.Dataset, optional
        Traces of untrained networks under the names of the models: many (dimension `draw`), or one per model.

    Returns
    -------
    pandas.DataFrame
        One row per model that was asked the benchmark. Columns: model; heads; above, the number of heads whose image
        log-odds exceed, at a false discovery rate of 5 %, those of the same prompts with white pictures and those of
        `fresh`, as far as they are there (NaN without either); strongest, the number of heads in the strongest
        tenth by image weight; early, middle, late, how many of these lie in that stage;
        layers_early, layers_middle, layers_late, the share of all heads there, in [0, 1].
    """
    records = []
    for name in models_of(ds):
        part = subset(ds, model=name, task=task)
        if not part.sizes["sample"]:
            continue
        weight = head_means(part, "image_weight")
        known, top = np.isfinite(weight), strongest(weight, 0.1)
        stage = part["depth_stage"].isel(model=0).values.astype(str)
        counts = {"heads": int(known.sum()), "above": _above(ds, name, task, fresh), "strongest": int(top.sum())}
        row: dict[str, Any] = {"model": name, **counts}
        row |= {s: int(top[stage == s].sum()) for s in STAGES}
        row |= {f"layers_{s}": float(known[stage == s].sum() / known.sum()) for s in STAGES}
        records.append(row)
    return pd.DataFrame(records)


def _above(ds: xr.Dataset, model: str, task: str, fresh: xr.Dataset | None) -> float:
    one = ds.sel(model=[model]).isel(sample=ds["task"].values.astype(str) == task)
    white = samples_with_control(one, (WHITE,))
    tokens = white["n_image_tokens"].isel(model=0).astype(float).values
    nulls: dict[str, Any] = {}
    if (white["control"].values.astype(str) == WHITE).any() and (tokens > 0).any():
        nulls[WHITE] = white.isel(sample=np.flatnonzero(tokens > 0))
    if fresh is not None and model in fresh["model"].values.astype(str):
        # many networks are a null for every benchmark; one was asked each of them
        part = fresh.sel(model=[model]) if "draw" in fresh.dims else subset(fresh, model=model, task=task)
        if part.sizes["sample"]:
            nulls[UNTRAINED] = part
    own = subset(ds, model=model, task=task)
    return float(above_null(own, **nulls)["above_null"].sum()) if nulls else float("nan")


def model_table(ds: xr.Dataset | None = None, names: Sequence[str] | None = None, loaded: Any = None) -> pd.DataFrame:
    """What models are, from their checkpoint's config, their catalogue card and their training record.

    Parameters
    ----------
    ds : xarray.Dataset, optional
        Traces: they tell image tokens and, where nothing else does, layers and heads.
    names : sequence of str, optional
        The models. By default those of `ds`, then the miniatures whose checkpoint is there.
    loaded : VisionLanguageModel, optional
        A model in memory, which tells of itself what neither card nor record does.

    Returns
    -------
    pandas.DataFrame
        One row per model. Columns: model, paper_name, class_name, llm, recipe, layers, heads, kv_heads, parameters (in
        billions), image_tokens (as text; counted in the samples of `ds` where it has the model, else the card's),
        trained (parts trained in visual tuning), seed. Texts are empty where unknown, numbers None or NaN.
    """
    if names is None:
        seen = [] if ds is None else [str(name) for name in ds["model"].values]
        names = list(dict.fromkeys([*seen, *miniatures()]))
    table, measured = descent(names), {} if ds is None else shapes(ds)
    rows = []
    for name in names:
        record = training_record(name)
        parent = str(record.get("parent", ""))
        card = cards().get(name) or cards().get(parent)
        config = _checkpoint_config(name) or _checkpoint_config(parent)
        text = config.get("text_config") or config
        own = loaded if card is None and getattr(loaded, "name", None) == name else None
        heads = text.get("num_attention_heads") or (card.heads if card else None)
        seen_shape = own.shape if own else (*measured.get(name, (None, None)), None)
        recipe = table.loc[name, "recipe"]
        size = record.get("parameters")
        rows.append(
            {
                "model": name,
                "paper_name": card.paper_name if card and not table.loc[name, "variant"] else "",
                "class_name": (config.get("architectures") or [_class_name(card, own)])[0],
                "llm": table.loc[name, "llm"] or (own.config.get_text_config().model_type if own else ""),
                "recipe": recipe,
                "layers": text.get("num_hidden_layers") or (card.layers if card else None) or seen_shape[0],
                "heads": heads or seen_shape[1],
                "kv_heads": text.get("num_key_value_heads") or (card.kv_heads if card else seen_shape[2]) or heads,
                "parameters": size / 1e9 if size else table.loc[name, "parameters"],
                "image_tokens": _tokens(ds, name) or _told_tokens(card, own),
                "trained": _trained_parts(record, str(recipe)),
            }
        )
    return pd.DataFrame(rows)


def _class_name(card: Card | None, loaded: Any) -> str:
    return card.class_name if card else type(loaded.module).__name__ if loaded else ""


def _told_tokens(card: Card | None, loaded: Any) -> str:
    width, height = USUAL
    return card.image_tokens if card else f"{len(loaded.token_map(USUAL))} of {width} × {height}" if loaded else ""


def miniatures() -> list[str]:
    """Names of the multimodal miniatures whose checkpoint is there.

    Returns
    -------
    list of str
        In the catalogue's order, then by name.
    """
    folders = sorted((data_folder() / "miniatures").glob("*/config.json"))
    found = [path.parent.name for path in folders if "vision_config" in json.loads(path.read_text(encoding="utf-8"))]
    return catalogue_order(found)


def text_models() -> list[str]:
    """Names of the text-only checkpoints that are there.

    Returns
    -------
    list of str
        In order of name.
    """
    folders = sorted((data_folder() / "miniatures").glob("*/config.json"))
    return [p.parent.name for p in folders if "vision_config" not in json.loads(p.read_text(encoding="utf-8"))]


def moments() -> dict[str, xr.Dataset]:
    """The traced moments of training of every miniature that keeps them beside its checkpoint, in memory.

    Returns
    -------
    dict of str to xarray.Dataset
        By model, traces (model, layer, head, sample) with one entry along `model` per moment and `training_step`. They
        keep one attention row alone, `first_generated`; without a dimension `query` it is read whatever row is usual.
    """
    found = {name: data_folder() / "miniatures" / name / MOMENTS for name in miniatures()}
    return {name: open_store(path).load().squeeze("query") for name, path in found.items() if path.is_file()}


def paper_table(newer: bool = False) -> pd.DataFrame:
    """The catalogue's cards of the paper's nine models, without miniatures and second readings.

    Parameters
    ----------
    newer : bool
        Put the other models of which the catalogue tells below them; their `paper_name` is empty.

    Returns
    -------
    pandas.DataFrame
        One row per model, one column per field of a card.
    """
    told = pd.DataFrame([card.model_dump() for card in cards().values() if not (card.miniature or card.joined)])
    named = told["paper_name"] != ""
    nine = told[named].drop_duplicates("paper_name")
    return pd.concat([nine, told[~named]], ignore_index=True) if newer else nine.reset_index(drop=True)


def _checkpoint_config(model: str) -> dict[str, Any]:
    """The config of a miniature's checkpoint; empty for models without a folder."""
    path = miniature_folder(model) / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if model and "/" not in model and path.is_file() else {}


def shapes(ds: xr.Dataset) -> dict[str, tuple[int, int]]:
    """Layers and heads of every traced model, without what pads it to the shape of larger ones.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `image_weight` (model, layer, head, sample).

    Returns
    -------
    dict of str to tuple of int
        (layers, heads) by model; models without any value are left out.
    """
    return {name: shape for name, shape in shapes_of(ds["image_weight"]).items() if all(shape)}


def _trained_parts(record: Mapping[str, Any], recipe: str) -> str:
    """What visual tuning trained, by the training record of a model, else by its recipe; "" where neither tells."""
    return ", ".join(record.get("trainable", ())) or TRAINED_PARTS.get(recipe, "")


def _tokens(ds: xr.Dataset | None, name: str) -> str:
    if ds is None or name not in ds["model"].values.astype(str):
        return ""
    counts = subset(ds, model=name)["n_image_tokens"].isel(model=0).values.astype(float)
    if not np.isfinite(counts).any():
        return ""
    low, high = (int(edge) for edge in (np.nanmin(counts), np.nanmax(counts)))
    return str(low) if low == high else f"{low} to {high}"
