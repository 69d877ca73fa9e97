"""What heads do at the three moments: prompts, rows, knockouts."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import xarray as xr

from helpers.smol import fast_vlm, sheet, word_tokenizer
from visualheads.miniatures.smol.packing import cells, drawn_questions, picture_prompt, prefix_ids, text_prompt
from visualheads.miniatures.smol.questions import count_object, free
from visualheads.miniatures.smol.scenes import draw_scene, render
from visualheads.models.loading import wrap
from visualheads.store.read import open_store
from visualheads.studies import three_moments as moments
from visualheads.tasks.sample import Sample
from visualheads.tracing.trace import trace


@pytest.fixture(scope="module")
def asked():
    sheet()
    rng = random.Random(4)
    return drawn_questions([draw_scene(rng) for _ in range(8)])[:4]


def test_the_asked_words_of_a_list_are_marked(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    for scene, name, image_id in asked:
        prompt = text_prompt(module, words, scene, name, image_id)
        told = f"Image: {', '.join(thing.name for thing in scene.objects)}"
        ids = torch.tensor(prefix_ids(words, 0, told))
        assert words.decode(ids[prompt.asked[: len(ids)]]).count(name) == scene.count(name)
        assert not (prompt.asked & prompt.unasked).any()
        assert torch.equal(prompt.asked | prompt.unasked, prompt.content)


def test_the_asked_objects_of_a_picture_are_marked(asked):
    scene, name, _ = asked[0]
    own, others = cells(scene, name)
    thing = next(one for one in scene.objects if one.name == name)
    column, row = (int(centre * 12 / side) for centre, side in zip(thing.centre, scene.size, strict=True))
    assert own.reshape(12, 12)[row, column]
    assert others.any()


def test_rows_are_those_of_a_trace(asked):
    module, processor = fast_vlm()
    model = wrap(module, processor, name="tiny")
    scene, name, image_id = asked[0]
    prompt = picture_prompt(module, processor.tokenizer, render(scene, sheet()), scene, name, image_id)
    ours = moments.trace_moment("one", module.model.language_model, module.lm_head, [prompt]).isel(model=0, sample=0)
    picture = render(scene, sheet())
    sample = Sample("one", picture, free("object", count_object(name), "").text, str(scene.count(name)))
    theirs = trace(model, [sample], query=moments.ROWS, max_new_tokens=2, progress=False)
    told = theirs.image_weight.isel(model=0, sample=0).sel(query=ours["query"]).transpose("query", "layer", "head")
    np.testing.assert_allclose(ours["content_weight"], told, atol=2e-4)
    assert abs(np.diff(told, axis=0)).max() > 1e-3, "the two rows differ"


def test_a_moment_holds_all_measures_and_behaviours(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    prompts = [text_prompt(module, words, *one) for one in asked]
    ds = moments.trace_moment("text", module.model.language_model, module.lm_head, prompts)
    assert dict(ds.sizes) == {"model": 1, "query": 2, "layer": 2, "head": 4, "sample": 4}
    assert {*moments.MEASURES, *moments.BEHAVIOURS, *moments.ANSWERS} == set(ds.data_vars)
    assert ((ds.asked_weight <= ds.content_weight + 1e-6) & (ds.content_weight <= 1)).all()
    share = ds.asked_lift.notnull() & (ds.content_weight > 0)
    assert share.all() and (ds.sink > 0).all()


def test_knocked_out_heads_see_nothing_of_the_scene(asked):
    module, _ = fast_vlm()
    language = module.model.language_model
    prompt = text_prompt(module, word_tokenizer(), *asked[0])
    word = torch.tensor(prompt.numbers[0])
    before = moments.read_rows(language, prompt, word)
    with moments.knocked_out(language, [(0, 1)], prompt.content):
        during = moments.read_rows(language, prompt, word)
    content = prompt.content.numpy()
    assert during[:, 0, 1, content].max() < 1e-6 < before[:, 0, 1, content].min()
    np.testing.assert_allclose(during[:, 0, [0, 2, 3]], before[:, 0, [0, 2, 3]], atol=1e-6)
    np.testing.assert_array_equal(moments.read_rows(language, prompt, word), before)


def test_without_heads_a_knockout_changes_nothing(asked):
    module, _ = fast_vlm()
    language = module.model.language_model
    words = word_tokenizer()
    prompts = [text_prompt(module, words, *one) for one in asked]
    right, log_probability = zip(
        *(moments.answered(moments.last_scores(language, module.lm_head, prompt), prompt) for prompt in prompts),
        strict=True,
    )
    found = moments.knockout(language, module.lm_head, prompts, {"none": [], "one": [(0, 0), (1, 2)]})
    assert found.knocked_correct.sel(set="none").values.tolist() == [float(one) for one in right]
    np.testing.assert_allclose(found.knocked_log_probability.sel(set="none"), log_probability, atol=1e-5)
    assert not np.allclose(found.knocked_log_probability.sel(set="one"), log_probability, atol=1e-5)


def test_all_moments_are_measured_and_shipped(asked, tmp_path):
    module, processor = fast_vlm()
    pictures = [render(scene, sheet()) for scene, _, _ in asked]
    ds = moments.measure_modules(
        module, module, processor.tokenizer, asked, pictures, between=[(moments.STEP.format(3), module)]
    )
    assert list(ds.model.values) == [
        moments.TEXT,
        moments.FROZEN,
        moments.STEP.format(3),
        moments.TUNED,
        moments.TUNED_TEXT,
        moments.UNTRAINED,
        moments.SHUFFLED,
    ]
    assert ds.chosen.sum() == 1 and dict(ds.knocked_correct.sizes) == {"model": 7, "set": 7, "sample": 4}
    judged = ds.knocked_log_probability.notnull().all("set")
    assert judged.sel(model=moments.TUNED).values.tolist() == [False, True, False, True]
    assert not judged.sel(model=[moments.STEP.format(3), moments.TUNED_TEXT, moments.UNTRAINED, moments.SHUFFLED]).any()
    frozen, between, tuned = (
        ds.content_weight.sel(model=one) for one in (moments.FROZEN, moments.STEP.format(3), moments.TUNED)
    )
    assert abs(frozen - tuned).max() == 0 and abs(between - tuned).max() == 0
    shipped = open_store(moments.ship(ds, tmp_path / "moments.zarr.zip"))
    np.testing.assert_allclose(shipped.content_weight, ds.content_weight, rtol=2e-3)


def test_random_sets_take_as_many_heads_of_each_layer():
    chosen = xr.DataArray(
        np.array([[True, False, False], [False, False, False], [True, True, False]]), dims=("layer", "head")
    )
    for heads in moments.random_sets(chosen).values():
        assert [layer for layer, _ in heads] == [0, 2]  # of the last layer one is left
        assert (2, 2) in heads and (0, 0) not in heads


def test_the_answer_is_the_most_probable_number(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    scene, name, image_id = asked[0]
    prompt = text_prompt(module, words, scene, name, image_id)
    assert words.decode([prompt.numbers[prompt.answer]]) == str(scene.count(name))
    logits = module.lm_head(module.model.language_model(inputs_embeds=prompt.inputs[None]).last_hidden_state)[0, -1]
    right, told = moments.answered(moments.last_scores(module.model.language_model, module.lm_head, prompt), prompt)
    numbers = logits[list(prompt.numbers)]
    assert right == (int(numbers.argmax()) == scene.count(name) - 1)
    assert told == pytest.approx(float(numbers.log_softmax(-1)[scene.count(name) - 1]), abs=1e-5)
