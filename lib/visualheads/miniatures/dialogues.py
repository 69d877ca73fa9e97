"""Exchanges about a list of objects – questions, captions, tallies – as supervised token ids."""

from __future__ import annotations

import random

from visualheads.miniatures import language, questions
from visualheads.miniatures.language import (
    COLOUR_REQUEST,
    LIST_REQUEST,
    LOOKTWICE,
    PLACE_REQUEST,
    TALLY_REQUEST,
    TALLY_STYLES,
    THESE,
)
from visualheads.miniatures.text_lists import Listing
from visualheads.miniatures.world import CATEGORY, CLASSES, PLURAL, SUPERCATEGORIES

IGNORED = -100  # transformers' label of an unsupervised token
HINTS, LATER_HINTS = 0.75, 0.1  # share of first and of later turns that carry the format's instruction
# Share of questions that offer options with letters: the other benchmarks' always do in tests, POPE's never.
LETTERS = {"name": 0.1, "general": 0.35, "object": 0.35, "super": 0.35, "exists": 0.1, "which": 1.0}
OTHER_LETTERS = 0.75
OPTIONS = {4: 0.7, 3: 0.15, 2: 0.15}  # how many options; LookTwice and SEED-Bench have four, MMBench and Q-Bench vary
ABSENT = (3, 1)  # classes and supercategories of a tally that are not in the list
NAMED = 0.5  # how often a tally names the marked class before its number, `these dog 2`: half of the way to it
STYLES = (0.5, 0.2, 0.3)  # share of each of the tally's styles, once counting is learned

Pair = tuple[list[int], list[int]]


def exchange(question: str, answer: str, first: bool) -> Pair:
    """Ids and labels of question and answer; the first question stands behind the opening `USER:` and its list."""
    asked = language.encode(("" if first else language.USER + " ") + question + " " + language.ASSISTANT)
    told = [*language.encode(answer), language.vocabulary()[language.EOS]]
    return asked + told, [IGNORED] * len(asked) + told


def with_options(text: str, options: tuple[str, ...]) -> str:
    """The question and one line `A. …` for each option, as the benchmarks' prompts have them."""
    return text + "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))


def turn(rng: random.Random, listing: Listing, first: bool) -> Pair:
    """Token ids and labels of one exchange; the first of a dialogue usually carries the format instruction."""
    asked = questions.ask(rng, listing)
    often = HINTS if first else LATER_HINTS
    text, answer = asked.text, asked.answer
    if asked.options and rng.random() < LETTERS.get(asked.kind, OTHER_LETTERS):
        number = 4 if asked.kind in LOOKTWICE else rng.choices(list(OPTIONS), list(OPTIONS.values()))[0]
        options = questions.offered(rng, asked, number)
        text, answer = with_options(text, options), "ABCD"[options.index(answer)]
        text += f"\n{language.LETTERS_HINT}" if rng.random() < often else ""
        return exchange(text, answer, first)
    if listing.marked and asked.kind in LOOKTWICE and rng.random() < often:
        text += " " + language.RECTANGLE_HINT
    if rng.random() < often:
        text += " " + language.FREE_HINT
    return exchange(text, answer, first)


def dialogue(rng: random.Random, listing: Listing, length: int) -> Pair:
    """As many turns about one list as fit into `length` tokens, at least one.

    Equal lengths leave little padding in a batch, and short turns bring more answers.
    """
    ids, labels = turn(rng, listing, True)
    while True:
        more_ids, more_labels = turn(rng, listing, False)
        if len(ids) + len(more_ids) > length:
            return ids, labels
        ids, labels = ids + more_ids, labels + more_labels


def caption(listing: Listing, coloured: bool = False) -> Pair:
    """The request to list the objects, answered with their names in reading order – with colours, where asked for.

    The marked object is told behind the word that marks it in lists.
    """
    names = list(listing.items)
    if coloured and listing.colours:
        names = [f"{colour} {item}" for colour, item in zip(listing.colours, names, strict=True)]
    if listing.marked_at is not None:
        names[listing.marked_at] = f"{language.MARK} {names[listing.marked_at]}"
    request = COLOUR_REQUEST if coloured and listing.colours else LIST_REQUEST
    return exchange(request, " ".join(names) + ".", first=True)


def tally(rng: random.Random, listing: Listing, style: int = 0) -> Pair:
    """The request to count, answered with names and numbers: `dog 2 animals 3 these dog 2 car 0`.

    Numbers are supervised, and so is the marked class where it is named.
    Many counts for one list, each asked by a single word, teach counting long before whole questions do. The higher
    styles lead from the single word towards the question: `dogs ? 2`, `How many dogs ? 2`.
    """
    categories = sorted({CATEGORY[name] for name in listing.present})
    asked = [*listing.present, *categories, *([THESE] if listing.marked else [])]
    asked += rng.sample([name for name in CLASSES if name not in listing.present], ABSENT[0])
    asked += rng.sample([name for name in SUPERCATEGORIES if name not in categories], ABSENT[1])
    rng.shuffle(asked)
    of_class, of_category, of_marked = TALLY_STYLES[style]
    ids = language.encode(f"{TALLY_REQUEST} {language.ASSISTANT}")
    labels = [IGNORED] * len(ids)
    for name in asked:
        number = language.vocabulary()[str(listing.count((listing.marked or "") if name == THESE else name))]
        if name == THESE:
            text = of_marked
        elif name in CATEGORY:
            text = of_class.format(name=name, plural=PLURAL[name])
        else:
            text = of_category.format(category=name)
        told = language.encode(text)
        ids += told
        labels += [IGNORED] * len(told)
        if name == THESE and rng.random() < NAMED:
            marked = language.vocabulary()[listing.marked or ""]
            ids, labels = [*ids, marked], [*labels, marked]
        ids, labels = [*ids, number], [*labels, number]
    return _ended(ids, labels)


def tally_style(rng: random.Random) -> int:
    """A style drawn by its share."""
    return rng.choices(range(len(STYLES)), STYLES)[0]


def places(rng: random.Random, listing: Listing) -> Pair:
    """Where the objects are that are the only ones of their class: `dog top left car bottom right`; a caption where
    there is none. Places are supervised."""
    names = [name for name in listing.alone if listing.place(name)]
    if not names:
        return caption(listing)
    rng.shuffle(names)
    ids = language.encode(f"{PLACE_REQUEST} {language.ASSISTANT}")
    labels = [IGNORED] * len(ids)
    for name in names:
        told = language.encode(listing.place(name) or "")
        ids += [*language.encode(name), *told]
        labels += [IGNORED, *told]
    return _ended(ids, labels)


def told(rng: random.Random, listing: Listing, task: str, length: int) -> Pair:
    """What is said about a list or picture: `caption`, `colours`, `places`, `tally` (by single words), `count` (in all
    styles of the tally) or `questions`, as many as fit into `length` tokens."""
    match task:
        case "caption" | "colours":
            return caption(listing, task == "colours")
        case "places":
            return places(rng, listing)
        case "tally" | "count":
            return tally(rng, listing, tally_style(rng) if task == "count" else 0)
        case _:
            return dialogue(rng, listing, length)


def _ended(ids: list[int], labels: list[int]) -> Pair:
    end = language.vocabulary()[language.EOS]
    return [*ids, end], [*labels, end]
