"""LoRA on the linear layers of a language model, and how it is merged into them (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

RANK = 8
SCALE = 2.0
"""Factor of the product of the two matrices (α / r with α = 16)."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """A frozen linear layer plus a learned product of two thin matrices."""

    def __init__(self, frozen: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, inputs: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
        kind = inputs.dtype
        learned = functional.linear(functional.linear(inputs, self.down.to(kind)), self.up.to(kind))
        return self.frozen(inputs) + SCALE * learned


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
