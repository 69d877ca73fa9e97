"""The projector between tower and language model as it is trained: standardised, then folded into FastVLM's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_DEVIATION = 1e-3


class Projector(nn.Module):
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
        """Take mean and deviation from the features of some pictures; `scale` is what outputs are multiplied by."""
        self.mean.copy_(features.mean((0, 1)))
        self.deviation.copy_(features.std((0, 1)) + SMALLEST_DEVIATION)
        self.scale.fill_(scale)

    def forward(self, features: Float[Tensor, "*rows feature"]) -> Float[Tensor, "*rows hidden"]:
        standard = (features - self.mean) / self.deviation
        return self.linear_2(functional.gelu(self.linear_1(standard))) * self.scale


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an ordinary two-layer projector that computes what a `Projector` with this state does."""
    first = state["linear_1.weight"] / state["deviation"]
    return {
        "linear_1.weight": first,
        "linear_1.bias": state["linear_1.bias"] - first @ state["mean"],
        "linear_2.weight": state["linear_2.weight"] * state["scale"],
        "linear_2.bias": state["linear_2.bias"] * state["scale"],
    }
