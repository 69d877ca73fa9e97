"""Questions about a list of objects: what is asked, the answer, what may be offered; one small function a kind.

Of questions that are written down, also their kind, and what they give away to those who see no picture.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from visualheads.miniatures import language
from visualheads.miniatures.language import PLACES, RELATIONS, WORDINGS
from visualheads.miniatures.listings import Listing
from visualheads.miniatures.world import (
    ADJECTIVES,
    CATEGORY,
    CLASSES,
    COLOURS,
    DISTORTIONS,
    NONE,
    PLURAL,
    QUALITIES,
    SUPERCATEGORIES,
)
from visualheads.paths import read_table
from visualheads.tasks.sample import LETTERS

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

HIGHEST_CHOICE = 7  # distractors are drawn from 1 … 7, as in the multiple-choice condition of LookTwice
NUMBERS = tuple(str(number) for number in range(1, HIGHEST_CHOICE + 1))
FEW_NUMBERS = NUMBERS[:5]  # in the other benchmarks: what a scene holds of one class, so that no option is absurd
ABSENT = 0.1  # share of counting questions about something that may not be there
YES_NO = ("Yes", "No")

WEIGHTS: dict[str, tuple[float, float]] = read_table(__file__, "questions.yml")["weights"]
"""How often training asks each kind: (of a list with a marked object, of one without)."""
LOW_LEVEL = ("distortion", "quality", "appearance")
LOW_LEVEL_FACTOR = {True: 3.0, False: 0.5}  # with and without a distortion, so that both answers are about as frequent


@dataclass(frozen=True)
class Question:
    """A question with its answer; `options` are the texts that may be offered, the answer among them, or ()."""

    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()


Asker = Callable[[random.Random, Listing, int | None], Question | None]
"""Asks one kind of question of a list, in a given wording or a random one; None where the list cannot answer it."""


def _worded(rng: random.Random, kind: str, wording: int | None, **names: str) -> str:
    forms = WORDINGS[kind]
    return (rng.choice(forms) if wording is None else forms[wording]).format(**names)


def _number(kind: str, text: str, count: int, offered: tuple[str, ...] = NUMBERS) -> Question:
    return Question(kind, text, str(count), offered if str(count) in offered else ())


def general(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """How many there are of the marked class."""
    if listing.marked is None:
        return None
    return _number("general", _worded(rng, "general", wording), listing.count(listing.marked))


def name(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """What the marked object is."""
    if listing.marked is None:
        return None
    return Question("name", _worded(rng, "name", wording), listing.marked, CLASSES)


def objects(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """How many there are of a class."""
    name = rng.choice(CLASSES) if rng.random() < ABSENT else rng.choice(listing.present)
    return _number("object", _worded(rng, "object", wording, plural=PLURAL[name]), listing.count(name))


def supers(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """How many there are of a supercategory."""
    category = rng.choice(SUPERCATEGORIES) if rng.random() < ABSENT else CATEGORY[rng.choice(listing.present)]
    return _number("super", _worded(rng, "super", wording, category=category), listing.count(category))


def number(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """How many there are of a class, as MMBench and SEED-Bench ask."""
    name = rng.choice(listing.present)
    text = _worded(rng, "number", wording, plural=PLURAL[name])
    return _number("number", text, listing.count(name), FEW_NUMBERS)


def exists(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """Whether there is an object of a class: half of the absent ones are of a supercategory that is there."""
    name = rng.choice(listing.present)
    if rng.random() < 0.5:
        absent = [each for each in CLASSES if each not in listing.items]
        siblings = [each for each in absent if listing.count(CATEGORY[each])]
        name = rng.choice(siblings if siblings and rng.random() < 0.5 else absent)
    return exists_question(rng, name, bool(listing.count(name)), wording)


def exists_question(rng: random.Random, name: str, there: bool, wording: int | None = None) -> Question:
    """Ask “Is there a …?” of a given class."""
    article = "an" if name[0] in "aeiou" else "a"
    return Question("exists", _worded(rng, "exists", wording, article=article, name=name), YES_NO[not there], YES_NO)


def which(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """Which of several classes is there; the others offered are not."""
    name = rng.choice(listing.present)
    absent = tuple(each for each in CLASSES if each not in listing.items)
    return Question("which", _worded(rng, "which", wording), name, (name, *absent))


def colour(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """The colour of the only object of a class. Not asked of faded and dark pictures, which do not show it."""
    if not listing.colours or not listing.alone or listing.quality in ("fading", "darkness"):
        return None
    name = rng.choice(listing.alone)
    return Question("colour", _worded(rng, "colour", wording, name=name), listing.colour(name) or "", tuple(COLOURS))


def location(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """The quarter of the picture that holds the only object of a class."""
    if not listing.centres or not listing.alone:
        return None
    name = rng.choice(listing.alone)
    return Question("location", _worded(rng, "location", wording, name=name), listing.place(name) or "", PLACES)


def relation(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """Where one object lies when seen from another, both the only ones of their classes."""
    if not listing.centres or len(listing.alone) < 2:
        return None
    name, other = rng.sample(listing.alone, 2)
    answer = listing.relation(name, other)
    text = _worded(rng, "relation", wording, name=name, other=other)
    return Question("relation", text, answer, RELATIONS) if answer else None


def distortion(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """Which distortion the picture has, if any."""
    return Question("distortion", _worded(rng, "distortion", wording), listing.quality, QUALITIES)


def _about(rng: random.Random, listing: Listing) -> str:
    """The distortion that a low-level question is about: mostly the one that is there."""
    others = [kind for kind in DISTORTIONS if kind != listing.quality]
    return listing.quality if listing.quality != NONE and rng.random() < 0.7 else rng.choice(others)


def quality(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """Whether the picture is blurry, noisy, dark or faded."""
    about = _about(rng, listing)
    text = _worded(rng, "quality", wording, adjective=ADJECTIVES[about][0])
    return Question("quality", text, YES_NO[listing.quality != about], YES_NO)


def appearance(rng: random.Random, listing: Listing, wording: int | None = None) -> Question | None:
    """How sharp, clear, bright or colourful the picture is: that, or its opposite."""
    about = _about(rng, listing)
    bad, good = ADJECTIVES[about]
    text = _worded(rng, "appearance", wording, adjective=good)
    return Question("appearance", text, bad if listing.quality == about else good, (good, bad))


ASKERS: dict[str, Asker] = {
    "general": general,
    "name": name,
    "object": objects,
    "super": supers,
    "number": number,
    "exists": exists,
    "which": which,
    "colour": colour,
    "location": location,
    "relation": relation,
    "distortion": distortion,
    "quality": quality,
    "appearance": appearance,
}


def ask(rng: random.Random, listing: Listing) -> Question:
    """Draw one question of a kind that the list can answer, by `WEIGHTS`."""
    column, factor = int(listing.marked is None), LOW_LEVEL_FACTOR[listing.quality != NONE]
    weights = [pair[column] * (factor if kind in LOW_LEVEL else 1) for kind, pair in WEIGHTS.items()]
    while True:
        question = ASKERS[rng.choices(list(WEIGHTS), weights)[0]](rng, listing, None)
        if question:
            return question


def offered(rng: random.Random, question: Question, number: int = 4, position: int | None = None) -> tuple[str, ...]:
    """Draw `number` options (fewer where there are no more) in random order, the answer at `position` if given."""
    others = [option for option in question.options if option != question.answer]
    options = rng.sample(others, min(number - 1, len(others)))
    place = rng.randint(0, len(options)) if position is None else position % (len(options) + 1)
    return (*options[:place], question.answer, *options[place:])


def template(question: str) -> str:
    """Return a question's type: its first line up to the mark, without classes, supercategories and adjectives.

    What follows the mark is no part of the type: LookTwice mentions the box in its free form alone.
    """
    names = {*CLASSES, *PLURAL.values(), *SUPERCATEGORIES, *(word for pair in ADJECTIVES.values() for word in pair)}
    asking = question.partition("\n")[0].partition("?")[0]
    return " ".join("_" if word in names else word for word in language.split(asking))


@cache
def _types() -> dict[str, str]:
    """The kind of question of every type that `template` gives for the miniatures' wordings."""
    names = {"name": CLASSES[0], "other": CLASSES[0], "plural": PLURAL[CLASSES[0]], "category": SUPERCATEGORIES[0]}
    names["adjective"] = next(iter(ADJECTIVES.values()))[0]
    return {
        template(form.format(article=article, **names)): kind
        for kind, forms in WORDINGS.items()
        for form in forms
        for article in ("a", "an")
    }


def kind_of(sample: Sample) -> str:
    """Return the kind of a shipped question by its wording, such as `colour`, or "" for a wording of others."""
    return _types().get(template(sample.question), "")


def answer_text(sample: Sample) -> str:
    """Return the right answer as text: with choices, the right choice."""
    return sample.choices[LETTERS.index(sample.answer)] if sample.choices else sample.answer


def question_only(samples: Sequence[Sample], known: Sequence[Sample], leave_out: bool = False) -> list[bool]:
    """Tell what the best answerer without eyes gets right: it knows every answer's frequency in a set of questions.

    Free form: the most frequent answer of the question type. Letters: the option whose text is the most frequent
    answer of the same type of question.

    Parameters
    ----------
    samples : sequence of Sample
        The questions.
    known : sequence of Sample
        The set whose answers it knows.
    leave_out : bool
        Leave a question's own answer out: where there are nearly as many answers as questions, that alone would tell.
    """
    frequency: dict[str, Counter[str]] = defaultdict(Counter)
    own: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in known:
        frequency[template(sample.question)][answer_text(sample)] += 1
        own[sample.question_id][answer_text(sample)] += 1

    def guess(sample: Sample) -> str:
        answers = Counter(frequency[template(sample.question)])
        if leave_out:
            answers.subtract(own[sample.question_id])
        if not sample.choices:
            return answers.most_common(1)[0][0] if answers else ""
        return max(sample.choices, key=lambda option: answers[option])

    return [guess(sample) == answer_text(sample) for sample in samples]


def without_looking(samples: Sequence[Sample], known: Sequence[Sample] | None = None) -> list[bool]:
    """Tell what the better of two answerers without eyes gets right.

    They are `question_only` without each question's own answer, and the one that always says the most frequent answer:
    leaving an answer out of a balanced set speaks against it, so that the first alone would fall below chance.
    `known`: the questions whose answers the first one knows, by default the same.
    """
    [(constant, _)] = Counter(sample.answer for sample in samples).most_common(1)
    always = [sample.answer == constant for sample in samples]
    return max(always, question_only(samples, samples if known is None else known, leave_out=True), key=sum)
