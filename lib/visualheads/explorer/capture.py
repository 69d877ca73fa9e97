"""One sample through a model as a look: the attention of chosen queries, measures, token map, answers; heads stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from visualheads.errors import ParameterError, VisualHeadsError, got
from visualheads.explorer.answers import answers_of, white
from visualheads.explorer.look_data import GENERATED, MEASURES, PROMPT, Look, Row, sample_of
from visualheads.interventions.editor import step_forward
from visualheads.interventions.text_model import (
    LanguageModelInputs,
    check_alone,
    forward,
    language_model_inputs,
    new_cache,
)
from visualheads.models.attention_call import align
from visualheads.models.devices import fitting
from visualheads.tracing.measures import TokenSets, measure
from visualheads.tracing.settings import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from visualheads.models.token_map import TokenMap
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

UNKNOWN = "Where this model's image tokens lie in the picture is not known, so they are shown in their order."
ROWS = 24
"""Queries whose attention is kept by default …"""
PAGE = 7_500_000
"""… or as many as these bytes hold in four bits a weight, so that a page stays below 10 MB."""


@dataclass(frozen=True)
class Captured:
    """What a model did at one sample.

    Parameters
    ----------
    ids
        The prompt's tokens and the generated ones, without the end token.
    prompt
        Number of prompt tokens.
    image
        Which tokens are image tokens.
    positions
        The captured queries, ascending.
    attention
        (row, layer, head, key): zero where a key comes after the query.
    sinks
        (layer, image token), None without sink dimensions.
    logits
        Of the answer's first token.
    """

    ids: Int[Tensor, " token"]
    prompt: int
    image: Bool[Tensor, " token"]
    positions: list[int]
    attention: NDArray[np.float32]
    sinks: NDArray[np.bool_] | None
    logits: Float[Tensor, " vocabulary"]


@dataclass
class Reader:
    """Looks at the attention of chosen positions in each pass of the language model, and changes nothing."""

    wanted: Sequence[int]
    layers: int
    reads_attention: bool = True
    rows: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def touches(self, layer: int) -> bool:
        """Every layer is looked at."""
        return layer < self.layers

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        """Keep the rows of this pass that are wanted; return the inputs as they are."""
        queries = inputs.shape[1]
        here = [position for position in self.wanted if start <= position < start + queries]
        if here:
            rows = align(call.rows([position - start for position in here]), start + queries)
            for index, position in enumerate(here):
                self.rows[position, layer] = rows[0, :, index].float().cpu()
        return inputs

    def stacked(self, tokens: int) -> tuple[list[int], NDArray[np.float32]]:
        """The positions that were met, and their attention (row, layer, head, key)."""
        met = sorted({position for position, _ in self.rows})
        some = next(iter(self.rows.values()))
        made = np.zeros((len(met), self.layers, some.shape[0], tokens), np.float32)
        for row, position in enumerate(met):
            for layer in range(self.layers):
                weights = self.rows[position, layer]
                made[row, layer, :, : weights.shape[-1]] = weights.numpy()
        return met, made


def capture(
    model: VisionLanguageModel,
    sample: Sample,
    rows: int | Sequence[int] | None,
    max_new_tokens: int,
    forced: Int[Tensor, " token"] | None = None,
) -> Captured:
    """Run one sample and keep the attention rows that are asked for, and no others.

    Parameters
    ----------
    model, sample
        What runs on what.
    rows
        How many rows: the last prompt token, then the generated ones, then the tokens between image and answer, the
        last ones first. Or the positions themselves, counted over prompt and answer. None: as many as a page holds.
    max_new_tokens
        Longest answer.
    forced
        The answer that is given instead of the model's own, token by token.

    Raises
    ------
    ParameterError
        For positions behind the end of the answer.
    """
    with torch.no_grad(), fitting(model, [sample]):
        encoding = model.encode([sample])
        inputs = language_model_inputs(model, encoding)
        check_alone(model, encoding, inputs)
        if rows is None:
            weights = model.shape.layers * model.shape.heads * int(inputs.image.sum())
            rows = min(ROWS, max(2, 2 * PAGE // weights))
        reader = Reader(_wanted(rows, inputs, max_new_tokens), model.shape.layers)
        cache = new_cache(model)
        passed = forward(model, inputs.kwargs, cache, reader, sinks=inputs.image)
        said: list[int] = []
        logits = passed.logits
        while len(said) < max_new_tokens:
            token = int(logits[0].argmax()) if forced is None else int(forced[len(said)])
            if forced is None and token in model.end_tokens:
                break
            said.append(token)
            if forced is not None and len(said) == len(forced):
                max_new_tokens = len(said)
            fed = torch.tensor([token], device=inputs.ids.device)
            logits = step_forward(model, fed, cache, inputs, [0], reader, len(said) - 1)
    ids = torch.cat([inputs.ids[0].cpu(), torch.tensor(said, dtype=torch.long)])
    image = torch.zeros(len(ids), dtype=torch.bool)
    image[: inputs.length] = inputs.image[0].cpu()
    beyond = [] if isinstance(rows, int) else sorted(set(rows) - {position for position, _ in reader.rows})
    if beyond:
        raise ParameterError(got("rows", beyond, f"0 to {len(ids) - 1}, where prompt and answer end"))
    positions, attention = reader.stacked(len(ids))
    if isinstance(rows, int):
        kept = _most_asked(positions, rows, inputs.length)
        attention = attention[[positions.index(position) for position in kept]]
        positions = kept
    sinks = None if passed.sinks is None else passed.sinks[:, 0].cpu()[:, image[: inputs.length]].numpy()
    return Captured(ids, inputs.length, image, positions, attention, sinks, passed.logits[0].float().cpu())


def _wanted(rows: int | Sequence[int], inputs: LanguageModelInputs, max_new_tokens: int) -> list[int]:
    """Every position that may be among the rows; which of them are is known when the answer is."""
    if not isinstance(rows, int):
        return sorted(set(rows))
    end = inputs.length
    question = range(max(inputs.after_image, end - rows), end)
    return [*question, *range(end, end + min(max_new_tokens, rows - 1))]


def _most_asked(positions: Sequence[int], rows: int, prompt: int) -> list[int]:
    """The last prompt row and the generated ones, then question tokens, up to a number."""
    order = sorted(positions, key=lambda at: (at != prompt - 1, at < prompt, at if at >= prompt else -at))
    return sorted(order[:rows])


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
    # the last prompt token first: its row makes the answer
    shown = sorted(done.positions, key=lambda at: (at != done.prompt - 1, at))
    order = [done.positions.index(at) for at in shown]
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
        sample=sample_of(sample),
        picture=picture,
        picture_size=picture.size,
        token_ids=done.ids.numpy(),
        token_texts=texts,
        prompt=done.prompt,
        image=done.image.numpy(),
        token_map=token_map,
        rows=[_row(position, done.prompt, texts) for position in shown],
        attention=done.attention[order],
        measures={name: values[order] for name, values in measures.items()},
        sinks=done.sinks,
        answers=answers_of(model, done.ids, done.prompt, done.logits),
        provenance=_provenance(model),
        note=note,
    )


def _known_map(model: VisionLanguageModel, size: tuple[int, int], tokens: int) -> tuple[TokenMap | None, str]:
    """Where the image tokens lie; None and a note where the model's layout is not known, or is another."""
    try:
        token_map = model.token_map(size)
    except VisualHeadsError as error:
        return None, f"{UNKNOWN} ({error})"
    if len(token_map) != tokens:
        return None, f"{UNKNOWN} (Its layout has {len(token_map)} tokens, the prompt {tokens}.)"
    return token_map, ""


def _row(position: int, prompt: int, texts: Sequence[str]) -> Row:
    text = texts[position].replace("\n", "⏎").strip() or "␣"
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
