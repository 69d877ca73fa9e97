"""The processor of a checkpoint: for pictures only, complete, and in agreement with the model's config."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from visualheads.errors import CheckpointError, MissingDependencyError, UnsupportedModelError, VisualHeadsError
from visualheads.models.adapters import Adapter
from visualheads.models.devices import lacks_memory

VIDEO = "video_processor"
FILES = {
    "image processor": ("processor_config.json", "preprocessor_config.json"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"),
}
TRAINERS = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of")
HUB_ADVICE = re.compile(r"\s*(If you were trying to load it from|Checkout your internet|Otherwise, make sure).*", re.S)
PACKAGE = re.compile(r"pip install ([\w.\[\]-]+)|requires the ([\w.-]+) library|No module named '([\w]+)")


def load_processor(place: str, config: Any, adapter: Adapter, **settings: Any) -> Any:
    """Load the processor that belongs to a model, from a folder or a hub id.

    Processors that also take videos are built without that half, which would need torchvision, and pictures are always
    prepared by Pillow: the same numbers on every machine. What the model's config decides (patch size, tokens per
    picture, …) is taken from there; a processor file that says otherwise is told in a warning.

    Parameters
    ----------
    place : str
        Folder or hub id.
    config : transformers.PreTrainedConfig
        The model's config; its class decides the processor's.
    adapter : Adapter
        Of the model's class; its `processor_settings` are what the config decides.
    **settings
        `revision`, `local_files_only`, as transformers takes them.

    Raises
    ------
    CheckpointError
        Where a part is missing or cannot be read; the message names it.
    MissingDependencyError
        Where a package is not installed that the processor needs.
    """
    import transformers

    kind = image_only(_class_for(config, adapter))
    missing = lacking(Path(place)) if Path(place).is_dir() else {}
    if missing:
        raise CheckpointError(
            f"{place} has no {' and no '.join(f'{what} ({names})' for what, names in missing.items())}; save it there "
            "with processor.save_pretrained(folder), or copy the files from the model it was tuned from."
        )
    with readable("image processor", place):
        written, _ = transformers.ImageProcessingMixin.get_image_processor_dict(place, **settings)
        pictures = transformers.AutoImageProcessor.from_pretrained(place, backend="pil", **settings)
    with readable("tokenizer", place):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **settings)
    with readable("processor", place):
        told, _ = kind.get_processor_dict(place, **settings)
        if hasattr(kind, VIDEO):
            told[VIDEO] = None
        for name, value in adapter.processor_settings(config).items():
            owner, _, key = name.rpartition(".")
            known = (written if owner else told).get(key)
            if known is not None and known != value:
                warnings.warn(
                    f"the {owner or 'processor'} of {place} says {key}={known!r}, its model {value!r}, which is used.",
                    stacklevel=3,
                )
            if owner:
                setattr(pictures, key, value)
            else:
                told[key] = value
        processor = kind.from_args_and_dict([pictures, tokenizer], told)
    fill(processor, config, adapter)
    return processor


def original_pictures(preparation: str, side: int, pinpoints: Any = None, **settings: Any) -> Any:
    """The image processor that prepares pictures as LLaVA's code does: `pad` to a square, `crop`, or `anyres` tiles."""
    import transformers

    settings |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if preparation == "anyres":
        return transformers.LlavaNextImageProcessorPil(**settings, image_grid_pinpoints=pinpoints)
    if preparation == "pad":
        return transformers.LlavaImageProcessorPil(**settings, do_pad=True)
    return transformers.CLIPImageProcessorPil(**settings)


def fill(processor: Any, config: Any, adapter: Adapter) -> None:
    """Set what a processor leaves open (None) from the model's config, as transformers advises, in place.

    What a tokenizer's file kept of a trainer's padding and truncation is dropped: every call sets its own.

    Raises
    ------
    CheckpointError
        For a tokenizer without any token to pad with.
    """
    words = processor.tokenizer
    for name in TRAINERS:
        words.init_kwargs.pop(name, None)
    if words.pad_token is None:
        words.pad_token = words.eos_token or words.unk_token
    if words.pad_token is None:
        raise CheckpointError(
            "the tokenizer has no pad, end or unknown token; its tokenizer_config.json or special_tokens_map.json is "
            "incomplete, fetch them again."
        )
    for name, value in adapter.processor_settings(config).items():
        owner, _, key = name.rpartition(".")
        part = getattr(processor, owner) if owner else processor
        if getattr(part, key, None) is None:
            setattr(part, key, value)


def image_only(kind: Any) -> Any:
    """The same processor class without a video processor, which would need torchvision."""
    if VIDEO not in kind.get_attributes():
        return kind
    attributes = [name for name in kind.get_attributes() if name != VIDEO]
    return type(kind.__name__, (kind,), {VIDEO: None, "get_attributes": classmethod(lambda _: attributes)})


@contextmanager
def readable(what: str, place: str) -> Iterator[None]:
    """Around transformers' reading: its errors become one that names the part, and a missing package with its command.

    Raises
    ------
    CheckpointError, MissingDependencyError
    """
    try:
        yield
    except VisualHeadsError:
        raise
    except ImportError as error:
        found = PACKAGE.search(str(error))
        package = next((name for name in found.groups() if name), "") if found else error.name or ""
        told = f"needs the package {package}; run `pip install {package}`" if package else f"needs a package: {error}"
        raise MissingDependencyError(f"the {what} of {place} {told}.") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError,
            StrictDataclassError) as error:  # fmt: skip
        if lacks_memory(error):
            raise  # nothing is wrong with the checkpoint
        told = " ".join(HUB_ADVICE.sub("", str(error)).split())[:300]
        advice = "check the name, the connection or HF_HOME cache"
        if Path(place).is_dir():
            advice = "fetch or save its files again"
        raise CheckpointError(
            f"the {what} of {place} cannot be loaded ({type(error).__name__}: {told}); {advice}."
        ) from error


def _class_for(config: Any, adapter: Adapter) -> Any:
    """The processor class of a config's class or the nearest of its base classes.

    What files name is not asked: trainers leave the tower's or an older class there.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for kind in type(config).__mro__:
        if kind in PROCESSOR_MAPPING:
            return PROCESSOR_MAPPING[kind]
    if adapter.processor:
        return getattr(transformers, adapter.processor)
    raise UnsupportedModelError(
        f"transformers knows no processor for {type(config).__name__}; register one with AutoProcessor.register."
    )


def lacking(folder: Path) -> dict[str, str]:
    """Parts of a processor whose files a folder has not, with the names that these can have."""
    there = {what: any((folder / name).is_file() for name in names) for what, names in FILES.items()}
    return {what: " or ".join(FILES[what][:2]) for what, found in there.items() if not found}
