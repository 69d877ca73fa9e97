"""What works in a pass: an intervention that changes heads of a batch, the sums that mode "mean" puts in, or what only
reads the heads' outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from visualheads.errors import BoxError, ParameterError, checked, got
from visualheads.interventions.modes import (
    CLASSES,
    GENERATED,
    ChosenHeads,
    Intervention,
    Reference,
    position_classes,
    weights_identity,
)
from visualheads.interventions.text_model import (
    EMBEDS,
    PLACES,
    LanguageModelInputs,
    LayerEdit,
    cache_rows,
    forward,
    language_model_inputs,
    new_cache,
)
from visualheads.models import provenance
from visualheads.models.attention_call import AttentionCall
from visualheads.models.devices import fitting
from visualheads.models.progress import Wish, progress_bar
from visualheads.models.wrapper import answer_lengths
from visualheads.tracing.settings import MAX_NEW_TOKENS, coordinates_of, settings_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample


@dataclass(frozen=True, eq=False)
class Editor:
    """An intervention for the rows of a batch of unpadded prompts of one length; rows may have different heads.

    heads    which heads of each row are changed
    image    which tokens of the prompt are image tokens
    marked   which of them the mode works on, in each layer
    first    the first position that is changed
    """

    intervention: Intervention
    heads: Bool[Tensor, "row layer head"]
    image: Bool[Tensor, "row token"]
    marked: Bool[Tensor, "layer row token"]
    first: int = 0

    @property
    def reads_attention(self) -> bool:
        """Whether the mode needs the attention call."""
        return self.intervention.operation.attention

    def touches(self, layer: int) -> bool:
        """Whether any row has a changed head in this layer."""
        return bool(self.heads[:, layer].any())

    def rows(self, index: Int[Tensor, " row"]) -> Editor:
        """The same for some of the rows, or for repeated ones."""
        return replace(self, heads=self.heads[index], image=self.image[index], marked=self.marked[:, index])

    def edited(self, layer: int, inputs: Tensor, call: AttentionCall | None, start: int) -> Tensor:
        """The input of a layer's output projection (row, query, head · feature) with the chosen heads' parts changed.

        `start` is the position of the pass's first query; `call` may be None in modes that need no attention.
        """
        row, head = (places.to(inputs.device) for places in self.heads[:, layer].nonzero(as_tuple=True))
        reference = self.intervention.reference
        chosen = ChosenHeads(
            row, head, inputs.shape[1], self.image, self.marked[layer], call, start,
            max(0, self.first - start), self.intervention.bias or 0.0,
            None if reference is None else reference.means[:, layer],
        )  # fmt: skip
        if chosen.first >= chosen.queries:
            return inputs
        changed = inputs.clone(memory_format=torch.contiguous_format)
        parts = changed.view(*inputs.shape[:2], self.heads.shape[2], -1)
        parts[chosen.row, chosen.first :, chosen.head] = self.intervention.operation.change(chosen).to(inputs.dtype)
        return changed


def in_boxes(
    model: VisionLanguageModel, samples: Sequence[Sample], image: Bool[Tensor, "sample token"],
    boxes: Mapping[str, Box], sizes: Mapping[str, tuple[int, int]],
) -> Bool[Tensor, "sample token"]:  # fmt: skip
    """The image tokens that meet each sample's box; all of them where it has none. Raises BoxError where none does."""
    marked = image.clone()
    for row, sample in enumerate(samples):
        box = boxes.get(sample.id)
        if box is None:
            continue
        inside = model.token_map(sizes[sample.id]).in_box(box)
        if not inside.any():
            raise BoxError(
                f"sample {sample.id!r}: the model sees nothing of the box {box} (it was cropped away); "
                "give a box inside the part of the picture that the model sees."
            )
        marked[row, image[row]] = torch.from_numpy(inside).to(marked.device)
    return marked


def named(
    samples: Sequence[Sample], image: Bool[Tensor, "sample token"], tokens: Mapping[str, Sequence[int]]
) -> Bool[Tensor, "sample token"]:
    """The named image tokens of each sample. Raises ParameterError for others."""
    given = torch.zeros_like(image)
    for row, sample in enumerate(samples):
        places = image[row].nonzero().flatten()
        chosen = [int(one) for one in tokens.get(sample.id, ())]
        wrong = [one for one in chosen if not 0 <= one < len(places)]
        if wrong:
            raise ParameterError(
                got(f"sample {sample.id!r}: tokens", wrong[:5], f"image tokens from 0 to {len(places) - 1}")
            )
        given[row, places[chosen]] = True
    return given


FEWER = 0.75
"""Rows still generating, as a share of the batch, from which on the others are dropped: dropping copies the cache."""


def answers(
    model: VisionLanguageModel,
    logits: Float[Tensor, "row vocabulary"],
    cache: Any,
    prompts: LanguageModelInputs,
    samples: Sequence[int],
    editor: Editor | None,
    max_new_tokens: int,
) -> Int[Tensor, "row token"]:
    """Greedy tokens of each row, the first from `logits`; after a row's first end token, that token again.

    `cache` holds the prompts of the rows, row r being prompt samples[r] of `prompts`; it is used up.
    """
    end = torch.tensor(sorted(model.end_tokens), device=logits.device)
    tokens = logits.argmax(-1)
    said = tokens[:, None]
    running = torch.arange(len(tokens), device=tokens.device)
    owners = list(samples)
    for step in range(max_new_tokens - 1):
        going = ~torch.isin(said[running, -1], end)
        if not bool(going.any()):
            break
        if float(going.float().mean()) <= FEWER:
            kept = going.nonzero().flatten()
            running = running[kept]
            owners = [owners[index] for index in kept.tolist()]
            cache = cache_rows(cache, kept.tolist())
            editor = None if editor is None else editor.rows(kept.to(editor.heads.device))
        fresh = step_forward(model, said[running, -1], cache, prompts, owners, editor, step).argmax(-1)
        fresh = torch.where(torch.isin(said[running, -1], end), said[running, -1], fresh)
        column = said[:, -1].clone()
        column[running] = fresh
        said = torch.cat([said, column[:, None]], dim=1)
    return said


def step_forward(
    model: VisionLanguageModel,
    tokens: Int[Tensor, " row"],
    cache: Any,
    prompts: LanguageModelInputs,
    samples: Sequence[int],
    edit: LayerEdit | None,
    step: int,
) -> Float[Tensor, "row vocabulary"]:
    """Logits after the `step`-th generated token (from 0) of each row."""
    embeds = model.module.get_input_embeddings()(tokens[:, None])
    kwargs: dict[str, Any] = {EMBEDS: embeds}
    places = prompts.next_places(step)
    if places is not None:
        own = torch.tensor(list(samples), device=places.device)
        kwargs[PLACES] = places if places.shape[-2] == 1 else places.index_select(-2, own)
    return forward(model, kwargs, cache, edit, start=prompts.length + step).logits


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
    sums: dict[int, Tensor] = {}
    counts = torch.zeros(len(CLASSES), dtype=torch.long)
    with torch.no_grad():
        for sample in samples:
            with fitting(model, [sample]):
                counts += _add(model, sample, sums, max_new_tokens)
    total = torch.stack([sums[layer] for layer in range(model.shape.layers)], dim=1)
    means = (total / counts.clamp_min(1)[:, None, None, None]).float()
    return Reference(means, counts, weights_identity(model) | {"samples": provenance.hash_samples(samples)})


def as_reference(model: VisionLanguageModel, reference: Any) -> Reference | None:
    """A reference as it is, or made from a list of samples; None stays None."""
    if reference is None or isinstance(reference, Reference):
        return reference
    return mean_reference(model, reference)


def _add(model: VisionLanguageModel, sample: Sample, sums: dict[int, Tensor], max_new_tokens: int) -> Tensor:
    """Add what heads put out on a prompt and its answer to `sums`, (class, head, feature) by layer; count positions."""
    prompts, cache = language_model_inputs(model, model.encode([sample])), new_cache(model)
    classes = [position_classes(prompts.image.cpu())[0]]

    def look(layer: int, parts: Tensor) -> None:
        parts = parts.double().cpu()
        if layer not in sums:
            sums[layer] = torch.zeros(len(CLASSES), *parts.shape[1:], dtype=torch.double)
        sums[layer].index_add_(0, classes[-1], parts)

    watch = _Watch(model.shape.heads, look)
    said = forward(model, prompts.kwargs, cache, watch).logits.argmax(-1)[:, None]
    for step in range(max(1, max_new_tokens - 1)):
        classes.append(torch.tensor([GENERATED]))
        logits = step_forward(model, said[:, -1], cache, prompts, [0], watch, step)
        said = torch.cat([said, logits.argmax(-1)[:, None]], dim=1)
        if int(answer_lengths(said, model.end_tokens)[0]) < said.shape[1]:
            break
    return torch.bincount(torch.cat(classes), minlength=len(CLASSES))


@dataclass(frozen=True)
class _Watch:
    """Shows what the heads of every layer put out on a prompt, (query, head, feature), to `look`; changes nothing."""

    heads: int
    look: Callable[[int, Tensor], None]
    reads_attention: bool = False

    def touches(self, layer: int) -> bool:
        return layer >= 0

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        del call, start  # the protocol's
        self.look(layer, inputs[0].detach().unflatten(-1, (self.heads, -1)))
        return inputs


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


def _last_outputs(model: VisionLanguageModel, sample: Sample) -> Tensor:
    """Every head's output (layer, head, feature) at the last prompt token."""
    prompts = language_model_inputs(model, model.encode([sample]))
    parts: list[Tensor] = []
    watch = _Watch(model.shape.heads, lambda _layer, seen: parts.append(seen[-1].float().cpu()))
    forward(model, prompts.kwargs, new_cache(model), watch)
    return torch.stack(parts)
