"""Self-validation on load: the rows we compute are those the model uses, and what we write reaches its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visualheads.errors import UnsupportedModelError
from visualheads.models.attention_call import read, with_bias
from visualheads.models.generation import greedy
from visualheads.models.weights import check_lora_effect
from visualheads.tasks.sample import Sample

if TYPE_CHECKING:
    from visualheads.models.attention_call import AttentionCall
    from visualheads.models.prompting import Prompts
    from visualheads.models.wrapper import VisionLanguageModel

QUESTION = "What is in the picture?"
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
    """
    from PIL import Image

    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    encoding = prompts.encode([Sample(id="check", image=picture, question=QUESTION)])
    found = int((encoding["input_ids"] == int(config.image_token_id)).sum())
    expected = len(prompts.adapter.token_map(config, prompts.processor, picture.size))
    if found != expected:
        raise UnsupportedModelError(
            f"{type(prompts.processor).__name__} makes {found} image tokens of a 64 × 48 picture, its adapter expects "
            f"{expected}; processor and checkpoint do not belong together, or the adapter is wrong."
        )
    return encoding


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
