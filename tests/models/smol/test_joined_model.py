"""Tower, projector and LoRA: what is folded and merged computes the same."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import EfficientNetModel

from helpers.smol import fast_vlm
from visualheads.errors import VisualHeadsError
from visualheads.miniatures.smol.packing import ASK, BEFORE
from visualheads.models.smol.architecture import (
    IMAGE_TOKEN,
    PUBLISHED_FEATURES,
    Projector,
    folded,
    lite2_config,
    lite2_weights,
)
from visualheads.models.smol.joined_model import LoraLinear, export, merged, with_untrained_projector

SIDE = 384


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Random weights under the names and shapes in which EfficientNet-Lite2 is published."""
    inside = {
        "expansion.expand_conv": "_expand_conv",
        "expansion.expand_bn": "_bn0",
        "depthwise_conv.depthwise_conv": "_depthwise_conv",
        "depthwise_conv.depthwise_norm": "_bn1",
        "projection.project_conv": "_project_conv",
        "projection.project_bn": "_bn2",
    }
    outside = {
        "embeddings.convolution": "_conv_stem",
        "embeddings.batchnorm": "_bn0",
        "encoder.top_conv": "_conv_head",
        "encoder.top_bn": "_bn1",
    }
    config = lite2_config(SIDE)
    config.width_coefficient, config.hidden_dim = 1.0, PUBLISHED_FEATURES
    torch.manual_seed(0)
    told: dict[str, torch.Tensor] = {}
    for name, value in EfficientNetModel(config).state_dict().items():
        drawn = torch.rand(value.shape) * 0.2 + 0.9 if value.dim() == 1 else torch.randn(value.shape) * 0.1
        value = drawn if value.is_floating_point() else value
        for long, short in outside.items():
            if name.startswith(long):
                told[name.replace(long, short)] = value
        for long, short in inside.items():
            if f".{long}." in name:
                told[name.replace("encoder.blocks", "_blocks").replace(long, short)] = value
    return told


def test_the_published_channels_stay_and_the_new_ones_tell_the_place(published):
    tower = EfficientNetModel(lite2_config(SIDE)).eval()
    tower.load_state_dict(lite2_weights(published, SIDE))
    without = {**lite2_weights(published, SIDE)}
    with torch.no_grad():
        one, other = tower(torch.randn(2, 3, SIDE, SIDE)).last_hidden_state
    places = one[PUBLISHED_FEATURES:]
    assert one.shape == (PUBLISHED_FEATURES + 32, 12, 12)
    assert torch.equal(places, other[PUBLISHED_FEATURES:]), "whatever the picture shows"
    rows = places.permute(1, 2, 0).reshape(144, -1)
    apart = torch.cdist(rows, rows) + 9 * torch.eye(144)
    assert apart.min() > 0.1, "no two places are told alike"
    first = sum((1, 3, 3, 4, 4))
    extra = without[f"encoder.blocks.{first + 1}.expansion.expand_conv.weight"]
    assert not extra[:1248, 208:].any(), "published channels never read the new ones"


def test_a_folded_projector_computes_the_same():
    torch.manual_seed(0)
    projector = Projector(12, 8)
    features = torch.rand(3, 5, 12) * 4 + 1
    projector.standardise(features, 0.3)
    weights = folded({name: value.detach() for name, value in projector.state_dict().items()})
    plain = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    plain.load_state_dict({name.replace("linear_1", "0").replace("linear_2", "2"): v for name, v in weights.items()})
    torch.testing.assert_close(plain(features), projector(features), atol=1e-5, rtol=1e-5)


def test_merged_matrices_compute_the_same():
    torch.manual_seed(0)
    layer = LoraLinear(torch.nn.Linear(6, 4, bias=False), rank=2)
    torch.nn.init.normal_(layer.up)
    inputs = torch.randn(3, 6)
    weight = merged(layer.frozen.weight, layer.down, layer.up)
    torch.testing.assert_close(inputs @ weight.T, layer(inputs))


def test_only_joined_models_are_exported(tmp_path):
    with pytest.raises(VisualHeadsError, match=r"smol-1\.5"):
        export("mini-1.5-7B", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(VisualHeadsError, match="--overwrite"):
        export("smol-1.5", tmp_path / "there")


def test_an_untrained_projector_has_the_trained_ones_deviation():
    module, processor = fast_vlm()
    torch.manual_seed(0)
    pixels = processor.image_processor(
        [Image.fromarray((torch.rand(90, 120, 3) * 255).byte().numpy()) for _ in range(2)], return_tensors="pt"
    )["pixel_values"]
    fresh, again, other = (with_untrained_projector(module, pixels, seed) for seed in (0, 0, 1))
    with torch.no_grad():
        outputs = [
            made.get_image_features(pixels, return_dict=True).pooler_output for made in (module, fresh, again, other)
        ]
    torch.testing.assert_close(outputs[1].std(), outputs[0].std(), rtol=1e-3, atol=0)
    assert torch.equal(outputs[1], outputs[2]) and not torch.allclose(outputs[1], outputs[3])
    assert fresh.model.language_model is module.model.language_model


def test_prompts_are_those_of_the_language_models_own_template():
    _, processor = fast_vlm()
    words = [{"role": "user", "content": "How many dogs are there?"}]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many dogs are there?"}]}]
    plain, shown = (
        processor.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in (words, parts)
    )
    assert plain == f"{BEFORE}How many dogs are there?{ASK}"
    assert shown == f"{BEFORE}{IMAGE_TOKEN}\nHow many dogs are there?{ASK}"
