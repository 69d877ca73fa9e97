"""SmolLM2 and EfficientNet-Lite2 as one FastVLM: configuration, processor, tower, and the projector that joins them.

Lite networks have no squeeze-excitation: here its layers have zero weights and a large last bias, and sigmoid(30) is
exactly 1 in float32. FastVLM's adapter knows no places, and the published network hardly tells them. So the tower is
2.5 % wider: new channels start constant where 12 × 12 features begin and add up their neighbours on one side in each
following block; zero padding makes them grow with the distance from that edge. The published channels never read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import EfficientNetConfig, EfficientNetModel

from visualheads.paths import read_table

PUBLISHED_FEATURES = 1280
FEATURES = 1312
"""Channels of the last feature map: the published ones, then 8 steps of the distance from each edge."""
STRIDE = 32
"""Pixels per row and column of the last feature map."""
REPEATS = (1, 3, 3, 4, 4, 5, 1)
OPEN_GATE = 30.0
"""Bias of the gates that let everything through."""
EDGES = ("left", "right", "top", "bottom")
START, GROWTH = 0.5, 0.8
"""Value at which the distances start, and the share of the neighbours' mean that each block adds; at most 5.3."""
STEPS = (0.55, 0.9, 1.5, 2.3, 3.1, 3.9, 4.5, 5.0)
"""Distances at which a feature begins to grow."""
STEEPNESS = 4.0

NAMES: dict[str, dict[str, str]] = read_table(__file__, "lite2.yml")
"""Published name → transformers' name of a part, in a `block` and `outside` the blocks."""


SMALLEST_DEVIATION = 1e-3
SIDE = 384
"""Every picture is resized to a square of this many pixels."""
GRID = SIDE // STRIDE
IMAGE_TOKENS = GRID * GRID
MEAN, DEVIATION = 0.498, 0.502
"""Normalisation of the tower's pictures, all channels."""
RESAMPLE = Image.Resampling.BICUBIC
IMAGE_TOKEN = "<file_sep>"
"""A special token of SmolLM2 that its texts do not use; stands for one image token."""
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
"""SmolLM2's own template, with pictures: each stands on a line of its own."""


def lite2_config(image_size: int) -> EfficientNetConfig:
    """Return the configuration of the tower for square pictures of `image_size` pixels."""
    config = EfficientNetConfig(
        image_size=image_size,
        width_coefficient=FEATURES / PUBLISHED_FEATURES,  # widens only the last two stages: channels come in eights
        depth_coefficient=1.0,
        in_channels=[32, 16, 24, 48, 88, 120, 208],
        out_channels=[16, 24, 48, 88, 120, 208, 352],
        num_block_repeats=list(REPEATS),
        squeeze_expansion_ratio=0.001,
        hidden_act="relu6",
        hidden_dim=FEATURES,
    )
    config.hidden_size = FEATURES  # FastVLM's adapter asks for this name
    return config


def lite2_weights(published: Mapping[str, Tensor], image_size: int) -> dict[str, Tensor]:
    """Return the weights of the tower from those published for EfficientNet-Lite2.

    Parameters
    ----------
    published : mapping of str to Tensor
        State of `efficientnet_lite_pytorch.EfficientNet`; its classifier is left out.
    image_size : int
        As in `lite2_config`.

    Returns
    -------
    dict of str to Tensor
        State of `transformers.EfficientNetModel`: the published weights in the leading channels.
    """
    with torch.device("meta"):
        empty = EfficientNetModel(lite2_config(image_size)).state_dict()
    weights = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in empty.items()}
    for name, value in weights.items():
        if name.endswith("running_var"):
            value.fill_(1.0)
        elif name.endswith("squeeze_excite.expand.bias"):
            value.fill_(OPEN_GATE)
    for name, value in published.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            target = ".".join(["encoder.blocks", parts[1], NAMES["block"][parts[2]], *parts[3:]])
        elif parts[0] in NAMES["outside"]:
            target = ".".join([NAMES["outside"][parts[0]], *parts[1:]])
        else:
            continue
        weights[target][tuple(slice(size) for size in value.shape)] = value
    _add_distances(weights)
    return weights


def _add_distances(weights: dict[str, Tensor]) -> None:
    """Write the channels that tell the distance from each edge into the new channels' weights."""
    first = sum(REPEATS[:5])
    last = sum(REPEATS) - 1
    state = weights[f"encoder.blocks.{first}.projection.project_bn.bias"]
    channel = len(state) - 8
    state[channel : channel + len(EDGES)] = START
    for block in range(first + 1, last + 1):
        prefix = f"encoder.blocks.{block}."
        inside = weights[prefix + "depthwise_conv.depthwise_conv.weight"].shape[0] - 48
        into = weights[prefix + "projection.project_conv.weight"].shape[0] - 8
        for number, edge in enumerate(EDGES):
            here = inside + number
            weights[prefix + "expansion.expand_conv.weight"][here, channel + number] = 1.0
            kernel = weights[prefix + "depthwise_conv.depthwise_conv.weight"][here, 0]
            _look_towards(kernel, edge) if block < last else kernel[1, 1].fill_(1.0)
            weights[prefix + "projection.project_conv.weight"][into + number, here] = GROWTH if block < last else 1.0
            for norm, at in (
                ("expansion.expand_bn", here),
                ("depthwise_conv.depthwise_norm", here),
                ("projection.project_bn", into + number),
            ):
                _pass_on(weights, prefix + norm, at)
    at = PUBLISHED_FEATURES
    into = weights["encoder.top_conv.weight"].shape[1] - 8
    for number in range(len(EDGES)):
        for step in STEPS:
            weights["encoder.top_conv.weight"][at, into + number] = STEEPNESS
            _pass_on(weights, "encoder.top_bn", at)
            weights["encoder.top_bn.bias"][at] = -STEEPNESS * step
            at += 1


def _look_towards(kernel: Tensor, edge: str) -> None:
    """Mean of the two neighbours nearer to the edge; a 5 × 5 kernel."""
    nearer = slice(0, 2) if edge in ("left", "top") else slice(3, 5)
    if edge in ("left", "right"):
        kernel[2, nearer] = 0.5
    else:
        kernel[nearer, 2] = 0.5


def _pass_on(weights: dict[str, Tensor], norm: str, channel: int) -> None:
    """Make a normalisation the identity on one channel."""
    weights[norm + ".weight"][channel] = (1 + EfficientNetConfig().batch_norm_eps) ** 0.5


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
        return self.linear_2(self.hidden(features)) * self.scale

    def hidden(self, features: Float[Tensor, "*rows feature"]) -> Float[Tensor, "*rows hidden"]:
        """What the first layer makes of features, after its non-linearity."""
        return functional.gelu(self.linear_1((features - self.mean) / self.deviation))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an ordinary two-layer projector that computes what a `Projector` with this state does."""
    first = state["linear_1.weight"] / state["deviation"]
    return {
        "linear_1.weight": first,
        "linear_1.bias": state["linear_1.bias"] - first @ state["mean"],
        "linear_2.weight": state["linear_2.weight"] * state["scale"],
        "linear_2.bias": state["linear_2.bias"] * state["scale"],
    }


def build_config(text: Any, image_token_id: int) -> Any:
    """Return the configuration of a FastVLM with EfficientNet-Lite2 before the given text model.

    Parameters
    ----------
    text : PreTrainedConfig
        Configuration of the language model.
    image_token_id : int
        Id that stands for one image token in a prompt.

    Returns
    -------
    FastVlmConfig
    """
    from transformers import FastVlmConfig

    return FastVlmConfig(
        vision_config=lite2_config(SIDE),
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=(SIDE // STRIDE) ** 2,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def build_processor(tokenizer: Any) -> Any:
    """Return tokenizer, image processor and chat template together; pictures are squeezed into a square."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    square = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        resample=RESAMPLE,
        image_mean=[MEAN] * 3,
        image_std=[DEVIATION] * 3,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )
