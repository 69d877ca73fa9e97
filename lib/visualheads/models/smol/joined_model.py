"""Base weights and what was learned (projector and LoRA), joined into an ordinary FastVLM in memory or in a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from visualheads.cards import cards, learned_file
from visualheads.errors import CheckpointError, UnknownModelError, checked_name
from visualheads.models.progress import quiet
from visualheads.models.smol import base_weights
from visualheads.models.smol.architecture import IMAGE_TOKEN, Projector, build_config, build_processor, folded

ADAPTER, LORA = "adapter.", "lora."
"""Beginnings of the names of learned tensors: of the projector, and of LoRA matrices."""


RANK = 8
SCALE = 2.0
"""Factor of the product of the two matrices (α / r with α = 16)."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_learned(file: Path) -> dict[str, Tensor]:
    """Return learned tensors in float32. Raises CheckpointError for a file that is missing or damaged."""
    if not file.is_file():
        raise CheckpointError(f"the learned weights {file} are missing; they come with the repository (git checkout).")
    try:
        return {name: value.float() for name, value in load_file(file).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{file} is truncated or damaged ({error}); check it out again.") from error


def join(learned: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Join the base weights and learned ones.

    Parameters
    ----------
    learned : mapping of str to Tensor
        From `read_learned`: the projector's state, and LoRA matrices if the language model was tuned.
    dtype : torch.dtype
        Precision of the module.

    Returns
    -------
    module : FastVlmForConditionalGeneration
        In evaluation mode.
    processor : LlavaProcessor
        With the language model's own chat template.

    Raises
    ------
    CheckpointError
        If the base weights are not prepared.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, EfficientNetModel

    base = base_weights.check_prepared()
    tokenizer = AutoTokenizer.from_pretrained(base / base_weights.LANGUAGE, local_files_only=True)
    with quiet():
        language = AutoModelForCausalLM.from_pretrained(
            base / base_weights.LANGUAGE, dtype=torch.float32, local_files_only=True
        )
    weights = language.state_dict()
    matrices = {name[len(LORA) :]: value for name, value in learned.items() if name.startswith(LORA)}
    for name in sorted({name.rpartition(".")[0] for name in matrices}):
        weight = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = merged(weight, matrices[f"{name}.down"], matrices[f"{name}.up"])
    language.load_state_dict(weights)
    config = build_config(language.config, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    tower = EfficientNetModel(config.vision_config)
    tower.load_state_dict(load_file(base / base_weights.TOWER))
    projector = folded({name[len(ADAPTER) :]: value for name, value in learned.items() if name.startswith(ADAPTER)})
    module = assembled(config, language.model, language.lm_head, tower, projector)
    module.generation_config = language.generation_config
    return module.to(dtype).eval(), build_processor(tokenizer)


def assembled(config: Any, language_model: Any, head: Any, tower: Any, projector: Mapping[str, Tensor]) -> Any:
    """Return a FastVLM made of these parts, which it shares, and a projector with these weights."""
    from transformers import FastVlmForConditionalGeneration

    with torch.device("meta"):
        module: Any = FastVlmForConditionalGeneration(config)
    module.model.multi_modal_projector.to_empty(device="cpu").load_state_dict(dict(projector))
    module.model.vision_tower = tower
    module.model.language_model = language_model
    module.lm_head = head
    return module


@torch.no_grad()
def with_untrained_projector(module: Any, pixels: Tensor, seed: int = 0) -> Any:
    """Return the model with a projector that learned nothing: the control of a model on a real language model.

    Parameters
    ----------
    module : FastVlmForConditionalGeneration
        The trained model; tower and language model are shared with it.
    pixels : Tensor
        Some prepared pictures, by whose features the new projector is standardised, and on which its outputs get the
        deviation of the trained one's.
    seed : int
        Of the random weights, drawn as torch draws them for a linear layer.

    Returns
    -------
    FastVlmForConditionalGeneration
    """
    parts = module.model
    features = parts.vision_tower(pixels.to(module.dtype)).last_hidden_state.flatten(2).transpose(1, 2).float()
    trained = parts.multi_modal_projector.float()(features).std()
    parts.multi_modal_projector.to(module.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Projector(features.shape[-1], module.config.text_config.hidden_size)
    fresh.standardise(features, 1.0)
    fresh.scale.copy_(trained / fresh(features).std())
    projector = folded({name: value.detach() for name, value in fresh.state_dict().items()})
    made = assembled(module.config, parts.language_model, module.lm_head, parts.vision_tower, projector)
    made.model.multi_modal_projector.to(module.dtype)
    made.generation_config = module.generation_config
    return made.eval()


def export(name: str, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a model as an ordinary Hugging Face folder: config, safetensors, tokenizer, processor, chat template.

    Parameters
    ----------
    name : str
        Name of a joined model, such as smol-1.5.
    folder : Path
        Folder to make; it appears when it is complete.
    overwrite : bool
        Replace a folder that is there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UnknownModelError
        If no joined model of the catalogue has this name.
    CheckpointError
        If weights are missing, or the folder is there already.
    """
    checked_name("model", name, [card.name for card in cards().values() if card.joined], UnknownModelError)
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} is there already; name another folder, or add --overwrite.")
    module, processor = join(read_learned(learned_file(name)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        module.save_pretrained(made)
        processor.save_pretrained(made)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(made, folder)
    return folder


class LoraLinear(nn.Module):
    """A frozen linear layer plus a learned product of two thin matrices."""

    def __init__(self, frozen: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, inputs: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
        kind = inputs.dtype  # scaling the thin matrix costs less than scaling what comes out
        learned = functional.linear(functional.linear(inputs, (SCALE * self.down).to(kind)), self.up.to(kind))
        return self.frozen(inputs) + learned


def add_lora(language_model: nn.Module, rank: int = RANK) -> None:
    """Replace the linear layers named in `TARGETS` by `LoraLinear`, in place."""
    for module in list(language_model.modules()):
        for name, child in list(module.named_children()):
            if name in TARGETS and isinstance(child, nn.Linear):
                setattr(module, name, LoraLinear(child, rank))


def lora_layers(language_model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield name and layer of every `LoraLinear`, in the model's order."""
    for name, module in language_model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def lora_state(language_model: nn.Module) -> dict[str, Tensor]:
    """Return the learned matrices by name: {"model.layers.0.self_attn.q_proj.down": …}."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in lora_layers(language_model)
        for part in ("down", "up")
    }


def merged(
    weight: Float[Tensor, "out into"], down: Float[Tensor, "rank into"], up: Float[Tensor, "out rank"]
) -> Float[Tensor, "out into"]:
    """Return the weight of one ordinary linear layer that computes the frozen and the learned part."""
    return weight + SCALE * (up.to(weight.dtype) @ down.to(weight.dtype))
