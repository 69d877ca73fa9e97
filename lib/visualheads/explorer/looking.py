"""`vh.look`: a model, a picture, a question – and where every head looks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visualheads.errors import ParameterError, SampleError, VisualHeadsError, got
from visualheads.explorer.capture import Captured, capture, white
from visualheads.explorer.effects import HIDDEN, REMOVED, HeadChanger, answers_of
from visualheads.explorer.look_data import GENERATED, PROMPT, Look, Row
from visualheads.explorer.measures import MEASURES
from visualheads.explorer.shown import Explorer
from visualheads.models.progress import Wish, progress_bar
from visualheads.tasks.sample import LazyImage, Sample
from visualheads.tracing.measures import TokenSets, measure
from visualheads.tracing.settings import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from visualheads.interventions.reference import Reference
    from visualheads.models.token_map import TokenMap
    from visualheads.models.wrapper import VisionLanguageModel

EFFECTS = ("top", "all", "none")
TOP_HEADS = 24
"""Heads that are changed by default: those with most attention on the asked region, else on the picture."""
UNKNOWN = "Where this model's image tokens lie in the picture is not known, so they are shown in their order."


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
    if isinstance(model, str):
        from visualheads.models.loading import load

        model = load(model)
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
    return Explorer(looks, model=model, samples=samples, max_new_tokens=max_new_tokens, references=references)


def look_at(
    model: VisionLanguageModel,
    sample: Sample,
    rows: int | Sequence[int] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Look:
    """Return what a model does at one sample, without changing heads."""
    picture = sample.open()
    done = capture(model, sample, rows, max_new_tokens)
    blank = capture(model, white(sample), done.positions, max_new_tokens, forced=done.ids[done.prompt :])
    token_map, note = _known_map(model, picture.size, int(done.image.sum()))
    measures = _measures(done, token_map)
    measures["white_change"] = measures["image_weight"] - blank.attention[..., done.image.numpy()].sum(axis=-1)
    texts = [
        "" if marked else model.tokenizer.decode([token])
        for token, marked in zip(done.ids.tolist(), done.image, strict=True)
    ]
    layers, heads, kv_heads = model.shape
    return Look(
        model={"name": model.name, "layers": layers, "heads": heads, "kv_heads": kv_heads},
        sample={
            "id": sample.id,
            "question": sample.question,
            "answer": sample.answer,
            "box": None if sample.box is None else list(sample.box),
        },
        picture=picture,
        picture_size=picture.size,
        token_ids=done.ids.numpy(),
        token_texts=texts,
        prompt=done.prompt,
        image=done.image.numpy(),
        token_map=token_map,
        rows=[_row(position, done.prompt, texts) for position in _first_shown(done.positions, done.prompt)],
        attention=done.attention[[done.positions.index(at) for at in _first_shown(done.positions, done.prompt)]],
        measures={name: _ordered(values, done) for name, values in measures.items()},
        sinks=done.sinks,
        answers=answers_of(model, done.ids, done.prompt, done.logits),
        provenance=_provenance(model),
        note=note,
    )


def added_row(model: VisionLanguageModel, sample: Sample, position: int, max_new_tokens: int) -> dict[str, Any]:
    """Return the row of one more query in the look's format, as a kernel gives it."""
    made = look_at(model, sample, [position], max_new_tokens)
    return made.row_json(0)


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
    if question is None or not question.strip():
        raise SampleError(got("question", question, "the text that is asked about the picture", "give a question"))
    name = Path(image).name if isinstance(image, (str, os.PathLike)) else "picture"
    picture = Path(image) if isinstance(image, os.PathLike) else image
    return [Sample(id=name, image=picture, question=question, answer="")]


def _check(rows: int | Sequence[int] | None, effects: str) -> None:
    if effects not in EFFECTS:
        raise ParameterError(got("effects", effects, EFFECTS))
    if rows is None:
        return
    positions = [rows] if isinstance(rows, int) else list(rows)
    least = 1 if isinstance(rows, int) else 0
    if not positions or any(isinstance(at, bool) or not isinstance(at, int) or at < least for at in positions):
        raise ParameterError(got("rows", rows, "a number of rows from 1, or positions from 0"))


def _known_map(model: VisionLanguageModel, size: tuple[int, int], tokens: int) -> tuple[TokenMap | None, str]:
    """Where the image tokens lie; None and a note where the model's layout is not known, or is another."""
    try:
        token_map = model.token_map(size)
    except VisualHeadsError as error:
        return None, f"{UNKNOWN} ({error})"
    if len(token_map) != tokens:
        return None, f"{UNKNOWN} (Its layout has {len(token_map)} tokens, the prompt {tokens}.)"
    return token_map, ""


def _first_shown(positions: Sequence[int], prompt: int) -> list[int]:
    """The last prompt token first: its row makes the answer."""
    return sorted(positions, key=lambda at: (at != prompt - 1, at))


def _ordered(values: NDArray[np.float32], done: Captured) -> NDArray[np.float32]:
    return values[[done.positions.index(at) for at in _first_shown(done.positions, done.prompt)]]


def _row(position: int, prompt: int, texts: Sequence[str]) -> Row:
    text = texts[position].strip() or "␣"
    if position == prompt - 1:
        return Row(position, PROMPT, f"the last prompt token “{text}”")
    if position >= prompt:
        return Row(position, GENERATED, f"generated token {position - prompt + 1}, “{text}”")
    return Row(position, PROMPT, f"“{text}”")


def _measures(done: Captured, token_map: TokenMap | None) -> dict[str, NDArray[np.float32]]:
    """(row, layer, head) of the measures that the explorer shows; NaN-only ones are left out."""
    rows, layers, _, tokens = done.attention.shape
    image = done.image.expand(rows, tokens)
    patch = done.image.clone()
    if token_map is not None:
        patch[done.image] = torch.from_numpy(token_map.is_patch.copy())
    visible = torch.arange(tokens)[None] <= torch.tensor(done.positions)[:, None]
    found: dict[str, list[NDArray[np.float32]]] = {}
    for layer in range(layers):
        sink = None
        if done.sinks is not None:
            sink = torch.zeros(tokens, dtype=torch.bool)
            sink[done.image] = torch.from_numpy(done.sinks[layer])
            sink = sink.expand(rows, tokens)
        sets = TokenSets(image, patch.expand(rows, tokens), torch.zeros_like(image), visible, sink=sink)
        measured = measure(torch.from_numpy(done.attention[:, layer])[:, :, None], sets)
        for name in MEASURES:
            if name in measured:
                found.setdefault(name, []).append(measured[name][:, :, 0].numpy())
    stacked = {name: np.stack(values, axis=1) for name, values in found.items()}
    return {name: values for name, values in stacked.items() if np.isfinite(values).any()}


def _tried(made: Look, effects: str) -> list[tuple[int, int]]:
    heads = made.gaze.shape[1]
    order = np.argsort(-made.gaze.reshape(-1), kind="stable")
    chosen = order if effects == "all" else order[:TOP_HEADS]
    return [divmod(int(index), heads) for index in sorted(chosen)]


def _provenance(model: VisionLanguageModel) -> dict[str, str]:
    told = {name: str(value) for name, value in model.identity.items() if value and name != "checkpoint"}
    return {**{name: value[:12] for name, value in told.items()}, "dtype": str(model.dtype).removeprefix("torch.")}
