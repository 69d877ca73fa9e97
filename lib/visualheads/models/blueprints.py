"""A model's real architecture without its weights: configuration and picture preparation, from a card or a folder.

The paper's nine models and their relatives are described by `blueprints.yml`, so nothing is fetched for them. Their
modules are built on torch's meta device: shapes without memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from visualheads.cards import Card
from visualheads.errors import ParameterError, UnknownModelError, checked_path, got
from visualheads.models import checkpoints, checks
from visualheads.models.adapters import Adapter, adapter_of
from visualheads.models.checkpoints import Source, check_config
from visualheads.models.checks import check_headers, check_prompts
from visualheads.models.processors import lacking, load_processor, original_pictures, readable
from visualheads.models.prompting import Prompts, prompts_of
from visualheads.models.wrapper import Shape

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

    @cached_property
    def module_class(self) -> Any:
        """The transformers class."""
        return checkpoints.module_class(type(self.config))

    @property
    def adapter(self) -> Adapter:
        """The class's adapter."""
        return adapter_of(self.module_class)

    @property
    def shape(self) -> Shape:
        """(layers, query heads, key-value heads)."""
        return Shape.of(self.config)

    @cached_property
    def module(self) -> Any:
        """The module on the meta device: every shape, no memory."""
        import torch

        with torch.device("meta"):
            return self.module_class._from_config(self.config)

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


@cache
def known() -> dict[str, Any]:
    """What `blueprints.yml` holds: parts of configurations by name, of `text`, `vision` and `recipe`."""
    return yaml.safe_load(BLUEPRINTS.read_text(encoding="utf-8"))


def has_blueprint(card: Card) -> bool:
    """Whether `blueprints.yml` describes this card's language model and recipe (miniatures are files: read those)."""
    told = known()
    return not card.miniature and card.llm in told["text"] and card.recipe in told["recipe"]


def of_card(card: Card) -> Blueprint:
    """The real architecture of a catalogued model, offline. Raises UnknownModelError where it is not described.

    Of the vocabulary only `<image>` is added: how many more tokens a checkpoint has is not needed for any shape here.
    """
    import transformers

    if not has_blueprint(card):
        raise UnknownModelError(
            f"the configuration of {card.name!r} is not written down here; known: language models "
            f"{', '.join(known()['text'])} in the recipes {', '.join(known()['recipe'])}."
        )
    told = known()
    text = dict(told["text"][card.llm])
    vocabulary = text.pop("vocabulary")
    config = getattr(transformers, card.class_name).config_class(
        text_config={**text, "vocab_size": vocabulary + 1, "pad_token_id": None},
        vision_config={"model_type": "clip_vision_model", **told["vision"]},
        image_token_index=vocabulary,
        **told["recipe"][card.recipe],
    )
    config.architectures = [card.class_name]
    return Blueprint(config, SimpleNamespace(image_processor=_pictures(card, config)), "blueprints.yml")


def of_source(source: Source, revision: str | None = None, processor_from: Path | None = None) -> Blueprint:
    """The architecture of a checkpoint, from its own configuration and processor files; no weights are read.

    Of a hub id these small files are fetched.

    Parameters
    ----------
    source : Source
        Folder or hub id.
    revision : str, optional
        Of a hub id.
    processor_from : Path, optional
        A folder of tuned files: where it holds a whole processor, that one is used.

    Raises
    ------
    CheckpointError
        Where they are missing or damaged.
    UnsupportedModelError
        For a class without an adapter.
    MissingDependencyError
        Where the processor needs a package that is not installed.
    """
    from transformers import AutoConfig

    settings: dict[str, Any] = {"local_files_only": True} if source.folder else {"revision": revision}
    settings = {name: value for name, value in settings.items() if value is not None}
    if source.folder is not None:
        check_config(checkpoints.check_folder(source.folder), source.location)
    with readable("configuration", source.location):
        config = AutoConfig.from_pretrained(source.location, trust_remote_code=False, **settings)
    checkpoints.check_class(config.to_dict() | {"architectures": config.architectures}, source.location)
    check_config(config.to_dict(), source.location)
    adapter = adapter_of(checkpoints.module_class(type(config)))
    if processor_from is not None and not lacking(processor_from):
        processor = load_processor(str(processor_from), config, adapter, local_files_only=True)
    else:
        processor = load_processor(source.location, config, adapter, **settings)
    origin = "its own configuration" if source.folder else f"{source.location}, configuration files only"
    return Blueprint(config, processor, origin)


@dataclass(frozen=True)
class Prepared:
    """A checkpoint before its weights are read.

    source, tuning  the base, and the folder of a LoRA on it (None without)
    revision        of a hub id; "" for none
    plan, prompts   its architecture, and the form of its prompts
    """

    source: Source
    tuning: Path | None
    revision: str
    plan: Blueprint
    prompts: Prompts

    def check(self) -> Prepared:
        """Compare the weights' headers with the configuration, and send a picture through the processor.

        Raises CheckpointError or UnsupportedModelError.
        """
        if self.source.folder is not None:
            check_headers(self.plan.config, self.source.folder)
        check_prompts(self.prompts, self.plan.config)
        return self


def prepare(
    source: Source, revision: str | None = None, adapter: str | os.PathLike[str] | None = None, **form: Any
) -> Prepared:
    """Read all but the weights of a checkpoint, or of a LoRA folder and its base; `form` as `prompts_of` takes it.

    Raises
    ------
    CheckpointError, UnsupportedModelError, MissingDependencyError, ParameterError
        As `visualheads.models.loading.load` tells.
    """
    tuning = checked_path("adapter", adapter) if adapter is not None else None
    if checks.is_lora(source.folder):
        if tuning is not None:
            raise ParameterError(f"adapter: got {str(adapter)!r}, but {source.location} is an adapter itself.")
        tuning, source = source.folder, checks.lora_base(source)
    if tuning is not None and not checks.is_lora(tuning):
        raise ParameterError(got("adapter", str(tuning), f"a folder with {checks.LORA_CONFIG}", suggest=False))
    checkpoints.check_revision(source, revision)
    fixed = source.card.revision if source.card and source.folder is None else ""
    plan = of_source(source, revision or fixed or None, processor_from=tuning)
    prompts = prompts_of(plan.processor, plan.adapter, source.card, **form)
    return Prepared(source, tuning, revision or fixed, plan, prompts)


def _pictures(card: Card, config: Any) -> Any:
    """The image processor; pads to a square only where no checkpoint in transformers' format crops instead."""
    padded = card.preparation == PAD_TO_SQUARE and not card.hub_id
    preparation = "anyres" if card.recipe == "1.6" else "pad" if padded else "crop"
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    return original_pictures(preparation, config.vision_config.image_size, pinpoints)
