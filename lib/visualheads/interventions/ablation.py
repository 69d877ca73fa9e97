"""One intervention on one set of heads: `ablate` and `steer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.errors import ModeError
from visualheads.heads.selection import head_mask
from visualheads.interventions import results
from visualheads.interventions.modes import ALL, BIAS, Intervention, check_possible
from visualheads.interventions.reference import as_reference
from visualheads.models.progress import Wish, progress_bar
from visualheads.tracing.settings import MAX_NEW_TOKENS, settings_of

if TYPE_CHECKING:
    from visualheads.interventions.reference import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample


def ablate(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    heads: Any,
    mode: str = "zero",
    positions: str = ALL,
    reference: Reference | Sequence[Sample] | None = None,
    *,
    bias: float | None = None,
    tokens: Mapping[str, Sequence[int]] | None = None,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> xr.Dataset:
    """Change heads while the model answers; return a Dataset (model, sample).

    heads           (layer, head) pairs, or a bool DataArray over layer and head
    mode            "uniform_released", "uniform", "zero", "mean", "image_knockout", "boost", "sink_removal" or
                    "sink_redistribution": see `MODES`
    positions       "all", or "after_image": only the positions after the last image token, and what is generated
    reference       mode "mean" only: a list of samples, or `mean_reference` of this model
    bias            mode "boost" only: added to the scores of the image keys (default 4)
    tokens          modes on sinks only: sample id → image tokens (0 for the picture's first) taken for sinks in every
                    layer; default: the model's own visual sinks, found layer by layer
    batch_tokens    tokens that run together; default 1024 on CPUs, 16384 on GPUs
    max_new_tokens  longest answer

    Variables: prediction, correct (0/1, NaN without an answer), margin (logits; as in `trace`), kl (KL(clean ‖ changed)
    over the whole vocabulary at the answer's first token, nats, ≥ 0), the unchanged model's clean_prediction,
    clean_correct and clean_margin, and heads (model, layer, head). The coordinates `mode` and `positions` name what
    was done. Prompts run unpadded: a result depends on its own prompt only.
    Raises HeadError, ModeError (also where the model cannot have the mode), ParameterError, SampleError, ImageError, or
    DeviceMemoryError for a sample that is alone too large.
    """
    if mode == "steer":
        raise ModeError("mode 'steer' needs a box: use vh.steer(model, samples, heads, box=…).")
    intervention = Intervention(mode, positions, bias, as_reference(model, reference), tokens=tokens)
    return _one(model, samples, heads, intervention, batch_tokens, max_new_tokens, progress)


def steer(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    heads: Any,
    box: Box | Sequence[Box | None] | None = None,
    bias: float = BIAS,
    positions: str = ALL,
    *,
    batch_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> xr.Dataset:
    """Add `bias` to the scores of the image tokens that meet a box, in the chosen heads; a Dataset as from `ablate`.

    box     (left, top, right, bottom) in pixels of the original picture, for all samples, or one (or None) per sample;
            None: the whole picture
    bias    a natural logarithm: 4 makes a key's odds 55 times as high, −1e4 hides it; 0 changes nothing
    Source: Gaze Heads (±1e4); PAI. Raises BoxError for an empty box, one outside its picture, or one whose part of
    the picture the model does not see; otherwise as `ablate`.
    """
    intervention = Intervention("steer", positions, bias, boxes=results.boxes_of(samples, box))
    return _one(model, samples, heads, intervention, batch_tokens, max_new_tokens, progress)


def _one(
    model: VisionLanguageModel, samples: Sequence[Sample], heads: Any, intervention: Intervention,
    batch_tokens: int | None, max_new_tokens: int, progress: Wish,
) -> xr.Dataset:  # fmt: skip
    mask = head_mask(model, heads)
    settings = settings_of(model, samples, "first_generated", (), None, batch_tokens, max_new_tokens)
    check_possible(model, intervention)
    sets = xr.DataArray(mask[None], dims=("set", "layer", "head"), coords={"set": ["heads"]})
    coords = results.sweep_coordinates(model, samples, settings, sets, intervention)
    with progress_bar(f"{intervention.mode} {model.name}", len(samples), progress) as advance:
        effects = results.Runner.of(model, samples, sets, intervention, settings).run(advance=advance)
    return results.single(results.dataset(effects, coords))
