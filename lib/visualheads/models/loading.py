"""From a name, a folder or a module in memory to a model that can be traced."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from visualheads.cards import Card, data_folder, name_of
from visualheads.errors import ParameterError, UnsupportedModelError, checked, checked_text, got
from visualheads.models import blueprints, checkpoints, checks, devices
from visualheads.models.adapters import adapter_of
from visualheads.models.blueprints import Blueprint
from visualheads.models.checks import validate_capture
from visualheads.models.devices import AUTO, CPU, chosen_device, chosen_dtype, in_places, room_for
from visualheads.models.processors import fill, readable
from visualheads.models.progress import quiet
from visualheads.models.prompting import PLAIN_PROMPT, Prompts, prompts_of
from visualheads.models.provenance import hash_weights
from visualheads.models.wrapper import Shape, VisionLanguageModel

__all__ = ["PLAIN_PROMPT", "Shape", "VisionLanguageModel", "load", "untrained", "weights_hash", "wrap"]

UNTRAINED_PICTURES = 8
"""Shipped emoji scenes on which an untrained projector is scaled."""


@checked
def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    validate: bool = True,
    *,
    adapter: str | os.PathLike[str] | None = None,
    quantization_config: Any = None,
    device_map: Any = None,
    prompt: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
    remote: bool = False,
) -> VisionLanguageModel:
    """Load a catalogue name, a local folder, or a hub id.

    Any folder that AutoModelForImageTextToText and AutoProcessor accept will do, if its class, or a class it derives
    from, has an adapter; and a folder of LoRA files, which names its base. Weights are read from safetensors only, and
    no code of the checkpoint is run.

    Parameters
    ----------
    name : str or path
        Catalogue name, local folder, or hub id `owner/name`.
    device : str or torch.device, optional
        Default: a GPU if there is one, else the CPU; "auto" spreads the layers over all devices. Shipped miniatures
        stay on the CPU: what was computed with them is shipped too, and has to be found again.
    dtype : str or torch.dtype, optional
        float32, bfloat16, float16 or "auto", the checkpoint's own. Default: float32 on the CPU and for miniatures,
        else "auto".
    revision : str, optional
        Of a hub id; default: the card's, else the newest.
    validate : bool
        Check that attention can be read and written, and that the weights are sound, before returning the model.
    adapter : path, optional
        Folder with the files of a LoRA adapter (`pip install 'visualheads[lora]'`).
    quantization_config : transformers.BitsAndBytesConfig or dict, optional
        Weights in 4 or 8 bits (`pip install bitsandbytes`).
    device_map : str or dict, optional
        As transformers takes it, instead of `device`.
    prompt, system, chat_template : optional
        The form of the prompt: see `visualheads.models.prompting.prompts_of`.
    remote : bool
        Only False: a server (NDIF) would run weights that could be neither checked nor hashed here.

    Returns
    -------
    VisionLanguageModel

    Raises
    ------
    UnknownModelError
        For a name that is nothing of the above.
    CheckpointError
        For files that are missing, damaged, or do not belong together.
    UnsupportedModelError
        For a class without an adapter, other quantisations, or attention that cannot be read.
    MissingDependencyError
        For a package that this checkpoint needs.
    ParameterError
        For a device or precision that there is not, a revision of a folder, or a prompt without picture or question.
    DeviceMemoryError
        Where memory does not suffice.
    """
    if remote is not False:
        allowed = "False: weights are checked and hashed where they are run"
        raise ParameterError(got("remote", remote, allowed, "trace on workers (--scheduler, --cluster)"))
    source = checkpoints.resolve(name)
    form = {"prompt": prompt, "system": system, "chat_template": chat_template}
    if source.card is not None and source.card.joined:
        if adapter is not None or quantization_config is not None or device_map is not None:
            raise ParameterError(f"{source.name} takes no adapter, quantization_config or device_map; leave them out.")
        return _joined(source, device, dtype, revision, validate, form)
    ready = blueprints.prepare(source, revision, adapter, **form)
    source, plan, tuning, revision = ready.source, ready.plan, ready.tuning, ready.revision or None
    miniature = source.card is not None and source.card.miniature
    if device_map is not None and (not device_map or not isinstance(device_map, (str, dict))):
        raise ParameterError(got("device_map", device_map, "auto, or {module: device} as transformers takes it"))
    if device_map is not None and device is not None:
        raise ParameterError("device_map: got a device beside it; give one of the two.")
    placed = AUTO if device_map is not None else chosen_device(device, miniature)
    kind = chosen_dtype(dtype, placed, miniature)
    quantized = devices.quantization_of(plan.config, quantization_config)
    places = device_map or (AUTO if placed == AUTO else {"": placed} if quantized else None)
    attention = plan.adapter.attention_setting("eager" if plan.adapter.softcap(plan.config) else "sdpa")
    settings = {"device_map": places, "quantization_config": quantization_config}
    settings = {key: value for key, value in settings.items() if value is not None}
    settings |= {"dtype": kind, "attn_implementation": attention}
    with room_for(source.name, AUTO if places == AUTO else CPU):
        module = _weights(plan, source, revision, validate, bool(quantized), **settings)
    if places is None:
        with room_for(source.name, placed):
            module.to(placed)
    commit = getattr(module.config, "_commit_hash", None)
    files = hash_weights(source.folder) if source.folder else f"commit:{commit or ''}"
    called = source.name if source.folder else source.location
    identity = {
        "checkpoint": f"{called}+{name_of(tuning)}" if tuning else called,
        "revision": revision or commit or "",
        "weights": "+".join(filter(None, (files, devices.bits_of(quantized), hash_weights(tuning) if tuning else ""))),
    }
    if tuning is not None:
        module = checks.with_lora(module, tuning)
    card = source.card if tuning is None else None  # a tuned model is not the catalogued one
    return _wrapped(module, ready.prompts, identity["checkpoint"], card, identity, validate)


def _joined(
    source: checkpoints.Source,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None,
    validate: bool,
    form: dict[str, Any],
) -> VisionLanguageModel:
    """A model whose base weights come from packages; on the CPU in float32 like miniatures, unless told otherwise."""
    from visualheads.models.smol import joined_model as smol
    from visualheads.models.smol.base_weights import weights_identity

    if revision:
        raise ParameterError(got("revision", revision, f"none for {source.name}", "leave it out"))
    placed = chosen_device(device, miniature=True)
    kind = chosen_dtype(dtype, placed, miniature=True)
    file = Path(source.location)
    module, processor = smol.join(smol.read_learned(file), dtype=torch.float32 if isinstance(kind, str) else kind)
    with room_for(source.name, placed):
        module.to(CPU if placed == AUTO else placed)
    identity = {"checkpoint": source.name, "revision": "", "weights": weights_identity(file)}
    prompts = prompts_of(processor, adapter_of(type(module).__name__), source.card, **form)
    return _wrapped(module, prompts, source.name, source.card, identity, validate)


@checked
def wrap(
    module: Any,
    processor: Any,
    name: str | None = None,
    card: Card | None = None,
    validate: bool = True,
    *,
    prompt: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
) -> VisionLanguageModel:
    """Wrap an already built transformers module of a supported class, with random or trained weights.

    The module is put into evaluation mode. What its processor leaves open is filled from the module's config.

    Parameters
    ----------
    module : transformers.PreTrainedModel or peft.PeftModel
        Of a supported class or one derived from it; of a PeftModel the active LoRA is part of the model.
    processor : transformers.ProcessorMixin
        Its processor.
    name : str, optional
        How results call it; default: the name of its class.
    card : Card, optional
        The catalogue card of the model it is.
    validate : bool
        Check that attention can be read and written.
    prompt, system, chat_template : optional
        The form of the prompt: see `visualheads.models.prompting.prompts_of`.

    Returns
    -------
    VisionLanguageModel
        As from `load`.

    Raises
    ------
    UnsupportedModelError
        For a class without an adapter, or (with `validate`) attention that cannot be read and written.
    CheckpointError
        For a LoRA that changes nothing, or a chat template that cannot be used.
    """
    if name is not None:
        checked_text("name", name, empty=False)
    if card is not None and not isinstance(card, Card):
        raise ParameterError(got("card", card, "a Card of visualheads.cards.cards(), or None"))
    inner, tuned = checks.unwrapped(module)
    adapter = adapter_of(type(inner))
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise ParameterError(got("processor", type(processor).__name__, "the model's processor, of AutoProcessor"))
    fill(processor, inner.config, adapter)
    prompts = prompts_of(processor, adapter, card, prompt=prompt, system=system, chat_template=chat_template)
    active = "+".join(["", *tuned.active_adapters]) if tuned is not None else ""
    called = name or type(inner).__name__
    identity = {"checkpoint": called, "revision": "", "weights": weights_hash(inner) + active}
    return _wrapped(module, prompts, called, card, identity, validate)


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
    vars(config).pop("quantization_config", None)
    places = in_places(model.module)
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
            from accelerate import dispatch_model

            places = {name: "cpu" if place == "disk" else place for name, place in places.items()}
            dispatch_model(module, device_map=places, skip_keys=module._skip_keys_device_placement)
    module.generation_config = copy.deepcopy(model.module.generation_config)
    return _wrapped(module, model.prompts, model.name, model.card, identity, validate=False)


def _untrained_projector(model: VisionLanguageModel, seed: int) -> VisionLanguageModel:
    """A joined model whose projector learned nothing; it is scaled on some shipped scenes."""
    from PIL import Image

    from visualheads.models.smol import joined_model as smol

    files = [data_folder() / "smol" / "scenes" / "images" / f"{n}.jpg" for n in range(1, UNTRAINED_PICTURES + 1)]
    pictures = [Image.open(file).convert("RGB") for file in files]
    pixels = model.processor.image_processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
    module = smol.with_untrained_projector(model.module, pixels, seed)
    told = f"{model.identity.get('checkpoint', model.name)}, untrained projector"
    identity = {**model.identity, "checkpoint": told, "weights": f"{model.identity['weights']}, projector {seed}"}
    return _wrapped(module, model.prompts, model.name, model.card, identity, validate=False)


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
    module: Any, prompts: Prompts, name: str, card: Card | None, identity: dict[str, str], validate: bool
) -> VisionLanguageModel:
    module, tuned = checks.unwrapped(module)
    if prompts.adapter.softcap(module.config) and module.config.get_text_config()._attn_implementation == "sdpa":
        raise UnsupportedModelError(
            f"{type(module).__name__} caps its attention scores, which SDPA cannot; build it with "
            "attn_implementation='eager'."
        )
    module.eval()
    model = VisionLanguageModel(name, module, prompts, card, {**identity, **prompts.identity()})
    if validate:
        with room_for(name, AUTO if in_places(module) else module.device):
            validate_capture(model, tuned)
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


def _weights(
    plan: Blueprint, source: checkpoints.Source, revision: str | None, validate: bool, quantized: bool, **settings: Any
) -> Any:
    """The module with its weights, all of which it has and needs."""
    from transformers import AutoModelForImageTextToText

    reading: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    reading |= {"local_files_only": True} if source.folder else {"revision": revision}
    if source.folder is not None:
        checks.check_headers(plan.config, source.folder)
    with readable("model", source.location), quiet(source.folder is not None):
        if not quantized:  # their names and shapes first, without memory
            told: Any = AutoModelForImageTextToText.from_pretrained(
                source.location, device_map="meta", ignore_mismatched_sizes=True, **reading
            )
            checks.check_names(told[1], source.location, plan.config)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(source.location, **reading, **settings)
    module, info = loaded
    checks.check_names(info, source.location, plan.config)
    if validate:
        checks.check_values(module, source.location)
    return module
