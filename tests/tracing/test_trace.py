"""The trace: what it measures, its labels, batching, answers, stores, progress, and what it refuses."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.networks import Tiny, llava, picture, samples, wrapped
from visualheads.analysis.effects import usable
from visualheads.errors import BoxError, HeadError, IdentityMismatch, ImageError, ParameterError, SampleError
from visualheads.models.loading import wrap
from visualheads.models.wrapper import Margins, answer_lengths, first_tokens
from visualheads.store import write as store
from visualheads.store.schema import assert_valid
from visualheads.tasks.sample import LazyImage
from visualheads.tracing.forward import plan_batches, prefetched, run
from visualheads.tracing.measures import MEASURES
from visualheads.tracing.trace import StoreSettings, prepare_store, trace, trace_to_store

KINDS = ("llava", "llava_next", "vip_llava")
BOTH = ("first_generated", "last_prompt")
TOKENS = 4
"""Longest answer in these tests."""


def traced(kind: str = "llava", asked=None, **settings) -> xr.Dataset:
    return trace(wrapped(kind), asked or samples(), **{"max_new_tokens": TOKENS, "progress": False, **settings})


@pytest.fixture(scope="module")
def everything() -> xr.Dataset:
    """All queries, everything kept, in padded batches."""
    keep = ("mean_map", "maps", "attention")
    return traced(query=(*BOTH, "answer_span"), keep=keep, batch_tokens=200)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_equals_the_unbatched_trace_of_each_sample(kind):
    asked = samples()
    together = traced(kind, asked, query=BOTH, batch_tokens=10_000)
    assert_valid(together)
    for sample in asked:
        alone = traced(kind, [sample], query=BOTH)
        among = together.sel(sample=[sample.id])
        assert among.prediction.values.tolist() == alone.prediction.values.tolist()
        assert among.n_image_tokens.values.tolist() == alone.n_image_tokens.values.tolist()
        for name in MEASURES:  # not margin: its other answers are those of the list
            np.testing.assert_allclose(among[name], alone[name], atol=2e-4, rtol=2e-4, err_msg=name)


def test_one_query_has_no_query_dimension(everything):
    single = traced()
    assert "query" not in single.dims
    assert_valid(single)
    expected = everything.image_weight.sel(query="last_prompt", drop=True)
    np.testing.assert_allclose(single.image_weight, expected, atol=1e-5)
    assert single["query"].item() == "last_prompt"
    assert "gaze" in usable(single) and "gaze" not in usable(traced(query="first_generated"))


def test_everything_kept_is_valid_and_agrees(everything):
    assert_valid(everything)
    asked = samples()
    assert everything.sample.values.tolist() == [sample.id for sample in asked]
    assert everything.condition.values.tolist() == [sample.condition for sample in asked]
    attention = everything.attention
    np.testing.assert_allclose(attention.sum("key"), 1, atol=1e-5)
    on_image = (attention.fillna(0) * everything.is_image).sum("key")
    np.testing.assert_allclose(on_image, everything.image_weight, atol=1e-5)
    assert (everything.is_image.sum("key") == everything.n_image_tokens).all()
    # llava: every image token is a patch of the whole picture
    np.testing.assert_allclose(
        everything.maps.sum(("grid_row", "grid_column")).values.reshape(1, 6, 3, 3, 4),
        everything.image_weight.transpose("model", "sample", "query", "layer", "head"),
        atol=1e-5,
    )


def test_the_mean_map_is_the_mean_of_the_maps_per_condition(everything):
    maps = everything.maps.values.reshape(6, 3, 3, 4, 4, 4)
    assert everything.map_condition.values.tolist() == ["plain", "visual"]
    assert everything.mean_map_count.values.tolist() == [[3, 3]]
    for index, condition in enumerate(("plain", "visual")):
        expected = maps[(everything.condition == condition).values].mean(0).transpose(1, 2, 0, 3, 4)
        np.testing.assert_allclose(everything.mean_map.isel(model=0, map_condition=index), expected, atol=1e-6)


def test_the_answer_span_is_the_mean_over_the_generated_tokens(everything):
    model, asked = wrapped("llava"), samples()
    for index in (0, 3):
        encoding = model.encode([asked[index]])
        prompt = encoding["input_ids"].shape[1]
        with torch.no_grad():
            ids = model.module.generate(**encoding, max_new_tokens=TOKENS + 1, do_sample=False, eos_token_id=None)
            eager = wrapped("llava", implementation="eager").module
            out = eager(
                input_ids=ids[:, :-1],
                attention_mask=torch.ones_like(ids[:, :-1]),
                pixel_values=encoding["pixel_values"],
                output_attentions=True,
            )
        length = int(answer_lengths(ids[:, prompt : prompt + TOKENS], model.end_tokens)[0]) or 1
        expected = torch.stack([layer[0, :, prompt : prompt + length].mean(1) for layer in out.attentions])
        found = everything.attention.isel(model=0, sample=index).sel(query="answer_span").values
        kept = min(found.shape[-1], expected.shape[-1])
        np.testing.assert_allclose(np.nan_to_num(found)[..., :kept], expected[..., :kept], atol=2e-4)


def test_answers_are_those_of_plain_greedy_generation():
    model, asked = wrapped("llava"), samples()
    found = traced(asked=asked).prediction.values[0]
    for sample, answer in zip(asked, found, strict=True):
        encoding = model.encode([sample])
        with torch.no_grad():
            ids = model.module.generate(**encoding, max_new_tokens=TOKENS, do_sample=False)
        expected = model.tokenizer.decode(ids[0, encoding["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == expected.strip()


def test_an_end_token_ends_the_answer_even_as_its_first_token():
    module, processor = llava()
    model = wrap(module, processor, validate=False)
    free = trace(model, samples(1), max_new_tokens=3, progress=False).prediction.item().split()
    assert len(free) == 3
    first, second = (model.tokenizer.convert_tokens_to_ids(word) for word in free[:2])
    for end, expected in ((first, ""), (second, free[0] if first != second else "")):
        module.generation_config.eos_token_id = end
        found = trace(wrap(module, processor, validate=False), samples(1), max_new_tokens=3, progress=False)
        assert found.prediction.item() == expected
        assert np.isfinite(found.image_weight).all(), "the first generated token is a query all the same"


def test_a_checkpoints_own_sampling_does_not_decide_answers():
    module, processor = llava()
    expected = traced().prediction.values.tolist()
    module.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    found = trace(wrap(module, processor, validate=False), samples(), max_new_tokens=TOKENS, progress=False)
    assert found.prediction.values.tolist() == expected
    assert module.generation_config.do_sample, "the module's settings are put back"


def test_margins_by_hand():
    tokenizer = wrapped("llava").tokenizer
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("two", "three", "seven", "a", "b", "c")}
    logits = torch.zeros(len(tokenizer))
    logits[[ids["two"], ids["three"], ids["seven"]]] = torch.tensor([5.0, 3.0, 9.0])
    asked = samples(2)  # answers: two, three; "seven" is no answer in this list
    margins = Margins(tokenizer, asked)
    assert margins(asked[0], logits) == 2
    assert margins(asked[1], logits) == -2
    assert math.isnan(margins(replace(asked[0], answer=""), logits))
    assert math.isnan(Margins(tokenizer, asked[:1])(asked[0], logits)), "no other answer"
    assert margins(replace(asked[0], answers=("seven",)), logits) == 9 - 3, "the best of the accepted answers"
    longer = [*asked, replace(asked[0], id="more", answer="seven")]
    assert Margins(tokenizer, longer)(asked[0], logits) == 5 - 9, "another list, another margin: the docstring says so"
    assert "only between runs over the same list of samples" in " ".join(str(Margins.__doc__).split())
    letters = replace(asked[0], choices=("x", "y", "z"), answer="B")
    assert math.isnan(margins(letters, logits)), "this tokenizer has no capital letters"
    assert first_tokens(tokenizer, "two") == {ids["two"]}


def test_no_other_thread_uses_the_tokenizer_while_a_batch_is_padded() -> None:
    model = wrapped("llava")
    other_done = threading.Event()
    during: list[bool] = []

    class Watched:
        def __getattr__(self, name: str):
            return getattr(model.processor, name)

        def __call__(self, **inputs):
            others.start()
            during.append(other_done.wait(0.2))
            return model.processor(**inputs)

    others = threading.Thread(target=lambda: (first_tokens(model.tokenizer, "two"), other_done.set()))
    replace(model.prompts, processor=Watched()).encode(samples(2))
    others.join()
    assert during == [False] and other_done.is_set()


def test_correct_is_nan_without_an_answer_and_region_measures_without_a_box():
    found = traced(asked=samples(2, answer="", box=None))
    assert np.isnan(found.correct).all()
    assert np.isnan(found.margin).all()
    assert np.isnan(found.region_weight).all()
    assert np.isfinite(found.image_weight).all()
    assert_valid(found)


def test_region_weight_is_the_attention_on_the_boxs_patches(everything):
    model, sample = wrapped("llava"), samples()[2]
    inside = model.token_map(sample.image.size).in_box(sample.box)
    part = everything.isel(model=0, sample=2, query=0)
    image = part.attention.values[..., part.is_image.values]
    np.testing.assert_allclose(part.region_weight, image[..., inside].sum(-1), atol=1e-6)
    assert 0 < inside.sum() < len(inside)


def test_sinks_are_measured_where_the_model_has_sink_dimensions():
    module, processor = llava()
    model = wrap(module, processor, validate=False)
    object.__setattr__(model, "_maps", {})
    model.__dict__["sink_dimensions"] = (3,)
    found = trace(model, samples(3), max_new_tokens=2, progress=False)
    assert_valid(found)
    assert np.isfinite(found.sink_share).all()
    hidden = torch.zeros(1, 40, 32)
    outcome = run(model, model.encode(samples(1)), BOTH, 2)
    assert outcome.sinks is not None
    assert outcome.sinks.shape[0] == model.shape.layers
    assert hidden.shape[-1] == module.config.text_config.hidden_size
    assert not np.isfinite(traced(asked=samples(2)).sink_share).any(), "no sink dimensions: NaN"


def test_maps_of_chosen_heads():
    chosen = [(2, 1), (0, 3)]
    found = traced(keep=("maps",), heads=chosen)
    assert list(zip(found.selected_layer.values, found.selected_index.values, strict=True)) == chosen
    every = traced(keep="maps")
    np.testing.assert_allclose(found.maps[:, :, 0], every.maps[:, :, 2 * 4 + 1], atol=1e-6)
    marked = xr.zeros_like(every.image_weight.isel(sample=0, drop=True), dtype=bool)
    marked[0, 0, 3] = marked[0, 2, 1] = True
    np.testing.assert_allclose(traced(keep="maps", heads=marked).maps, found.maps.isel(selected_head=[1, 0]), atol=1e-6)


def test_the_statistics_are_float32_under_bfloat16():
    model = wrapped("llava", dtype=torch.bfloat16)
    found = trace(model, samples(2), max_new_tokens=2, progress=False)
    assert found.image_weight.dtype == np.float32
    assert_valid(found)


def test_a_store_equals_the_trace_in_memory_and_resumes(tmp_path, monkeypatch):
    model, asked, path = wrapped("llava"), samples(), tmp_path / "toy.zarr"
    in_memory = traced(asked=asked, query=BOTH, keep=("mean_map",))
    settings = {"shard": 2, "max_new_tokens": TOKENS, "progress": False}
    write, written = store.write_shard, []

    def dies(path, index, *rest, **more):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(path, index, *rest, **more)

    monkeypatch.setattr(store, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        trace_to_store(model, asked, path, **settings)
    assert store.pending(path) == [2]
    monkeypatch.setattr(store, "write_shard", write)
    found = trace_to_store(model, asked, path, **settings).compute()
    assert written == [0, 1]
    assert_valid(found)
    for name in (*MEASURES, "margin", "mean_map", "correct"):
        np.testing.assert_allclose(
            found[name].transpose(*in_memory[name].dims), in_memory[name], atol=2e-4, rtol=2e-4, err_msg=name
        )
    assert found.prediction.values.tolist() == in_memory.prediction.values.tolist()
    with pytest.raises(IdentityMismatch):
        trace_to_store(model, asked, path, **settings, seed=1)


def test_maps_of_chosen_heads_are_stored(tmp_path):
    model, asked, chosen = wrapped("llava"), samples(), [(2, 1), (0, 3)]
    settings = {"keep": ("maps", "mean_map"), "heads": chosen, "max_new_tokens": TOKENS, "progress": False}
    in_memory = trace(model, asked, query=BOTH, **settings)
    told = {name: value for name, value in settings.items() if name != "progress"}
    prepare_store(model, asked, tmp_path / "a.zarr", StoreSettings(shard=4, **told))
    found = trace_to_store(model, asked, tmp_path / "a.zarr", shard=4, **settings).compute()
    assert_valid(found)
    assert list(zip(found.selected_layer.values, found.selected_index.values, strict=True)) == chosen
    np.testing.assert_allclose(found.maps, in_memory.maps, atol=1e-6)
    np.testing.assert_allclose(found.mean_map, in_memory.mean_map, atol=1e-6)
    with pytest.raises(IdentityMismatch, match="selected heads"):
        trace_to_store(model, asked, tmp_path / "a.zarr", shard=4, **{**settings, "heads": chosen[::-1]})


def test_formats_and_controls_have_mean_maps_of_their_own():
    asked = [
        *samples(1),
        *samples(1, id="white", control="white", image=Image.new("RGB", (30, 40), "white")),
        *samples(1, id="letters", choices=("two", "three"), answer="A"),
    ]
    found = traced(asked=asked, keep=("mean_map", "maps"))
    labels = (found[name].values.tolist() for name in ("map_condition", "map_format", "map_control"))
    assert list(zip(*labels, strict=True)) == [
        ("plain", "free", ""),
        ("plain", "free", "white"),
        ("plain", "letters", ""),
    ]
    maps = found.maps.values.reshape(1, 3, 3, 4, 4, 4)  # every sample is a group of its own
    np.testing.assert_allclose(
        found.mean_map.transpose("model", "map_condition", "layer", "head", ...), maps, atol=1e-6
    )


def test_progress_is_shown_with_rate_and_remaining_time(capsys):
    traced(asked=samples(2), progress=True)
    shown = capsys.readouterr().err
    assert "trace" in shown and "2/2" in shown and ":" in shown
    traced(asked=samples(2), progress="auto")
    assert capsys.readouterr() == ("", ""), "no terminal, no bar"


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 1000))
@settings(deadline=None)
def test_batches_hold_every_sample_once_within_the_limit(lengths, limit):
    batches = plan_batches(lengths, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= limit
    assert batches == plan_batches(list(lengths), limit)


def test_prefetching_keeps_order_and_raises_at_its_item():
    def prepare(item):
        if item == 3:
            raise ImageError("picture 3 is gone")
        return item * 10

    assert list(prefetched([1, 2], prepare)) == [(1, 10), (2, 20)]
    seen = []
    with pytest.raises(ImageError, match="picture 3"):
        for item, _ in prefetched([1, 2, 3, 4], prepare):
            seen.append(item)
    assert seen == [1, 2]


def test_out_of_memory_halves_the_batch(monkeypatch):
    from visualheads.tracing import trace as tracing

    sizes = []

    def small_memory(model, encoding, *rest):
        sizes.append(len(encoding["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(model, encoding, *rest)

    expected = traced(batch_tokens=10_000)
    monkeypatch.setattr(tracing, "run", small_memory)
    found = traced(batch_tokens=10_000)
    assert sizes[0] == 6 and max(sizes[2:]) <= 3
    np.testing.assert_allclose(found.image_weight, expected.image_weight, atol=1e-4)


ANOTHER = xr.DataArray(np.ones((1, 3, 4), bool), {"model": ["another"]}, ("model", "layer", "head"))
BAD = {
    "no samples": (lambda: ([], {}), SampleError, "empty list"),
    "one sample": (lambda: (samples(1)[0], {}), SampleError, "list of vh.Sample"),
    "not a sample": (lambda: (["how many ?"], {}), SampleError, r"samples\[0\] is a str"),
    "the same twice": (lambda: (samples(1) * 2, {}), SampleError, "not unique: s0"),
    "query": (lambda: (samples(1), {"query": "first"}), ParameterError, "first_generated"),
    "no query": (lambda: (samples(1), {"query": ()}), ParameterError, "at least one"),
    "keep": (lambda: (samples(1), {"keep": ("map",)}), ParameterError, "mean_map"),
    "heads alone": (lambda: (samples(1), {"heads": [(0, 0)]}), ParameterError, "keep="),
    "heads": (lambda: (samples(1), {"keep": "maps", "heads": [(0, 9)]}), HeadError, r"\(0, 9\)"),
    "no heads": (lambda: (samples(1), {"keep": "maps", "heads": []}), HeadError, "none"),
    "odd heads": (lambda: (samples(1), {"keep": "maps", "heads": [5]}), HeadError, "pairs"),
    "heads of another": (lambda: (samples(1), {"keep": "maps", "heads": ANOTHER}), HeadError, "another"),
    "batch": (lambda: (samples(1), {"batch_tokens": 0}), ParameterError, "batch_tokens"),
    "length": (lambda: (samples(1), {"max_new_tokens": 0}), ParameterError, "max_new_tokens"),
    "image token": (lambda: (samples(1, question="a <image> ?"), {}), SampleError, "special token"),
    "missing image": (lambda: (samples(1, image="no/such.png"), {}), ImageError, r"no/such\.png"),
    "missing lazy image": (lambda: (samples(1, image=LazyImage("gone.png")), {}), ImageError, r"gone\.png"),
    "box outside": (lambda: (samples(1, box=(500.0, 500.0, 600.0, 600.0)), {}), BoxError, "outside"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    make, error, message = BAD[case]
    asked, settings = make()
    with pytest.raises(error, match=message):
        trace(wrapped("llava"), asked, progress=False, **settings)


def test_pictures_can_be_paths(tmp_path):
    asked = samples(2)
    for index, sample in enumerate(asked):
        sample.image.save(tmp_path / f"{index}.png")
    lazy = [replace(s, image=tmp_path / f"{i}.png") for i, s in enumerate(asked)]
    xr.testing.assert_allclose(traced(asked=lazy).drop_attrs().drop_vars("provenance"),
                               traced(asked=asked).drop_attrs().drop_vars("provenance"))  # fmt: skip


def test_a_picture_changed_while_a_run_goes_on_is_named(tmp_path):
    for index in range(2):
        picture(index).save(tmp_path / f"{index}.png")
    asked = [replace(s, image=tmp_path / f"{i}.png") for i, s in enumerate(samples(2))]
    tracer = prepare_store(wrapped("llava"), asked, tmp_path / "a.zarr", StoreSettings(shard=1))
    tracer.shard(0)
    picture(5, 50, 40).save(tmp_path / "1.png")
    with pytest.raises(SampleError, match=f"{asked[1].id}.*was changed"):
        tracer.shard(1)


def test_a_corrupt_picture_is_named(tmp_path):
    path = tmp_path / "half.png"
    picture(0, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"half\.png"):
        trace(wrapped("llava"), samples(1, image=path), progress=False)


def test_a_small_model_of_one_layer_works():
    model = wrapped("llava", Tiny(layers=1))
    assert trace(model, samples(1), max_new_tokens=2, progress=False).sizes["layer"] == 1
