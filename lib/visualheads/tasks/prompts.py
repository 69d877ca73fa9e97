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

YES_NO_SUFFIX = FREE_SUFFIX
"""Ends a POPE question: LLaVA's question files carry it and the paper's code asks their text as it is."""


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


def yes_no(question: str) -> str:
    """A POPE question with its suffix, which LLaVA's edition of the files already has. Source: LLaVA's evaluation."""
    return question if question.endswith(YES_NO_SUFFIX) else question + YES_NO_SUFFIX


def with_hint(question: str, hint: str) -> str:
    """An MMBench question below its hint, where it has one. Source: LLaVA's evaluation."""
    return f"{hint}\n{question}" if hint else question
