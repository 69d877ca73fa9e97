"""What heads do at the three moments: prompts, rows, knockouts."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.smol import fast_vlm, sheet, word_tokenizer
from visualheads.miniatures.smol.packing import pack, prefix_ids
from visualheads.miniatures.smol.questions import count_object, free
from visualheads.miniatures.smol.scenes import draw_scene
from visualheads.models.loading import wrap
from visualheads.studies import three_moments as moments
from visualheads.tasks.sample import Sample
from visualheads.tracing.trace import trace


@pytest.fixture(scope="module")
def asked():
    sheet()
    rng = random.Random(4)
    return moments.drawn_questions([draw_scene(rng) for _ in range(8)])[:4]


def test_the_asked_words_of_a_list_are_marked(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    for scene, name, image_id in asked:
        prompt = moments.text_prompt(module, words, scene, name, image_id)
        told = f"Image: {', '.join(thing.name for thing in scene.objects)}"
        ids = torch.tensor(prefix_ids(words, 0, told))
        assert words.decode(ids[prompt.asked[: len(ids)]]).count(name) == scene.count(name)
        assert not (prompt.asked & prompt.unasked).any()
        assert torch.equal(prompt.asked | prompt.unasked, prompt.content)


def test_the_asked_objects_of_a_picture_are_marked(asked):
    scene, name, _ = asked[0]
    own, others = moments.cells(scene, name)
    thing = next(one for one in scene.objects if one.name == name)
    column, row = (int(centre * 12 / side) for centre, side in zip(thing.centre, scene.size, strict=True))
    assert own.reshape(12, 12)[row, column]
    assert others.any()


def test_rows_are_those_of_a_trace(asked):
    module, processor = fast_vlm()
    model = wrap(module, processor, name="tiny")
    scene, name, image_id = asked[0]
    prompt = moments.picture_prompt(module, processor.tokenizer, sheet(), scene, name, image_id)
    ours = moments.measured(moments.last_rows(module.model.language_model, prompt), prompt)
    picture = moments.render(scene, sheet())
    sample = Sample("one", picture, free("object", count_object(name), "").text, str(scene.count(name)))
    theirs = trace(model, [sample], query="last_prompt", max_new_tokens=1, progress=False)
    np.testing.assert_allclose(ours["content_weight"], theirs.image_weight.values[0, :, :, 0], atol=2e-4)


def test_a_moment_holds_all_measures_and_behaviours(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    prompts = [moments.text_prompt(module, words, *one) for one in asked]
    ds = moments.trace_moment("text", module.model.language_model, module.lm_head, prompts)
    assert dict(ds.sizes) == {"model": 1, "layer": 2, "head": 4, "sample": 4}
    assert set(moments.MEASURES) | set(moments.BEHAVIOURS) | {"correct"} == set(ds.data_vars)
    assert ((ds.asked_weight <= ds.content_weight + 1e-6) & (ds.content_weight <= 1)).all()
    share = ds.asked_lift.notnull() & (ds.content_weight > 0)
    assert share.all() and (ds.sink > 0).all()


def test_knocked_out_heads_see_nothing_of_the_scene(asked):
    module, _ = fast_vlm()
    language = module.model.language_model
    prompt = moments.text_prompt(module, word_tokenizer(), *asked[0])
    before = moments.last_rows(language, prompt)
    with moments.knocked_out(language, [(0, 1)], prompt.content):
        during = moments.last_rows(language, prompt)
    content = prompt.content.numpy()
    assert during[0, 1][content].max() < 1e-6 < before[0, 1][content].min()
    np.testing.assert_allclose(during[0, [0, 2, 3]], before[0, [0, 2, 3]], atol=1e-6)
    np.testing.assert_array_equal(moments.last_rows(language, prompt), before)


def test_without_heads_a_knockout_changes_nothing(asked):
    module, _ = fast_vlm()
    language = module.model.language_model
    words = word_tokenizer()
    prompts = [moments.text_prompt(module, words, *one) for one in asked]
    right = [float(moments.is_right(language, module.lm_head, prompt)) for prompt in prompts]
    found = moments.knockout_effect(language, module.lm_head, prompts, {"none": [], "one": [(0, 0), (1, 2)]})
    assert found.sel(set="none").values.tolist() == right


def test_an_answer_counts_as_right_as_packing_counts_it(asked):
    module, _ = fast_vlm()
    words = word_tokenizer()
    scene, name, image_id = asked[0]
    prompt = moments.text_prompt(module, words, scene, name, image_id)
    batch = pack(words, [(prefix_ids(words, 0, "Image: dog"), [free("object", count_object(name), "3")])], 2)
    assert (batch.targets != -100).sum() == len(prompt.answer)
