"""Attention rows: against transformers' own eager attention, and every form of mask against a plain full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.networks import Tiny, samples, wrapped
from visualheads.errors import UnsupportedModelError
from visualheads.models.attention_call import AttentionCall, align, attention_operation, with_bias
from visualheads.models.wrapper import greedy
from visualheads.tracing.forward import run

FULL = Tiny(kv_heads=4)
GROUPED = Tiny(kv_heads=2)
CASES = {
    "llava, llama, MHA": ("llava", FULL),
    "llava, llama, GQA": ("llava", GROUPED),
    "llava, mistral, GQA, window 10": ("llava", Tiny(text="mistral", window=10)),
    "next, mistral, GQA": ("llava_next", Tiny(text="mistral")),
    "next, mistral, GQA, window 20": ("llava_next", Tiny(text="mistral", window=20)),
    "next, llama, MHA": ("llava_next", FULL),
    "vip, llama, GQA": ("vip_llava", GROUPED),
    "vip, phi3, MHA, window 12": ("vip_llava", Tiny(text="phi3", kv_heads=4, window=12)),
}
QUERIES = ("first_generated", "last_prompt")
DRIFT = 2e-4
"""SDPA's and eager's kernels round differently; over three layers of large random weights this is what remains."""
SAME_FORWARD = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Within one forward pass; in bfloat16 transformers rounds its weights to 8 bits, ours stay float32."""


def eager_rows(model, encoding):
    """(query → (layer, batch, head, key)) from generate's own `output_attentions`, newest tokens last."""
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    with torch.no_grad(), greedy(model.module, 0):
        out = model.module.generate(**inputs, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)
    prompt, first = out.attentions[:2]
    return {
        "last_prompt": torch.stack([layer[:, :, -1] for layer in prompt]).float(),
        "first_generated": torch.stack([layer[:, :, -1] for layer in first]).float(),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_rows_equal_eager_attentions(case, dtype):
    kind, tiny = CASES[case]
    eager = wrapped(kind, tiny, "eager", dtype)
    encoding = eager.encode(samples(3))
    assert not encoding["attention_mask"].all(), "the batch must be padded"
    expected = eager_rows(eager, encoding)
    # in bfloat16 the kernels' rounding can change the generated token, and then all its rows: compared in fp32 only
    fast = [(wrapped(kind, tiny), DRIFT)] if dtype == torch.float32 else []
    for model, tolerance in [(eager, SAME_FORWARD[dtype]), *fast]:
        found = run(model, encoding, QUERIES, 2).rows
        for query in QUERIES:
            rows = found[query].attention
            assert rows.dtype == torch.float32
            held = expected[query].shape[-1]
            if tiny.window and query == "first_generated":
                assert held < rows.shape[-1], "the cache must be shorter than the prompt"
            torch.testing.assert_close(rows[..., -held:], expected[query], atol=tolerance, rtol=0)
            assert not rows[..., :-held].any()
            torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), atol=1e-5, rtol=0)
            assert (rows.transpose(2, 3)[~found[query].visible] == 0).all()


@pytest.mark.parametrize("kind", ["llava", "llava_next", "vip_llava"])
def test_visible_keys_are_the_prompt_without_padding(kind):
    model = wrapped(kind)
    encoding = model.encode(samples(3))
    found = run(model, encoding, QUERIES, 2).rows
    prompt = encoding["attention_mask"].bool()
    assert (found["last_prompt"].visible == prompt).all()
    assert (found["first_generated"].visible[..., :-1] == prompt).all()
    assert found["first_generated"].visible[..., -1].all()


def call(queries=5, keys=5, heads=4, groups=2, batch=2, features=8, seed=0, **fields):
    made = torch.Generator().manual_seed(seed)
    tensor = lambda h, n: torch.randn(batch, h, n, features, generator=made)  # noqa: E731
    parts = {"query": tensor(heads, queries), "key": tensor(groups, keys), "value": tensor(groups, keys)}
    return AttentionCall(**{**parts, "mask": None, "scaling": 0.5, **fields})


def full_matrix(call, allowed, added=0.0):
    """The whole (batch, head, query, key) attention by the textbook: repeat keys, mask, softmax."""
    key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    scores = call.query @ key.mT * call.scaling
    if call.softcap:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    return (scores + added).masked_fill(~allowed, -torch.inf).softmax(-1)


def causal(queries, keys, window=None):
    last = torch.arange(queries)[:, None] + keys - queries
    order = torch.arange(keys)[None]
    return (order <= last) & (order > last - (window or 10**6))


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("window", [None, 3])
def test_every_mask_form_gives_the_same_rows(queries, window):
    padding = torch.ones(2, 5, dtype=torch.bool)
    padding[0, :1] = False
    allowed = causal(queries, 5, window)[None, None] & padding[:, None, None]
    chosen = list(range(1, queries)) or [0]  # query 0 of the padded prompt is padding: it sees nothing
    forms = {
        "bool": call(queries, mask=allowed),
        "float": call(queries, mask=torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)),
        "infinite": call(queries, mask=torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)),
        "wider": call(queries, mask=torch.nn.functional.pad(allowed, (0, 3), value=True)),
        "flash": call(queries, mask=padding.long(), window=window),
    }
    for name, form in forms.items():
        expected = full_matrix(form, allowed)[:, :, chosen]
        torch.testing.assert_close(form.rows(chosen), expected, msg=lambda text, name=name: f"{name}: {text}")
        assert (form.visible(chosen) == allowed[:, 0, chosen]).all(), name


def test_missing_mask_is_causal_or_full():
    torch.testing.assert_close(call().rows(range(5)), full_matrix(call(), causal(5, 5)))
    cached = call(queries=2, keys=7)
    torch.testing.assert_close(cached.rows([0, 1]), full_matrix(cached, causal(2, 7)))
    free = call(causal=False)
    torch.testing.assert_close(free.rows(range(5)), full_matrix(free, torch.ones(5, 5, dtype=torch.bool)))


def test_softcap_is_applied_before_the_mask():
    capped = call(softcap=0.7)
    torch.testing.assert_close(capped.rows(range(5)), full_matrix(capped, causal(5, 5)))
    assert (capped.rows() - call().rows()).abs().max() > 1e-3


def test_mixed_is_the_output_of_attention():
    made = call()
    value = made.value.repeat_interleave(2, dim=1)
    torch.testing.assert_close(made.mixed(made.rows(range(5))), full_matrix(made, causal(5, 5)) @ value)


@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), repeats=st.integers(1, 3), keys=st.integers(1, 9),
    seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 50.0]), half=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_rows_are_distributions_under_any_dtype(batch, groups, repeats, keys, seed, scale, half):
    made = call(keys, keys, groups * repeats, groups, batch, seed=seed, scaling=scale)
    if half:
        made = AttentionCall(made.query.bfloat16(), made.key.bfloat16(), made.value, None, scale)
    rows = made.rows([0, -1])
    assert rows.shape == (batch, groups * repeats, 2, keys)
    assert rows.dtype == torch.float32
    assert (rows >= 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))
    assert (rows[:, :, 0, 1:] == 0).all(), "the first query sees itself alone"


@pytest.mark.parametrize("form", ["none", "bool", "float"])
def test_with_bias_adds_before_the_softmax(form):
    allowed = causal(5, 5).expand(2, 1, 5, 5)
    mask = {"none": None, "bool": allowed, "float": torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)}[form]
    made = call(mask=mask)
    bias = torch.linspace(-2, 2, 5).expand(2, 4, 1, 5).clone()
    bias[:, 1] = 0
    args, kwargs = with_bias(((None, made.query, made.key, made.value, mask), {"scaling": 0.5}), bias)
    biased = AttentionCall.from_inputs(args, kwargs)
    torch.testing.assert_close(biased.rows(range(5)), full_matrix(made, causal(5, 5), bias))
    torch.testing.assert_close(biased.rows(range(5))[:, 1], made.rows(range(5))[:, 1])


def test_align_puts_the_held_keys_last():
    rows = torch.tensor([[0.25, 0.75]])
    assert align(rows, 4).tolist() == [[0.0, 0.0, 0.25, 0.75]]
    assert align(rows, 2).tolist() == rows.tolist()


def test_an_attention_of_another_form_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"expected .module, query, key, value, mask"):
        AttentionCall.from_inputs((None, torch.zeros(1, 2, 3)), {})
    made = call()
    with pytest.raises(UnsupportedModelError, match="sdpa"):
        AttentionCall.from_inputs((None, made.query, made.key, made.value, object()), {})
    with pytest.raises(UnsupportedModelError, match="3 dimensions"):
        call(mask=torch.ones(2, 5, 5)).rows()
    model = wrapped("llava")
    with pytest.raises(UnsupportedModelError, match="does not call"):
        attention_operation(model.layers[0].mlp)


def test_reading_leaves_the_answer_alone():
    model = wrapped("llava")
    encoding = model.encode(samples(2))
    with torch.no_grad(), greedy(model.module, 0):
        plain = model.module.generate(**encoding, max_new_tokens=4)
    answers = run(model, encoding, QUERIES, 4).answers
    assert np.array_equal(plain[:, -4:].numpy(), answers.numpy())
