"""Exchanges about a list or picture – questions, captions, tallies – as supervised token ids, and batches of them.

Every batch is a pure function of its random source (`fitting.step_random`), so that training can resume.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

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
from visualheads.miniatures.listings import Listing, draw_picture, image_inputs, text_list
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
"""Token ids and their labels: the same ids where an answer is supervised, else `IGNORED`."""


def exchange(question: str, answer: str, first: bool) -> Pair:
    """Return a question with its supervised answer; the first of a dialogue stands behind `USER:` and its list."""
    asked = language.encode(("" if first else language.USER + " ") + question + " " + language.ASSISTANT)
    return supervised((asked, False), (language.encode(answer), True))


def supervised(*parts: tuple[list[int], bool]) -> Pair:
    """Join parts of what is said, each with whether it is supervised; the end of all is."""
    said = [(index, kept) for ids, kept in parts for index in ids] + [(language.vocabulary()[language.EOS], True)]
    return [index for index, _ in said], [index if kept else IGNORED for index, kept in said]


def with_options(text: str, options: tuple[str, ...]) -> str:
    """Return the question and one line `A. …` for each option, as the benchmarks' prompts have them."""
    return text + "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))


def turn(rng: random.Random, listing: Listing, first: bool) -> Pair:
    """Draw one question with its answer; the first of a dialogue usually carries the format's instruction."""
    question = questions.ask(rng, listing)
    hinted = HINTS if first else LATER_HINTS
    text, answer = question.text, question.answer
    if question.options and rng.random() < LETTERS.get(question.kind, OTHER_LETTERS):
        number = 4 if question.kind in LOOKTWICE else rng.choices(list(OPTIONS), list(OPTIONS.values()))[0]
        options = questions.offered(rng, question, number)
        text, answer = with_options(text, options), "ABCD"[options.index(answer)]
        text += f"\n{language.LETTERS_HINT}" if rng.random() < hinted else ""
        return exchange(text, answer, first)
    if listing.marked and question.kind in LOOKTWICE and rng.random() < hinted:
        text += " " + language.RECTANGLE_HINT
    if rng.random() < hinted:
        text += " " + language.FREE_HINT
    return exchange(text, answer, first)


def turns(rng: random.Random, listing: Listing, length: int) -> Pair:
    """Draw as many questions about one list as fit into `length` tokens, at least one.

    Equal lengths leave little padding in a batch, and short turns bring more answers.
    """
    ids, labels = turn(rng, listing, True)
    while True:
        more_ids, more_labels = turn(rng, listing, False)
        if len(ids) + len(more_ids) > length:
            return ids, labels
        ids, labels = ids + more_ids, labels + more_labels


def caption(listing: Listing, coloured: bool = False) -> Pair:
    """Return the request to list the objects with their names in reading order – with colours, where asked for.

    The marked object stands behind the word that marks it in lists.
    """
    names = list(listing.items)
    if coloured and listing.colours:
        names = [f"{colour} {item}" for colour, item in zip(listing.colours, names, strict=True)]
    if listing.marked_at is not None:
        names[listing.marked_at] = f"{language.MARK} {names[listing.marked_at]}"
    request = COLOUR_REQUEST if coloured and listing.colours else LIST_REQUEST
    return exchange(request, " ".join(names) + ".", first=True)


def tally(rng: random.Random, listing: Listing, style: int = 0) -> Pair:
    """Return the request to count, with names and numbers in answer: `dog 2 animals 3 these dog 2 car 0`.

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
    parts = [(language.encode(f"{TALLY_REQUEST} {language.ASSISTANT}"), False)]
    for name in asked:
        number = language.vocabulary()[str(listing.count((listing.marked or "") if name == THESE else name))]
        if name == THESE:
            text = of_marked
        elif name in CATEGORY:
            text = of_class.format(name=name, plural=PLURAL[name])
        else:
            text = of_category.format(category=name)
        parts.append((language.encode(text), False))
        if name == THESE and rng.random() < NAMED:
            parts.append(([language.vocabulary()[listing.marked or ""]], True))
        parts.append(([number], True))
    return supervised(*parts)


def places(rng: random.Random, listing: Listing) -> Pair:
    """Return where the objects are that are alone in their class: `dog top left car bottom right`, places supervised.

    A caption where there is none.
    """
    names = [name for name in listing.alone if listing.place(name)]
    if not names:
        return caption(listing)
    rng.shuffle(names)
    parts = [(language.encode(f"{PLACE_REQUEST} {language.ASSISTANT}"), False)]
    for name in names:
        parts += [(language.encode(name), False), (language.encode(listing.place(name) or ""), True)]
    return supervised(*parts)


def dialogue(rng: random.Random, listing: Listing, task: str, length: int) -> Pair:
    """Draw what is said about a list or picture.

    Parameters
    ----------
    rng : random.Random
        Source of all draws.
    listing : Listing
        What is known of it.
    task : str
        `caption`, `colours`, `places`, `tally` (by single words), `count` (in all styles of the tally) or `questions`.
    length : int
        Tokens that the questions may fill.
    """
    match task:
        case "caption" | "colours":
            return caption(listing, task == "colours")
        case "places":
            return places(rng, listing)
        case "tally" | "count":
            return tally(rng, listing, rng.choices(range(len(STYLES)), STYLES)[0] if task == "count" else 0)
        case _:
            return turns(rng, listing, length)


def opening() -> list[int]:
    """Return what stands before the list or the picture: `<s> USER:`."""
    return [language.vocabulary()[language.BOS], *language.encode(language.USER)]


def behind(listed: list[int], said: Pair) -> Pair:
    """Put what is said behind the opening and its list or image tokens, which are not supervised."""
    head = [*opening(), *listed]
    return head + said[0], [IGNORED] * len(head) + said[1]


def pad(pairs: Iterable[Pair]) -> tuple[Int[Tensor, "batch key"], Int[Tensor, "batch key"]]:
    """Pad ids and labels to the right; causal attention needs no mask, since nothing real looks at the padding."""
    rows = list(pairs)
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), language.vocabulary()[language.PAD], dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def text_pair(
    rng: random.Random, fillers: int, task: str, length: int, plain: bool = False, joined: float = 0.0
) -> Pair:
    """Draw one list in words (as `text_list`) with a dialogue about it; all lists of the task `colours` name them."""
    coloured = True if task == "colours" else None
    listed, listing = text_list(rng, fillers, plain=plain, coloured=coloured, joined=joined)
    return behind(listed, dialogue(rng, listing, task, length))


def picture_batch(
    rng: random.Random, size: int, task: str, processor: Any, length: int, boxed: float, colourful: bool = False
) -> dict[str, Any]:
    """Draw pictures with dialogues about them: model inputs with labels.

    Parameters
    ----------
    rng : random.Random
        Source of all draws.
    size : int
        Number of pictures.
    task, length
        As `dialogue` takes them.
    processor
        The model's, which decides the number of image tokens.
    boxed, colourful
        As `draw_picture` takes them.
    """
    pictures = [draw_picture(rng, boxed, colourful) for _ in range(size)]
    inputs, counts = image_inputs(processor, [picture.image for picture in pictures])
    image = language.vocabulary()[language.IMAGE]
    pairs = [
        behind([image] * count, dialogue(rng, picture.listing, task, length))
        for picture, count in zip(pictures, counts, strict=True)
    ]
    ids, labels = pad(pairs)
    return {**inputs, "input_ids": ids, "labels": labels}


def by_length(batch: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float]]:
    """Cut a batch into two parts of like length, padded no further than each needs, with their supervised shares.

    Losses weighted by these shares add up to the whole batch's, at less cost where lengths vary.
    """
    lengths = (batch["input_ids"] != language.vocabulary()[language.PAD]).sum(dim=1)
    supervised = (batch["labels"] != IGNORED).sum().item()
    for rows in lengths.argsort(stable=True).chunk(2):
        longest = int(lengths[rows].max())
        part = {name: value[rows] for name, value in batch.items()}
        part |= {name: part[name][:, :longest] for name in ("input_ids", "labels")}
        yield part, (part["labels"] != IGNORED).sum().item() / supervised
