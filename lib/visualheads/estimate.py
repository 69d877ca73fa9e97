"""What a trace would take, from the card or the configuration alone: no weights are read."""

from __future__ import annotations

from typing import Any

from visualheads import checkpoints
from visualheads.jobs import TraceJob
from visualheads.plan import SHARD
from visualheads.variables import QUERIES, TRACED

BYTES = 4
"""Measures are stored in float32; stores are compressed, so this is an upper bound."""


def estimate(job: TraceJob) -> dict[str, str]:
    """Rows of a table: model class, shape, image tokens, memory, samples, shards, disk; "unknown" where nothing tells.

    Raises what resolving the model and drawing the samples raise.
    """
    source = checkpoints.resolve(job.model)
    class_name, shape = _class_and_shape(source)
    count = len(job.samples)
    layers, heads, kv_heads = shape
    disk = count * layers * heads * len(QUERIES) * len(TRACED) * BYTES / 1e6 if layers and heads else None
    card = source.card
    return {
        "model": f"{source.name} ({source.location})",
        "class": class_name,
        "layers × heads / kv heads": f"{layers} × {heads} / {kv_heads}" if layers else "unknown without its config",
        "image tokens": (card.image_tokens if card else "") or "unknown before loading",
        "memory for weights": f"{card.memory_gb:g} GB in 16 bit" if card and card.memory_gb else _weights(source),
        "samples": str(count),
        "shards": f"{-(-count // SHARD)} of up to {SHARD} samples",
        "store": job.path,
        "disk": f"at most {disk:.0f} MB and the mean maps" if disk is not None else "unknown",
    }


def _class_and_shape(source: checkpoints.Source) -> tuple[str, tuple[int | None, int | None, int | None]]:
    if source.folder is not None:
        config: dict[str, Any] = checkpoints.check_folder(source.folder)
        text = config.get("text_config", config)
        heads = text.get("num_attention_heads")
        found = text.get("num_hidden_layers"), heads, text.get("num_key_value_heads", heads)
        return str((config.get("architectures") or ["unknown"])[0]), found
    if source.card is not None:
        return source.card.class_name, source.card.shape
    return "unknown before its config is fetched", (None, None, None)


def _weights(source: checkpoints.Source) -> str:
    if source.folder is None:
        return "unknown"
    return f"{sum(path.stat().st_size for path in checkpoints.weight_files(source.folder)) / 1e6:.1f} MB on disk"
