"""Changed heads against plain PyTorch on every class, what must hold whatever the mode, and what is refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from helpers.ablating import decoder_layers, reference_answers
from helpers.families import FAMILIES, family
from helpers.networks import Tiny, llava, samples, wrapped
from visualheads import interventions
from visualheads.errors import BoxError, HeadError, ModeError, ParameterError, SampleError, UnsupportedModelError
from visualheads.heads import selection
from visualheads.interventions import Intervention, ablate, engine, mean_reference, modes, steer
from visualheads.interventions.modes import ChosenHeads
from visualheads.models.attention_call import AttentionCall
from visualheads.models.loading import wrap
from visualheads.models.wrapper import decoded
from visualheads.store.schema import assert_valid
from visualheads.tracing.settings import chosen_heads
from visualheads.tracing.trace import trace

# PaliGemma's processor in transformers 5.23 turns tensors into arrays in a way numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

LLAVA = ("llava", "llava_next", "vip_llava")
PLAIN = [
    (mode.name, where) for mode in interventions.MODES.values() if mode.tokens != "sinks" for where in mode.positions
]
TOKENS = 3
QUIET = {"progress": False, "max_new_tokens": TOKENS}
BIAS = 3.0
BOX = (14.0, 24.0, 26.0, 40.0)
"""Inside the centre crop of all the pictures."""


@cache
def a_model(name: str):
    return wrapped(name) if name in LLAVA else family(name)


@cache
def a_reference(name: str):
    return mean_reference(a_model(name), samples(2), max_new_tokens=TOKENS)


def heads_of(name: str) -> list[tuple[int, int]]:
    layers, heads, _ = a_model(name).shape
    return [(0, 1), (layers - 1, 0), (layers - 1, heads - 1)]


@pytest.fixture
def first_logits(monkeypatch):
    """Logits of the answer's first token, by sample index, of whatever runs in the test."""
    found = {}
    original = engine.Batch.changed

    def spied(self, rows, clean):
        logits, said = original(self, rows, clean)
        found.update({self.owners[sample]: row for (sample, _), row in zip(rows, logits, strict=True)})
        return logits, said

    monkeypatch.setattr(engine.Batch, "changed", spied)
    return found


def equals_plain_pytorch(
    name: str, mode: str, positions: str, first_logits: dict, count: int = 2, boxed: bool = False
) -> None:
    model, asked, heads = a_model(name), samples(count, box=BOX), heads_of(name)
    told: dict = {}
    marked: list = [None] * count
    if mode == "steer" or boxed:
        boxes = [sample.box for sample in asked]
        if boxed:
            found = ablate(model, asked, heads, mode, positions, box=boxes, **QUIET)
        else:
            found = steer(model, asked, heads, boxes, BIAS, positions, **QUIET)
        for index, sample in enumerate(asked):
            image = model.encode([sample])["input_ids"][0] == model.image_token_id
            marked[index] = image.clone()
            marked[index][image] = torch.from_numpy(model.token_map(sample.image.size).in_box(sample.box))
    else:
        reference = a_reference(name) if mode == "mean" else None
        bias = BIAS if mode == "boost" else None
        found = ablate(model, asked, heads, mode, positions, reference, bias=bias, **QUIET)
        told = {"means": lambda kind, layer, head: a_reference(name).means[kind, layer, head]}
    for index, sample in enumerate(asked):
        logits, said = reference_answers(
            model, sample, heads, mode, positions, bias=BIAS, marked=marked[index], max_new_tokens=TOKENS, **told
        )
        torch.testing.assert_close(first_logits[index], logits, atol=1e-5, rtol=0)
        assert found.prediction.values[0, index] == decoded(model.tokenizer, said[None], model.end_tokens)[0]


@pytest.mark.parametrize(("mode", "positions"), PLAIN)
@pytest.mark.parametrize("name", LLAVA)
def test_each_mode_equals_plain_pytorch(name, mode, positions, first_logits):
    equals_plain_pytorch(name, mode, positions, first_logits)


@pytest.mark.parametrize("name", [*LLAVA, "qwen2-vl"])
def test_edges_from_a_region_equal_plain_pytorch(name, first_logits):
    equals_plain_pytorch(name, "edge_knockout", "last_prompt", first_logits, boxed=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_plain_pytorch(name, first_logits):
    positions = "all" if name.startswith("paligemma") else "after_image"
    modes = (("uniform", "all"), ("uniform_released", positions), ("mean", "all"), ("boost", positions))
    for mode, where in (*modes, ("edge_knockout", "last_prompt")):
        equals_plain_pytorch(name, mode, where, first_logits)


@pytest.mark.parametrize("text", ["mistral", "phi3"])
@pytest.mark.parametrize("mode", ["uniform", "uniform_released", "image_knockout"])
def test_sliding_windows(text, mode, first_logits, monkeypatch):
    """Caches shorter than the prompt; the released mode then runs whole prompts, as every key counts."""
    module, processor = llava(Tiny(text=text, window=12))
    model = wrap(module, processor, name=text, validate=False)
    asked, heads = samples(2), [(0, 1), (2, 3)]
    ablate(model, asked, heads, mode, "after_image", **QUIET)
    for index, sample in enumerate(asked):
        logits, _ = reference_answers(model, sample, heads, mode, "after_image", max_new_tokens=TOKENS)
        torch.testing.assert_close(first_logits[index], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_changing_nothing_changes_nothing(name):
    model, asked = a_model(name), samples(4)
    every = [(layer, head) for layer in range(model.shape.layers) for head in range(model.shape.heads)]
    for found in (steer(model, asked, every, bias=0.0, **QUIET), steer(model, asked, every, BOX, 0.0, **QUIET)):
        np.testing.assert_allclose(found.kl, 0, atol=1e-6)
        np.testing.assert_allclose(found.margin, found.clean_margin, atol=1e-5)
        assert (found.prediction == found.clean_prediction).all()
    traced = trace(model, asked, max_new_tokens=TOKENS, progress=False)
    np.testing.assert_allclose(found.clean_margin, traced.margin, atol=1e-4)
    assert (found.clean_prediction == traced.prediction).all()
    np.testing.assert_array_equal(found.clean_correct, traced.correct)


@pytest.mark.parametrize("biased", [False, True])
def test_all_heads_of_a_layer_zeroed_leave_the_bias_of_the_output_projection(biased):
    module, processor = llava()
    model = wrap(module, processor, validate=False)
    attention = decoder_layers(model)[1].self_attn
    if biased:
        attention.o_proj.bias = torch.nn.Parameter(torch.linspace(-1, 1, attention.o_proj.out_features))
    seen = []
    hook = attention.register_forward_hook(lambda _module, _args, output: seen.append(output[0]))
    try:
        ablate(model, samples(1), [(1, head) for head in range(4)], "zero", max_new_tokens=1, progress=False)
    finally:
        hook.remove()
    expected = attention.o_proj.bias if biased else torch.zeros(attention.o_proj.out_features)
    torch.testing.assert_close(seen[-1], expected.expand_as(seen[-1]))


def test_the_released_mode_leaks_the_future():
    """In a prompt of n keys every row, row 0 included, gives 1/n to every key; `uniform` stays causal."""
    module, processor = llava(Tiny(kv_heads=4))
    model = wrap(module, processor, validate=False)
    attention = decoder_layers(model)[0].self_attn
    attention.o_proj.weight.data = torch.eye(32)  # so that its output is what the heads put out
    seen: dict[str, list[torch.Tensor]] = {"values": [], "inputs": []}
    hooks = [
        attention.v_proj.register_forward_hook(lambda _m, _a, output: seen["values"].append(output[0])),
        attention.o_proj.register_forward_hook(lambda _m, _a, output: seen["inputs"].append(output[0])),
    ]
    ablate(model, samples(1), [(0, 2)], "uniform_released", max_new_tokens=1, progress=False)
    ablate(model, samples(1), [(0, 2)], "uniform", max_new_tokens=1, progress=False)
    for hook in hooks:
        hook.remove()
    of_head = slice(2 * 8, 3 * 8)
    values = seen["values"][-1][:, of_head]
    released, causal = (next(x for x in reversed(part)) for part in (seen["inputs"][:-2], seen["inputs"]))
    torch.testing.assert_close(released[:, of_head], values.mean(0).expand_as(values))
    counted = torch.arange(1, len(values) + 1)[:, None]
    torch.testing.assert_close(causal[:, of_head], values.cumsum(0) / counted)
    torch.testing.assert_close(causal[0, of_head], values[0])


@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans(), st.sampled_from(["none", "bool", "float"]))
def test_uniform_is_attention_with_equal_weights(seed, queries, window, mask_form):
    generator = torch.Generator().manual_seed(seed)
    keys = queries + seed % 4
    query = torch.randn(2, 4, queries, 3, generator=generator)
    key, value = (torch.randn(2, 2, keys, 3, generator=generator) for _ in range(2))
    order = torch.arange(keys)
    last = torch.arange(keys - queries, keys)[:, None]
    visible = (order <= last) & (order > last - 3 if window else True)
    mask = {
        "none": None,
        "bool": visible[None, None].expand(2, 1, -1, -1),
        "float": torch.zeros(2, 1, queries, keys).masked_fill(~visible, torch.finfo(torch.float32).min),
    }[mask_form]
    call = AttentionCall(query, key, value, mask, 1.0, window=3 if window else None)
    none = torch.zeros(2, keys, dtype=torch.bool)
    rows, heads = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2])
    chosen = ChosenHeads(rows, heads, queries, none, none, call, start=keys - queries)
    even = visible / visible.sum(-1, keepdim=True)
    expected = torch.stack([even @ value[row, head // 2] for row, head in ((0, 3), (1, 0), (1, 2))])
    torch.testing.assert_close(modes.uniform_over_visible(chosen), expected)
    everything = modes.uniform_over_all(chosen)
    torch.testing.assert_close(everything[:, 0], torch.stack([value[0, 1], value[1, 0], value[1, 1]]).mean(1))
    assert everything.shape == expected.shape


@given(st.integers(0, 10_000))
def test_weights_stay_a_distribution(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, 3, 6, generator=generator) * 3
    visible = torch.ones(3, 6).tril(3).bool()[None]
    marked = torch.tensor([[[True, False, True, False, False, False]]])
    image = torch.tensor([[[True, True, True, True, False, False]]])
    plain = modes.biased(0.0)(scores, visible, marked, image)
    hidden, more, moved = (
        weigh(scores, visible, marked, image) for weigh in (modes.hidden, modes.biased(2.0), modes.redistributed)
    )
    for weights in (hidden, more, moved):
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3))
        assert (weights >= 0).all() and not weights[~visible].any()
    assert not hidden[..., [0, 2]].any()
    assert not moved[..., [0, 2]].any()
    torch.testing.assert_close(moved[..., 4:], plain[..., 4:])  # text keeps what it had
    ratio = moved[..., 1] / moved[..., 3].clamp_min(1e-30)
    torch.testing.assert_close(ratio, plain[..., 1] / plain[..., 3].clamp_min(1e-30), rtol=1e-3, atol=0)


def test_a_query_that_sees_only_hidden_keys_keeps_them():
    scores, visible = torch.zeros(1, 2, 3), torch.tensor([[[True, False, False], [True, True, False]]])
    first = torch.tensor([[[True, False, False]]])
    weights = modes.hidden(scores, visible, first, first)
    assert weights.tolist() == [[[1, 0, 0], [0, 1, 0]]]


def test_steering_moves_attention_into_the_box():
    """With a large bias nothing but the box is seen; with −1e4 on the whole picture the head is blind."""
    model, asked, heads = a_model("llava"), samples(2), heads_of("llava")
    blind = steer(model, asked, heads, None, -1e4, **QUIET)
    np.testing.assert_allclose(blind.margin, ablate(model, asked, heads, "image_knockout", **QUIET).margin, atol=1e-4)
    assert (steer(model, asked, heads, BOX, 1e4, **QUIET).kl > 1e-4).all()


def test_results_are_labelled_and_valid():
    model, asked = a_model("llava"), samples(3)
    found = ablate(model, asked, heads_of("llava"), "uniform", "after_image", **QUIET)
    assert_valid(found)
    assert found.prediction.dims == ("model", "sample")
    assert (found["mode"].item(), found["positions"].item()) == ("uniform", "after_image")
    assert found.heads.dims == ("model", "layer", "head")
    assert np.argwhere(found.heads.values[0]).tolist() == sorted(map(list, heads_of("llava")))
    assert (found.kl >= 0).all()
    assert set(np.unique(found.correct)) <= {0, 1}


def test_heads_may_be_marks_as_select_gives_them():
    model, asked = a_model("llava"), samples(2)
    marks = xr.DataArray(np.zeros((1, 3, 4), bool), dims=("model", "layer", "head"), coords={"model": [model.name]})
    marks[0, 2, 1] = True
    found = ablate(model, asked, marks, **QUIET)
    np.testing.assert_allclose(found.margin, ablate(model, asked, [(2, 1)], **QUIET).margin)
    with pytest.raises(HeadError, match="another"):
        ablate(model, asked, marks.assign_coords(model=["another"]), **QUIET)


def marked(layers: int = 3, heads: int = 4, **more) -> xr.DataArray:
    """Marks of head (0, 1), labelled."""
    coords = {"layer": np.arange(layers), "head": np.arange(heads), **more}
    marks = xr.DataArray(np.zeros((layers, heads), bool), coords, ("layer", "head"))
    marks[0, 1] = True
    return marks


def test_marks_may_be_padded_for_a_larger_model():
    model, expected = a_model("llava"), np.argwhere(marked().values)
    padded = marked().reindex(layer=range(5), head=range(8))
    for heads in (marked(), marked().drop_vars(["layer", "head"]), padded, marked(model=model.name)):
        np.testing.assert_array_equal(np.argwhere(selection.head_mask(model, heads)), expected)
        assert chosen_heads(model, heads, ("maps",)) == ((0, 1),)
    both = xr.concat([padded, ~marked(5, 8)], "model").assign_coords(model=[model.name, "another"])
    assert chosen_heads(model, both, ("maps",)) == ((0, 1),)


@pytest.mark.parametrize(
    "heads",
    [marked(2, 2), marked(2, 2).drop_vars(["layer", "head"]), marked(3, 5).drop_vars("head"), marked(model="another"),
     marked().isel(layer=[1, 0, 2]), ~marked(5, 8), marked().expand_dims(model=["another"]),
     marked().expand_dims(model=2), marked().expand_dims(model=["a", "b"]), marked().expand_dims("set")],
)  # fmt: skip
def test_marks_of_another_model_are_refused(heads):
    """Smaller or unlabelled of another size, in another order, of another name, or marking heads that there are not."""
    for choose in (selection.head_mask, lambda model, heads: chosen_heads(model, heads, ("maps",))):
        with pytest.raises(HeadError, match="heads"):
            choose(a_model("llava"), heads)


def test_the_mean_reference_counts_every_class():
    model, asked = a_model("llava"), samples(2)
    reference = a_reference("llava")
    image, text, last, generated = reference.counts.tolist()
    lengths = [int(model.encode([sample])["attention_mask"].sum()) for sample in asked]
    assert (image, text, last) == (2 * 16, sum(lengths) - 2 * 16 - 2, 2)
    assert 2 <= generated <= 2 * (TOKENS - 1)
    # of a single sample at its last prompt position the mean is the value itself: replacing it changes nothing there
    alone = mean_reference(model, asked[:1], max_new_tokens=1)
    seen = []
    layer = decoder_layers(model)[-1].self_attn.o_proj
    hook = layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0][0, -1]))
    with torch.no_grad():
        model.module(**dict(model.encode(asked[:1])))
    hook.remove()
    torch.testing.assert_close(alone.means[2, -1].flatten(), seen[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("heads", "message"),
    [([], "none"), ([(3, 0)], r"\(3, 0\)"), ([(0, 4)], "head 0 to 3"), ([(-1, 0)], "layer 0 to 2"), ("L0H1", "pairs"),
     ([5], "pairs"), ([(0.5, 1)], "pairs"), (7, "pairs")],
)  # fmt: skip
def test_wrong_heads_are_refused(heads, message):
    with pytest.raises(HeadError, match=message):
        ablate(a_model("llava"), samples(1), heads, **QUIET)


def test_wrong_settings_are_refused():
    model, asked, heads = a_model("llava"), samples(1), [(0, 0)]
    with pytest.raises(ModeError, match="did you mean 'uniform'"):
        ablate(model, asked, heads, "unifrom", **QUIET)
    with pytest.raises(ModeError, match=r"vh\.steer"):
        ablate(model, asked, heads, "steer", **QUIET)
    with pytest.raises(ParameterError, match="positions"):
        ablate(model, asked, heads, "zero", "before_image", **QUIET)
    with pytest.raises(ParameterError, match="bias"):
        ablate(model, asked, heads, "zero", bias=2.0, **QUIET)
    with pytest.raises(ParameterError, match="finite"):
        steer(model, asked, heads, bias=float("nan"), **QUIET)
    with pytest.raises(ParameterError, match="reference"):
        ablate(model, asked, heads, "mean", **QUIET)
    with pytest.raises(ParameterError, match="reference"):
        ablate(model, asked, heads, "zero", reference=a_reference("llava"), **QUIET)
    with pytest.raises(SampleError, match="empty"):
        ablate(model, [], heads, **QUIET)
    with pytest.raises(SampleError, match="empty"):
        ablate(model, asked, heads, "mean", reference=[], **QUIET)


def test_a_reference_of_another_model_is_refused():
    with pytest.raises(ParameterError, match="another model"):
        ablate(a_model("llava"), samples(1), [(0, 0)], "mean", reference=a_reference("vip_llava"), **QUIET)


def test_modes_that_a_class_cannot_have_say_why():
    with pytest.raises(ModeError, match="sees itself both ways"):
        ablate(a_model("paligemma"), samples(1), [(0, 0)], "zero", "after_image", **QUIET)
    for mode in ("sink_removal", "sink_redistribution"):
        with pytest.raises(ModeError, match="no sink tokens"):
            ablate(a_model("llava"), samples(1), [(0, 0)], mode, **QUIET)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (0, 0, float("nan"), 3)])
def test_wrong_boxes_are_refused(box):
    with pytest.raises(BoxError):
        steer(a_model("llava"), samples(1), [(0, 0)], box, **QUIET)


def test_boxes_outside_cropped_away_or_too_few_are_refused():
    model, wide = a_model("llava"), samples(1, image=samples(1)[0].image.resize((90, 30)), box=None)
    with pytest.raises(BoxError):
        steer(model, wide, [(0, 0)], (100, 5, 120, 9), **QUIET)
    with pytest.raises(BoxError, match="cropped"):
        steer(model, wide, [(0, 0)], (0, 5, 10, 9), **QUIET)
    with pytest.raises(BoxError, match="2 boxes for 1"):
        steer(model, wide, [(0, 0)], [(0, 0, 9, 9), None], **QUIET)


def test_a_language_model_that_does_not_stand_alone_is_refused(monkeypatch):
    module, processor = llava()
    model = wrap(module, processor, validate=False)
    whole = type(module).forward

    def scaled(self, *args, **kwargs):
        out = whole(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(type(module), "forward", scaled)
    with pytest.raises(UnsupportedModelError, match="other logits"):
        ablate(model, samples(1), [(0, 0)], **QUIET)


def test_an_intervention_names_what_it_does():
    assert Intervention("boost").bias == 4.0
    assert not Intervention("zero").operation.attention and Intervention("boost").operation.attention
