"""Questions about a scene, worded as the project's benchmarks put them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visualheads.miniatures.smol.scenes import Placed, Scene
from visualheads.miniatures.smol.sprites import CATEGORY, CLASSES, COLOURS, PAINTED, PLURAL
from visualheads.tasks import records

YES, NO = "Yes", "No"
HIGHEST_CHOICE = 7
"""Largest number offered as a choice, as in the LookTwice task."""
GENERAL = "How many of these are there?"
WHICH = "Which of the following objects can be seen in the image?"
LIST_REQUEST = "List the objects from left to right."
TALLY_REQUEST = "List the objects with their numbers."
SIDES = ("left", "right", "above", "below")
APART, CLEARLY = 40, 1.5
"""An object lies on a side of another from this many pixels between centres, so many times those the other way."""


@dataclass(frozen=True)
class Question:
    """A question as it is put after the picture, with its answer; `kind` is what is asked."""

    kind: str
    text: str
    answer: str


def count_object(name: str) -> str:
    return f"How many {PLURAL[name]} are there?"


def count_super(category: str) -> str:
    return f"How many {category} are there?"


def exists(name: str) -> str:
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


def colour_of(name: str) -> str:
    return f"What is the colour of the {name}?"


def where(name: str, other: str) -> str:
    return f"Where is the {name} when seen from the {other}?"


def free(kind: str, question: str, answer: int | str, marked: bool = False) -> Question:
    """Return a question in free form; `marked` adds the sentence about the rectangle."""
    return Question(kind, records.free_form(question, marked), str(answer))


def number_of(scene: Scene, what: str) -> Question:
    """Return the question how many there are of a class or supercategory."""
    if what in scene.categories:
        return free("super", count_super(what), scene.count(what))
    return free("object", count_object(what), scene.count(what))


def lettered(rng: random.Random, kind: str, question: str, answer: str, others: Sequence[str]) -> Question:
    """Return a question with choices in random order; the answer is a letter."""
    choices = [answer, *others]
    rng.shuffle(choices)
    return Question(f"{kind}-letters", records.with_letters(question, choices), "ABCD"[choices.index(answer)])


def other_numbers(rng: random.Random, answer: int) -> list[str]:
    """Three other numbers, as the LookTwice task draws them."""
    return rng.sample([str(number) for number in range(1, HIGHEST_CHOICE + 1) if number != answer], 3)


def list_objects(scene: Scene) -> Question:
    """The names of all objects by the horizontal place of their centres."""
    in_order = sorted(scene.objects, key=lambda thing: thing.centre)
    return Question("list", LIST_REQUEST, ", ".join(thing.name for thing in in_order))


def tally(rng: random.Random, scene: Scene) -> Question:
    """Every class with its number, in random order."""
    names = rng.sample(scene.names, len(scene.names))
    told = ", ".join(f"{PLURAL[name] if scene.count(name) > 1 else name} {scene.count(name)}" for name in names)
    return Question("tally", TALLY_REQUEST, told)


def absent_class(rng: random.Random, scene: Scene) -> str:
    """A class that the scene lacks; half the time of a supercategory that it has, as POPE's adversarial ones."""
    absent = [name for name in CLASSES if name not in scene.names]
    alike = [name for name in absent if CATEGORY[name] in scene.categories]
    return rng.choice(alike if alike and rng.random() < 0.5 else absent)


def yes_no(rng: random.Random, scene: Scene, there: bool) -> Question:
    name = rng.choice(scene.names) if there else absent_class(rng, scene)
    return Question("exists", records.short_answer(exists(name)), YES if there else NO)


def which(rng: random.Random, scene: Scene) -> Question | None:
    name = rng.choice(scene.names)
    others = rng.sample([other for other in CLASSES if other not in scene.names], 3)
    return lettered(rng, "which", WHICH, name, others)


def colour(rng: random.Random, scene: Scene) -> Question | None:
    """The colour of the only object of a class that occurs in several."""
    painted = [thing for thing in scene.objects if thing.name in PAINTED and scene.count(thing.name) == 1]
    if not painted:
        return None
    thing = rng.choice(painted)
    others = rng.sample([other for other in COLOURS if other != thing.colour], 3)
    return lettered(rng, "colour", colour_of(thing.name), thing.colour, others)


def relation(rng: random.Random, scene: Scene) -> Question | None:
    """Where one object, the only one of its class, lies when seen from another one."""
    single = [thing for thing in scene.objects if scene.count(thing.name) == 1]
    pairs = [(one, other, side) for one in single for other in single if (side := side_of(one, other))]
    if not pairs:
        return None
    one, other, side = rng.choice(pairs)
    return lettered(rng, "relation", where(one.name, other.name), side, [place for place in SIDES if place != side])


def side_of(one: Placed, other: Placed) -> str:
    """On which side of `other` an object lies; empty where that is not clear."""
    across, down = (mine - theirs for mine, theirs in zip(one.centre, other.centre, strict=True))
    if abs(across) >= max(APART, CLEARLY * abs(down)):
        return "right" if across > 0 else "left"
    if abs(down) >= max(APART, CLEARLY * abs(across)):
        return "below" if down > 0 else "above"
    return ""


def number(rng: random.Random, scene: Scene) -> Question | None:
    name = rng.choice(scene.names)
    answer = scene.count(name)
    return lettered(rng, "number", count_object(name), str(answer), other_numbers(rng, answer))


CHOICES: tuple[Callable[[random.Random, Scene], Question | None], ...] = (which, colour, relation, number)


def of_plain_picture(rng: random.Random, scene: Scene, counted: str, letters: float = 1.0) -> list[Question]:
    """Draw the questions of one training picture without a drawn box: second how many `counted` there are, a class or
    supercategory; one with letters in a share of `letters`."""
    others = [what for what in (*scene.names, *scene.categories) if what != counted]
    numbers = [number_of(scene, what) for what in (counted, *rng.sample(others, min(2, len(others))))]
    asked = [list_objects(scene), *numbers, yes_no(rng, scene, True), yes_no(rng, scene, False)]
    if rng.random() < 0.5:
        asked.append(tally(rng, scene))
    if rng.random() < letters:
        asked.append(rng.choice([question for ask in CHOICES if (question := ask(rng, scene)) is not None]))
    return asked


def of_marked_picture(rng: random.Random, scene: Scene, marked: Placed, letters: float = 1.0) -> list[Question]:
    """Draw the questions of one training picture with a red box around the object `marked`."""
    name, category = marked.name, CATEGORY[marked.name]
    count = scene.count(name)
    asked = [
        list_objects(scene),
        free("general", GENERAL, count, marked=True),
        free("object", count_object(name), count, marked=True),
        free("super", count_super(category), scene.count(category), marked=True),
        Question("name", records.free_form("What is the object within the rectangle?"), name),
        yes_no(rng, scene, rng.random() < 0.5),
    ]
    if rng.random() < letters:
        asked.append(lettered(rng, "general", GENERAL, str(count), other_numbers(rng, count)))
    others = [other for other in scene.names if other != name]
    if others:
        other = rng.choice(others)
        asked.append(free("object", count_object(other), scene.count(other), marked=True))
    return asked


def of_text(rng: random.Random, scene: Scene) -> list[Question]:
    """Draw the questions of a scene that is told in words (see `told_in_words`)."""
    asked = [yes_no(rng, scene, True), yes_no(rng, scene, False)]
    asked.extend(number_of(scene, what) for what in (*scene.names, *scene.categories))
    asked.extend(question for ask in (which, number) if (question := ask(rng, scene)) is not None)
    return asked


def told_in_words(scene: Scene) -> str:
    """The scene as the text that stands in the picture's place: its objects in the order they were drawn."""
    return "Image: " + ", ".join(thing.name for thing in scene.objects)
