"""The glyph world's questions, distortions and shipped test items of the five benchmarks."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.project import ROOT
from visualheads.miniatures import (
    benchmarks,
    dialogues,
    evaluation,
    language,
    pictures,
    questions,
    scenes,
    text_lists,
    world,
)
from visualheads.miniatures.distortions import ADJECTIVES, DISTORTIONS, STRENGTHS, distorted
from visualheads.tasks import task

SEEDS = st.integers(0, 10_000)
SCENES = ROOT / "data" / "scenes"
OTHERS = ("pope", "mmbench", "seedbench", "qbench")


def known(seed: int) -> text_lists.Listing:
    """What a random picture, or list in words, shows."""
    rng = random.Random(seed)
    return pictures.picture(rng).listing if seed % 2 else text_lists.text_list(rng, 12)[1]


@given(SEEDS, st.sampled_from(sorted(questions.ASKERS)))
def test_questions_are_answered_from_the_listing(seed, kind):
    rng, shown = random.Random(seed), known(seed)
    asked = questions.ASKERS[kind](rng, shown, None)
    if asked is None:
        assert kind in ("general", "name", "colour", "location", "relation")
        return
    language.encode(asked.text)
    assert not asked.options or asked.answer in asked.options
    assert all(language.encode(option) for option in asked.options)
    named = [word for word in language.split(asked.text) if word in (*world.CLASSES, *world.SUPERCATEGORIES)]
    named += [name for name, plural in world.PLURAL.items() if plural in language.split(asked.text)]
    match kind:
        case "general":
            assert int(asked.answer) == shown.items.count(shown.marked or "")
        case "name":
            assert asked.answer == shown.marked
        case "object" | "number" | "super":
            assert int(asked.answer) == shown.count(named[0])
        case "exists":
            assert (asked.answer == "Yes") == (named[0] in shown.items)
        case "which":
            assert asked.answer in shown.items
            assert not set(asked.options) - {asked.answer} & set(shown.items)
        case "colour":
            assert shown.colours and asked.answer == shown.colours[shown.items.index(named[0])]
        case "quality":
            about = next(d for d, pair in ADJECTIVES.items() if pair[0] in language.split(asked.text))
            assert (asked.answer == "Yes") == (shown.quality == about)
        case "appearance":
            about = next(d for d, pair in ADJECTIVES.items() if pair[1] in language.split(asked.text))
            assert asked.answer == ADJECTIVES[about][shown.quality != about]
        case "distortion":
            assert asked.answer == shown.quality


def test_places_and_relations_by_hand():
    shown = text_lists.Listing(
        ("dog", "cat", "car"), None, ("blue", "gray", "blue"), ((10.0, 12.0), (80.0, 20.0), (70.0, 90.0)), (96, 96)
    )
    assert [shown.place(name) for name in shown.items] == ["top left", "top right", "bottom right"]
    assert shown.relation("dog", "cat") == "left"
    assert shown.relation("cat", "dog") == "right"
    assert shown.relation("car", "cat") == "below"
    assert shown.relation("cat", "car") == "above"
    assert shown.relation("dog", "car") is None  # as far to the left as above
    assert shown.colour("cat") == "gray"
    assert shown.alone == ["car", "cat", "dog"]
    told = dialogues.places(random.Random(0), shown)
    table = {index: word for word, index in language.vocabulary().items()}
    assert "cat top right" in " ".join(table[i] for i in told[0])


@given(SEEDS, st.integers(2, 4))
def test_options_hold_the_answer_once(seed, number):
    rng = random.Random(seed)
    asked = questions.ask(rng, known(seed))
    if asked.options:
        options = questions.offered(rng, asked, number)
        assert len(options) == min(number, len(asked.options)) == len(set(options))
        assert options.count(asked.answer) == 1
        assert questions.offered(rng, asked, number, position=1)[1] == asked.answer


def test_looktwice_has_more_than_half_of_the_questions():
    rng = random.Random(0)
    asked = Counter(questions.ask(rng, pictures.picture(rng).listing).kind for _ in range(600))
    assert sum(asked[kind] for kind in ("general", "object", "super")) > 300
    assert set(asked) == set(questions.ASKERS)


def test_distortions_do_what_they_say():
    clean = world.render(world.draw_scene(random.Random(3)))
    before = np.asarray(clean).astype(float)
    after = {
        kind: np.asarray(distorted(clean, kind, strength, 1)).astype(float)
        for kind in DISTORTIONS
        for strength in STRENGTHS[kind][:1]
    }
    assert after["darkness"].mean() < 0.6 * before.mean()
    assert np.ptp(after["fading"], axis=2).mean() < 0.4 * np.ptp(before, axis=2).mean()

    def edges(picture):
        return np.abs(np.diff(picture, axis=1)).mean()

    assert edges(after["blur"]) < 0.8 * edges(before) < edges(before) < 0.8 * edges(after["noise"])
    assert distorted(clean, "none", 0.0, 1) is clean
    again = np.asarray(distorted(clean, "noise", 20.0, 1))
    assert (again == np.asarray(distorted(clean, "noise", 20.0, 1))).all()


def test_training_pictures_vary_in_shape_quality_and_box_colour():
    rng = random.Random(0)
    shown = [pictures.picture(rng, colourful=True) for _ in range(200)]
    assert {each.image.size for each in shown} == {(96, 96), (144, 96), (96, 144)}
    assert {each.scene.quality for each in shown} == {"none", *DISTORTIONS}
    assert 0.4 < np.mean([each.target is not None for each in shown]) < 0.6
    seen = {colour for each in shown if each.target is not None for _, colour in each.image.getcolors(1 << 16)}
    assert {pictures.RED, *pictures.OTHER_BOX_COLOURS} <= seen


@pytest.mark.parametrize("name", OTHERS)
def test_shipped_items_are_what_the_code_makes(name, tmp_path):
    scenes.WRITERS[name](tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    there = sorted(path.relative_to(SCENES / name) for path in (SCENES / name).rglob("*") if path.is_file())
    assert made == there
    texts = [path for path in made if path.suffix in (".json", ".md")]
    assert texts
    assert all((tmp_path / path).read_bytes() == (SCENES / name / path).read_bytes() for path in texts)


def test_shipped_scenes_are_small_enough():
    assert sum(path.stat().st_size for path in SCENES.rglob("*") if path.is_file()) < 8_000_000


@pytest.mark.parametrize("name", OTHERS)
def test_shipped_items_can_be_asked_and_not_guessed(name):
    benchmark = task(name)
    samples = benchmark.samples()
    assert len({(s.question_id, s.condition) for s in samples}) >= 200
    ids = language.vocabulary()
    for sample in samples:
        assert all(token in ids.values() for token in language.encode(sample.question))
    letters = Counter(sample.answer for sample in samples)
    expected = len(samples) / len(letters)
    if name != "qbench":  # where a third of the items has two options
        assert max(letters.values()) < 1.35 * expected
    blind = np.mean(evaluation.question_only(samples, samples, leave_out=True))
    chance = np.mean([1 / len(sample.choices or "yn") for sample in samples])
    assert blind < chance + 0.1
    for sample in samples[:20]:
        assert sample.image.open().size in {(96, 96), (144, 96), (96, 144)}


def test_mmbench_asks_in_as_many_rounds_as_options():
    samples = task("mmbench").samples(format="letters")
    rounds = Counter(Counter(sample.question_id for sample in samples).values())
    assert set(rounds) == {2, 3, 4}
    assert sum(rounds.values()) == benchmarks.MMBENCH_ITEMS


def test_pope_conditions_share_what_is_there_and_differ_in_what_is_not():
    lines = {
        condition: [json.loads(line) for line in (SCENES / f"pope/coco_pope_{condition}.json").read_text().splitlines()]
        for condition in ("random", "popular", "adversarial")
    }
    yes = {name: [(e["question_id"], e["text"]) for e in told if e["label"] == "yes"] for name, told in lines.items()}
    assert yes["random"] == yes["popular"] == yes["adversarial"]
    assert all(Counter(entry["label"] for entry in told) == {"yes": 150, "no": 150} for told in lines.values())
    there = defaultdict(set)
    for entry in lines["adversarial"]:
        name = entry["text"].split()[3]
        if entry["label"] == "yes":
            there[entry["image"]].add(name)
    near = [
        any(world.CATEGORY[entry["text"].split()[3]] == world.CATEGORY[name] for name in there[entry["image"]])
        for entry in lines["adversarial"]
        if entry["label"] == "no"
    ]
    assert np.mean(near) > 0.7  # the others' neighbour is a third class in the picture


def test_qbench_balances_its_answers():
    entries = json.loads((SCENES / "qbench/llvisionqa_dev.json").read_text())
    by_type = defaultdict(Counter)
    for entry in entries:
        by_type[entry["type"]][entry["correct_ans"]] += 1
    assert by_type[0] == {"Yes": 25, "No": 25}
    assert set(by_type[1].values()) == {20}
    good = {pair[1] for pair in ADJECTIVES.values()}
    assert sum(number for answer, number in by_type[2].items() if answer in good) == 25
