"""EfficientNet-Lite2 as an ordinary `transformers.EfficientNetModel`, with channels that tell where in the picture.

Lite networks have no squeeze-excitation: here its layers have zero weights and a large last bias, and sigmoid(30) is
exactly 1 in float32. FastVLM's adapter knows no places, and the published network hardly tells them. So the tower is
2.5 % wider: new channels start constant where 12 × 12 features begin and add up their neighbours on one side in each
following block; zero padding makes them grow with the distance from that edge. The published channels never read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetModel

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

_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_OUTSIDE = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}


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
    weights = {name: torch.zeros_like(value) for name, value in _empty(image_size).items()}
    for name, value in weights.items():
        if name.endswith("running_var"):
            value.fill_(1.0)
        elif name.endswith("squeeze_excite.expand.bias"):
            value.fill_(OPEN_GATE)
    for name, value in published.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            target = ".".join(["encoder.blocks", parts[1], _BLOCK[parts[2]], *parts[3:]])
        elif parts[0] in _OUTSIDE:
            target = ".".join([_OUTSIDE[parts[0]], *parts[1:]])
        else:
            continue
        weights[target][tuple(slice(size) for size in value.shape)] = value
    _add_distances(weights)
    return weights


def _empty(image_size: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = EfficientNetModel(lite2_config(image_size)).state_dict()
    return {name: torch.empty(value.shape, dtype=value.dtype) for name, value in state.items()}


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
