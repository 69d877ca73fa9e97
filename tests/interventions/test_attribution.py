"""Gradient screen, linear attribution, and the modes that work on sinks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from helpers.ablating import decoder_layers
from helpers.networks import llava, samples, wrapped
from visualheads.errors import ModeError
from visualheads.heads.losses import head_effects
from visualheads.heads.ranking import rank
from visualheads.interventions import ablate, head_sets, sweeps
from visualheads.interventions.attribution import gradient_screen
from visualheads.models.attention_call import sink_tokens
from visualheads.models.loading import wrap
from visualheads.models.wrapper import greedy

QUIET = {"progress": False, "max_new_tokens": 2}
BOX = (14.0, 24.0, 26.0, 40.0)


@pytest.mark.parametrize(("mode", "positions"), [("zero", "all"), ("uniform", "after_image"), ("boost", "all")])
def test_the_screen_is_the_slope_of_the_exact_effect(mode, positions):
    """Scaled down, every head's effect is linear: the guess for a tiny change equals the exact one."""
    module, processor = llava()
    for layer in module.model.language_model.layers:
        layer.self_attn.o_proj.weight.data *= 0.01
    model, asked = wrap(module, processor, validate=False), samples(3)
    guessed = gradient_screen(model, asked, mode, positions, progress=False)
    swept = sweeps.sweep(model, asked, head_sets.single_heads(3, 4), mode, positions, **QUIET)
    exact = head_effects(swept)
    assert guessed.screen_margin.dims == exact.effect_margin.dims
    largest = float(abs(exact.effect_margin).max())
    np.testing.assert_allclose(guessed.screen_margin, exact.effect_margin, atol=0.1 * largest + 1e-5)
    merged = xr.merge([guessed[["screen_margin"]], exact[["effect_margin"]]], compat="override", join="inner")
    for index in range(3):
        pair = [merged[name].isel(sample=index).values.ravel() for name in merged]
        assert stats.spearmanr(*pair).statistic > 0.9
    assert rank(guessed, "screen_margin").dims == ("model", "layer", "head")


def test_the_screen_leaves_samples_without_a_margin_out():
    asked = [*samples(2), replace(samples(3)[2], answer="")]
    found = gradient_screen(wrapped("llava"), asked, progress=False)
    assert found.screen_margin.notnull().all(("layer", "head")).values.tolist() == [[True, True, False]]
    with pytest.raises(ModeError, match="sink"):
        gradient_screen(wrapped("llava"), samples(1), "sink_removal", progress=False)


def test_a_set_that_was_not_tried_takes_no_effect_away():
    marks = np.zeros((1, 3, 1, 2), bool)
    marks[0, 0, 0, 0] = marks[0, 1, 0, 1] = marks[0, 2, 0, 0] = True  # the third is the first head again
    lost = np.array([[[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]]])
    dims, zero = ("model", "set", "sample"), np.zeros((1, 2))
    ds = xr.Dataset(
        {"margin": (dims, -lost), "correct": (dims, 1 - lost), "kl": (dims, lost),
         "clean_margin": (("model", "sample"), zero), "clean_correct": (("model", "sample"), zero + 1),
         "heads": (("model", "set", "layer", "head"), marks)},
        {"model": ["m"], "set": ["a", "b", "a again"], "sample": ["s", "t"]},
    )  # fmt: skip
    np.testing.assert_array_equal(head_effects(ds).effect_margin[0, 0], [[1, 2], [3, 4]])


@pytest.fixture
def with_sinks():
    """A model of which one dimension of the residual stream is said to mark sinks; some image tokens are, some not."""
    module, processor = llava()
    model = wrap(module, processor, name="with sinks", validate=False)
    (sample,) = samples(1)
    with torch.no_grad():
        encoding = model.encode([sample])
        states = model.module(**dict(encoding), output_hidden_states=True).hidden_states[2][0]
    image = encoding["input_ids"][0] == model.image_token_id
    marked = [int((sink_tokens(states, (one,)) & image).sum()) for one in range(32)]
    model.__dict__["sink_dimensions"] = (next(i for i, count in enumerate(marked) if 1 < count < 8),)
    return model


@pytest.mark.parametrize("positions", ["all", "after_image"])
@pytest.mark.parametrize("mode", ["sink_removal", "sink_redistribution"])
def test_sink_modes_equal_whole_matrices(with_sinks, mode, positions):
    model, (sample,) = with_sinks, samples(1)
    head = (2, 1)
    found = ablate(model, [sample], [head], mode, positions, max_new_tokens=1, progress=False)
    encoding = model.encode([sample])
    image = encoding["input_ids"][0] == model.image_token_id
    layer = decoder_layers(model)[head[0]]
    grabbed = {}

    def grab(_module, _args, kwargs):
        grabbed["hidden"] = kwargs["hidden_states"]

    before = layer.self_attn.register_forward_pre_hook(grab, with_kwargs=True)
    with torch.no_grad(), greedy(model.module, 0):
        states = model.module(**dict(encoding), output_hidden_states=True, logits_to_keep=1)
    before.remove()
    sinks = sink_tokens(states.hidden_states[head[0]][0], model.sink_dimensions) & image
    assert 0 < sinks.sum() < image.sum()
    attention = layer.self_attn
    hidden = grabbed["hidden"][0]
    size, total = 8, len(hidden)
    text = model.module.model.language_model
    cos, sin = text.rotary_emb(hidden[None], torch.arange(total)[None])
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query = attention.q_proj(hidden).view(total, 4, size).transpose(0, 1)[None]
    key = attention.k_proj(hidden).view(total, 2, size).transpose(0, 1)[None]
    value = attention.v_proj(hidden).view(total, 2, size).transpose(0, 1)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    scores = query[0, head[1]] @ key[0, head[1] // 2].T * size**-0.5
    causal = torch.ones(total, total).tril().bool()
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    if mode == "sink_removal":
        changed = weights * ~sinks
        changed = changed / changed.sum(-1, keepdim=True)
    else:
        others = weights * (image & ~sinks)
        changed = weights * ~sinks + others * (weights * sinks).sum(-1, keepdim=True) / others.sum(-1, keepdim=True)
        changed = torch.where(others.sum(-1, keepdim=True) > 0, changed, weights)
    first = int(image.nonzero().max()) + 1 if positions == "after_image" else 0
    weights = torch.where((torch.arange(total) >= first)[:, None], changed, weights)
    expected = weights @ value[head[1] // 2]

    def put(_module, args):
        inputs = args[0].clone()
        inputs[0, :, head[1] * size : (head[1] + 1) * size] = expected
        return (inputs,)

    hook = attention.o_proj.register_forward_pre_hook(put)
    with torch.no_grad():
        logits = model.module(**dict(encoding), logits_to_keep=1).logits[0, -1]
    hook.remove()
    clean = states.logits[0, -1].log_softmax(-1)
    kl = (clean.exp() * (clean - logits.log_softmax(-1))).sum()
    assert float(kl) > 1e-6
    assert found.kl.item() == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
