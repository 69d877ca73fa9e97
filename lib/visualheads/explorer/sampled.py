"""One sample through a model as a look: rows, measures, token map, answers; heads stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from visualheads.errors import VisualHeadsError
from visualheads.explorer.answers import answers_of
from visualheads.explorer.capture import Captured, capture, white
from visualheads.explorer.look_data import GENERATED, PROMPT, Look, Row
from visualheads.explorer.measures import MEASURES
from visualheads.tracing.measures import TokenSets, measure
from visualheads.tracing.settings import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from visualheads.models.token_map import TokenMap
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

UNKNOWN = "Where this model's image tokens lie in the picture is not known, so they are shown in their order."


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


def _provenance(model: VisionLanguageModel) -> dict[str, str]:
    told = {name: str(value) for name, value in model.identity.items() if value and name != "checkpoint"}
    return {**{name: value[:12] for name, value in told.items()}, "dtype": str(model.dtype).removeprefix("torch.")}
