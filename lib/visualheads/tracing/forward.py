"""Batches through the model: which samples run together, their answers, and the asked rows of every head."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import StoppingCriteriaList

from visualheads.errors import ParameterError, got
from visualheads.models.attention_call import align, read, sink_tokens
from visualheads.models.wrapper import Ended, answer_lengths, greedy

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel

Item = TypeVar("Item")
Ready = TypeVar("Ready")

BATCH_TOKENS = {"cpu": 8192, "cuda": 16384}
"""Tokens per batch by default: enough to keep the device busy, little enough for its memory (and a CPU's caches)."""
AHEAD = 2
"""Batches prepared in advance: enough to hide decoding, little enough to keep memory flat."""


FIRST_GENERATED, LAST_PROMPT, ANSWER_SPAN = "first_generated", "last_prompt", "answer_span"
QUERIES = (FIRST_GENERATED, LAST_PROMPT, ANSWER_SPAN)


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of the samples of each batch: sorted by length, cut so that longest × count ≤ `batch_tokens`.

    A pure function of its arguments; a sample longer than `batch_tokens` gets a batch of its own. Equal lengths lie
    together, so most batches have no padding.
    """
    if batch_tokens < 1:
        raise ParameterError(got("batch_tokens", batch_tokens, "1 or more"))
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # sorted: the newcomer is the longest of its batch
        if batches and lengths[index] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def prefetched(items: Iterable[Item], prepare: Callable[[Item], Ready]) -> Iterator[tuple[Item, Ready]]:
    """Yield each item with `prepare(item)`, prepared up to AHEAD items in advance by a second thread.

    An exception in `prepare` is raised here, at its item. The thread ends with the iterator, also when it is abandoned.
    """
    waiting: deque[tuple[Item, Future[Ready]]] = deque()
    worker = ThreadPoolExecutor(1, "prefetch")
    try:
        for item in items:
            waiting.append((item, worker.submit(prepare, item)))
            if len(waiting) > AHEAD:
                first, ready = waiting.popleft()
                yield first, ready.result()
        for item, ready in waiting:
            yield item, ready.result()
    finally:
        worker.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Rows:
    """The rows of one query: attention (layer, batch, head, key), and the keys it sees (layer, batch, key)."""

    attention: Float[Tensor, "layer batch head key"]
    visible: Bool[Tensor, "layer batch key"]


@dataclass(frozen=True)
class Outcome:
    """What a batch gave: rows per query, generated tokens, raw logits of their first, and sink tokens of the prompt.

    Keys are the prompt's tokens (left padding included), then generated ones. `sinks` is None without sink dimensions.
    """

    rows: dict[str, Rows]
    answers: Int[Tensor, "batch token"]
    logits: Float[Tensor, "batch vocabulary"]
    sinks: Bool[Tensor, "layer batch key"] | None


def run(model: VisionLanguageModel, encoding: Any, queries: Sequence[str], max_new_tokens: int) -> Outcome:
    """Generate greedily and read the rows of `queries`, in one generation and without an S × S matrix.

    At least two passes run, so that the first generated token is a query; generation then ends with the last answer.
    """
    inputs = dict(encoding.to(model.device, dtype=model.dtype))
    prompt = inputs["input_ids"].shape[1]
    span = ANSWER_SPAN in queries
    # the row of a generated token needs the pass after the one that made it
    passes = max_new_tokens + 1 if span else max(max_new_tokens, 2)
    stopping = StoppingCriteriaList([Ended(model.end_tokens, prompt, passes if span else 2)])
    with torch.no_grad(), greedy(model.module, model.tokenizer.pad_token_id):
        steps, sinks, result = _traced(model, inputs, passes, passes if span else 2, stopping)
    answers = result.sequences[:, prompt:]
    rows = {LAST_PROMPT: steps[0], FIRST_GENERATED: steps[1]}
    if span:
        lengths = answer_lengths(answers[:, :max_new_tokens], model.end_tokens).clamp_min(1)
        rows[ANSWER_SPAN] = _mean_rows(steps[1:], lengths)
    return Outcome({query: rows[query] for query in queries}, answers[:, :max_new_tokens], result.logits[0], sinks)


def _traced(
    model: VisionLanguageModel, inputs: dict[str, Any], passes: int, wanted: int, stopping: StoppingCriteriaList
) -> tuple[list[Rows], Tensor | None, Any]:
    import nnsight

    prompt = inputs["input_ids"].shape[1]
    attention, layers, dimensions = model.attention, model.layers, model.sink_dimensions
    image = inputs["input_ids"] == model.image_token_id
    kinds = image, ~image & inputs["attention_mask"].bool()
    settings = {"max_new_tokens": passes, "output_logits": True, "return_dict_in_generate": True}
    with model.lm.generate(**inputs, **settings, stopping_criteria=stopping) as tracer:
        read_rows = nnsight.save([])
        read_sinks = nnsight.save([])
        for step in tracer.iter[:wanted]:
            for layer, operation in zip(layers, attention, strict=True):
                if dimensions and step == 0:
                    read_sinks.append(sink_tokens(layer.input, dimensions, *kinds))
                call = read(operation)
                total = prompt + step
                read_rows.append((align(call.rows()[:, :, 0], total), _padded(call.visible()[:, 0], total)))
        result = tracer.result.save()
    depth = len(attention)
    steps = [_stacked(read_rows[start : start + depth]) for start in range(0, len(read_rows), depth)]
    sinks = torch.stack([found.to(model.device) for found in read_sinks]) if read_sinks else None
    return steps, sinks, result


def _padded(visible: Bool[Tensor, "batch key"], total: int) -> Bool[Tensor, "batch total"]:
    return torch.nn.functional.pad(visible, (total - visible.shape[-1], 0))


def _stacked(layers: Sequence[tuple[Tensor, Tensor]]) -> Rows:
    device = layers[0][0].device  # with several devices, layers end on different ones
    return Rows(
        torch.stack([rows.to(device) for rows, _ in layers]), torch.stack([seen.to(device) for _, seen in layers])
    )


def _mean_rows(steps: Sequence[Rows], lengths: Int[Tensor, " batch"]) -> Rows:
    """Mean over each sample's own generated tokens; a key counts as visible when its last query sees it."""
    total = steps[-1].attention.shape[-1]
    mean = torch.zeros((*steps[-1].attention.shape[:-1], total), device=steps[-1].attention.device)
    visible = torch.zeros_like(steps[-1].visible)
    for index, rows in enumerate(steps):
        missing = total - rows.attention.shape[-1]
        share = torch.where(lengths > index, 1.0 / lengths, 0.0).to(mean.device)[None, :, None, None]
        mean += torch.nn.functional.pad(rows.attention, (0, missing)) * share
        last = (lengths == index + 1).to(mean.device)[None, :, None]
        visible |= torch.nn.functional.pad(rows.visible, (0, missing)) & last
    return Rows(mean, visible)
