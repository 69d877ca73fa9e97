"""`vh.look`: a model, a picture, a question – and where every head looks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from visualheads.errors import SampleError, checked, checked_name, checked_whole, got
from visualheads.explorer.answers import HIDDEN, REMOVED, HeadChanger
from visualheads.explorer.capture import look_at
from visualheads.explorer.shown import Explorer, Kernel
from visualheads.models.progress import Wish, progress_bar
from visualheads.tasks.sample import LazyImage, Sample
from visualheads.tracing.settings import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from visualheads.explorer.look_data import Look
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel

EFFECTS = ("top", "all", "none")
TOP_HEADS = 24
"""Heads that are changed by default: those with most attention on the asked region, else on the picture."""


@checked
def look(
    model: VisionLanguageModel | str,
    image: Image.Image | str | os.PathLike[str] | LazyImage | Sample | Sequence[Sample],
    question: str | None = None,
    *,
    rows: int | Sequence[int] | None = None,
    effects: str = "top",
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Wish = "auto",
) -> Explorer:
    """Run a model on a picture and a question, and show where each of its heads looks.

    Parameters
    ----------
    model
        A loaded model, or what `vh.load` takes.
    image
        A picture or its path, with `question`; or a Sample, or a list of Samples, which one page then holds together.
    question
        What is asked about the picture.
    rows
        How many queries are kept: the last prompt token (whose row makes the answer), then the generated tokens, then
        those of the question. Or their positions, counted over prompt and answer from 0. Nothing else is computed.
        Default: 24, or as many as a page of 10 MB holds.
    effects
        Which heads are changed one by one, to see what the answer becomes: "top" (those that look most, 24), "all", or
        "none". Two passes a head, from its layer up; a shipped model needs a second or two for all.
    max_new_tokens
        Longest answer.
    progress
        True, False, or "auto": a bar in terminals and notebooks.

    Returns
    -------
    Explorer
        Shows itself in JupyterLab, live where `anywidget` is installed; `.save("look.html")` writes a page that opens
        anywhere, without a network; `.to_dataset()` gives the numbers.

    Raises
    ------
    ImageError, SampleError
        For a picture that is missing or broken, or an empty question.
    ParameterError
        For rows that do not exist, or another value of `effects`.
    """
    samples = _samples(image, question)
    _check(rows, effects)
    if isinstance(model, str) or not hasattr(model, "token_map"):
        from visualheads.models.loading import load

        model = load(cast("str", model))
    model = cast("VisionLanguageModel", model)
    references: dict[str, Reference] = {}
    tried = {"top": min(TOP_HEADS, model.shape.layers * model.shape.heads), "none": 0}
    each = 1 + 2 * tried.get(effects, model.shape.layers * model.shape.heads)
    with progress_bar(f"look {model.name}", each * len(samples), progress) as advance:
        looks = []
        for sample in samples:
            made = look_at(model, sample, rows, max_new_tokens)
            advance(1)
            if effects != "none":
                changer = HeadChanger(model, sample, max_new_tokens, references)
                heads = _tried(made, effects)
                assert made.answers is not None
                for mode in (REMOVED, HIDDEN):
                    made.effects[mode] = changer.single_heads(mode, heads, made.answers, advance)
            looks.append(made)
    return Explorer(looks, Kernel(model, samples, max_new_tokens, references))


def _samples(image: Any, question: str | None) -> list[Sample]:
    if isinstance(image, Sample):
        return [image]
    if isinstance(image, Sequence) and not isinstance(image, str):
        if question is not None:
            raise SampleError("question: samples bring their own; leave it out, or give one picture.")
        if not image or not all(isinstance(sample, Sample) for sample in image):
            raise SampleError(
                got("samples", [type(one).__name__ for one in image], "at least one, all of them vh.Sample")
            )
        return list(image)
    if not isinstance(question, str) or not question.strip():
        raise SampleError(got("question", question, "the text that is asked about the picture", "give a question"))
    name = Path(image).name if isinstance(image, (str, os.PathLike)) else "picture"
    picture = Path(image) if isinstance(image, os.PathLike) else image
    return [Sample(id=name, image=picture, question=question, answer="")]


def _check(rows: int | Sequence[int] | None, effects: str) -> None:
    checked_name("effects", effects, EFFECTS)
    if rows is None:
        return
    if isinstance(rows, Sequence) and rows and not isinstance(rows, str):
        for at in rows:
            checked_whole("rows: position", at, lowest=0)
    else:
        checked_whole("rows", rows)


def _tried(made: Look, effects: str) -> list[tuple[int, int]]:
    heads = made.gaze.shape[1]
    order = np.argsort(-made.gaze.reshape(-1), kind="stable")
    chosen = order if effects == "all" else order[:TOP_HEADS]
    return [divmod(int(index), heads) for index in sorted(chosen)]
