"""From a name, a folder or a module in memory to a model that can be traced."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from visualheads.cards import Card, data_folder
from visualheads.errors import CheckpointError, ParameterError, UnsupportedModelError, got
from visualheads.models import checkpoints
from visualheads.models.adapters import adapter_of
from visualheads.models.devices import AUTO, CPU, chosen_device, chosen_dtype, device_map, lacks_memory, room_for
from visualheads.models.provenance import hash_weights
from visualheads.models.self_check import validate_capture
from visualheads.models.wrapper import PLAIN_PROMPT, Shape, VisionLanguageModel

__all__ = ["PLAIN_PROMPT", "Shape", "VisionLanguageModel", "load", "untrained", "weights_hash", "wrap"]

UNTRAINED_PICTURES = 8
"""Shipped emoji scenes on which an untrained projector is scaled."""


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    validate: bool = True,
) -> VisionLanguageModel:
    """Load a catalogue name, a local folder, or a hub id.

    device      default: a GPU if there is one, else the CPU; "auto" spreads the layers over all devices
    dtype       float32, bfloat16, float16 or "auto", the checkpoint's own; default: float32 on the CPU, else "auto"
    revision    of a hub id; default: the card's, else the newest
    validate    check that attention can be read and written before returning the model

    Shipped miniatures stay on the CPU unless a device is given, and are float32 anywhere: what was computed with them
    is shipped too, and has to be found again.

    Any folder that AutoModelForImageTextToText and AutoProcessor accept will do, if its class has an adapter. Weights
    are read from safetensors only, and no code of the checkpoint is run. Raises UnknownModelError, CheckpointError,
    UnsupportedModelError, ParameterError for a device or precision that there is not and for a revision of a folder,
    or DeviceMemoryError.
    """
    source = checkpoints.resolve(name)
    if source.card is not None and source.card.joined:
        return _joined(source, device, dtype, revision, validate)
    folder = source.folder
    checkpoints.check_revision(source, revision)
    revision = revision or (source.card.revision if source.card and folder is None else None) or None
    config = _config(source, revision)
    miniature = source.card is not None and source.card.miniature
    placed = chosen_device(device, miniature)
    kind = chosen_dtype(dtype, placed, miniature)
    adapter = adapter_of((config.architectures or [type(config).__name__])[0])
    processor = _from_pretrained("AutoProcessor", source, revision=revision)
    with room_for(source.name, AUTO if placed == AUTO else CPU):
        module, info = _from_pretrained(
            "AutoModelForImageTextToText",
            source,
            revision=revision,
            dtype=kind,
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation=adapter.attention_setting("eager" if adapter.softcap(config) else "sdpa"),
            **({"device_map": AUTO} if placed == AUTO else {}),
        )
    if info["missing_keys"] or info.get("mismatched_keys"):
        wrong = sorted(str(key) for key in (*info["missing_keys"], *info.get("mismatched_keys", ())))
        raise CheckpointError(
            f"{source.location} lacks {len(wrong)} weights ({', '.join(wrong[:3])} …) or has them in another shape; "
            "the checkpoint is incomplete, fetch it again."
        )
    if placed != AUTO:
        with room_for(source.name, placed):
            module.to(placed)
    commit = getattr(module.config, "_commit_hash", None)
    identity = {
        "checkpoint": source.name if folder else source.location,
        "revision": revision or commit or "",
        "weights": hash_weights(folder) if folder else f"commit:{commit or ''}",
    }
    return _wrapped(module, processor, source.name, source.card, identity, validate)


def _joined(
    source: checkpoints.Source,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None,
    validate: bool,
) -> VisionLanguageModel:
    """A model whose base weights come from packages; on the CPU in float32 like miniatures, unless told otherwise."""
    from visualheads.models import smol

    if revision:
        raise ParameterError(got("revision", revision, f"none for {source.name}", "leave it out"))
    placed = chosen_device(device, miniature=True)
    kind = chosen_dtype(dtype, placed, miniature=True)
    file = Path(source.location)
    module, processor = smol.join(smol.read_learned(file), dtype=torch.float32 if isinstance(kind, str) else kind)
    with room_for(source.name, placed):
        module.to(CPU if placed == AUTO else placed)
    identity = {"checkpoint": source.name, "revision": "", "weights": smol.weights_identity(file)}
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


def untrained(model: VisionLanguageModel, seed: int = 0, device: torch.device | None = None) -> VisionLanguageModel:
    """The same network with fresh random weights, under the same name: the control without any training.

    Weights are drawn as transformers draws them for the model's config, from `seed`, on `device`, by default the
    model's. Where the model lies in several places they are drawn on the CPU and spread in the same way; what would
    lie on a disk stays in memory. Of a joined model only the projector is drawn anew, scaled to the trained one's
    outputs: its language model stays what others trained. Raises DeviceMemoryError.
    """
    from transformers import AutoModelForImageTextToText

    if model.card is not None and model.card.joined:
        return _untrained_projector(model, seed)
    config = copy.deepcopy(model.config)
    attention = str(getattr(model.config.get_text_config(), "_attn_implementation", None) or "sdpa")
    places = device_map(model.module)
    where = CPU if places or model.device.type == "meta" else device or model.device
    told = f"{model.identity.get('checkpoint', model.name)}, untrained"
    with room_for(told, AUTO if places else where):
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []), torch.device(where):
            torch.manual_seed(seed)
            module: Any = AutoModelForImageTextToText.from_config(
                config, dtype=model.dtype, attn_implementation=model.adapter.attention_setting(attention)
            )
        identity = {**model.identity, "checkpoint": told, "weights": weights_hash(module)}
        if places:
            _spread(module, {name: "cpu" if place == "disk" else place for name, place in places.items()})
    module.generation_config = copy.deepcopy(model.module.generation_config)
    return _wrapped(module, model.processor, model.name, model.card, identity, validate=False)


def _untrained_projector(model: VisionLanguageModel, seed: int) -> VisionLanguageModel:
    """A joined model whose projector learned nothing; it is scaled on some shipped scenes."""
    from PIL import Image

    from visualheads.models import smol

    pictures = []
    for number in range(1, UNTRAINED_PICTURES + 1):
        with Image.open(data_folder() / "smol" / "scenes" / "images" / f"{number}.jpg") as opened:
            pictures.append(opened.convert("RGB"))
    pixels = model.processor.image_processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
    module = smol.with_untrained_projector(model.module, pixels, seed)
    told = f"{model.identity.get('checkpoint', model.name)}, untrained projector"
    identity = {**model.identity, "checkpoint": told, "weights": f"{model.identity['weights']}, projector {seed}"}
    return _wrapped(module, model.processor, model.name, model.card, identity, validate=False)


def weights_hash(module: Any) -> str:
    """A quick hash of a module's weights: shape, sum and first values of every parameter."""
    digest = hashlib.sha256()
    for key, kept in module.state_dict().items():
        weight = kept if not kept.is_meta else _fetched(module, key)
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
        with room_for(name, AUTO if device_map(module) else module.device):
            validate_capture(model)
    return model


def _fetched(module: Any, key: str) -> torch.Tensor:
    """A weight that accelerate fetches from main memory or a disk whenever its layer runs."""
    from accelerate.utils import align_module_device, has_offloaded_params

    place, _, name = key.rpartition(".")
    owner = module.get_submodule(place)
    if not has_offloaded_params(owner):
        raise UnsupportedModelError(
            f"{type(module).__name__} has no weights: {key} is on torch's meta device; load them before wrapping it."
        )
    with align_module_device(owner, CPU):
        return getattr(owner, name)


def _spread(module: Any, places: dict[str, Any]) -> None:
    from accelerate import dispatch_model

    dispatch_model(module, device_map=places, skip_keys=module._skip_keys_device_placement)


def _config(source: checkpoints.Source, revision: str | None) -> Any:
    if source.folder is not None:
        checkpoints.check_folder(source.folder)
    config = _from_pretrained("AutoConfig", source, revision=revision)
    checkpoints.check_class(config.to_dict() | {"architectures": config.architectures}, source.location)
    return config


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """No progress bar for weights that lie on this disk; downloads keep theirs."""
    from transformers.utils import logging

    if not wanted or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _from_pretrained(kind: str, source: checkpoints.Source, **settings: Any) -> Any:
    import transformers

    if source.folder is not None:
        settings = {**settings, "local_files_only": True}
    settings = {key: value for key, value in settings.items() if value is not None}
    place = str(Path(source.location)) if source.folder else source.location
    try:
        with _quiet(source.folder is not None):
            return getattr(transformers, kind).from_pretrained(place, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if lacks_memory(error):
            raise  # nothing is wrong with the checkpoint
        raise CheckpointError(
            f"{source.location} cannot be loaded by {kind} ({type(error).__name__}: {str(error).strip()[:300]}). "
            "Check the name, the connection or HF_HOME cache, and that the folder holds config, safetensors, tokenizer "
            "and processor files."
        ) from error
