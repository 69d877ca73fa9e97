"""Capture in every class: rows against the weights that the same eager pass returns, for each query of each pass."""

from __future__ import annotations

from functools import cache
from typing import Any

import nnsight
import pytest
import torch
from transformers import DynamicCache, MistralConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from helpers.families import FAMILIES, NEEDS_NUM2WORDS, family
from helpers.networks import BUILDERS, Tiny, samples
from visualheads.errors import UnsupportedModelError
from visualheads.models.attention_call import AttentionCall, read
from visualheads.models.loading import wrap
from visualheads.models.wrapper import answer_lengths, greedy
from visualheads.tracing.forward import ANSWER_SPAN, run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

LLAVAS = {
    "llava, grouped": ("llava", Tiny(layers=2)),
    "llava, phi3, window 12": ("llava", Tiny(text="phi3", kv_heads=4, layers=2, window=12)),
    "next, mistral, window 20": ("llava_next", Tiny(text="mistral", layers=2, window=20)),
    "vip": ("vip_llava", Tiny(kv_heads=4, layers=2)),
}
NAMES = [*LLAVAS, *(pytest.param(name, marks=NEEDS_NUM2WORDS) if name == "smolvlm" else name for name in FAMILIES)]
PASSES = 4
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""bfloat16: transformers rounds the scores and weights to 8 bits, our rows stay float32."""


@cache
def eager(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A small eager model; do not change it."""
    if name in LLAVAS:
        kind, tiny = LLAVAS[name]
        module, processor = BUILDERS[kind](tiny, implementation="eager")
    elif dtype == torch.float32:
        return family(name, "eager")
    else:
        module, processor = FAMILIES[name]("eager")
    return wrap(module.to(dtype), processor, name=name, validate=False)


def passes(model: Any, encoding: Any) -> list[list[tuple[AttentionCall, torch.Tensor]]]:
    """pass → layer → (call, the weights that this very call returned)."""
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    operations = model.attention
    with torch.no_grad(), greedy(model.module, 0), model.lm.generate(**inputs, max_new_tokens=PASSES) as tracer:
        found = nnsight.save([])
        for _ in tracer.iter[:PASSES]:
            for operation in operations:
                found.append((read(operation), operation.output[1]))
    depth = len(operations)
    return [list(found[start : start + depth]) for start in range(0, len(found), depth)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_every_query_equal_the_weights_of_the_same_pass(name: str, dtype: torch.dtype):
    model = eager(name, dtype)
    encoding = model.encode(samples(2))
    prompt = encoding["attention_mask"].bool()
    assert not prompt.all(), "the batch must be padded"
    found = passes(model, encoding)
    assert len(found) == PASSES and all(len(layers) == model.shape.layers for layers in found)
    for step, layers in enumerate(found):
        for call, weights in layers:
            queries = call.shape[2]
            assert queries == (prompt.shape[1] if step == 0 else 1)
            asked = prompt if step == 0 else torch.ones_like(prompt[:, :1])
            rows, visible = call.rows(range(queries)), call.visible(range(queries))
            assert rows.dtype == torch.float32
            keep = asked[:, None, :, None].expand_as(rows)
            torch.testing.assert_close(rows[keep], weights.float()[keep], atol=TOLERANCE[dtype], rtol=0)
            assert not rows[keep & ~visible[:, None]].any(), "attention on keys told to be invisible"
    calls = [call for layers in found for call, _ in layers]
    _, heads, _, _ = calls[0].shape
    assert (heads, calls[0].key.shape[1]) == model.shape[1:]
    total = prompt.shape[1] + PASSES - 1
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    windowed = bool(window) and window < prompt.shape[1]
    assert windowed == any(call.shape[3] < total for call, _ in found[-1]), "a window shorter than the prompt"
    assert bool(calls[0].softcap) == (name == "paligemma2")
    images = model.image_positions(encoding)[0]
    ahead = found[0][-1][0].rows(images.tolist())[0][..., images].triu(1)
    assert bool(ahead.any()) == model.adapter.bidirectional, (
        "image tokens see later ones in bidirectional prefixes only"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_span_is_the_mean_of_the_eager_rows_of_each_answer(name: str):
    model = eager(name)
    encoding = model.encode(samples(2))
    longest = PASSES - 1
    found = run(model, encoding, (ANSWER_SPAN,), longest)
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    with torch.no_grad(), greedy(model.module, 0):
        out = model.module.generate(
            **inputs, max_new_tokens=PASSES, output_attentions=True, return_dict_in_generate=True
        )
    answers = out.sequences[:, -PASSES:][:, :longest]
    assert (found.answers[:, : answers.shape[1]] == answers).all()
    rows = found.rows[ANSWER_SPAN].attention
    prompt = encoding["input_ids"].shape[1]
    for sample, length in enumerate(answer_lengths(answers, model.end_tokens).clamp_min(1).tolist()):
        for layer in range(model.shape.layers):
            mean = torch.zeros(model.shape.heads, prompt + longest)
            for step in range(1, length + 1):
                weights = out.attentions[step][layer][sample, :, -1]
                mean[:, prompt + step - weights.shape[-1] : prompt + step] += weights / length
            torch.testing.assert_close(rows[layer, sample], mean[:, : rows.shape[-1]], atol=1e-5, rtol=0)


def test_the_classes_differ_in_what_makes_capture_hard():
    """So that the two tests above cannot pass by every small model being alike."""
    models = [eager(name) for name in (*LLAVAS, *FAMILIES) if name != "smolvlm"]
    assert any(model.shape.kv_heads < model.shape.heads for model in models)
    assert any(model.adapter.bidirectional for model in models)
    assert any(getattr(model.config.get_text_config(), "sliding_window", None) for model in models)
    assert any(getattr(model.config.get_text_config(), "attn_logit_softcapping", None) for model in models)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cached", [0, 3, 9])
@pytest.mark.parametrize("queries", [1, 5])
def test_flash_attentions_masks_give_the_rows_of_sdpas(cached, padded, window, queries, softcap):
    """Masks as transformers makes them for both implementations; flash attention itself needs a GPU."""
    config = MistralConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, sliding_window=window
    )
    cache, make = DynamicCache(config=config), torch.Generator().manual_seed(0)
    tensor = lambda heads, length: torch.randn(2, heads, length, 4, generator=make)  # noqa: E731
    if cached:
        cache.update(tensor(2, cached), tensor(2, cached), 0)
    attention_mask = torch.ones(2, cached + queries, dtype=torch.long)
    if padded:
        attention_mask[0, :2] = 0
    build = create_sliding_window_causal_mask if window else create_causal_mask
    masks = {}
    for how in ("flash_attention_2", "sdpa"):
        config._attn_implementation = how
        masks[how] = build(
            config=config, inputs_embeds=torch.zeros(2, queries, 16), attention_mask=attention_mask,
            past_key_values=cache,
        )  # fmt: skip
    key, value = cache.update(tensor(2, queries), tensor(2, queries), 0)
    settings = {"scaling": 0.5, "sliding_window": window, "softcap": softcap, "is_causal": True}
    query = tensor(4, queries)
    flash, sdpa = (AttentionCall.from_inputs((None, query, key, value, mask), settings) for mask in masks.values())
    assert flash.mask is None or flash.mask.ndim == 2
    seen = attention_mask[:, -queries:].bool()
    rows = [call.rows(range(queries)).transpose(1, 2)[seen] for call in (flash, sdpa)]
    torch.testing.assert_close(rows[0], rows[1], atol=1e-6, rtol=0)
    assert (flash.visible(range(queries))[seen] == sdpa.visible(range(queries))[seen]).all()


def test_a_mask_shorter_than_the_keys_is_refused():
    """Static caches hold more keys than there are tokens, and flash attention's mask does not tell which."""
    query, key = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 8, 4)
    call = AttentionCall(query, key, key, torch.ones(1, 5, dtype=torch.long), 0.5)
    with pytest.raises(UnsupportedModelError, match="static cache"):
        call.rows()


def test_attention_with_sinks_of_its_own_is_refused_on_loading(monkeypatch):
    """What enters the softmax besides query, key and mask cannot be read; comparing with the output finds it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def with_sink(module, query, key, value, mask, scaling=None, **_):
        call = AttentionCall.from_inputs((module, query, key, value, mask), {"scaling": scaling})
        rows = call.rows(range(query.shape[2]))
        return call.mixed(rows * 0.5).transpose(1, 2).contiguous().to(query.dtype), None

    ALL_ATTENTION_FUNCTIONS.register("sink_for_test", with_sink)
    try:
        module, processor = BUILDERS["llava"](Tiny(layers=1))
        module.model.language_model.config._attn_implementation = "sink_for_test"
        with pytest.raises(UnsupportedModelError, match=r"cannot be read faithfully: layer 0.*differ"):
            wrap(module, processor)
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["sink_for_test"]
