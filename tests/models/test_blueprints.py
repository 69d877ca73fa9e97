"""The real configurations, built without weights: shapes, parameters, and image tokens by the models' own packing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from PIL import Image

from visualheads.cards import cards
from visualheads.errors import UnknownModelError
from visualheads.models import blueprints

# The chapter Method, Models: hidden, intermediate, layers, heads, key-value heads, vocabulary, billions of parameters
NINE = {
    "1.5-7B": (4096, 11008, 32, 32, 32, 32000, 7.06),
    "1.5-13B": (5120, 13824, 40, 40, 40, 32000, 13.35),
    "1.6-vicuna-7B": (4096, 11008, 32, 32, 32, 32000, 7.06),
    "1.6-vicuna-13B": (5120, 13824, 40, 40, 40, 32000, 13.35),
    "1.6-mistral-7B": (4096, 14336, 32, 32, 8, 32000, 7.57),
    "vip-7B": (4096, 11008, 32, 32, 32, 32000, 7.08),
    "vip-13B": (5120, 13824, 40, 40, 40, 32000, 13.37),
    "vip-phi-3-3.8B": (3072, 8192, 32, 32, 32, 32064, 4.15),
    "vip-llama-3-8B": (4096, 14336, 32, 32, 8, 128256, 8.37),
}
OTHER_READINGS = {"1.5-phi-3-3.8B": "vip-phi-3-3.8B", "1.5-llama-3-8B": "vip-llama-3-8B"}
SIZES = {(336, 336): 1176, (672, 672): 2928, (640, 480): 2340, (300, 1000): 2232}
"""(width, height) → image tokens after AnyRes; every other recipe makes 576 of any picture."""


@cache
def plan(name: str) -> blueprints.Blueprint:
    return blueprints.of_card(cards()[name])


def packed(one: blueprints.Blueprint, size: tuple[int, int]) -> int:
    """Image tokens that the model's own code makes of a picture's pixels, all on the meta device."""
    prepared = one.processor.image_processor(Image.new("RGB", size), return_tensors="pt")
    inputs = {"pixel_values": prepared["pixel_values"].to("meta")}
    if "image_sizes" in prepared:
        inputs["image_sizes"] = prepared["image_sizes"]
    with torch.no_grad():
        features = one.module.model.get_image_features(**inputs).pooler_output
    assert features[0].shape[-1] == one.config.text_config.hidden_size
    return features[0].shape[0]


@pytest.mark.parametrize("name", NINE)
def test_the_nine_have_the_papers_shapes(name: str):
    hidden, intermediate, layers, heads, kv_heads, vocabulary, billions = NINE[name]
    one, text = plan(name), plan(name).config.text_config
    assert (text.hidden_size, text.intermediate_size) == (hidden, intermediate)
    assert one.shape == (layers, heads, kv_heads) == cards()[name].shape
    assert text.vocab_size == vocabulary + 1, "<image> is added"
    module = one.module
    decoder = module.get_submodule(one.adapter.layers)
    assert type(module).__name__ == one.module_class.__name__ == cards()[name].class_name
    assert len(decoder) == layers
    assert all(weight.is_meta for weight in module.parameters()), "no memory is used"
    assert one.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    attention = decoder[0].self_attn
    features = hidden // heads
    if "phi-3" in name:
        assert attention.qkv_proj.weight.shape == ((heads + 2 * kv_heads) * features, hidden), "fused"
        assert text.sliding_window == 2047
    else:
        assert attention.q_proj.weight.shape == (heads * features, hidden)
        assert attention.k_proj.weight.shape == (kv_heads * features, hidden)
        assert getattr(text, "sliding_window", None) is None
    tower = one.config.vision_config
    assert (tower.hidden_size, tower.num_hidden_layers, tower.num_attention_heads) == (1024, 24, 16)
    if "vip" in name:
        assert one.config.vision_feature_layers == [-2, -5, -8, -11, 6]
    else:
        assert one.config.vision_feature_layer == -2


@pytest.mark.parametrize("name", NINE)
def test_image_tokens_are_those_of_the_models_own_packing(name: str):
    one = plan(name)
    for size, tokens in SIZES.items():
        expected = tokens if "1.6" in name else 576
        assert one.image_tokens(size) == packed(one, size) == expected
        assert one.grid_shape(size) == (24, 24)


@pytest.mark.parametrize("name", OTHER_READINGS)
def test_both_readings_of_two_rows_differ_in_the_recipe_only(name: str):
    ours, paper = plan(name), plan(OTHER_READINGS[name])
    assert ours.shape == paper.shape
    assert ours.config.text_config.to_dict() == paper.config.text_config.to_dict()
    assert ours.module_class.__name__ == "LlavaForConditionalGeneration"


def test_converted_checkpoints_pad_and_published_ones_crop():
    tall = (300, 1000)
    for name, first in (("vip-7B", (0, 350)), ("vip-phi-3-3.8B", None)):
        one = plan(name)
        box = one.adapter.token_map(one.config, one.processor, tall).box
        assert tuple(box[0, :2]) == pytest.approx(first, abs=2) if first else bool((box[0] != box[0]).all())


def test_every_card_of_these_language_models_has_a_blueprint():
    known = [name for name, card in cards().items() if blueprints.has_blueprint(card)]
    assert set(known) >= {*NINE, *OTHER_READINGS}
    with pytest.raises(UnknownModelError, match="qwen2-vl-7B"):
        blueprints.of_card(cards()["qwen2-vl-7B"])
    with pytest.raises(UnknownModelError, match="Vicuna-7B"):
        blueprints.of_card(cards()["mini-1.5-7B"])
