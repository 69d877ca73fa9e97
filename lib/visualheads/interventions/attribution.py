"""What single heads do without removing each: a gradient screen, and outputs without the picture.

The exact effect of every head alone comes from a sweep of `head_sets.single_heads` (`losses.head_effects`). The screen
costs one pass forth and back per sample and guesses the same effect for all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visualheads.interventions.editor import Editor
from visualheads.interventions.engine import first_changed
from visualheads.interventions.modes import Intervention, check_possible
from visualheads.interventions.text_model import EMBEDS, check_alone, forward, language_model_inputs, new_cache
from visualheads.models.progress import Wish, progress_bar
from visualheads.tracing.settings import coordinates_of, settings_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample


def gradient_screen(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    mode: str = "zero",
    positions: str = "",
    *,
    progress: Wish = "auto",
) -> xr.Dataset:
    """First-order guess of what the margin loses when each head alone is changed: `screen_margin`.

    Dims (model, layer, head, sample), in logits, positive where the head is of use; the counterpart of `effect_margin`
    from `effects.head_effects`: rank or compare both by name. The guess is −gradient · (changed − clean output), summed
    over positions (attribution patching); it misses what is not linear. Arguments as in `ablate`. NaN for samples
    without a margin. Raises what `ablate` raises.
    """
    settings = settings_of(model, samples, "first_generated", (), None, None, 1)
    intervention = Intervention(mode, positions)
    check_possible(model, intervention)
    layers, heads, _ = model.shape
    values = np.full((1, layers, heads, len(samples)), np.nan, np.float32)
    with progress_bar(f"screen {model.name}", len(samples), progress) as advance:
        for index, sample in enumerate(samples):
            right, wrong = settings.margins.sides(sample)
            if right:
                values[0, ..., index] = _screened(model, sample, intervention, right, wrong)
            advance(1)
    coords = coordinates_of(model, samples, settings, single=True)
    coords = coords.assign_coords({name: ("model", [getattr(intervention, name)]) for name in ("mode", "positions")})
    ds = coords.assign(screen_margin=(("model", "layer", "head", "sample"), values))
    ds["screen_margin"].attrs.update(long_name="guessed loss of margin without the head", units="logits")
    return ds


def visual_difference(model: VisionLanguageModel, samples: Sequence[Sample], *, progress: Wish = "auto") -> xr.Dataset:
    """How far each head's output moves with the picture (vision-aware head divergence): the ranking `vhd`.

    Parameters
    ----------
    model
        Whose heads are looked at.
    samples
        Prompts, each run with its picture and with a white one of the same size.

    Returns
    -------
    xarray.Dataset
        vhd (model, layer, head, sample): Euclidean distance between the head's two outputs, as given to the output
        projection, at the last prompt token; in the unit of the model's activations, 0 for a head that the picture does
        not reach.

    References
    ----------
    arXiv 2412.13949, where the picture is left out; a white one keeps every position in its place (ours).
    """
    settings = settings_of(model, samples, "last_prompt", (), None, None, 1)
    layers, heads, _ = model.shape
    values = np.full((1, layers, heads, len(samples)), np.nan, np.float32)
    with torch.no_grad(), progress_bar(f"vhd {model.name}", len(samples), progress) as advance:
        for index, sample in enumerate(samples):
            blank = replace(sample, image=Image.new("RGB", sample.open().size, "white"))
            seen, unseen = (_last_outputs(model, one) for one in (sample, blank))
            values[0, ..., index] = (seen - unseen).norm(dim=-1).numpy()
            advance(1)
    ds = coordinates_of(model, samples, settings, single=True)
    ds = ds.assign(vhd=(("model", "layer", "head", "sample"), values))
    ds["vhd"].attrs.update(long_name="change of the head's output with the picture", units="activation")
    return ds


@dataclass
class _Outputs:
    """Keeps what each head gives to the output projection at the last position; changes nothing."""

    heads: int
    parts: list[Tensor] = field(default_factory=list)
    reads_attention: bool = False

    def touches(self, layer: int) -> bool:
        return layer >= 0

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        del layer, call, start  # the protocol's
        self.parts.append(inputs[0, -1].float().cpu().view(self.heads, -1))
        return inputs


def _last_outputs(model: VisionLanguageModel, sample: Sample) -> Tensor:
    """Every head's output (layer, head, feature) at the last prompt token."""
    prompts = language_model_inputs(model, model.encode([sample]))
    outputs = _Outputs(model.shape.heads)
    forward(model, prompts.kwargs, new_cache(model), outputs)
    return torch.stack(outputs.parts)


@dataclass
class _Screen:
    """Keeps what the output projections are given, and by how much each head's part would change; changes nothing."""

    editor: Editor
    inputs: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    @property
    def reads_attention(self) -> bool:
        return self.editor.reads_attention

    def touches(self, layer: int) -> bool:
        return self.editor.touches(layer)

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        with torch.no_grad():
            _, queries, _ = inputs.shape
            heads = self.editor.heads.shape[2]
            chosen = self.editor.chosen(layer, queries, call, start, inputs.device)
            change = torch.zeros(1, queries, heads, inputs.shape[2] // heads, device=inputs.device)
            before = inputs.view(change.shape)[chosen.row, chosen.first :, chosen.head].float()
            after = self.editor.intervention.operation.change(chosen)
            change[chosen.row, chosen.first :, chosen.head] = after.to(before.dtype) - before
        self.inputs.append(inputs)
        self.changes.append(change)
        return inputs


def _screened(
    model: VisionLanguageModel, sample: Sample, intervention: Intervention, right: list[int], wrong: list[int]
) -> NDArray[np.float32]:
    """(layer, head) guessed losses of margin of one sample."""
    layers, heads, _ = model.shape
    encoding = model.encode([sample])
    prompts = language_model_inputs(model, encoding)
    check_alone(model, encoding, prompts)
    first = first_changed(model, prompts, intervention.positions)
    marked = prompts.image.expand(layers, *prompts.image.shape)
    if intervention.operation.tokens == "sinks":
        with torch.no_grad():
            sinks = forward(model, prompts.kwargs, new_cache(model), sinks=True).sinks
        assert sinks is not None
        marked = sinks.to(prompts.image.device) & prompts.image
    everything = torch.ones(1, layers, heads, dtype=torch.bool)
    screen = _Screen(Editor(intervention, everything, prompts.image, marked, first))
    kwargs = {**prompts.kwargs, EMBEDS: prompts.kwargs[EMBEDS].detach().requires_grad_()}
    with torch.enable_grad():
        logits = forward(model, kwargs, new_cache(model), screen).logits[0].float()
        margin = logits[right].max() - logits[wrong].max()
        gradients = torch.autograd.grad(margin, screen.inputs)
    moved = [
        (gradient.view(change.shape).float() * change).sum((0, 1, 3)).cpu()
        for gradient, change in zip(gradients, screen.changes, strict=True)
    ]
    return -torch.stack(moved).numpy()
