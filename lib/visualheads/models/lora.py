"""LoRA: a folder with adapter files, or a PeftModel in memory, on its base model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visualheads.errors import CheckpointError, MissingDependencyError, UnsupportedModelError, got
from visualheads.models.checkpoints import Source, read_json, resolve
from visualheads.models.processors import readable

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KIND = "LORA"


def is_lora(folder: Path | None) -> bool:
    """Whether a folder holds adapter files, not a whole model."""
    return folder is not None and (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(source: Source) -> Source:
    """The model that an adapter folder names as its base.

    Raises
    ------
    CheckpointError
        Where it cannot be found.
    """
    folder = Path(source.location)
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    try:
        return resolve(str(name))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / CONFIG} names the base model {name!r}, which is not found; give it: "
            f"vh.load(BASE, adapter={str(folder)!r})."
        ) from error


def applied(module: Any, folder: Path) -> Any:
    """The module with the adapter's matrices beside its own weights; nothing is merged, so nothing is rounded.

    Raises
    ------
    MissingDependencyError
        Without the package peft.
    UnsupportedModelError
        For another kind of adapter.
    CheckpointError
        For files that are missing or damaged, and for matrices that match nothing in this model.
    """
    _check_kind(read_json(folder / CONFIG).get("peft_type"), str(folder))
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}; save the adapter with safe_serialization=True.")
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError("LoRA adapters need peft; run `pip install 'visualheads[lora]'`.") from error
    with readable("adapter", str(folder)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that match nothing: refused below
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        tuned = peft.PeftModel(module, config)
        result = tuned.load_adapter(str(folder), "default")
    strange = sorted({*result.unexpected_keys, *result.missing_keys})
    if strange:
        raise CheckpointError(
            f"{folder}: {len(strange)} of its matrices do not belong to layers of this model ({strange[0]} …); load "
            "the base that it was trained on (base_model_name_or_path in its adapter_config.json)."
        )
    return tuned


def unwrapped(module: Any) -> tuple[Any, Any]:
    """(transformers module, PeftModel around it or None).

    Raises
    ------
    UnsupportedModelError
        For adapters other than LoRA, some of which act outside the module.
    """
    if not hasattr(module, "peft_config") or not hasattr(module, "get_base_model"):
        return module, None
    for config in module.peft_config.values():
        _check_kind(str(getattr(config.peft_type, "value", config.peft_type)), type(module).__name__)
    return module.get_base_model(), module


def check_effect(model: VisionLanguageModel, tuned: Any, inputs: dict[str, Any]) -> None:
    """Refuse a LoRA that leaves the logits as they are; two forward passes.

    Raises
    ------
    CheckpointError
    """
    with torch.no_grad():
        with_it = model.module(**inputs, logits_to_keep=1).logits
        with tuned.disable_adapter():
            without = model.module(**inputs, logits_to_keep=1).logits
    if torch.equal(with_it, without):
        raise CheckpointError(
            f"the LoRA of {model.name!r} does not change the logits: its matrices are zero, off, or match nothing in "
            "this model; check target_modules and the base it was trained on."
        )


def _check_kind(kind: object, where: str) -> None:
    if kind != KIND:
        raise UnsupportedModelError(got(f"peft_type of {where}", kind, [KIND], "merge it into the base and save that"))
