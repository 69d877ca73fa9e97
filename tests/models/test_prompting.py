"""The form of the prompt: what may be given, what it is checked for, and what a question may not hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visualheads as vh
from helpers.families import FAMILIES, save
from helpers.networks import CHAT_TEMPLATE, llava, samples
from visualheads.tasks.sample import Sample

ROLES = (
    "{% for m in messages %}{{ m['role'] }} :{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT :"
)
USER_ONLY = ROLES.replace("in messages", "in messages if m['role'] == 'user'")
TEXT_ONLY = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %} ASSISTANT :"
QUESTION = "how many cars ?"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(*llava(), tmp_path_factory.mktemp("saved") / "llava")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "llava"))


def load(folder: Path, **settings: object):
    return vh.load(folder, validate=False, **settings)


def test_a_form_of_ones_own_takes_the_templates_place(folder):
    model = load(folder, prompt="look : <image> {question} answer :")
    assert model.prompt(QUESTION) == "look : <image> how many cars ? answer :"
    assert len(model.image_positions(model.encode(samples(1)))[0]) == 16


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # transformers leaves files open
def test_a_template_may_be_given_as_text_as_file_or_by_name(folder, tmp_path):
    expected = "user :<image> how many cars ? ASSISTANT :"
    assert load(folder, chat_template=ROLES).prompt(QUESTION) == expected
    (tmp_path / "other.jinja").write_text(ROLES)
    assert load(folder, chat_template=tmp_path / "other.jinja").prompt(QUESTION) == expected
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "roles.jinja").write_text(ROLES)
    assert load(folder, chat_template="roles").prompt(QUESTION) == expected
    assert load(folder).prompt(QUESTION).startswith("USER : <image>")


def test_a_system_message_goes_where_the_template_puts_it(folder):
    model = load(folder, chat_template=ROLES, system="answer with one word .")
    assert model.prompt(QUESTION).startswith("system :answer with one word . user :<image>")


def test_a_template_for_text_alone_gets_the_image_token_in_the_text(folder):
    (folder / "chat_template.jinja").write_text(TEXT_ONLY)
    assert load(folder).prompt(QUESTION) == "[user] <image>\nhow many cars ? ASSISTANT :"


def test_an_answer_may_be_begun(folder):
    model = load(folder)
    assert model.prompt(QUESTION, " the answer is") == model.prompt(QUESTION) + " the answer is"


def test_without_a_template_the_form_is_told(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.warns(UserWarning, match=r"no chat template.*USER: <image>.*prompt= or chat_template="):
        assert load(folder).prompt("a ?") == "USER: <image>\na ? ASSISTANT:"


def test_all_of_it_is_part_of_the_identity(folder):
    settings: list[dict[str, object]] = [
        {}, {"prompt": "<image> {question}"}, {"chat_template": ROLES},
        {"chat_template": ROLES, "system": "one word ."},
    ]  # fmt: skip
    found = [load(folder, **one).identity for one in settings]
    assert len({one["prompt"] for one in found}) == len(settings)
    assert len({one["processor"] for one in found}) == 1
    assert load(folder).identity == found[0]
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + " ")
    assert load(folder).identity["prompt"] != found[0]["prompt"]
    file = folder / "processor_config.json"
    changed = json.loads(file.read_text())
    changed["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    file.write_text(json.dumps(changed))
    assert load(folder).identity["processor"] != found[0]["processor"]


def test_a_tokenizers_words_are_part_of_the_identity(folder):
    before = load(folder).identity["processor"]
    file = folder / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["cars"], vocabulary["people"] = vocabulary["people"], vocabulary["cars"]
    file.write_text(json.dumps(words))
    assert load(folder).identity["processor"] != before


def test_a_store_made_under_another_template_refuses(folder, tmp_path):
    store = tmp_path / "x.zarr"
    vh.trace_to_store(load(folder), samples(2), store, progress=False)
    with pytest.raises(vh.IdentityMismatch, match=r"prompt\b.* differ"):
        vh.trace_to_store(load(folder, chat_template=ROLES), samples(2), store, progress=False)


@pytest.mark.parametrize("token", ["<image>", "</s>", "<pad>", "<s>"])
def test_special_tokens_in_a_question_are_refused_by_name(folder, token):
    with pytest.raises(vh.SampleError, match=f"contains '{token}'"):
        load(folder).prompt(f"what is {token} ?")
    with pytest.raises(vh.SampleError, match=f"answer_prefix.*{token}"):
        load(folder).prompt(QUESTION, token)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("onevision", "<video>"),
        ("qwen2.5-vl", "<|vision_start|>"),
        ("qwen2.5-vl", "<|video_pad|>"),
        ("gemma3", "<start_of_image>"),
    ],
)
def test_what_stands_for_pictures_and_videos_is_refused_by_name(tmp_path, name, token):
    model = load(save(*FAMILIES[name]("sdpa"), tmp_path / name))
    with pytest.raises(vh.SampleError) as told:
        model.prompt(f"what {token} is there ?")
    assert token in str(told.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prompt": "{question}"}, "one <image> and one"),
        ({"prompt": "<image>"}, "one <image> and one"),
        ({"prompt": "<image> <image> {question}"}, "one <image> and one"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": 5}, "not empty"),
        ({"prompt": "<image> {question}", "system": "s"}, "beside it"),
        ({"prompt": "<image> {question}", "chat_template": ROLES}, "beside it"),
        ({"system": "be brief", "chat_template": USER_ONLY}, "leaves out the system message"),
        ({"system": 5}, "not empty"),
        ({"chat_template": "no such file"}, "no such file"),
        ({"chat_template": "a\0b"}, "chat_template"),
        ({"system": "a\0b"}, "system"),
    ],
    ids=str,
)
def test_forms_that_cannot_be_are_refused(folder, settings, told):
    with pytest.raises(vh.ParameterError, match=told):
        load(folder, **settings)


HOSTILE = {
    "date": CHAT_TEMPLATE + "{{ strftime_now('%Y') }}",
    "broken": "{% for m in messages %}",
    "unknown tag": "{% nonsense %}",
    "leaves out the picture": "{% for m in messages %}{{ m['role'] }}{% endfor %}",
    "two pictures": "<image> " + CHAT_TEMPLATE,
    "raises": "{{ raise_exception('no') }}",
    "undefined": "{{ messages[0].content.nothing.more }}",
    "private": "{{ messages.__class__.__mro__ }}" + CHAT_TEMPLATE,
    "endless": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}" + CHAT_TEMPLATE,
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "multiplied": "{{ 'a' * 10 ** 10 }}" + CHAT_TEMPLATE,
    "long": "a" * 300_000,
    "range": "{% for a in range(10000000000) %}{% endfor %}" + CHAT_TEMPLATE,
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_broken_and_hostile_templates_are_one_error_that_names_the_field(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(vh.CheckpointError, match="chat_template"):
        load(folder)


def test_a_picture_that_a_processor_refuses_names_its_sample(tmp_path):
    model = load(save(*FAMILIES["qwen2.5-vl"]("sdpa"), tmp_path / "qwen"))
    thin = Image.fromarray(np.zeros((2, 900, 3), np.uint8))
    asked = [*samples(1), Sample("thin one", thin, QUESTION)]
    with pytest.raises(vh.ImageError, match=r"sample 'thin one'.*900 × 2"):
        model.encode(asked)


def test_what_a_model_is_stands_on_one_line(folder):
    told = repr(load(folder))
    assert len(told) < 200 and "LlavaForConditionalGeneration" in told and "3 layers × 4 heads" in told
