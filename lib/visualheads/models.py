"""From a name, a folder or a module in memory to a model that can be traced."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from visualheads import checkpoints
from visualheads.adapters import Adapter, adapter_of
from visualheads.capture import attention_operation
from visualheads.catalog import Card
from visualheads.errors import CheckpointError, ParameterError, SampleError, UnsupportedModelError, got
from visualheads.geometry import TokenMap
from visualheads.provenance import hash_weights
from visualheads.sinks import find_sink_dimensions
from visualheads.validation import validate_capture

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

logger = logging.getLogger(__name__)

PLAIN_PROMPT = "USER: {image}\n{question} ASSISTANT:"
"""For processors without a chat template: the form of LLaVA-1.5."""


SINK_TEXT = "There is a picture. What is in the picture? How many of these are there?"
"""Any text will do: sink dimensions are the model's, and its first token is a sink in every text."""


class Shape(NamedTuple):
    """Decoder layers, query heads per layer, key-value heads per layer."""

    layers: int
    heads: int
    kv_heads: int


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """A vision-language model in memory, wrapped for tracing. Made by `load` and `wrap`, not directly.

    name        how results call it
    module      the transformers module, in evaluation mode
    processor   its processor: pictures and text → model inputs
    adapter     where this class keeps its layers, and how its image tokens lie
    card        the catalogue card, None for a model that is not catalogued
    identity    what was loaded: checkpoint, revision, hash of the weights
    """

    name: str
    module: Any
    processor: Any
    adapter: Adapter
    card: Card | None = None
    identity: dict[str, str] = field(default_factory=dict)
    _maps: dict[tuple[int, int], TokenMap] = field(default_factory=dict, repr=False)

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
        """Each layer's attention operation (see `visualheads.capture`), found once."""
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
        ids = self.tokenizer(SINK_TEXT, return_tensors="pt")["input_ids"].to(self.device)
        with torch.no_grad():
            states = self.module(input_ids=ids, output_hidden_states=True, logits_to_keep=1).hidden_states
        between = states[len(states) // 2 : -1]  # the first states have no sinks yet, the last is normed
        return find_sink_dimensions(torch.stack([state[0].float().cpu() for state in between]))

    def token_map(self, image_size: tuple[int, int]) -> TokenMap:
        """Where each image token of a picture of `image_size` (width, height in pixels) lies in it."""
        size = (int(image_size[0]), int(image_size[1]))
        if size not in self._maps:
            self._maps[size] = self.adapter.token_map(self.config, self.processor, size)
        return self._maps[size]

    def prompt(self, question: str) -> str:
        """The whole prompt text around picture and question: the processor's chat template, else the card's, else plain.

        Raises SampleError for a question that contains the image token: it would count as a second picture.
        """
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        placeholder = self.adapter.placeholder(self.processor)
        for marker in {token, placeholder}:
            if marker in question:
                raise SampleError(
                    f"the question {question!r} contains the image token {marker!r}; remove it: the prompt adds it."
                )
        if not (getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template):
            form = self.card.prompt.replace("<image>", "{image}") if self.card and self.card.prompt else PLAIN_PROMPT
            return form.format(image=placeholder, question=question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def encode(self, samples: Sequence[Sample]) -> Any:
        """Model inputs of a batch on the CPU: a left-padded BatchFeature with input_ids, attention_mask, pixels …

        Opens the pictures; raises ImageError or SampleError naming the sample.
        """
        prompts = [self.prompt(sample.question) for sample in samples]
        pictures: list[Any] = [sample.open() for sample in samples]
        if self.adapter.nested:
            pictures = [[picture] for picture in pictures]
        start = self.tokenizer.bos_token
        encoding = self.processor(
            text=prompts,
            images=pictures,
            padding=True,
            padding_side="left",
            # templates that write the begin token themselves must not get a second one
            add_special_tokens=not (start and prompts[0].startswith(start)),
            return_tensors="pt",
        )
        encoding.pop("labels", None)  # PaliGemma's processor adds them for training
        return encoding

    def image_positions(self, encoding: Any) -> list[Int[Tensor, "image_token"]]:
        """Positions of the image tokens in each prompt of a batch, in sequence order (padding included in the count)."""
        found = encoding["input_ids"] == self.image_token_id
        return [row.nonzero().flatten() for row in found]


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    validate: bool = True,
) -> VisionLanguageModel:
    """Load a catalogue name, a local folder, or a hub id.

    device      default: a GPU if there is one, else the CPU; "auto" spreads the layers over all devices
    dtype       default: float32 on the CPU, the checkpoint's own on a GPU
    revision    of a hub id; default: the card's, else the newest
    validate    check that attention can be read and written before returning the model

    Any folder that AutoModelForImageTextToText and AutoProcessor accept will do, if its class has an adapter. Weights
    are read from safetensors only, and no code of the checkpoint is run. Raises UnknownModelError, CheckpointError or
    UnsupportedModelError.
    """
    source = checkpoints.resolve(name)
    folder = source.folder
    revision = revision or (source.card.revision if source.card and folder is None else None) or None
    config = _config(source, revision)
    placed = _device(device)
    kind = _dtype(dtype, placed)
    adapter = adapter_of((config.architectures or [type(config).__name__])[0])
    processor = _from_pretrained("AutoProcessor", source, revision=revision)
    module, info = _from_pretrained(
        "AutoModelForImageTextToText",
        source,
        revision=revision,
        dtype=kind,
        use_safetensors=True,
        output_loading_info=True,
        attn_implementation="eager" if adapter.softcap(config) else "sdpa",
        **({"device_map": "auto"} if placed == "auto" else {}),
    )
    if info["missing_keys"] or info.get("mismatched_keys"):
        wrong = sorted(str(key) for key in (*info["missing_keys"], *info.get("mismatched_keys", ())))
        raise CheckpointError(
            f"{source.location} lacks {len(wrong)} weights ({', '.join(wrong[:3])} …) or has them in another shape; "
            "the checkpoint is incomplete, fetch it again."
        )
    if placed != "auto":
        module.to(placed)
    commit = getattr(module.config, "_commit_hash", None)
    identity = {
        "checkpoint": source.name if folder else source.location,
        "revision": revision or commit or "",
        "weights": hash_weights(folder) if folder else f"commit:{commit or ''}",
    }
    return _wrapped(module, processor, source.name, source.card, identity, validate)


def wrap(
    module: Any, processor: Any, name: str | None = None, card: Card | None = None, validate: bool = True
) -> VisionLanguageModel:
    """Wrap an already built transformers module of a supported class, with random or trained weights.

    The module is put into evaluation mode. Raises UnsupportedModelError for a class without an adapter, or (with
    `validate`) whose attention cannot be read and written.
    """
    identity = {"checkpoint": name or type(module).__name__, "revision": "", "weights": weights_hash(module)}
    return _wrapped(module, processor, name or type(module).__name__, card, identity, validate)


def weights_hash(module: Any) -> str:
    """A quick hash of a module's weights: shape, sum and first values of every parameter."""
    digest = hashlib.sha256()
    for key, weight in module.state_dict().items():
        head = weight.detach().flatten()[:64].float().cpu()
        digest.update(f"{key} {tuple(weight.shape)} {weight.detach().double().sum().item()!r}".encode())
        digest.update(head.numpy().tobytes())
    return f"sampled-sha256:{digest.hexdigest()}"


def _wrapped(
    module: Any, processor: Any, name: str, card: Card | None, identity: dict[str, str], validate: bool
) -> VisionLanguageModel:
    adapter = adapter_of(type(module).__name__)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if adapter.softcap(module.config) and module.config.get_text_config()._attn_implementation == "sdpa":
        raise UnsupportedModelError(
            f"{type(module).__name__} caps its attention scores, which SDPA cannot; build it with "
            "attn_implementation='eager'."
        )
    module.eval()
    model = VisionLanguageModel(name, module, processor, adapter, card, identity)
    if validate:
        validate_capture(model)
    return model


def _device(device: str | torch.device | None) -> str | torch.device:
    if device == "auto":
        return "auto"
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _dtype(dtype: str | torch.dtype | None, device: str | torch.device) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        # half precision is slow, and partly missing, on CPUs
        return torch.float32 if device != "auto" and torch.device(device).type == "cpu" else "auto"
    found = getattr(torch, dtype, None)
    if dtype != "auto" and not isinstance(found, torch.dtype):
        raise ParameterError(got("dtype", dtype, ["float32", "bfloat16", "float16", "auto"]))
    return found or "auto"


def _config(source: checkpoints.Source, revision: str | None) -> Any:
    if source.folder is not None:
        checkpoints.check_folder(source.folder)
    config = _from_pretrained("AutoConfig", source, revision=revision)
    checkpoints.check_class(config.to_dict() | {"architectures": config.architectures}, source.location)
    return config


def _from_pretrained(kind: str, source: checkpoints.Source, **settings: Any) -> Any:
    import transformers

    if source.folder is not None:
        settings = {**settings, "local_files_only": True}
    settings = {key: value for key, value in settings.items() if value is not None}
    place = str(Path(source.location)) if source.folder else source.location
    try:
        return getattr(transformers, kind).from_pretrained(place, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise CheckpointError(
            f"{source.location} cannot be loaded by {kind} ({type(error).__name__}: {str(error).strip()[:300]}). "
            "Check the name, the connection or HF_HOME cache, and that the folder holds config, safetensors, tokenizer "
            "and processor files."
        ) from error
