"""Gathers what the claims are judged by from the stores of a folder of results, and says what it used and what not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import xarray as xr

from visualheads.analysis import models as survey
from visualheads.analysis.claims.rules import JOINED, Evidence, kind_of
from visualheads.analysis.lineage import lineage
from visualheads.analysis.subset import models_of
from visualheads.analysis.three_moments import TEXT
from visualheads.cards import cards
from visualheads.errors import StoreError
from visualheads.heads.ranking import ROW
from visualheads.interventions.sweeps import with_heads
from visualheads.miniatures.text_heads import KIND as LISTS
from visualheads.miniatures.text_heads import UNTRAINED
from visualheads.store.combine import check_joinable, joined
from visualheads.store.read import open_store, stores_in
from visualheads.store.stored import opened
from visualheads.studies import shipped, three_moments
from visualheads.studies.ablation import EFFECTS
from visualheads.studies.shipped import NULL
from visualheads.studies.sinks import SINKS

TRACE, SWEEP = "trace", "sweep-"
EFFECTS_FROM = ("zero", "all")
"""Mode and positions of the single-head effects that pages show."""
LATE = ("late-uniform_released", "late-mean")
COLUMNS = ("store", "what", "model", "samples", "used", "why")


@dataclass(frozen=True, eq=False)
class Gathered:
    """Evidence, and its sources.

    sources   one row per store: store (path in the folder), what (trace, sweep …, text lists), model, task, samples,
              used (whether it is part of the evidence) and why not where it is not
    """

    evidence: Evidence
    sources: pd.DataFrame


def gather(results: str | Path = "data/results", full: str | Path | None = None) -> Gathered:
    """Everything that the claims are judged by: traces with their controls, text lists, and the full protocol's stores.

    full     folder of the full protocol's stores, by default the shipped ones; those made from other weights, task
             files or definitions are listed, but are no evidence
    A folder without traces gives evidence without traces, so that its claims are not testable here. Raises StoreError
    for a damaged store.
    """
    folder, root = Path(results), shipped.full_folder() if full is None else Path(full)
    rows: list[dict[str, object]] = []
    found: dict[str, list[xr.Dataset]] = {}
    joined_models: dict[str, dict[str, list[xr.Dataset]]] = {}
    text: dict[str, xr.Dataset] = {}
    traced = False
    for path, kind in stores_in(root):
        if kind not in (SINKS, EFFECTS, NULL, *LATE, TRACE):
            continue
        ds = open_store(path)
        why = shipped.why_outdated(path, ds=ds)
        told = {"model": ", ".join(models_of(ds)), "samples": ds.sizes["sample"], "used": not why, "why": why}
        rows.append({"store": f"full: {path.relative_to(root).as_posix()}", "what": _words(kind), **told})
        if not why:
            [name] = models_of(ds)
            place = joined_models.setdefault(name, {}) if kind_of(name) == JOINED else found
            place.setdefault(kind, []).append(with_heads(ds.load()))
    for path, kind in stores_in(folder):
        if kind not in (TRACE, LISTS) or path.parent.name.endswith(UNTRAINED):
            continue
        there = opened(path)  # traces are read below, all together
        told = {"model": ", ".join(there.values("model")), "samples": len(there.measured), "used": True, "why": ""}
        rows.append({"store": path.relative_to(folder).as_posix(), "what": _words(kind), **told})
        traced |= kind == TRACE
        if kind == LISTS:
            text[path.parent.name] = open_store(path).load()
    beside = []
    for name, own in joined_models.items():
        traces = survey.traced(root, [name]) if TRACE in own else None
        beside.append(_evidence(own, traces, _lists_in_words(name)))
    whole = _evidence(found, survey.traced(folder) if traced else None, text)
    return Gathered(replace(whole, beside=tuple(beside)), pd.DataFrame(rows, columns=list(COLUMNS)))


def attention(results: str | Path = "data/results") -> Evidence:
    """What chapters tell of attention, of the kind of models that decides: a part of `gather` that is soon read."""
    traces = survey.traced(results)
    names = models_of(traces)
    lists = [path for path, kind in stores_in(Path(results)) if kind == LISTS]
    text = {path.parent.name: open_store(path).load() for path in lists if not path.parent.name.endswith(UNTRAINED)}
    own = _evidence({kind: _shipped(names, kind) for kind in (NULL, EFFECTS, SINKS)}, traces, text)
    return next(iter(replace(own, moments=_moments()).by_kind().values()))


def _evidence(
    found: Mapping[str, list[xr.Dataset]], traces: xr.Dataset | None, text: dict[str, xr.Dataset]
) -> Evidence:
    grown = {} if traces is None else {str(k): str(v) for k, v in lineage(traces)["text_model"].items()}
    return Evidence(
        traces=traces,
        null=_along_models(found.get(NULL, [])),
        effects=_along_models(found.get(EFFECTS, [])),
        late={kind.removeprefix("late-"): joined(found[kind]) for kind in LATE if kind in found},
        sinks={name: ds for ds in found.get(SINKS, []) for name in models_of(ds)},
        text=text,
        grown_from=grown,
    )


def _lists_in_words(model: str) -> dict[str, xr.Dataset]:
    """What the heads of a joined model's language model did on lists in words before it saw pictures, by its name."""
    moments = _moments()
    if moments is None:
        return {}
    ds = moments.sel(model=[TEXT], query=ROW, drop=True)
    told = ds[["asked_weight"]].assign(
        unasked_weight=ds["content_weight"] - ds["asked_weight"],
        previous_weight=ds["previous"].broadcast_like(ds["asked_weight"]),
    )
    return {cards()[model].llm: told}


def _moments() -> xr.Dataset | None:
    """The shipped moments of the model on a real language model; None where they are of other weights."""
    try:
        return three_moments.shipped()
    except StoreError:
        return None


def untrained_heads(models: Sequence[str]) -> xr.Dataset | None:
    """The shipped traces of untrained networks in these models' shapes, the null of `above_null`; None without any."""
    return _along_models(_shipped(models, NULL))


def single_heads(models: Sequence[str]) -> xr.Dataset | None:
    """The shipped whole and looking effects of these models' heads, and `vhd`; None without any."""
    return _along_models(_shipped(models, EFFECTS))


def late_heads(models: Sequence[str]) -> dict[str, xr.Dataset]:
    """The shipped sweeps of these models' late heads on all benchmarks, by mode."""
    found = {kind.removeprefix("late-"): _shipped(models, kind) for kind in LATE}
    return {mode: joined(parts) for mode, parts in found.items() if parts}


def _shipped(models: Sequence[str], store: str) -> list[xr.Dataset]:
    return [ds for name in models if (ds := shipped.opened(name, store)) is not None]


def _along_models(parts: Sequence[xr.Dataset]) -> xr.Dataset | None:
    """Datasets of single models as one; NaN where a smaller one has no layer or head."""
    if not parts:
        return None
    bare = [
        ds.drop_vars([name for name in ds.coords if ds[name].dims == ("model",) and name != "model"]) for ds in parts
    ]
    return xr.concat(bare, "model", data_vars="all", coords="minimal", compat="override", join="outer")


def removed(
    results: str | Path = "data/results", models: Sequence[str] | None = None, full: str | Path | None = None
) -> dict[str, xr.Dataset]:
    """Sweeps by mode and positions ("zero, all"), in memory: for pages, reduced ones too.

    Each model's full stores where they hold, else what is among the results. `models`: only these. A sweep that cannot
    be joined with those before it is left out, as in `gather`, whose sources say so.
    """
    root = shipped.full_folder() if full is None else Path(full)
    found: dict[str, list[xr.Dataset]] = {}
    known: set[tuple[str, str]] = set()
    for place in (root, Path(results)):
        for path, kind in stores_in(place):
            if not kind.startswith(SWEEP):
                continue
            ds = open_store(path)
            own = {(name, kind) for name in models_of(ds)}
            if own <= known or (models is not None and not set(models) & set(models_of(ds))):
                continue
            if place == root and shipped.why_outdated(path, ds=ds):
                continue
            known |= own if place == root else set()
            sweeps, one = found.setdefault(kind, []), with_heads(ds)
            with contextlib.suppress(StoreError):  # of one that does something else the book tells nothing
                check_joinable([*sweeps, one])
                sweeps.append(one)
    return {_words(kind).removeprefix("sweep "): joined(parts) for kind, parts in found.items()}


def reduced_models(models: Iterable[str], full: str | Path | None = None) -> list[str]:
    """Those of these models whose single-head effects come from the reduced protocol: no full store of them holds."""
    store, root = "-".join(EFFECTS_FROM), None if full is None else Path(full)
    return [name for name in models if store not in shipped.full_stores(name, root)]


def _words(kind: str) -> str:
    """ "sweep zero, after_image" for "sweep-zero-after_image"."""
    return "sweep " + kind.removeprefix(SWEEP).replace("-", ", ") if kind.startswith(SWEEP) else kind.replace("-", " ")
