"""The model while it learns: frozen parts in their own precision, learned parts in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visualheads.miniatures.smol.packing import Packed, answer_logits, as_pixels
from visualheads.miniatures.smol.sprites import SpriteSheet
from visualheads.models.smol import ADAPTER, LORA, lora_layers, lora_state
from visualheads.models.smol.architecture import IMAGE_TOKEN, Projector


@dataclass
class Learner:
    """The model while it learns: frozen parts in their own precision, learned parts in float32."""

    tokenizer: Any
    language_model: Any
    tower: Any
    adapter: Projector
    sheet: SpriteSheet

    def learned(self) -> dict[str, Tensor]:
        """All learned tensors and the adapter's statistics, by the names they are saved under."""
        adapter = {f"{ADAPTER}{name}": value.detach() for name, value in self.adapter.state_dict().items()}
        lora = {f"{LORA}{name}": value for name, value in lora_state(self.language_model).items()}
        return {**adapter, **lora}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take learned tensors; LoRA matrices that `weights` lacks keep their initial values."""
        projector = {name[len(ADAPTER) :]: value for name, value in weights.items() if name.startswith(ADAPTER)}
        self.adapter.load_state_dict(projector)
        with torch.no_grad():
            for name, layer in lora_layers(self.language_model):
                for part in ("down", "up"):
                    if f"{LORA}{name}.{part}" in weights:
                        getattr(layer, part).copy_(weights[f"{LORA}{name}.{part}"])

    def features(self, pictures: Sequence[Any]) -> Tensor:
        """Features of rendered pictures, one row of tokens each."""
        pixels = torch.stack([as_pixels(picture) for picture in pictures])
        with torch.no_grad():
            return self.tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)

    def inputs(self, batch: Packed, features: Tensor | None, pictures: int) -> Tensor:
        """Language-model inputs: word embeddings, with adapted features in the first rows' image tokens."""
        embedded = self.language_model.get_input_embeddings()(batch.ids)
        if features is None:
            return embedded
        image = (batch.ids == self.image_token) & (torch.arange(len(batch.ids))[:, None] < pictures)
        return embedded.masked_scatter(image[..., None], self.adapter(features).to(embedded.dtype))

    @property
    def image_token(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def scores(self, batch: Packed, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (float32) and targets of all answer tokens of a batch, in row order."""
        return answer_logits(self.language_model.model, self.language_model.lm_head, batch, inputs)
