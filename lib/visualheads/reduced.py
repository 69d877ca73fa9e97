"""The protocol of the ablation pages: which heads are removed on which questions, kept as a sweep beside the traces.

A build of the book runs it reduced: few questions, few rankings, few random controls. Its arguments make it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from visualheads import protocol
from visualheads.errors import IdentityMismatch, SampleError
from visualheads.heads import rank
from visualheads.places import slug_of
from visualheads.rankings import real_samples
from visualheads.sweeps import sweep_path, sweep_to_store

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample
    from visualheads.vision_language import VisionLanguageModel

RANKINGS = ("image_weight", "region_weight")
STAGES = ("late", "all")
MODE, POSITIONS = "zero", "all"


def other_pictures(traces: xr.Dataset, samples: Sequence[Sample]) -> xr.Dataset:
    """The traced samples of other pictures than these: heads are chosen there and judged here.

    Samples with a control (white pictures) are left out. Raises SampleError where nothing is left.
    """
    own = real_samples(traces)
    judged = {sample.image_id for sample in samples}
    chosen = np.array([picture not in judged for picture in own["image_id"].values.astype(str)])
    if not chosen.any():
        raise SampleError("every traced picture is also judged; trace more questions, or remove heads on fewer.")
    return own.isel(sample=np.flatnonzero(chosen))


def sets_of(
    traces: xr.Dataset, rankings: Sequence[str] = RANKINGS, stages: Sequence[str] = STAGES, seeds: int = 3,
    bottom: bool = False, single: bool = True,
) -> xr.DataArray:  # fmt: skip
    """The head sets of one model: top heads with matched random ones, and (`single`) every head alone.

    traces   of one model; rankings without any finite score there are left out. Arguments as `protocol_sets`.
    """
    scores = {name: rank(traces, name).isel(model=0) for name in rankings}
    known = {name: values for name, values in scores.items() if bool(np.isfinite(values).any())}
    made = protocol.protocol_sets(known, stages=stages, seeds=seeds, bottom=bottom)
    if not single:
        return made
    alone = protocol.single_heads(traces.sizes["layer"], traces.sizes["head"])
    return xr.concat([made, alone], "set", coords="different", compat="equals")


def run(
    model: VisionLanguageModel, samples: Sequence[Sample], sets: xr.DataArray, results: str | Path, task: str,
    mode: str = MODE, positions: str = POSITIONS, task_files: str = "", progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Remove these sets on these samples and keep the sweep beside the traces; what is done already is not repeated.

    A store of another run (other weights, questions or sets) is set aside and made anew: these are the book's own.
    """
    path = sweep_path(results, slug_of(model.name), task, mode, positions)
    path.parent.mkdir(parents=True, exist_ok=True)

    def swept(fresh: bool) -> xr.Dataset:
        return sweep_to_store(
            model, samples, sets, path, mode, positions, task_files=task_files, progress=progress, fresh=fresh
        ).load()

    try:
        return swept(False)
    except IdentityMismatch:
        return swept(True)
