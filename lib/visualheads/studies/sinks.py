"""The experiments of the page on sinks, on one model: what sink tokens hold (`sink_finding`), and what they are for.

`visualheads.studies.full_protocol` runs them large, a build of the book small (`REDUCED`),
unless a large run is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from visualheads.analysis.effects import MAIN_TASK
from visualheads.heads.ranking import rank
from visualheads.interventions import head_sets
from visualheads.interventions.modes import AFTER_IMAGE
from visualheads.interventions.results import objects, samples_only
from visualheads.interventions.sweeps import sweep
from visualheads.studies import ablation
from visualheads.studies.sink_finding import find, others
from visualheads.tasks import task as benchmark

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

SINKS, REMOVAL = "sinks", "sink-removal"
STORES = (SINKS, REMOVAL)
"""Names and kinds of the stores that these experiments leave."""
CONDITION = "plain-object"
MODES = ("sink_removal", "sink_redistribution")
RANDOM, BACKGROUND = "random", "background"
"""Controls: as many other image tokens, and as many that show no object."""
STRONGEST = 0.1
"""Share of the heads that count as the most concentrated."""


@dataclass(frozen=True)
class Size:
    """How much is run: questions, and random sets of tokens against which removing sinks is held."""

    questions: int = 16
    seeds: int = 3
    positions: str = AFTER_IMAGE


REDUCED = Size()
FULL = Size(questions=64, seeds=5)


def run(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size = FULL, progress: Any = False
) -> dict[str, xr.Dataset]:
    """Both experiments on one model: datasets by the name of their store, each with `model` of length 1.

    asked    questions about boxes (condition `CONDITION`), of which `size.questions` are used
    traces   of this model alone on other pictures: there the most concentrated heads are chosen
    """
    few = list(asked)[: size.questions]
    found = find(model, few, progress=progress)
    return {SINKS: found, REMOVAL: removal(model, few, found, traces, size, progress)}


def removal(
    model: VisionLanguageModel, samples: Sequence[Sample], found: xr.Dataset, traces: xr.Dataset, size: Size,
    progress: Any = False,
) -> xr.Dataset:  # fmt: skip
    """What hiding or redistributing sinks does: dims (model, mode, tokens, set, sample), samples that have a sink.

    tokens   "sinks", "random 0", …, "background 0", …: as many others in every sample
    set      all heads, and the most concentrated tenth (chosen in `traces`)
    Empty along `sample` where no sample has a sink.
    """
    marks = found["sink"].isel(model=0).transpose("sample", "token").values.astype(bool)
    able = [index for index in range(len(samples)) if marks[index].any()]
    sets = _sets(traces)
    if not able:
        return samples_only(found).isel(sample=[]).assign_coords(sets.coords)
    asked = [samples[index] for index in able]
    patches = found["patch"].isel(model=0).transpose("sample", "token").values.astype(bool)
    behind = found["background"].isel(model=0).transpose("sample", "token").values.astype(bool)
    groups: dict[str, dict[str, list[int]]] = {
        SINKS: {samples[index].id: np.flatnonzero(marks[index]).tolist() for index in able}
    }
    for name, allowed in ((RANDOM, patches), (BACKGROUND, behind)):
        for draw in range(size.seeds):
            groups[f"{name} {draw}"] = {
                samples[index].id: others(marks[index], allowed[index], draw, index).tolist() for index in able
            }
    runs = [
        [
            sweep(model, asked, sets, mode, size.positions, tokens=chosen, progress=progress)
            for chosen in groups.values()
        ]
        for mode in MODES
    ]
    first = runs[0][0]
    changed = {
        name: (
            ("model", "mode", "tokens", "set", "sample"),
            np.stack([[ds[name].transpose("model", "set", "sample").values for ds in row] for row in runs]).transpose(
                2, 0, 1, 3, 4
            ),
        )
        for name in ("correct", "margin", "kl")
    }
    clean = first[["clean_correct", "clean_margin"]].drop_vars("mode").assign_coords(_of_sets(first))
    labels = {"mode": objects(MODES), "tokens": objects(list(groups))}
    return clean.assign(changed).assign_coords(labels)


def studied(
    names: Sequence[str], results: str | Path, traces: xr.Dataset, size: Size = REDUCED, small: bool = False
) -> dict[str, dict[str, xr.Dataset]]:
    """`studies.studied` of these experiments: store name → model → dataset."""
    makers: dict[str, ablation.Maker] = {
        SINKS: lambda model, asked, _traces, _size, _made: find(model, asked),
        REMOVAL: lambda model, asked, traces, size, made: removal(model, asked, made[SINKS], traces, size),
    }
    asked = list(benchmark(MAIN_TASK).samples(condition=CONDITION, format="free", n=size.questions))
    return ablation.studied(makers, names, results, traces, asked, size, small)


def _of_sets(swept: xr.Dataset) -> dict[str, Any]:
    """What the labels of the sets are."""
    return {str(name): array for name, array in swept.coords.items() if array.dims == ("set",)}


def _sets(traces: xr.Dataset) -> xr.DataArray:
    """All heads, and the most concentrated tenth."""
    scores = rank(traces, "concentration").isel(model=0).transpose("layer", "head")
    finite = np.isfinite(scores.values)
    count = max(1, round(STRONGEST * int(finite.sum())))
    [top] = head_sets.protocol_sets({"concentration": scores}, [count], ("all",), 0, bottom=False).values
    return head_sets.as_array(
        [
            head_sets.HeadSet(finite, "", "all", "all"),
            head_sets.HeadSet(top.astype(bool), "concentration", "all", "top"),
        ]
    )
