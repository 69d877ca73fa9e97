"""Question turns about a list of objects – told in words or shown in a picture – and their supervised token ids."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visualheads.miniatures import words
from visualheads.miniatures.world import CATEGORY, CLASSES, PLURAL, SUPERCATEGORIES, Scene, choose_counts

IGNORED = -100  # transformers' label of an unsupervised token
HIGHEST_CHOICE = 7  # distractors are drawn from 1 … 7, as in the multiple-choice condition of the task


Kinds = Mapping[str, tuple[float, float]]
# How often each kind of question is asked: (about a marked object's list, about one without a mark).
KINDS = {"general": (0.35, 0.0), "object": (0.3, 0.45), "super": (0.25, 0.4), "exists": (0.1, 0.15)}
# … and in the last stage of visual tuning, which is about the drawn box.
POINTING_KINDS = {
    "general": (0.4, 0.0),
    "name": (0.15, 0.0),
    "object": (0.2, 0.45),
    "super": (0.2, 0.4),
    "exists": (0.05, 0.15),
}
HINTS, LATER_HINTS = 0.75, 0.15  # share of first and of later turns that carry the format's instruction
LETTERS = 0.25  # … that offer options with letters
MARKS = 0.5  # share of text lists with a marked object
ABSENT = (3, 1)  # classes and supercategories of a tally that are not in the list


@dataclass(frozen=True)
class Listing:
    """What a question needs to know: the classes present, one entry an object, and the marked class, if any."""

    items: tuple[str, ...]
    marked: str | None = None

    def count(self, name: str) -> int:
        return sum(name in (item, CATEGORY[item]) for item in self.items)


def ask(rng: random.Random, listing: Listing, kinds: Kinds = KINDS) -> tuple[str, str, str]:
    """One question: (kind, text, answer). Absent classes and supercategories are asked for now and then."""
    weights = [pair[0 if listing.marked else 1] for pair in kinds.values()]
    kind = rng.choices(list(kinds), weights)[0]
    present = sorted(set(listing.items))
    if kind == "name":
        assert listing.marked is not None
        return kind, "What is the object in the rectangle?", listing.marked
    if kind == "general":
        assert listing.marked is not None
        return kind, "How many of these are there?", str(listing.count(listing.marked))
    if kind == "super":
        category = CATEGORY[rng.choice(present)] if rng.random() < 0.9 else rng.choice(SUPERCATEGORIES)
        return kind, f"How many of these {category} are there?", str(listing.count(category))
    if kind == "exists":
        name = rng.choice(present) if rng.random() < 0.5 else rng.choice(CLASSES)
        article = "an" if name[0] in "aeiou" else "a"
        return kind, f"Is there {article} {name} in the image?", "Yes" if listing.count(name) else "No"
    name = rng.choice(present) if rng.random() < 0.9 else rng.choice(CLASSES)
    return kind, f"How many {PLURAL[name]} are there?", str(listing.count(name))


def with_letters(rng: random.Random, answer: str) -> tuple[str, str] | None:
    """The four options as text and the right letter; None where the answer is no number of 1 … 7."""
    if not answer.isdigit() or not 1 <= int(answer) <= HIGHEST_CHOICE:
        return None
    others = [number for number in range(1, HIGHEST_CHOICE + 1) if number != int(answer)]
    options = [int(answer), *rng.sample(others, 3)]
    rng.shuffle(options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    return lines, "ABCD"[options.index(int(answer))]


def turn(rng: random.Random, listing: Listing, first: bool, kinds: Kinds = KINDS) -> tuple[list[int], list[int]]:
    """Token ids and labels of one exchange; the first of a dialogue usually carries the format instruction."""
    kind, question, answer = ask(rng, listing, kinds)
    often = HINTS if first else LATER_HINTS
    if listing.marked and rng.random() < often:
        question += " " + words.RECTANGLE_HINT
    letters = with_letters(rng, answer) if rng.random() < LETTERS else None
    if letters:
        question, answer = f"{question}\n{letters[0]}\n{words.LETTERS_HINT}", letters[1]
    elif rng.random() < often:
        question += " " + (words.YES_NO_HINT if kind == "exists" else words.FREE_HINT)
    return exchange(question, answer, first)


def exchange(question: str, answer: str, first: bool) -> tuple[list[int], list[int]]:
    """Ids and labels of question and answer; the first question stands behind the opening `USER:` and its list."""
    asked = words.encode(("" if first else words.USER + " ") + question + " " + words.ASSISTANT)
    told = [*words.encode(answer), words.vocabulary()[words.EOS]]
    return asked + told, [IGNORED] * len(asked) + told


def dialogue(rng: random.Random, listing: Listing, turns: int, kinds: Kinds = KINDS) -> tuple[list[int], list[int]]:
    """Several turns about one list."""
    ids: list[int] = []
    labels: list[int] = []
    for number in range(turns):
        more_ids, more_labels = turn(rng, listing, number == 0, kinds)
        ids, labels = ids + more_ids, labels + more_labels
    return ids, labels


def caption(items: Sequence[str]) -> tuple[list[int], list[int]]:
    """The request to list the objects, answered with their names in reading order."""
    return exchange(words.LIST_REQUEST, " ".join(items) + ".", first=True)


def tally(rng: random.Random, listing: Listing) -> tuple[list[int], list[int]]:
    """The request to count, answered with names and numbers: `dog 2 animals 3 these 2 car 0`; numbers are supervised.

    Many counts for one list, each asked by a single word, teach counting long before whole questions do.
    """
    present = sorted(set(listing.items))
    categories = sorted({CATEGORY[name] for name in present})
    asked = [*present, *categories, *([words.THESE] if listing.marked else [])]
    asked += rng.sample([name for name in CLASSES if name not in present], ABSENT[0])
    asked += rng.sample([name for name in SUPERCATEGORIES if name not in categories], ABSENT[1])
    rng.shuffle(asked)
    table = words.vocabulary()
    ids = words.encode(f"{words.TALLY_REQUEST} {words.ASSISTANT}")
    labels = [IGNORED] * len(ids)
    for name in asked:
        number = table[str(listing.count((listing.marked or "") if name == words.THESE else name))]
        ids += [table[name], number]
        labels += [IGNORED, number]
    return [*ids, table[words.EOS]], [*labels, table[words.EOS]]


def opening() -> list[int]:
    """What stands before the list or the picture: `<s> USER:`."""
    return [words.vocabulary()[words.BOS], *words.encode(words.USER)]


def text_list(rng: random.Random, fillers: int, marks: float = MARKS) -> tuple[list[int], Listing]:
    """A scene in words: objects among at most `fillers` filler words; in a share `marks` of lists one is marked."""
    items = [name for name, count in choose_counts(rng) for _ in range(count)]
    rng.shuffle(items)
    marked = rng.randrange(len(items)) if rng.random() < marks else None
    length = len(items) + rng.randint(0, fillers)
    slots = [words.FILLER] * length
    places = sorted(rng.sample(range(length), len(items)))
    for place, item in zip(places, items, strict=True):
        slots[place] = item
    if marked is not None:
        slots.insert(places[marked], words.MARK)
    ids = words.vocabulary()
    return [ids[word] for word in slots], Listing(tuple(items), None if marked is None else items[marked])


def reading_order(scene: Scene, patch: int, marked: int | None = None) -> list[str]:
    """Class names by the patch row, then the column, of their centres: the order of image tokens.

    The object with index `marked` is preceded by the word that marks it in text lists.
    """

    def centre(index: int) -> tuple[int, float]:
        left, top, right, bottom = scene.objects[index].box
        return int((top + bottom) / 2 // patch), (left + right) / 2

    named: list[str] = []
    for index in sorted(range(len(scene.objects)), key=centre):
        named += [words.MARK] * (index == marked) + [scene.objects[index].name]
    return named
