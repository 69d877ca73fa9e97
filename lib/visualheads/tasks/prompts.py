"""The texts put after a picture, word for word as the paper's code and LLaVA's evaluation have them."""

from __future__ import annotations

from collections.abc import Sequence

from visualheads.tasks.sample import LETTERS

RECTANGLE = " The exemplary object is within the rectangle."
"""Said in the visual conditions, free form only (paper code)."""

FREE_SUFFIX = "\nAnswer the question using a single word or phrase."
"""Ends every free-form question (paper code)."""

LETTERS_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
"""Ends every question with choices (paper code)."""


def free_form(question: str, marked: bool = False) -> str:
    """The question, the sentence about the rectangle where the box is drawn (`marked`), and the free-form suffix.

    Source: paper code.
    """
    return question + (RECTANGLE if marked else "") + FREE_SUFFIX


def with_letters(question: str, choices: Sequence[str]) -> str:
    """The question, one line `A. …` for each choice, and the letter suffix.

    The paper's code does not say the sentence about the rectangle here, drawn or not; neither do we. Source: paper
    code.
    """
    lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return question + lines + LETTERS_SUFFIX


def short_answer(question: str) -> str:
    """The question with the free-form suffix, unless it ends with it already: as LLaVA's edition of POPE does."""
    return question if question.endswith(FREE_SUFFIX) else question + FREE_SUFFIX


def with_hint(question: str, hint: str) -> str:
    """An MMBench question below its hint, where it has one. Source: LLaVA's evaluation."""
    return f"{hint}\n{question}" if hint else question
