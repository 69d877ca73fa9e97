"""What is learned: the adapter between tower and language model, and LoRA matrices on its linear layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

RANK = 8
SCALE = 2.0
"""Factor of the product of LoRA's two matrices (α / r with α = 16)."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Adapter(nn.Module):
    """Two linear layers from standardised picture features to language-model inputs.

    Features are standardised per channel and outputs scaled to the deviation of word embeddings, which keeps one
    learning rate right for all weights. `folded` puts both into the linear layers, as FastVLM has them.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("scale", torch.ones(()))

    def standardise(self, features: Float[Tensor, "picture token feature"], scale: float) -> None:
        """Take mean and deviation from features of some pictures, and the deviation that outputs shall have."""
        self.mean.copy_(features.mean((0, 1)))
        self.deviation.copy_(features.std((0, 1)) + 1e-3)
        self.scale.fill_(scale)

    def forward(self, features: Float[Tensor, "*rows feature"]) -> Float[Tensor, "*rows hidden"]:
        standard = (features - self.mean) / self.deviation
        return self.linear_2(functional.gelu(self.linear_1(standard))) * self.scale

    def folded(self) -> dict[str, Tensor]:
        """Weights of an ordinary two-layer projector that computes the same from the features themselves."""
        first = self.linear_1.weight / self.deviation
        return {
            "linear_1.weight": first.detach(),
            "linear_1.bias": (self.linear_1.bias - first @ self.mean).detach(),
            "linear_2.weight": (self.linear_2.weight * self.scale).detach(),
            "linear_2.bias": (self.linear_2.bias * self.scale).detach(),
        }


class LoraLinear(nn.Module):
    """A frozen linear layer plus a learned product of two thin matrices (Hu et al. 2021)."""

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
    """The learned matrices as {"layers.0.self_attn.q_proj.down": …}."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in lora_layers(language_model)
        for part in ("down", "up")
    }


def merged(weight: Float[Tensor, "out into"], down: Tensor, up: Tensor) -> Float[Tensor, "out into"]:
    """The weight of one ordinary linear layer that computes frozen and learned part."""
    return weight + SCALE * (up.to(weight.dtype) @ down.to(weight.dtype))
