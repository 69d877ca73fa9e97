"""What every head does by itself: removed altogether, and cut off from the picture where the answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.heads import effects
from visualheads.interventions import head_sets
from visualheads.interventions.attribution import visual_difference
from visualheads.interventions.modes import ALL, LAST_PROMPT
from visualheads.interventions.reference import as_reference
from visualheads.interventions.sweeps import sweep, sweep_path, sweep_to_store
from visualheads.paths import slug_of

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

EFFECTS = "effects"
"""Name and kind of the store."""
KINDS = {"whole": ("mean", ALL), "looking": ("edge_knockout", LAST_PROMPT)}
"""Effect → mode and positions."""
MEASURES = ("margin", "kl")


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
        single = effects.head_effects(swept.load())
        for measure in MEASURES:
            lost = single[f"effect_{measure}"]
            found[f"{effect}_{measure}"] = (lost.dims, lost.values, lost.attrs)
    return found
