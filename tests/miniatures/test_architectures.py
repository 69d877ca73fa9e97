"""Shapes and lineage of the miniatures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.project import ROOT
from visualheads.errors import UnknownModelError
from visualheads.miniatures import architectures


def test_the_nine_and_their_controls_are_small_enough_together():
    paper = [name for name in architectures.MINIATURES if "seed" not in name and "text1" not in name]
    assert len(paper) == 9 and len(architectures.MINIATURES) == 11
    assert sum(path.stat().st_size for path in (ROOT / "data/miniatures").glob("*/*.safetensors")) < 38e6


def test_language_models_have_the_papers_families_and_shapes():
    shapes = architectures.TEXT_SHAPES
    assert all(shape.layers >= 8 and shape.heads >= 8 for shape in shapes.values())
    small, large = shapes["mini-vicuna-7B-text"], shapes["mini-vicuna-13B-text"]
    assert large.layers > small.layers and large.hidden > small.hidden
    assert shapes["mini-mistral-7B-text"].key_value_heads < shapes["mini-mistral-7B-text"].heads
    phi = architectures.build_text(shapes["mini-phi-3-3.8B-text"])
    assert "qkv_proj" in dict(phi.model.layers[0].self_attn.named_children())
    assert phi.config.hidden_size // phi.config.num_attention_heads == shapes["mini-phi-3-3.8B-text"].head_dim
    assert shapes["mini-vicuna-7B-text-seed1"] == replace(small, name="mini-vicuna-7B-text-seed1", seed=1)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownModelError, match=r"mini-1\.5-7B"):
        architectures.miniature("mini-1.5-8B")
    with pytest.raises(UnknownModelError, match="mini-vicuna-7B-text"):
        architectures.text_shape("mini")


def test_everything_is_trained_in_an_order_that_shares_stages():
    order = architectures.training_order()
    assert order[0] == "mini-1.5-7B" and len(order) == len(set(order)) == 11
    texts = [architectures.miniature(name).text for name in order[:9]]
    assert len(dict.fromkeys(texts)) == sum(one != other for one, other in zip(texts, [None, *texts], strict=False))
