"""What a trace would take: the real architecture is built from its configuration, and no weights are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visualheads.cards import Card, cards
from visualheads.errors import CheckpointError, ParameterError, got
from visualheads.models import blueprints, checkpoints
from visualheads.models.blueprints import Blueprint
from visualheads.models.checkpoints import Source
from visualheads.models.devices import AUTO, chosen_device
from visualheads.store.variables import QUERIES, TRACED
from visualheads.store.write import SHARD
from visualheads.tracing.forward import BATCH_TOKENS
from visualheads.tracing.jobs import TraceJob

if TYPE_CHECKING:
    from visualheads.tasks import Sample

STORED_BYTES = 4
"""Measures are stored in float32; stores are compressed, so this is an upper bound."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HALF = "bfloat16"
"""Stands for a checkpoint's own precision on a GPU: 16 bits."""
LOOKED_AT = 256
"""Pictures whose sizes are read for the range of image tokens: only their headers."""
TYPICAL = ((336, 336), (672, 672), (640, 480), (300, 1000))
"""Picture sizes (width, height) whose image tokens are always told."""
MLP_STATES, RESIDUAL_STATES = 3, 6
"""States of a token that are alive at once in the widest place of a layer: in its MLP, and of the residual's width.
Ours; fragmentation and the vision tower come on top."""


@dataclass(frozen=True)
class Needs:
    """What a job takes, in numbers.

    shape        layers, query heads, key-value heads; parts are None where nothing tells before the model is loaded
    parameters   of the model; None likewise
    tokens       image tokens of a picture, mean over the job's; NaN likewise
    memory       bytes for weights and a batch; NaN likewise
    disk         bytes of the store, at most; NaN likewise
    """

    shape: tuple[int | None, int | None, int | None]
    parameters: float | None
    tokens: float
    memory: float
    disk: float


def needs(job: TraceJob) -> Needs:
    """What a trace would take. Raises what resolving the model and drawing the samples raise."""
    source = _source(job.model)
    plan, card = _blueprint(source, job), source.card
    if plan is None:
        known = card.parameters * 1e9 if card and card.parameters else None
        weights = math.nan if known is None else known * DTYPE_BYTES[HALF]
        return Needs(_shape(card), known, math.nan, weights, sum(_bytes(_shape(card), job, None)))
    counts = [plan.image_tokens(size) for size in _sizes(job.samples)]
    weights, batch = _memory(plan, job, card, counts)[:2]
    stored = sum(_bytes(plan.shape, job, _grid(plan, job.samples)))
    return Needs(plan.shape, plan.parameters, sum(counts) / len(counts), weights + batch, stored)


def estimate(job: TraceJob) -> dict[str, str]:
    """Rows of a table: model class, shape, image tokens, memory, samples, shards, disk; "unknown" where nothing tells.

    Raises what resolving the model and drawing the samples raise.
    """
    source = _source(job.model)
    plan, card = _blueprint(source, job), source.card
    known = _of_blueprint(plan, job, card) if plan else _of_card(card)
    return {
        "model": f"{source.name} ({source.location})",
        **known,
        "samples": str(len(job.samples)),
        "shards": f"{-(-len(job.samples) // SHARD)} of up to {SHARD} samples",
        "store": job.path,
        "disk": _disk(plan.shape if plan else _shape(card), job, _grid(plan, job.samples)),
    }


def _source(name: str) -> Source:
    """What is meant; for a catalogued model that has to be converted first, its original."""
    card = cards().get(name)
    if card is not None and not (card.miniature or card.joined or card.hub_id):
        return Source(card.name, f"{card.original_id}, to be converted", card)
    return checkpoints.resolve(name)


def _blueprint(source: Source, job: TraceJob) -> Blueprint | None:
    checkpoints.check_revision(source, job.revision)
    if source.card is not None and source.card.joined:
        return None
    if source.folder is None and source.card is not None and blueprints.has_blueprint(source.card):
        return blueprints.of_card(source.card)
    try:
        return blueprints.prepare(source, job.revision, **job.loading()).check().plan
    except CheckpointError:
        if source.folder is not None:
            raise
        return None  # no connection: the card tells what it knows


def _of_blueprint(plan: Blueprint, job: TraceJob, card: Card | None) -> dict[str, str]:
    layers, heads, kv_heads = plan.shape
    device, dtype = _placed(job, card is not None and card.miniature)
    counts = [plan.image_tokens(size) for size in _sizes(job.samples)]
    weights, batch, tokens = _memory(plan, job, card, counts)
    typical = ", ".join(f"{plan.image_tokens(size):,} of {size[0]} × {size[1]}" for size in TYPICAL)
    return {
        "class": plan.module_class.__name__,
        "configuration": plan.origin,
        "layers × heads / kv heads": f"{layers} × {heads} / {kv_heads}",
        "parameters": f"{plan.parameters / 1e9:.4g} billion",
        "image tokens": f"{_range(counts)}; in general {typical}" if counts else typical,
        "memory for weights": f"{weights / 1e9:.3g} GB in {dtype}",
        "memory for a batch": f"about {batch / 1e9:.2g} GB for {tokens:,} tokens together on {device}",
        "memory": f"about {(weights + batch) / 1e9:.3g} GB",
    }


def _of_card(card: Card | None) -> dict[str, str]:
    layers, heads, kv_heads = _shape(card)
    return {
        "class": card.class_name if card else "unknown before its configuration is fetched",
        "configuration": "not to be had offline; facts of its card" if card else "not to be had offline",
        "layers × heads / kv heads": f"{layers} × {heads} / {kv_heads}" if layers else "unknown without it",
        "image tokens": (card.image_tokens if card else "") or "unknown before loading",
        "memory for weights": f"{card.memory_gb:g} GB in 16 bit" if card and card.memory_gb else "unknown",
    }


def _shape(card: Card | None) -> tuple[int | None, int | None, int | None]:
    return card.shape if card else (None, None, None)


def _placed(job: TraceJob, miniature: bool) -> tuple[str, str]:
    """(kind of device, dtype) that `load` would choose."""
    import torch

    device = job.device or str(chosen_device(None, miniature))
    try:
        # whether there is one matters where the trace runs
        kind = "cuda" if device == AUTO else torch.device(device).type
    except RuntimeError:
        raise ParameterError(got("device", device, ["cpu", "cuda", "cuda:1", "mps", AUTO])) from None
    dtype = job.dtype or ("float32" if miniature or kind == "cpu" else HALF)
    chosen = HALF if dtype == AUTO else dtype
    if chosen not in DTYPE_BYTES:
        raise ParameterError(got("dtype", dtype, [*DTYPE_BYTES, AUTO]))
    return kind, chosen


def _memory(plan: Blueprint, job: TraceJob, card: Card | None, counts: Sequence[int]) -> tuple[float, float, int]:
    """Bytes for weights, bytes for a batch, and the tokens that run together in it."""
    device, dtype = _placed(job, card is not None and card.miniature)
    tokens = max([job.batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"]), *counts])
    batch = _batch_bytes(plan.config.get_text_config(), plan.shape, tokens, DTYPE_BYTES[dtype])
    return plan.parameters * DTYPE_BYTES[dtype], batch, tokens


def _batch_bytes(text: Any, shape: tuple[int, int, int], tokens: int, size: int) -> float:
    """Bytes of a batch: keys and values of all layers, the widest states of one, the attention rows kept of all."""
    layers, heads, kv_heads = shape
    features = getattr(text, "head_dim", None) or text.hidden_size // heads
    held = 2 * layers * kv_heads * features * size
    states = (MLP_STATES * text.intermediate_size + RESIDUAL_STATES * text.hidden_size) * size
    rows = layers * heads * len(QUERIES) * STORED_BYTES
    return tokens * (held + states + rows)


def _sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(width, height) of up to LOOKED_AT pictures, evenly spread over the list."""
    step = max(1, -(-len(samples) // LOOKED_AT))
    return [sample.size() for sample in samples[::step]]


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,} here" if low == high else f"{low:,} to {high:,} here, {sum(counts) / len(counts):,.0f} on average"


def _grid(plan: Blueprint | None, samples: Sequence[Sample]) -> tuple[int, int] | None:
    sizes = _sizes(samples[:1])
    return plan.grid_shape(sizes[0]) if plan and sizes else None


def _disk(shape: tuple[int | None, int | None, int | None], job: TraceJob, grid: tuple[int, int] | None) -> str:
    measures, maps = _bytes(shape, job, grid)
    if math.isnan(measures):
        return "unknown"
    if grid is None:
        return f"at most {measures / 1e6:.0f} MB and the mean maps"
    return f"at most {(measures + maps) / 1e6:.0f} MB, {maps / 1e6:.0f} MB of it mean maps"


def _bytes(
    shape: tuple[int | None, int | None, int | None], job: TraceJob, grid: tuple[int, int] | None
) -> tuple[float, float]:
    """At most so many of the measures, and of the mean maps (0 without a grid); NaN for an unknown shape."""
    layers, heads, _ = shape
    if not layers or not heads:
        return math.nan, 0.0
    count, conditions = len(job.samples), len({sample.condition for sample in job.samples})
    cells = layers * heads * len(QUERIES) * STORED_BYTES
    maps = 0.0 if grid is None else -(-count // SHARD) * conditions * grid[0] * grid[1] * cells
    return count * cells * len(TRACED), maps
