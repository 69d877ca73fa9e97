"""Gathers what the claims are judged by from the stores of a folder of results, and says what it used and what not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import xarray as xr

from visualheads.analysis import models as survey
from visualheads.analysis.claims.evidence import Evidence
from visualheads.analysis.effects import MAIN_TASK, effects_of
from visualheads.analysis.lineage import lineage, without_variants
from visualheads.analysis.subset import models_of
from visualheads.errors import StoreError
from visualheads.interventions.results import with_heads
from visualheads.interventions.sweeps import kind_of
from visualheads.miniatures.text_heads import KIND as LISTS
from visualheads.miniatures.text_heads import UNTRAINED
from visualheads.store.combine import task_of
from visualheads.store.join import check_joinable, joined
from visualheads.store.read import PACKED, open_store, read_attrs
from visualheads.store.variables import UNTRAINED as FRESH
from visualheads.studies import shipped
from visualheads.studies.ablation import MEASURES
from visualheads.studies.sinks import SINKS

FEWEST_SAMPLES = 64
"""Questions a sweep must hold to be evidence: reduced sweeps are shown on pages but decide no claim (ours)."""
TRACE, SWEEP = "trace", "sweep-"
EFFECTS_FROM = ("zero", "all")
"""Mode and positions of the single-head effects of claim 8."""
UNTRAINED_TRACE = "trace of an untrained network"
COLUMNS = ("store", "what", "model", "task", "samples", "used", "why")


@dataclass(frozen=True, eq=False)
class Gathered:
    """Evidence, and its sources.

    sources   one row per store: store (path in the folder), what (trace, sweep …, text lists), model, task, samples,
              used (whether it is part of the evidence) and why not where it is not
    """

    evidence: Evidence
    sources: pd.DataFrame


def gather(
    results: str | Path = "data/results", fewest: int = FEWEST_SAMPLES, full: str | Path | None = None
) -> Gathered:
    """Everything that a folder of results holds for the claims: traces with their controls, sweeps, text lists.

    fewest   sweeps of fewer samples are listed in the sources, but are no evidence
    full     folder of the full protocol's stores, by default the shipped ones; those made from other weights, task
             files or definitions are listed, but are no evidence; those that hold replace the results' own sweeps
    Sweeps of one mode in which something else was done cannot be joined: the first is evidence, the other is listed.
    A folder without traces gives evidence without traces, so that its claims are not testable here. Raises StoreError
    for a damaged store.
    """
    folder = Path(results)
    rows: list[dict[str, object]] = []
    sweeps: dict[str, list[xr.Dataset]] = {}
    text: dict[str, xr.Dataset] = {}
    fresh_text: dict[str, xr.Dataset] = {}
    traced = False
    sinks: dict[str, xr.Dataset] = {}
    known: set[tuple[str, str]] = set()
    for path in _stores(root := shipped.full_folder() if full is None else Path(full)):
        kind = str(read_attrs(path).get("kind", ""))
        if not kind.startswith(SWEEP) and kind != SINKS:
            continue
        ds, why = open_store(path), shipped.why_outdated(path)
        rows.append({
            "store": f"full: {path.relative_to(root).as_posix()}", "what": _words(kind),
            "model": ", ".join(models_of(ds)), "task": MAIN_TASK, "samples": ds.sizes["sample"], "used": not why,
            "why": why,
        })  # fmt: skip
        if not why and kind == SINKS:
            sinks |= {name: ds.load() for name in models_of(ds)}
        elif not why and _added(ds, sweeps.setdefault(kind, []), rows[-1]):
            known |= {(name, kind) for name in models_of(ds)}
    for path in _stores(folder):
        kind = str(read_attrs(path).get("kind", ""))
        if kind not in (TRACE, LISTS, FRESH) and not kind.startswith(SWEEP):
            continue
        ds = open_store(path)
        row: dict[str, object] = {
            "store": path.relative_to(folder).as_posix(), "what": _words(kind), "model": ", ".join(models_of(ds)),
            "task": task_of(path).split(".")[0], "samples": ds.sizes["sample"], "used": True, "why": "",
        }  # fmt: skip
        if kind == TRACE:
            traced = True
            if set(ds["control"].values.astype(str).tolist()) == {survey.WHITE}:
                row["what"] = "trace of white pictures"
        elif kind == FRESH:
            row["what"] = UNTRAINED_TRACE
        elif kind == LISTS:
            name = path.parent.name
            if name.endswith(UNTRAINED):
                fresh_text[name.removesuffix(UNTRAINED)] = ds.load()
            else:
                text[name] = ds.load()
        elif {(name, kind) for name in models_of(ds)} <= known:
            row |= {"used": False, "why": "the full protocol's store is used instead"}
        elif ds.sizes["sample"] >= fewest:
            _added(ds, sweeps.setdefault(kind, []), row)
        else:
            row |= {"used": False, "why": f"reduced: fewer than {fewest} questions decide no claim"}
        rows.append(row)
    whole = {kind: joined(parts) for kind, parts in sweeps.items()}
    every = survey.traced(folder, MEASURES, variants=True) if traced else None
    traces = None if every is None else without_variants(every)
    grown = {} if traces is None else {str(k): str(v) for k, v in lineage(traces)["text_model"].items()}
    evidence = Evidence(
        traces=traces,
        sweeps={_words(kind).removeprefix("sweep "): ds for kind, ds in whole.items()},
        effects=effects_of(whole.get(kind_of(*EFFECTS_FROM))),
        untrained=survey.untrained(folder, MEASURES),
        further=every
        if traces is not None and every is not None and every.sizes["model"] > traces.sizes["model"]
        else None,
        text=text,
        text_untrained=fresh_text,
        grown_from=grown,
        sinks=sinks,
    )
    return Gathered(evidence, pd.DataFrame(rows, columns=list(COLUMNS)))


def _added(ds: xr.Dataset, sweeps: list[xr.Dataset], row: dict[str, object]) -> bool:
    """Whether the sweep could be added to those of its mode; where not, its row of the sources says why."""
    found = with_heads(ds)
    try:
        check_joinable([*sweeps, found])
    except StoreError as error:
        row |= {"used": False, "why": str(error)}
        return False
    sweeps.append(found)
    return True


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
        for path in _stores(place):
            kind = str(read_attrs(path).get("kind", ""))
            if not kind.startswith(SWEEP) or (place == root and shipped.why_outdated(path)):
                continue
            ds = with_heads(open_store(path))
            own = {(name, kind) for name in models_of(ds)}
            if own <= known or (models is not None and not set(models) & set(models_of(ds))):
                continue
            known |= own if place == root else set()
            _added(ds, found.setdefault(kind, []), {})
    return {_words(kind).removeprefix("sweep "): joined(parts) for kind, parts in found.items()}


def reduced_models(models: Iterable[str], full: str | Path | None = None) -> list[str]:
    """Those of these models whose single-head effects come from the reduced protocol: no full store of them holds."""
    store, root = "-".join(EFFECTS_FROM), None if full is None else Path(full)
    return [name for name in models if store not in shipped.full_stores(name, root)]


def _stores(folder: Path) -> list[Path]:
    live = sorted(folder.glob("*/*.zarr"))
    return [*live, *(path for path in sorted(folder.glob(f"*/*{PACKED}")) if path.with_suffix("") not in live)]


def _words(kind: str) -> str:
    """ "sweep zero, after_image" for "sweep-zero-after_image"."""
    return "sweep " + kind.removeprefix(SWEEP).replace("-", ", ") if kind.startswith(SWEEP) else kind.replace("-", " ")
