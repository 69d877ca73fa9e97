"""What is checked of a model: sizes before it is built, names and values when loaded, its rows and logits; and LoRA."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps
from PIL.Image import Resampling
from torch import Tensor

from visualheads.errors import CheckpointError, MissingDependencyError, UnsupportedModelError, got
from visualheads.models.attention_call import read, with_bias
from visualheads.models.checkpoints import POSITIVE, Source, read_json, resolve, weight_shapes
from visualheads.models.processors import readable
from visualheads.models.wrapper import greedy
from visualheads.tasks.sample import Sample

if TYPE_CHECKING:
    from visualheads.models.attention_call import AttentionCall
    from visualheads.models.prompting import Prompts
    from visualheads.models.wrapper import VisionLanguageModel

OTHER_COUNTS = ("efficientnet",)
"""Towers whose configuration counts layers in another way than their blocks."""
LAYER = re.compile(r"(.*?)\b(?:layers?|blocks)\.(\d+)\.")
TOWER = re.compile(r"vision|visual|tower|encoder|image")
EMBEDDING = re.compile(r"(?<!position_)embed_tokens\.weight$")
HARMLESS = re.compile(r"position_ids$|inv_freq$|vision_model\.head\.|^mtp\.|\.mtp\.")
"""Names that no module takes and whose absence changes nothing: buffers that are computed, the tower's pooling head,
and extra heads that only speed up generation."""
SHOWN = 3
LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
LORA = "LORA"


def check_headers(config: Any, folder: Path) -> None:
    """Compare a config's layers and vocabulary with the headers of the safetensors files; nothing is built.

    Raises
    ------
    CheckpointError
        Naming the field of the config.
    """
    stored = weight_shapes(folder)
    _check_layers(stored, config, folder)
    text = config.get_text_config()
    if getattr(config, "quantization_config", None):
        return  # packed weights have shapes of their own
    for name, shape in stored.items():
        if EMBEDDING.search(name) and not TOWER.search(name) and len(shape) == 2:
            for field, size in zip(("vocab_size", "hidden_size"), shape, strict=True):
                if getattr(text, field) != size:
                    raise _differs(folder, field, getattr(text, field), f"{name} has {size}")


def check_names(info: Mapping[str, Any], where: str, config: Any) -> None:
    """Refuse weights that the model lacks, and weights that it does not know: either way it is another model.

    Parameters
    ----------
    info : mapping
        transformers' loading info.
    where : str
        Folder or hub id.
    config : transformers.PreTrainedConfig
        Of the model; its fields that give a wrong shape are named.

    Raises
    ------
    CheckpointError
    """
    mismatched: list[Any] = sorted(info.get("mismatched_keys") or [])
    for name, there, wanted in mismatched:
        sizes = {size for size, had in zip(wanted, there, strict=False) if size != had}
        field = _fields_of(config, name, sizes)
        raise _differs(where, field, tuple(wanted), f"{name} has the shape {tuple(there)}")
    lacking = sorted(map(str, info["missing_keys"]))
    if lacking:
        raise CheckpointError(
            f"{where} lacks {len(lacking)} weights ({', '.join(lacking[:SHOWN])} …); the checkpoint is incomplete, "
            "fetch it again."
        )
    unknown = sorted(name for name in info["unexpected_keys"] if not HARMLESS.search(name))
    if unknown:
        raise CheckpointError(
            f"{where} has {len(unknown)} weights that its config.json has no place for ({', '.join(unknown[:SHOWN])} "
            "…); config and weights are of different models (num_hidden_layers, architectures …), fetch both again."
        )


def check_values(module: Any, where: str) -> None:
    """Refuse weights that are no numbers, and matrices of zeros; every weight is read once.

    Raises
    ------
    CheckpointError
        Naming the weight.
    """
    for name, weight in module.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        low, high = (float(edge) for edge in torch.aminmax(weight.detach()))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise CheckpointError(f"{name} in {where} holds NaN or infinite values; fetch or save the weights again.")
        if low == high == 0 and weight.ndim == 2 and name.endswith(".weight"):
            raise CheckpointError(f"{name} in {where} is all zeros; fetch or save the weights again.")


def _check_layers(stored: Mapping[str, Any], config: Any, folder: Path) -> None:
    counts: dict[bool, set[int]] = {True: set(), False: set()}
    most: dict[str, int] = {}
    for found in filter(None, map(LAYER.match, stored)):
        most[found[1]] = max(most.get(found[1], 0), int(found[2]) + 1)
    for prefix, count in most.items():
        counts[bool(TOWER.search(prefix))].add(count)
    for tower, part in ((False, config.get_text_config()), (True, config.vision_config)):
        field = next((name for name in ("num_hidden_layers", "depth") if hasattr(part, name)), None)
        if part.model_type in OTHER_COUNTS:
            continue
        if field and counts[tower] and getattr(part, field) not in counts[tower]:
            raise _differs(folder, field, getattr(part, field), f"its weights have {max(counts[tower])}")


def _fields_of(config: Any, weight: str, sizes: set[int]) -> str:
    """The config's fields that a weight's shape with these numbers can come from."""
    if "position" in weight:
        return "image_size or patch_size"
    part = config.vision_config if TOWER.search(weight) else config.get_text_config()
    named = {name for name, value in part.to_dict().items() if name in POSITIVE and _divides(value, sizes)}
    return " or ".join(sorted(named)) or "its shape"


def _divides(value: Any, sizes: set[int]) -> bool:
    return isinstance(value, int) and any(value == size or (value > 1 and size % value == 0) for size in sizes)


def _differs(where: object, field: str, value: object, weights: str) -> CheckpointError:
    return CheckpointError(
        f"config.json of {where} and its weights are of different models: {field} is {value!r}, {weights}; fetch both "
        "again from the same place."
    )


def is_lora(folder: Path | None) -> bool:
    """Whether a folder holds adapter files, not a whole model."""
    return folder is not None and (folder / LORA_CONFIG).is_file() and not (folder / "config.json").is_file()


def lora_base(source: Source) -> Source:
    """The model that an adapter folder names as its base.

    Raises
    ------
    CheckpointError
        Where it cannot be found.
    """
    folder = Path(source.location)
    name = read_json(folder / LORA_CONFIG).get("base_model_name_or_path")
    try:
        return resolve(str(name))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / LORA_CONFIG} names the base model {name!r}, which is not found; give it: "
            f"vh.load(BASE, adapter={str(folder)!r})."
        ) from error


def with_lora(module: Any, folder: Path) -> Any:
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
    _check_lora_kind(read_json(folder / LORA_CONFIG).get("peft_type"), str(folder))
    if not (folder / LORA_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {LORA_WEIGHTS}; save the adapter with safe_serialization=True.")
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
        _check_lora_kind(str(getattr(config.peft_type, "value", config.peft_type)), type(module).__name__)
    return module.get_base_model(), module


def check_lora_effect(model: VisionLanguageModel, tuned: Any, inputs: dict[str, Any]) -> None:
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


def _check_lora_kind(kind: object, where: str) -> None:
    if kind != LORA:
        raise UnsupportedModelError(got(f"peft_type of {where}", kind, [LORA], "merge it into the base and save that"))


QUESTION = "What is in the picture?"
LARGEST_SIDE = 4096
"""Pixels of a prepared picture's side at most: the largest known is 2,048."""
HIDDEN_KEY = -1e4
"""Added to the scores of the image keys in the writing check: hides them in every dtype."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference between our rows' output and the model's, relative to the largest value: its kernels round."""


def validate_capture(model: VisionLanguageModel, tuned: Any = None) -> None:
    """Raise UnsupportedModelError unless this model's attention can be read and written; two short forward passes.

    Reading: in every layer, for a prompt's and a generated token's query, the rows sum to 1 and, applied to the values,
    give the output that the model's own attention gives. Writing: hiding the image keys changes the logits. Where
    there is a PeftModel, `tuned`, around the module, its LoRA has to change the logits (CheckpointError).
    """
    inputs = dict(check_prompts(model.prompts, model.config).to(model.device, dtype=model.dtype))
    with torch.no_grad(), greedy(model.module, model.tokenizer.pad_token_id):
        faults, clean = _read(model, inputs)
        wrong = [fault for fault in faults if fault]
        if wrong:
            raise UnsupportedModelError(
                f"the attention of {type(model.module).__name__} cannot be read faithfully: {wrong[0]} "
                f"({len(wrong)} of {len(faults)} checks failed). Load it with attn_implementation='sdpa' or 'eager', "
                "in the tested version of transformers."
            )
        changed = _written(model, inputs)
        if tuned is not None:
            check_lora_effect(model, tuned, inputs)
    if not bool((changed - clean).abs().max() > 0):
        raise UnsupportedModelError(
            f"hiding the image from every head of {type(model.module).__name__} does not change its logits: what is "
            "written into its attention does not reach the answer, so neither would interventions."
        )


def check_prompts(prompts: Prompts, config: Any) -> Any:
    """Send a picture and a question through a processor; no weights are needed.

    Returns
    -------
    BatchFeature
        The inputs of one prompt.

    Raises
    ------
    UnsupportedModelError
        Where the processor makes another number of image tokens than the adapter expects.
    CheckpointError
        Where it makes the same pixels of different pictures, or pictures too large for any memory.
    """
    _check_preparation(prompts.processor.image_processor)
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    encoding, other = (
        prompts.encode([Sample(id="check", image=shown, question=QUESTION)])
        for shown in (picture, ImageOps.invert(picture))
    )
    pixels = encoding["pixel_values"]
    if not bool(torch.isfinite(pixels).all()) or torch.equal(pixels, other["pixel_values"]):
        raise CheckpointError(
            f"{type(prompts.processor).__name__} makes equal pixels, or none that are finite, of different pictures; "
            "correct rescale_factor, image_mean and image_std in the checkpoint's preprocessor file."
        )
    found = int((encoding["input_ids"] == int(config.image_token_id)).sum())
    expected = len(prompts.adapter.token_map(config, prompts.processor, picture.size))
    if found != expected:
        raise UnsupportedModelError(
            f"{type(prompts.processor).__name__} makes {found} image tokens of a 64 × 48 picture, its adapter expects "
            f"{expected}; processor and checkpoint do not belong together, or the adapter is wrong."
        )
    return encoding


def _check_preparation(processor: Any) -> None:
    """Refuse sizes of prepared pictures that would fill any memory, and filters that Pillow does not have.

    Qwen-VL's edges are numbers of pixels.
    """
    resample = getattr(processor, "resample", None)
    if resample is not None and resample not in list(Resampling):
        raise CheckpointError(got("resample in the preprocessor file", resample, [int(one) for one in Resampling]))
    most = LARGEST_SIDE**2 if hasattr(processor, "temporal_patch_size") else LARGEST_SIDE
    for name in ("size", "crop_size"):
        for edge, value in dict(getattr(processor, name, None) or {}).items():
            if value is not None and not 0 < value <= most:
                raise CheckpointError(got(f"{edge} of {name} in the preprocessor file", value, f"1 to {most:,}"))


def _read(model: VisionLanguageModel, inputs: dict[str, Any]) -> tuple[list[str], Tensor]:
    import nnsight

    operations = model.attention
    generate = model.lm.generate
    with generate(**inputs, max_new_tokens=2, output_logits=True, return_dict_in_generate=True) as tracer:
        faults = nnsight.save([])
        for step in tracer.iter[:2]:
            for layer, operation in enumerate(operations):
                call = read(operation)
                faults.append(_fault(call, operation.output[0], f"layer {layer}, pass {step}"))
        result = tracer.result.save()
    return list(faults), result.logits[0]


def _fault(call: AttentionCall, output: Tensor, where: str) -> str:
    rows = call.rows()
    if not bool(torch.isfinite(rows).all()) or bool((rows.sum(-1) - 1).abs().max() > 1e-4):
        return f"{where}: rows do not sum to 1"
    ours, theirs = call.mixed(rows)[:, :, 0], output[:, -1].float()
    if ours.shape != theirs.shape:
        return f"{where}: output of shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}"
    error = float((ours - theirs).abs().max() / call.value.float().abs().max().clamp_min(1e-9))
    allowed = TOLERANCE.get(call.query.dtype, TOLERANCE[torch.bfloat16])
    return "" if error <= allowed else f"{where}: rows · values differ from the model's output by {error:.1e}"


def _written(model: VisionLanguageModel, inputs: dict[str, Any]) -> Tensor:
    operations = model.attention
    is_image = inputs["input_ids"] == model.image_token_id
    bias = torch.zeros(is_image.shape, device=model.device).masked_fill(is_image, HIDDEN_KEY)[:, None, None, :]
    with model.lm.trace(**inputs, logits_to_keep=1) as tracer:
        for operation in operations:
            operation.inputs = with_bias(operation.inputs, bias.to(operation.inputs[0][1].device))
        result = tracer.result.save()
    return result.logits[:, -1]
