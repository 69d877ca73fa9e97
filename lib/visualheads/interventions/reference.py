"""Mode "mean": what the heads put out on average over a reference set, per class of position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visualheads.errors import checked
from visualheads.interventions.editor import ended, step_forward
from visualheads.interventions.modes import Reference, weights_identity
from visualheads.interventions.replacements import CLASSES, GENERATED, position_classes
from visualheads.interventions.text_model import forward, language_model_inputs, new_cache
from visualheads.models import provenance
from visualheads.models.devices import fitting
from visualheads.tracing.settings import MAX_NEW_TOKENS, settings_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample


@checked
def mean_reference(
    model: VisionLanguageModel, samples: Sequence[Sample], *, max_new_tokens: int = MAX_NEW_TOKENS
) -> Reference:
    """Average what every head puts out over a reference set, per class of position, for mode "mean".

    Parameters
    ----------
    model : VisionLanguageModel
        From `vh.load` or `vh.wrap`.
    samples : sequence of Sample
        The reference set.
    max_new_tokens : int
        Longest answer.

    Returns
    -------
    Reference
        Means (class, layer, head, feature) of the output projection's input, over all positions of a class in all
        samples. Classes: image tokens, text tokens, the last prompt token, generated tokens (up to each answer's end
        token, at least one).

    Raises
    ------
    SampleError
        For no samples.
    """
    settings_of(model, samples, "last_prompt", (), None, None, max_new_tokens)
    layers, heads, _ = model.shape
    sums = _Sums(layers, heads)
    with torch.no_grad():
        for sample in samples:
            with fitting(model, [sample]):
                _add(model, sample, sums, max_new_tokens)
    return Reference(sums.means(), sums.counts, weights_identity(model) | {"samples": provenance.hash_samples(samples)})


def as_reference(model: VisionLanguageModel, reference: Any) -> Reference | None:
    """A reference as it is, or made from a list of samples; None stays None."""
    if reference is None or isinstance(reference, Reference):
        return reference
    return mean_reference(model, reference)


def _add(model: VisionLanguageModel, sample: Sample, sums: _Sums, max_new_tokens: int) -> None:
    prompts = language_model_inputs(model, model.encode([sample]))
    cache = new_cache(model)
    sums.classes = position_classes(prompts.image.cpu())[0]
    logits = forward(model, prompts.kwargs, cache, sums).logits
    said = logits.argmax(-1)[:, None]
    for step in range(max(1, max_new_tokens - 1)):
        sums.classes = torch.tensor([GENERATED])
        logits = step_forward(model, said[:, -1], cache, prompts, [0], sums, step)
        said = torch.cat([said, logits.argmax(-1)[:, None]], dim=1)
        if int(ended(model, said)[0]) < said.shape[1]:
            break


@dataclass
class _Sums:
    """Looks at every head's output in a pass, changes nothing."""

    layers: int
    heads: int
    reads_attention: bool = False
    classes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    total: Tensor | None = None
    counts: Tensor = field(default_factory=lambda: torch.zeros(len(CLASSES), dtype=torch.long))

    def touches(self, layer: int) -> bool:
        return layer < self.layers

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        del call, start  # the protocol's
        parts = inputs[0].detach().double().cpu().view(inputs.shape[1], self.heads, -1)
        if self.total is None:
            self.total = torch.zeros(len(CLASSES), self.layers, self.heads, parts.shape[-1], dtype=torch.double)
        self.total[:, layer].index_add_(0, self.classes, parts)
        if layer == 0:
            self.counts += torch.bincount(self.classes, minlength=len(CLASSES))
        return inputs

    def means(self) -> Tensor:
        assert self.total is not None
        return (self.total / self.counts.clamp_min(1)[:, None, None, None]).float()
