"""The shipped items of the four other benchmarks."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from helpers.project import ROOT
from visualheads.miniatures import benchmarks, language, questions, world
from visualheads.miniatures.world import ADJECTIVES
from visualheads.tasks import task

SCENES = ROOT / "data" / "scenes"
OTHERS = ("pope", "mmbench", "seedbench", "qbench")


@pytest.mark.parametrize("name", OTHERS)
def test_shipped_items_are_what_the_code_makes(name, tmp_path):
    benchmarks.WRITERS[name](tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    there = sorted(path.relative_to(SCENES / name) for path in (SCENES / name).rglob("*") if path.is_file())
    assert made == there
    texts = [path for path in made if path.suffix in (".json", ".md")]
    assert texts
    assert all((tmp_path / path).read_bytes() == (SCENES / name / path).read_bytes() for path in texts)


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
    blind = np.mean(questions.question_only(samples, samples, leave_out=True))
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
