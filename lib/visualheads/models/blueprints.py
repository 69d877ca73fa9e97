"""A model's real architecture without its weights: configuration and picture preparation, from a card or a folder.

The paper's nine models and their relatives are described by `blueprints.yml`, so nothing is fetched for them. Their
modules are built on torch's meta device: shapes without memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from visualheads.cards import Card
from visualheads.errors import CheckpointError, UnknownModelError
from visualheads.models.adapters import Adapter, adapter_of

BLUEPRINTS = Path(__file__).with_name("blueprints.yml")
PAD_TO_SQUARE = "pad to square"


@dataclass(frozen=True)
class Blueprint:
    """What is known of a model before its weights are read.

    config      the transformers configuration
    processor   the processor; without a tokenizer where the configuration was written from `blueprints.yml`
    origin      where both come from, as a reader is told
    """

    config: Any
    processor: Any
    origin: str

    @property
    def class_name(self) -> str:
        """The transformers class."""
        return str(self.config.architectures[0])

    @property
    def adapter(self) -> Adapter:
        """The class's adapter."""
        return adapter_of(self.class_name)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, query heads, key-value heads)."""
        text = self.config.get_text_config()
        heads = int(text.num_attention_heads)
        return int(text.num_hidden_layers), heads, int(getattr(text, "num_key_value_heads", None) or heads)

    @cached_property
    def module(self) -> Any:
        """The module on the meta device: every shape, no memory."""
        import torch
        import transformers

        with torch.device("meta"):
            return getattr(transformers, self.class_name)._from_config(self.config)

    @cached_property
    def parameters(self) -> int:
        """How many parameters the module has."""
        return sum(weight.numel() for weight in self.module.parameters())

    def image_tokens(self, image_size: tuple[int, int]) -> int:
        """Image tokens of a picture of this (width, height)."""
        return len(self.adapter.token_map(self.config, self.processor, image_size))

    def grid_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the whole-picture grid."""
        return self.adapter.token_map(self.config, self.processor, image_size).grid_shape


def has_blueprint(card: Card) -> bool:
    """Whether `blueprints.yml` describes this card's language model and recipe (miniatures are files: read those)."""
    known = _known()
    return not card.miniature and card.llm in known["text"] and card.recipe in known["recipe"]


def of_card(card: Card) -> Blueprint:
    """The real architecture of a catalogued model, offline. Raises UnknownModelError where it is not described.

    Of the vocabulary only `<image>` is added: how many more tokens a checkpoint has is not needed for any shape here.
    """
    import transformers

    if not has_blueprint(card):
        raise UnknownModelError(
            f"the configuration of {card.name!r} is not written down here; known: language models "
            f"{', '.join(_known()['text'])} in the recipes {', '.join(_known()['recipe'])}."
        )
    known = _known()
    text = dict(known["text"][card.llm])
    vocabulary = text.pop("vocabulary")
    config = getattr(transformers, card.class_name).config_class(
        text_config={**text, "vocab_size": vocabulary + 1, "pad_token_id": None},
        vision_config={"model_type": "clip_vision_model", **known["vision"]},
        image_token_index=vocabulary,
        **known["recipe"][card.recipe],
    )
    config.architectures = [card.class_name]
    return Blueprint(config, SimpleNamespace(image_processor=_pictures(card, config)), "blueprints.yml")


def of_folder(folder: Path, origin: str = "") -> Blueprint:
    """The architecture of a checkpoint folder, from its own configuration files. Raises CheckpointError."""
    return _read(str(folder), origin or "its own configuration", local_files_only=True)


def of_hub(hub_id: str, revision: str | None = None) -> Blueprint:
    """The architecture of a checkpoint on the hub: its small configuration files are fetched, its weights are not.

    Raises CheckpointError where they cannot be had.
    """
    return _read(hub_id, f"{hub_id}, configuration files only", revision=revision)


def _read(place: str, origin: str, **settings: Any) -> Blueprint:
    from transformers import AutoConfig, AutoProcessor

    given = {name: value for name, value in settings.items() if value is not None}
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **given)
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False, **given)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise CheckpointError(
            f"the configuration of {place} cannot be read ({type(error).__name__}: {str(error).strip()[:200]}); check "
            "the name, the connection or HF_HOME cache."
        ) from error
    return Blueprint(config, processor, origin)


def _pictures(card: Card, config: Any) -> Any:
    """The image processor; pads to a square only where no checkpoint in transformers' format crops instead."""
    import transformers

    side = config.vision_config.image_size
    settings: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if card.recipe == "1.6":
        return transformers.LlavaNextImageProcessorPil(**settings, image_grid_pinpoints=config.image_grid_pinpoints)
    if card.preparation == PAD_TO_SQUARE and not card.hub_id:
        return transformers.LlavaImageProcessorPil(**settings, do_pad=True)
    return transformers.CLIPImageProcessorPil(**settings)


@cache
def _known() -> dict[str, Any]:
    return yaml.safe_load(BLUEPRINTS.read_text(encoding="utf-8"))
