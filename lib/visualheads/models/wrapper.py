"""A vision-language model in memory: its parts, prompts, inputs and geometry, wrapped for tracing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from visualheads.cards import Card
from visualheads.errors import ParameterError, UnsupportedModelError, checked_whole, got
from visualheads.models.adapters import Adapter
from visualheads.models.attention_call import attention_operation
from visualheads.models.prompting import ONE_AT_A_TIME, Prompts
from visualheads.models.sinks import find_sink_dimensions
from visualheads.models.token_map import TokenMap

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

SINK_TEXT = "There is a picture. What is in the picture? How many of these are there?"
"""Any text will do: sink dimensions are the model's, and its first token is a sink in every text."""


class Shape(NamedTuple):
    """Decoder layers, query heads per layer, key-value heads per layer."""

    layers: int
    heads: int
    kv_heads: int


@dataclass(frozen=True, eq=False, repr=False)
class VisionLanguageModel:
    """A vision-language model in memory, wrapped for tracing. Made by `load` and `wrap`, not directly.

    Attributes
    ----------
    name : str
        How results call it.
    module : transformers.PreTrainedModel
        In evaluation mode.
    prompts : Prompts
        Its processor, and the form of its prompts: pictures and questions → model inputs.
    card : Card or None
        The catalogue card; None for a model that is not catalogued.
    identity : dict of str
        What was loaded: checkpoint, revision, hashes of weights, processor and form of the prompt.
    """

    name: str
    module: Any
    prompts: Prompts
    card: Card | None = None
    identity: dict[str, str] = field(default_factory=dict)
    _maps: dict[tuple[int, int], TokenMap] = field(default_factory=dict, repr=False)

    @property
    def processor(self) -> Any:
        """The processor: pictures and text → model inputs."""
        return self.prompts.processor

    @property
    def adapter(self) -> Adapter:
        """Where this class keeps its layers, and how its image tokens lie."""
        return self.prompts.adapter

    def __repr__(self) -> str:
        layers, heads, kv_heads = self.shape
        return (
            f"VisionLanguageModel({self.name!r}, {type(self.module).__name__}, {layers} layers × {heads} heads "
            f"({kv_heads} key-value), {self.parameters:.3g} billion parameters, {self.dtype}, {self.device})"
        ).replace("torch.", "")

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.module.config

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, padding on the left."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the inputs go (with several devices, the first)."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype. Statistics are float32 under any."""
        return self.module.dtype

    @property
    def image_token_id(self) -> int:
        """The id that stands for one image token in a prompt."""
        return int(self.config.image_token_id)

    @cached_property
    def shape(self) -> Shape:
        """(layers, heads, kv_heads) from the text config; heads are query heads."""
        text = self.config.get_text_config()
        heads = int(text.num_attention_heads)
        return Shape(int(text.num_hidden_layers), heads, int(getattr(text, "num_key_value_heads", None) or heads))

    @cached_property
    def parameters(self) -> float:
        """Billions of parameters: the card's for real checkpoints, else counted."""
        if self.card and self.card.parameters and not self.card.miniature:
            return self.card.parameters
        return sum(weight.numel() for weight in self.module.parameters()) / 1e9

    @cached_property
    def lm(self) -> Any:
        """The nnsight model around `module`. One wrapped model per thread."""
        from nnsight.modeling.transformers import TransformersModel

        return TransformersModel(
            self.module,
            processor=self.processor,
            tokenizer=self.tokenizer,
            image_processor=self.processor.image_processor,
            task="image-text-to-text",
        )

    @cached_property
    def layers(self) -> tuple[Any, ...]:
        """The decoder layers as nnsight envoys. Raises UnsupportedModelError where the class has changed its layout."""
        place = self.lm
        for name in self.adapter.layers.split("."):
            place = getattr(place, name, None)
            if place is None:
                raise UnsupportedModelError(
                    f"{type(self.module).__name__} has no {self.adapter.layers!r} in this version of transformers; "
                    "install the tested version (constraints.txt) or change its adapter."
                )
        layers = tuple(place[index] for index in range(len(place._module)))
        if len(layers) != self.shape.layers:
            raise UnsupportedModelError(
                f"{type(self.module).__name__}: {len(layers)} layers at {self.adapter.layers!r}, "
                f"{self.shape.layers} in its config; change its adapter."
            )
        return layers

    @cached_property
    def attention(self) -> tuple[Any, ...]:
        """Each layer's attention operation (see `visualheads.models.attention_call`), found once."""
        return tuple(attention_operation(layer.self_attn) for layer in self.layers)

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer: the generation config's and the tokenizer's."""
        found: set[int] = set()
        for ids in (getattr(self.module.generation_config, "eos_token_id", None), self.tokenizer.eos_token_id):
            found.update([ids] if isinstance(ids, int) else ids or [])
        return frozenset(int(index) for index in found)

    @cached_property
    def sink_dimensions(self) -> tuple[int, ...]:
        """Dimensions of the residual stream in which sink tokens are massive, found from a short text; often none.

        The states between the layers of the second half of a text prompt's pass are searched (see `sinks`).
        """
        with ONE_AT_A_TIME:
            ids = self.tokenizer(SINK_TEXT, return_tensors="pt")["input_ids"].to(self.device)
        with torch.no_grad():
            states = self.module(input_ids=ids, output_hidden_states=True, logits_to_keep=1).hidden_states
        between = states[len(states) // 2 : -1]  # the first states have no sinks yet, the last is normed
        if not between:
            return ()
        return find_sink_dimensions(torch.stack([state[0].float().cpu() for state in between]))

    def token_map(self, image_size: tuple[int, int]) -> TokenMap:
        """Where each image token of a picture lies in it.

        Parameters
        ----------
        image_size : tuple of int
            Width and height of the upright picture in pixels.

        Returns
        -------
        TokenMap
            One entry per image token, in sequence order.

        Raises
        ------
        UnsupportedModelError
            Where the processor prepares pictures in a way that the adapter does not know.
        """
        if not isinstance(image_size, Sequence) or len(image_size) != 2:
            raise ParameterError(got("image_size", image_size, "(width, height) in pixels"))
        width, height = (checked_whole("image_size", edge) for edge in image_size)
        size = (width, height)
        if size not in self._maps:
            self._maps[size] = self.adapter.token_map(self.config, self.processor, size)
        return self._maps[size]

    def prompt(self, question: str, answer_prefix: str = "") -> str:
        """The whole prompt of a question, as the model gets it (see `Prompts.prompt`)."""
        return self.prompts.prompt(question, answer_prefix)

    def encode(self, samples: Sequence[Sample]) -> Any:
        """Model inputs of a batch on the CPU: a left-padded BatchFeature (see `Prompts.encode`)."""
        return self.prompts.encode(samples)

    def image_positions(self, encoding: Any) -> list[Int[Tensor, " image_token"]]:
        """Positions of the image tokens in each prompt of a batch, in sequence order (padding counts).

        Parameters
        ----------
        encoding : BatchFeature
            From `encode`; `input_ids` are (batch, token).

        Returns
        -------
        list of Tensor
            One (image_token,) of indices per prompt.
        """
        found = encoding["input_ids"] == self.image_token_id
        return [row.nonzero().flatten() for row in found]
