"""What an adapter says about one family, and the registry that finds the adapter of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visualheads.errors import ParameterError, UnsupportedModelError
from visualheads.models.token_map import TokenMap


def image_token(processor: Any) -> str:
    """The processor's own image token, the placeholder of a plain prompt."""
    return str(getattr(processor, "image_token", "<image>"))


@dataclass(frozen=True)
class Adapter:
    """A mapping, no arithmetic: where one transformers class keeps what the library needs.

    Attributes
    ----------
    class_name : str
        The transformers class.
    layers : str
        Dotted path of the decoder layers.
    token_map : callable
        (config, processor, (width, height)) → TokenMap over the image tokens in sequence order.
    placeholder : callable
        processor → text that stands for the picture in a prompt without a chat template.
    nested : bool
        The processor wants one list of pictures per prompt.
    bidirectional : bool
        The prompt prefix sees itself both ways: a prompt cannot be cut after the picture and resumed.
    eager_tower : bool
        The vision tower has no attention, or none that SDPA computes.
    softcap : callable
        config → whether attention scores are soft-capped, which SDPA refuses: such a model runs on eager attention.
    processor : str
        The transformers processor of a class for which transformers itself names none.
    processor_settings : callable
        config → what the processor has to know of the model, by attribute; "image_processor.x" for its image part.
    """

    class_name: str
    layers: str
    token_map: Callable[[Any, Any, tuple[int, int]], TokenMap]
    placeholder: Callable[[Any], str] = image_token
    nested: bool = False
    bidirectional: bool = False
    eager_tower: bool = False
    softcap: Callable[[Any], bool] = lambda _config: False
    processor: str = ""
    processor_settings: Callable[[Any], dict[str, Any]] = lambda _config: {}

    def attention_setting(self, implementation: str) -> str | dict[str, str]:
        """What transformers' `attn_implementation` has to be so that the language model gets this implementation."""
        if not self.eager_tower:
            return implementation
        return {"": implementation, "text_config": implementation, "vision_config": "eager"}


_ADAPTERS: dict[str, Adapter] = {}


def register(adapter: Adapter) -> Adapter:
    """Add an adapter; the same cell or file, run again, replaces its own.

    Raises ParameterError for a class that has another's: two mappings of one class would disagree.
    """
    known = _ADAPTERS.get(adapter.class_name)
    if known is not None and known.token_map.__module__ != adapter.token_map.__module__:
        raise ParameterError(
            f"{adapter.class_name} has an adapter already; change that one, or register under another class name."
        )
    _ADAPTERS[adapter.class_name] = adapter
    return adapter


def supported() -> list[str]:
    """Names of the transformers classes that have an adapter."""
    return sorted(_ADAPTERS)


def adapter_of(kind: type | str) -> Adapter:
    """The adapter of a transformers class, or of the nearest base class that has one.

    Raises
    ------
    UnsupportedModelError
        With the list of supported classes.
    """
    names = [kind] if isinstance(kind, str) else [base.__name__ for base in kind.__mro__]
    for name in names:
        if name in _ADAPTERS:
            return _ADAPTERS[name]
    raise UnsupportedModelError(
        f"{names[0]} has no adapter, so its layers and image tokens are unknown; supported classes: "
        f"{', '.join(supported())}. The chapter “Add a model” tells how to write an adapter."
    )
