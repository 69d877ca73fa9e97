"""Questions about lists: the answers are right, and the question alone tells little."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualheads.miniatures import language, listings, questions, world
from visualheads.miniatures.world import ADJECTIVES
from visualheads.tasks import task
from visualheads.tasks.sample import Sample

SEEDS = st.integers(0, 10_000)


def random_listing(seed: int) -> listings.Listing:
    """What a random picture, or list in words, shows."""
    rng = random.Random(seed)
    return listings.draw_picture(rng).listing if seed % 2 else listings.text_list(rng, 12)[1]


def test_question_only_answerer_by_hand():
    picture = Image.new("RGB", (4, 4))
    free = [Sample(str(i), picture, "q", answer) for i, answer in enumerate("33321")]
    assert questions.question_only(free, free) == [True, True, True, False, False]
    letters = [
        Sample("a", picture, "q", "B", choices=("5", "3", "2", "4")),
        Sample("b", picture, "q", "A", choices=("1", "6", "3", "7")),
    ]
    assert questions.question_only(letters, free) == [True, False]


def test_the_question_only_answerer_may_not_know_the_question_itself():
    picture = Image.new("RGB", (4, 4))
    samples = [
        Sample("a", picture, "Which one?", "A", choices=("dog", "car"), question_id="a"),
        Sample("b", picture, "Which one?", "B", choices=("bus", "cat"), question_id="b"),
    ]
    assert questions.question_only(samples, samples) == [True, True]
    assert questions.question_only(samples, samples, leave_out=True) == [True, False]
    told = {"c": "Yes", "d": "No", "e": "Yes", "f": "No"}
    asked = [Sample(name, picture, "Is it so?", said, question_id=name) for name, said in told.items()]
    assert not any(questions.question_only(asked, asked, leave_out=True)), "what is left speaks for the other answer"
    assert sum(questions.without_looking(asked)) == 2 and sum(questions.without_looking(samples)) == 1


def test_question_types_leave_the_names_out():
    assert questions.template("How many cars are there?\nA. 1") == questions.template("How many dogs are there?")
    assert questions.template("Is this image dark?") == questions.template("Is this image noisy?")


@given(SEEDS, st.sampled_from(sorted(questions.ASKERS)))
def test_questions_are_answered_from_the_listing(seed, kind):
    rng, shown = random.Random(seed), random_listing(seed)
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


@given(SEEDS, st.integers(2, 4))
def test_options_hold_the_answer_once(seed, number):
    rng = random.Random(seed)
    asked = questions.ask(rng, random_listing(seed))
    if asked.options:
        options = questions.offered(rng, asked, number)
        assert len(options) == min(number, len(asked.options)) == len(set(options))
        assert options.count(asked.answer) == 1
        assert questions.offered(rng, asked, number, position=1)[1] == asked.answer


def test_looktwice_has_more_than_half_of_the_questions():
    rng = random.Random(0)
    asked = Counter(questions.ask(rng, listings.draw_picture(rng).listing).kind for _ in range(600))
    assert sum(asked[kind] for kind in ("general", "object", "super")) > 300
    assert set(asked) == set(questions.ASKERS)


def test_shipped_questions_tell_their_kind() -> None:
    expected = {
        "pope": {"exists"},
        "mmbench": {"which", "number", "colour", "location", "relation"},
        "seedbench": {"which", "number", "colour", "location", "relation"},
        "qbench": {"distortion", "quality", "appearance"},
        "looktwice": {"general", "object", "super"},
    }
    for name, wanted in expected.items():
        assert {questions.kind_of(sample) for sample in task(name).samples()} == wanted
    assert questions.kind_of(Sample("a", Image.new("RGB", (4, 4)), "Why?", "so")) == ""
