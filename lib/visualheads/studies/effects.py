"""What every head does by itself, and what heads without any training do.

A head is removed altogether, or cut off from the picture where the answer is made; untrained networks are the null of
counting heads that look at pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from visualheads.heads import losses
from visualheads.interventions import head_sets
from visualheads.interventions.attribution import visual_difference
from visualheads.interventions.modes import ALL, LAST_PROMPT
from visualheads.interventions.reference import as_reference
from visualheads.interventions.sweeps import sweep, sweep_path, sweep_to_store
from visualheads.models.devices import aside, free
from visualheads.models.loading import untrained
from visualheads.paths import slug_of
from visualheads.store.variables import QUERIES
from visualheads.tracing.trace import trace

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

EFFECTS = "effects"
"""Name and kind of the store."""
KINDS = {"whole": ("mean", ALL), "looking": ("edge_knockout", LAST_PROMPT)}
"""Effect → mode and positions."""
MEASURES = ("margin", "kl")
DRAWS = 40
"""Untrained networks: half of them calibrate the null, half tell how many of their heads pass it."""
NULL_MEASURES = ("image_log_odds", "image_log_odds_no_sink")


def head_effects(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    reference: Reference | Sequence[Sample],
    folder: str | Path | None = None,
    progress: Any = False,
) -> xr.Dataset:
    """Measure the whole effect and the looking effect of every head of a model, and how far pictures move its output.

    Parameters
    ----------
    model
        Whose heads are removed one by one.
    samples
        Prompts on which the effects are measured.
    reference
        Samples of other pictures, or their means, for the mean ablation.
    folder
        Where the sweeps are kept while they run, so that a killed run goes on; None: in memory only.
    progress
        As in `sweep`.

    Returns
    -------
    xarray.Dataset
        Variables (model, layer, head, sample), each a ranking for `rank` and `agreement` by its name:

        whole_margin, whole_kl : margin lost, and KL divergence, when the head's output is its mean over the reference
            set at every position
        looking_margin, looking_kl : the same when only its image keys are hidden from the last prompt token
        vhd : see `visual_difference`

        Only the answer's first token is read.
    """
    layers, heads, _ = model.shape
    sets, means = head_sets.single_heads(layers, heads), as_reference(model, reference)
    found = visual_difference(model, samples, progress=progress)
    for effect, (mode, positions) in KINDS.items():
        given = (mode, positions, means if mode == "mean" else None)
        settings: dict[str, Any] = {"max_new_tokens": 1, "progress": progress}
        if folder is None:
            swept = sweep(model, samples, sets, *given, **settings)
        else:
            path = sweep_path(folder, slug_of(model.name), EFFECTS, mode, positions)
            swept = sweep_to_store(model, samples, sets, path, *given, **settings)
        single = losses.head_effects(swept.load())
        for measure in MEASURES:
            lost = single[f"effect_{measure}"]
            found[f"{effect}_{measure}"] = (lost.dims, lost.values, lost.attrs)
    return found


def untrained_draws(
    model: VisionLanguageModel, samples: Sequence[Sample], draws: int = DRAWS, progress: Any = False
) -> xr.Dataset:
    """Trace untrained networks of a model's shape: the null of `heads.nulls.above_null`.

    Parameters
    ----------
    model
        Whose shape they have; of a model on a real language model only the adapter is drawn anew.
    samples
        A few prompts, each asked of every network.
    draws
        Networks, of as many seeds.

    Returns
    -------
    xarray.Dataset
        NULL_MEASURES (draw, model, layer, head, query, sample), both attention rows; `sample` holds the prompts' mean.
    """
    parts = []
    joined = model.card is not None and model.card.joined  # there only an adapter is drawn beside the model
    with nullcontext(model.device) if joined else aside(model.module) as device:
        for seed in range(draws):
            ds = trace(untrained(model, seed, device), samples, query=QUERIES, max_new_tokens=2, progress=progress)
            parts.append(ds[list(NULL_MEASURES)].drop_vars("provenance", errors="ignore"))
            free()  # the device has to hold one network at a time
    ds: xr.Dataset = xr.concat(
        list[xr.Dataset](parts), "draw", data_vars="all", coords="minimal", compat="override", join="override"
    )
    mean = ds.mean("sample").expand_dims(sample=[f"mean of {len(samples)} prompts"], axis=-1)  # all that a null reads
    return mean.assign_coords(draw=np.arange(draws), model=[model.name])
