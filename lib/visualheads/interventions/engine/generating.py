"""Greedy answers on top of a cache, heads still changed; rows that have ended leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visualheads.interventions.engine.text_model import (
    EMBEDS,
    PLACES,
    LanguageModelInputs,
    LayerEdit,
    cache_rows,
    forward,
)
from visualheads.models.wrapper import answer_lengths

if TYPE_CHECKING:
    from visualheads.interventions.engine.editor import Editor
    from visualheads.models.wrapper import VisionLanguageModel

FEWER = 0.75
"""Rows still generating, as a share of the batch, from which on the others are dropped: dropping copies the cache."""


def answers(
    model: VisionLanguageModel,
    logits: Float[Tensor, "row vocabulary"],
    cache: Any,
    prompts: LanguageModelInputs,
    samples: Sequence[int],
    editor: Editor | None,
    max_new_tokens: int,
) -> Int[Tensor, "row token"]:
    """Greedy tokens of each row, the first from `logits`; after a row's first end token, that token again.

    `cache` holds the prompts of the rows, row r being prompt samples[r] of `prompts`; it is used up.
    """
    end = torch.tensor(sorted(model.end_tokens), device=logits.device)
    tokens = logits.argmax(-1)
    said = tokens[:, None]
    running = torch.arange(len(tokens), device=tokens.device)
    owners = list(samples)
    for step in range(max_new_tokens - 1):
        going = ~torch.isin(said[running, -1], end)
        if not bool(going.any()):
            break
        if float(going.float().mean()) <= FEWER:
            kept = going.nonzero().flatten()
            running = running[kept]
            owners = [owners[index] for index in kept.tolist()]
            cache = cache_rows(cache, kept.tolist())
            editor = None if editor is None else editor.rows(kept.to(editor.heads.device))
        fresh = step_forward(model, said[running, -1], cache, prompts, owners, editor, step).argmax(-1)
        fresh = torch.where(torch.isin(said[running, -1], end), said[running, -1], fresh)
        column = said[:, -1].clone()
        column[running] = fresh
        said = torch.cat([said, column[:, None]], dim=1)
    return said


def step_forward(
    model: VisionLanguageModel,
    tokens: Int[Tensor, " row"],
    cache: Any,
    prompts: LanguageModelInputs,
    samples: Sequence[int],
    edit: LayerEdit | None,
    step: int,
) -> Float[Tensor, "row vocabulary"]:
    """Logits after the `step`-th generated token (from 0) of each row."""
    embeds = model.module.get_input_embeddings()(tokens[:, None])
    kwargs: dict[str, Any] = {EMBEDS: embeds}
    places = prompts.next_places(step)
    if places is not None:
        own = torch.tensor(list(samples), device=places.device)
        kwargs[PLACES] = places if places.shape[-2] == 1 else places.index_select(-2, own)
    return forward(model, kwargs, cache, edit, start=prompts.length + step).logits


def ended(model: VisionLanguageModel, said: Int[Tensor, "row token"]) -> Int[Tensor, " row"]:
    """Tokens of each answer before its end."""
    return answer_lengths(said, model.end_tokens)
