"""Gathers what the claims are judged by from the stores of a folder of results, and says what it used and what not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import xarray as xr

from visualheads import survey
from visualheads.claims.evidence import Evidence
from visualheads.claims.verdicts import names_of
from visualheads.effects import head_effects
from visualheads.errors import HeadError
from visualheads.interventions.results import with_heads
from visualheads.lineage import lineage
from visualheads.miniatures.text_heads import KIND as LISTS
from visualheads.miniatures.text_heads import UNTRAINED
from visualheads.reading import PACKED, open_store, read_attrs
from visualheads.results import task_of
from visualheads.sweeps import joined, kind_of

MEASURES = (*survey.MEASURES, "concentration_no_sink", "sink_share", "spatial_entropy")
FEWEST_SAMPLES = 64
"""Questions a sweep must hold to be evidence: reduced sweeps are shown on pages but decide no claim (ours)."""
TRACE, SWEEP = "trace", "sweep-"
EFFECTS_FROM = ("zero", "all")
"""Mode and positions of the single-head effects of claim 8."""
COLUMNS = ("store", "what", "model", "task", "samples", "used", "why")


@dataclass(frozen=True, eq=False)
class Gathered:
    """Evidence, and its sources.

    sources   one row per store: store (path in the folder), what (trace, sweep …, text lists), model, task, samples,
              used (whether it is part of the evidence) and why not where it is not
    """

    evidence: Evidence
    sources: pd.DataFrame


def gather(results: str | Path = "data/results", fewest: int = FEWEST_SAMPLES) -> Gathered:
    """Everything that a folder of results holds for the claims: traces with their controls, sweeps, text lists.

    fewest   sweeps of fewer samples are listed in the sources, but are no evidence
    A folder without traces gives evidence without traces, so that its claims are not testable here. Raises StoreError
    for a damaged store.
    """
    folder = Path(results)
    rows: list[dict[str, object]] = []
    sweeps: dict[str, list[xr.Dataset]] = {}
    text: dict[str, xr.Dataset] = {}
    fresh_text: dict[str, xr.Dataset] = {}
    traced = False
    for path in _stores(folder):
        kind = str(read_attrs(path).get("kind", ""))
        if kind != TRACE and kind != LISTS and not kind.startswith(SWEEP):
            continue
        ds = open_store(path)
        row: dict[str, object] = {
            "store": path.relative_to(folder).as_posix(), "what": _words(kind), "model": ", ".join(names_of(ds)),
            "task": task_of(path).split(".")[0], "samples": ds.sizes["sample"], "used": True, "why": "",
        }  # fmt: skip
        if kind == TRACE:
            traced = True
            if set(ds["control"].values.astype(str).tolist()) == {survey.WHITE}:
                row["what"] = "trace of white pictures"
        elif kind == LISTS:
            name = path.parent.name
            if name.endswith(UNTRAINED):
                fresh_text[name.removesuffix(UNTRAINED)] = ds.load()
            else:
                text[name] = ds.load()
        elif ds.sizes["sample"] >= fewest:
            sweeps.setdefault(kind, []).append(with_heads(ds))
        else:
            row |= {"used": False, "why": f"reduced: fewer than {fewest} questions decide no claim"}
        rows.append(row)
    whole = {kind: joined(parts).load() for kind, parts in sweeps.items()}
    traces = survey.traced(folder, MEASURES) if traced else None
    grown = {} if traces is None else {str(k): str(v) for k, v in lineage(traces)["text_model"].items()}
    evidence = Evidence(
        traces=traces,
        sweeps={_words(kind).removeprefix("sweep "): ds for kind, ds in whole.items()},
        effects=_effects(whole),
        text=text,
        text_untrained=fresh_text,
        grown_from=grown,
    )
    return Gathered(evidence, pd.DataFrame(rows, columns=list(COLUMNS)))


def single_effects(results: str | Path = "data/results") -> xr.Dataset | None:
    """Effects of single heads from all sweeps of EFFECTS_FROM, reduced ones too: for pages, not for verdicts."""
    kind = kind_of(*EFFECTS_FROM)
    found = [path for path in _stores(Path(results)) if read_attrs(path).get("kind") == kind]
    return _effects({kind: joined([with_heads(open_store(path)) for path in found]).load()}) if found else None


def _effects(sweeps: Mapping[str, xr.Dataset]) -> xr.Dataset | None:
    found = sweeps.get(kind_of(*EFFECTS_FROM))
    if found is None:
        return None
    try:
        return head_effects(found)
    except HeadError:  # a sweep of larger sets alone
        return None


def _stores(folder: Path) -> list[Path]:
    live = sorted(folder.glob("*/*.zarr"))
    return [*live, *(path for path in sorted(folder.glob(f"*/*{PACKED}")) if path.with_suffix("") not in live)]


def _words(kind: str) -> str:
    """ "sweep zero, after_image" for "sweep-zero-after_image"."""
    return "sweep " + kind.removeprefix(SWEEP).replace("-", ", ") if kind.startswith(SWEEP) else kind.replace("-", " ")
