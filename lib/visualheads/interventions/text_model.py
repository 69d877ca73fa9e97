"""The language model alone, with and without changed heads: from its own inputs on, so that pictures are seen once.

A prompt is run up to the language model (`language_model_inputs`): what it is called with – embeddings with the picture
in them, positions, masks – is all that later passes need. `forward` runs the language model on that through nnsight:
with an `Editor` changing heads, from a layer on whose input is known, on top of a cache of earlier positions.
`check_alone` makes sure that the language model, run alone from its own inputs, answers as the whole model does.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.errors import UnsupportedModelError
from visualheads.models.attention_call import read, sink_tokens

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel

EMBEDS, MASK, PLACES = "inputs_embeds", "attention_mask", "position_ids"
DEEP_PLACES, DEEP = "visual_pos_masks", "deepstack_visual_embeds"
DROPPED = frozenset({"past_key_values", "use_cache", "cache_position", "logits_to_keep", "return_dict"})
"""Arguments of a language model that `forward` sets itself, or that say nothing here."""


@dataclass(frozen=True)
class LanguageModelInputs:
    """What the language model is called with: prompts of one length, unpadded, pictures already in them.

    ids      (sample, token)
    image    which of them are image tokens
    kwargs   what the language model is called with
    """

    ids: Int[Tensor, "sample token"]
    image: Bool[Tensor, "sample token"]
    kwargs: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return self.ids.shape[1]

    @property
    def after_image(self) -> int:
        """The first position after the last image token of any of the prompts."""
        return int(self.image.any(0).nonzero().max()) + 1

    def rows(self, index: Sequence[int]) -> LanguageModelInputs:
        """Some of the prompts, or repeated ones."""
        chosen = torch.tensor(index, device=self.ids.device)
        kwargs = {name: _rows(name, value, chosen, self.kwargs) for name, value in self.kwargs.items()}
        return LanguageModelInputs(self.ids[chosen], self.image[chosen], kwargs)

    def part(self, start: int, stop: int) -> dict[str, Any]:
        """The arguments for the positions from `start` to before `stop`, to be run on a cache of what is before."""
        return {name: _part(name, value, start, stop, self.kwargs) for name, value in self.kwargs.items()}

    def next_places(self, step: int) -> Tensor | None:
        """Position ids of the `step`-th generated token (from 0); None where the model counts them itself."""
        places = self.kwargs.get(PLACES)
        return None if places is None else places[..., -1:] + 1 + step

    def image_sees_question(self) -> bool:
        """Whether an image token attends to what comes after the image: true of wholly bidirectional prompts."""
        mask = self.kwargs.get(MASK)
        masks = list(mask.values()) if isinstance(mask, Mapping) else [mask]
        cut = self.after_image
        for one in masks:
            if one is not None and one.ndim == 4:
                later = one[..., :cut, cut : self.length]
                seen = later if later.dtype == torch.bool else later > torch.finfo(later.dtype).min / 2
                if bool(seen.any()):
                    return True
        return False


class LayerEdit(Protocol):
    """What `forward` lets change (or look at) the input of a layer's output projection."""

    @property
    def reads_attention(self) -> bool: ...

    def touches(self, layer: int) -> bool: ...

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor: ...


@dataclass(frozen=True)
class Passed:
    """What a pass gave: raw logits at its last position, kept layer outputs, sink marks (layer, row, query)."""

    logits: Float[Tensor, "row vocabulary"]
    outputs: dict[int, Float[Tensor, "row query hidden"]]
    sinks: Bool[Tensor, "layer row query"] | None


def text_part(model: VisionLanguageModel) -> Any:
    """The nnsight envoy of the language model inside `model`, the one that holds the decoder layers."""
    place = model.lm
    for name in model.adapter.layers.split(".")[:-1]:
        place = getattr(place, name)
    return place


def language_model_inputs(model: VisionLanguageModel, encoding: Any) -> LanguageModelInputs:
    """Run one encoded prompt (no padding) up to the language model, picture included, and keep what arrives there."""
    import nnsight

    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    text = text_part(model)
    with torch.no_grad(), model.lm.trace(**inputs, logits_to_keep=1) as tracer:
        arrived = nnsight.save([])
        arrived.append(text.inputs)
        tracer.stop()
    args, kwargs = arrived[0]
    if args or EMBEDS not in kwargs:
        raise UnsupportedModelError(
            f"{type(model.module).__name__} calls its language model in another form than by inputs_embeds; "
            "install the tested version of transformers (constraints.txt)."
        )
    kept = {name: value for name, value in kwargs.items() if value is not None and name not in DROPPED}
    if isinstance(kept.get(MASK), Tensor) and kept[MASK].ndim == 2:
        del kept[MASK]  # nothing is padded
    ids = inputs["input_ids"]
    return LanguageModelInputs(ids, ids == model.image_token_id, kept)


def joined(parts: Sequence[LanguageModelInputs]) -> LanguageModelInputs:
    """Prompts of the same length as one batch."""
    kwargs = {name: _joined(name, [one.kwargs[name] for one in parts]) for name in parts[0].kwargs}
    ids, image = (torch.cat([getattr(one, name) for one in parts]) for name in ("ids", "image"))
    return LanguageModelInputs(ids, image, kwargs)


def new_cache(model: VisionLanguageModel) -> Any:
    """An empty key-value cache of the language model's form."""
    from transformers import DynamicCache

    return DynamicCache(config=text_part(model)._module.config)


def cache_rows(cache: Any, index: Sequence[int], layers: Collection[int] | None = None) -> Any:
    """A cache of chosen (or repeated) rows, leaving the given one as it is; other layers than `layers` are shared.

    Rows that repeat a single one are views: nothing is copied until the cache grows.
    """
    made = copy.copy(cache)
    made.layers = [
        copy.copy(layer) if layers is not None and place not in layers else _layer_rows(layer, index)
        for place, layer in enumerate(cache.layers)
    ]
    return made


def select(values: Tensor, index: Sequence[int]) -> Tensor:
    """Rows of a tensor; a single one repeated is a view."""
    if len(set(index)) == 1:
        return values[index[0] : index[0] + 1].expand(len(index), *values.shape[1:])
    return values[torch.tensor(list(index), device=values.device)]


def forward(
    model: VisionLanguageModel,
    kwargs: Mapping[str, Any],
    cache: Any,
    edit: LayerEdit | None = None,
    *,
    start: int = 0,
    entry: tuple[int, Tensor] | None = None,
    keep: Collection[int] = (),
    sinks: Tensor | None = None,
) -> Passed:
    """One pass of the language model over `kwargs`, whose first position is `start`, on top of `cache` (extended).

    edit    changes the input of layers' output projections
    entry   (layer, output of the layer below it): begin there; the layers below are not run
    keep    layers whose outputs are wanted
    sinks   which positions are image tokens: also mark the tokens that are visual sinks at each layer's input
    """
    import nnsight

    text, layers, operations = text_part(model), model.layers, model.attention
    dimensions = model.sink_dimensions if sinks is not None else ()
    kinds = () if sinks is None else (sinks, ~sinks)
    begin, below = entry if entry is not None else (0, None)
    touched = [layer for layer in range(len(layers)) if edit is not None and edit.touches(layer)]
    reads = edit is not None and edit.reads_attention
    with text.trace(**kwargs, past_key_values=cache, use_cache=True):
        kept = nnsight.save({})
        marks = nnsight.save([])
        for index in range(len(layers)):
            layer = layers[index]
            if index < begin:
                layer.skip(below.clone())  # pyright: ignore[reportOptionalMemberAccess]
                continue
            if dimensions:
                marks.append(sink_tokens(layer.input, dimensions, *kinds))
            if index in touched:
                call = read(operations[index]) if reads else None
                projection = layer.self_attn.o_proj
                before = projection.input
                after = edit.edited(index, before, call, start)  # pyright: ignore[reportOptionalMemberAccess]
                if after is not before:
                    projection.input = after
            if index in keep:
                kept[index] = layer.output.clone()
        last = text.output.save()
    hidden = last.last_hidden_state[:, -1]
    found = torch.stack([mark.to(hidden.device) for mark in marks]) if dimensions else None
    return Passed(logits_of(model, hidden), dict(kept), found)


def logits_of(model: VisionLanguageModel, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocabulary"]:
    """Raw logits of normed hidden states, as the whole model gives them."""
    # in a model in several places accelerate brings hidden states to the head: its weights may be on no device yet
    logits = model.module.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def _layer_rows(layer: Any, index: Sequence[int]) -> Any:
    made = copy.copy(layer)
    if layer.is_initialized and layer.keys.numel():
        made.keys, made.values = select(layer.keys, index), select(layer.values, index)
    return made


def _rows(name: str, value: Any, index: Tensor, kwargs: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(name, one, index, kwargs) for key, one in value.items()}
    if name == DEEP:
        counts = kwargs[DEEP_PLACES].sum(1).tolist()
        pieces = [one.split(counts) for one in value]
        return [torch.cat([own[i] for i in index.tolist()]) for own in pieces]
    if not isinstance(value, Tensor):
        return value
    axis = value.ndim - 2 if name == PLACES else 0
    shared = value.shape[axis] == 1 and name in (PLACES, MASK)  # one for all rows
    return value if shared else value.index_select(axis, index.to(value.device))


def _part(name: str, value: Any, start: int, stop: int, kwargs: Mapping[str, Any]) -> Any:
    whole = slice(start, stop)
    if name in (EMBEDS, DEEP_PLACES):
        return value[:, whole]
    if name == PLACES:
        return value[..., whole]
    if name == DEEP:
        # the embeddings of the image tokens in this part; none of a sample's lie both before and in it
        chosen = torch.zeros_like(kwargs[DEEP_PLACES])
        chosen[:, whole] = kwargs[DEEP_PLACES][:, whole]
        return [one[chosen[kwargs[DEEP_PLACES]]] for one in value]
    if isinstance(value, Mapping):
        return {key: _part(name, one, start, stop, kwargs) for key, one in value.items()}
    if name == MASK:
        return value[..., whole, :stop]
    return value


def _joined(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _joined(name, [value[key] for value in values]) for key in first}
    if name == DEEP:
        return [torch.cat(parts) for parts in zip(*values, strict=True)]
    if not isinstance(first, Tensor):
        return first
    return torch.cat(values, dim=first.ndim - 2 if name == PLACES else 0)


SAME = 1e-3
"""How far the logits of the language model alone may lie from the whole model's, relative to their largest."""

_CHECKED: WeakSet[VisionLanguageModel] = WeakSet()
"""Models whose language model was found to give the whole model's logits when run alone."""


def check_alone(model: VisionLanguageModel, encoding: Any, prompts: LanguageModelInputs) -> None:
    """Once per model: the language model alone gives the whole model's logits."""
    if model in _CHECKED:
        return
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    with torch.no_grad():
        whole = model.module(**inputs, logits_to_keep=1).logits[:, -1].float()
        # of a model in several places, the whole gives its logits where its inputs go, the head where it is
        alone = forward(model, prompts.kwargs, new_cache(model)).logits.float().to(whole.device)
    apart = float((whole - alone).abs().max() / whole.abs().max().clamp_min(1e-9))
    allowed = SAME if model.dtype == torch.float32 else 50 * SAME
    if not apart <= allowed:
        raise UnsupportedModelError(
            f"{type(model.module).__name__}: the language model alone gives other logits than the whole model (by "
            f"{apart:.1e} of the largest), so interventions would be wrong; install the tested version of transformers."
        )
    _CHECKED.add(model)
