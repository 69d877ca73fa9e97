"""A vision-language model in memory: its parts, prompts, inputs and geometry, wrapped for tracing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from visualheads.cards import Card
from visualheads.errors import ParameterError, UnsupportedModelError, checked_whole, got
from visualheads.models.adapters import Adapter
from visualheads.models.attention_call import attention_operation, find_sink_dimensions
from visualheads.models.prompting import ONE_AT_A_TIME, Prompts
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

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The shape that a model's config tells."""
        text = config.get_text_config()
        heads = int(text.num_attention_heads)
        return cls(int(text.num_hidden_layers), heads, int(getattr(text, "num_key_value_heads", None) or heads))


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
        return Shape.of(self.config)

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


class Ended(StoppingCriteria):
    """Stops when every answer of the batch has met an end token and at least `minimum` tokens were generated.

    The end tokens are never hidden from the scores, as `min_new_tokens` would: they may be an answer's first token.
    """

    def __init__(self, end_tokens: Iterable[int], prompt: int, minimum: int) -> None:
        self.end_tokens = frozenset(end_tokens)
        self.prompt = prompt
        self.minimum = minimum

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Any, **_: Any) -> Bool[Tensor, " batch"]:
        del scores  # transformers' signature
        answer = input_ids[:, self.prompt :]
        stop = False
        if answer.shape[1] >= self.minimum:
            stop = bool(torch.isin(answer, _ids(self.end_tokens, answer)).any(dim=1).all())
        return torch.full((len(input_ids),), stop, device=input_ids.device)


@contextmanager
def greedy(module: Any, pad_token_id: int | None) -> Iterator[None]:
    """Generate greedily, without end token or penalties: a checkpoint's own settings may sample or penalise."""
    before = module.generation_config
    module.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad_token_id)
    try:
        yield
    finally:
        module.generation_config = before


def answer_lengths(answers: Int[Tensor, "batch token"], end_tokens: Iterable[int]) -> Int[Tensor, " batch"]:
    """Number of tokens of each answer before its first end token; all of them where there is none."""
    ended = torch.isin(answers, _ids(end_tokens, answers))
    never = torch.ones_like(ended[:, :1])
    return torch.cat([ended, never], dim=1).int().argmax(dim=1)


def decoded(tokenizer: Any, answers: Int[Tensor, "batch token"], end_tokens: Iterable[int]) -> list[str]:
    """Each answer's text up to its first end token, without special tokens and surrounding blanks."""
    lengths = answer_lengths(answers, end_tokens).tolist()
    ids = [row[:length].tolist() for row, length in zip(answers, lengths, strict=True)]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]


def first_tokens(tokenizer: Any, answer: str) -> frozenset[int]:
    """Ids that may begin this answer: its first token with and without a leading blank, tokens of blanks left out.

    Tokenizers write a word at the start of a turn with or without a blank; which one a model uses is its training's.
    """
    found: set[int] = set()
    for form in (answer, f" {answer}"):
        with ONE_AT_A_TIME:
            ids = tokenizer.encode(form, add_special_tokens=False)
        found.update(next(([index] for index in ids if tokenizer.decode([index]).strip()), []))
    unknown = tokenizer.unk_token_id
    return frozenset(found - {unknown})


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(sorted(tokens), dtype=like.dtype, device=like.device)


class Margins:
    """Margin of each sample: logit of its right answer minus the best other answer's, at the answer's first token.

    Of several accepted answers (`Sample.answers`) the best counts.

    Letters: the others are the sample's other letters. Free form: the other answers of the samples given here, task by
    task, not all that the task could have; so margins can be compared only between runs over the same list of samples.
    Answers that begin with the same token as the right one are left out. NaN where nothing is left, as in a list whose
    samples all have one answer.
    """

    def __init__(self, tokenizer: Any, samples: Sequence[Sample]) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, frozenset[int]] = {}
        self.answers: dict[str, set[str]] = {}
        for sample in samples:
            if not sample.choices and sample.answer:
                self.answers.setdefault(sample.task, set()).add(sample.answer)

    def tokens(self, answer: str) -> frozenset[int]:
        """`first_tokens` of an answer, remembered."""
        if answer not in self.known:
            self.known[answer] = first_tokens(self.tokenizer, answer)
        return self.known[answer]

    def sides(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Token ids that begin the right answer, and those that begin another; empty where there is nothing to tell."""
        if not sample.answer:
            return [], []
        if sample.choices:
            others = {chr(ord("A") + index) for index in range(len(sample.choices))} - {sample.answer}
        else:
            others = self.answers.get(sample.task, set()) - {sample.answer}
        right = frozenset().union(*(self.tokens(answer) for answer in (sample.answer, *sample.answers)))
        wrong = frozenset().union(*(self.tokens(other) for other in others)) - right
        return (sorted(right), sorted(wrong)) if right and wrong else ([], [])

    def __call__(self, sample: Sample, logits: Float[Tensor, " vocabulary"]) -> float:
        """The margin in logits; NaN without an answer."""
        right, wrong = self.sides(sample)
        return float(logits[right].max() - logits[wrong].max()) if right else float("nan")
