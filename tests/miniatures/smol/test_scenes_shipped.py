"""The shipped test scenes in the official formats."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
from PIL import Image

from helpers.smol import DATA, fast_vlm, sheet
from visualheads.miniatures.smol.benchmarks import draw_test_scene
from visualheads.miniatures.smol.card import model_card
from visualheads.miniatures.smol.evaluation import (
    _contained,
    answered,
    answered_blindly,
    benchmark_samples,
    by_picture,
    elsewhere_scores,
    evaluate,
    list_scores,
)
from visualheads.miniatures.smol.scenes import HELD_OUT_GROUND, render
from visualheads.tasks import task

SCENES = DATA / "scenes"


def test_there_are_enough_scenes_and_they_are_small():
    assert len(json.loads((SCENES / "looktwiceqa_test_imgs.json").read_text(encoding="utf-8"))) >= 400
    assert sum(path.stat().st_size for path in SCENES.rglob("*") if path.is_file()) < 6e6


def test_looktwice_asks_all_conditions_with_balanced_answers():
    benchmark = task("looktwice", data=SCENES)
    for condition in benchmark.conditions:
        samples = benchmark.samples(condition=condition, format="free")
        counts = Counter(sample.answer for sample in samples)
        assert len(samples) == 400
        assert max(counts.values()) / len(samples) <= 0.3
        assert all(sample.boxes for sample in samples)
    letters = benchmark.samples(condition="plain-object", format="letters")
    assert set(Counter(sample.answer for sample in letters)) == set("ABCD")


def test_other_benchmarks_ask_about_the_same_pictures():
    pictures = {path.name for path in (SCENES / "images").iterdir()}
    for name in ("pope", "seedbench"):
        samples = benchmark_samples(SCENES, name)
        assert {f"{sample.image_id}.jpg" for sample in samples} <= pictures or name == "seedbench"
        assert max(Counter(sample.answer for sample in samples).values()) / len(samples) <= 0.5
        assert samples[0].open().mode == "RGB"
    assert len(by_picture(benchmark_samples(SCENES, "pope"))) == 200


def test_questions_on_a_white_picture_are_answered_as_if_each_were_shown():
    module, processor = fast_vlm()
    samples = benchmark_samples(SCENES, "pope", n=6)
    blind = answered_blindly(module, processor.tokenizer, samples)
    shown = [replace(sample, image=Image.new("RGB", (300, 200), "white")) for sample in samples]
    assert blind == answered(module, processor.tokenizer, shown)
    assert set(blind) == {sample.id for sample in samples}


def test_all_scores_of_a_model_make_its_card():
    (module, processor), sprites = fast_vlm(), sheet()
    found = evaluate(module, processor.tokenizer, SCENES, "How many hats are there in the image", n=12)
    assert {entry["seen"]["n"] for entry in found["looktwice"].values()} == {12}
    new, known = found["held_out"]["held-out ground"]["seen"], found["held_out"]["known ground"]["seen"]
    assert new["n"] + known["n"] == 4 * 12, "questions that name what they ask about"
    for told in found["text"]["answers"].values():
        assert told["chosen"]["accuracy"] >= told["accuracy"], "an exact answer is the likeliest one"
    found["elsewhere"] = elsewhere_scores(module, processor.tokenizer, sprites, n=5)
    assert found["elsewhere"]["object"]["question_only"]["accuracy"] == 1 / 5
    found["lists"] = list_scores(module, processor.tokenizer, sprites, n=3)
    assert found["lists"]["shown"]["n"] == sum(len(draw_test_scene(number).scene.objects) for number in (1, 2, 3))
    found["text"]["before"] = found["text"]
    assert "| another generator, super |" in model_card("smol-1.5", found, 1)


def test_each_object_counts_once_in_a_list():
    shown, said = [Counter(dog=2, cat=1), Counter(hat=1)], [Counter(dog=3), Counter(hat=1, cat=1)]
    assert _contained(shown, said)["accuracy"] == 3 / 4
    assert _contained(said, shown)["accuracy"] == 3 / 5


def test_some_scenes_show_what_training_never_shows():
    records = [told[0] for told in json.loads((SCENES / "looktwiceqa_dataset.json").read_text()).values()]
    assert sum(record["Held_out_pair"] for record in records) > 50
    assert sum(record["Ground"] == HELD_OUT_GROUND for record in records) > 50


def test_a_shipped_picture_is_the_scene_of_its_number():
    sheet()
    scene = draw_test_scene(30).scene
    with Image.open(SCENES / "images" / "30.jpg") as opened:
        shipped = small(opened)
    assert np.abs(shipped - small(render(scene, sheet()))).mean() < 2


def small(picture: Image.Image) -> np.ndarray:
    """A picture without what JPEG changes."""
    return np.asarray(picture.convert("RGB").resize((20, 20), Image.Resampling.BOX), dtype=float)
