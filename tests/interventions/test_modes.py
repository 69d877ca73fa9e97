"""The modes that work on sinks."""

from __future__ import annotations

import pytest
import torch

from helpers.ablating import decoder_layers
from helpers.networks import llava, samples
from visualheads.interventions import ablate
from visualheads.models.attention_call import sink_tokens
from visualheads.models.loading import wrap
from visualheads.models.wrapper import greedy


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
    marked = [int(sink_tokens(states, (one,), image).sum()) for one in range(32)]
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
    sinks = sink_tokens(states.hidden_states[head[0]][0], model.sink_dimensions, image)
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
