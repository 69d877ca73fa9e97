"""Names of weights: the original's → those of transformers' files (read off the checkpoints and their code).

What will be written, decided and checked from headers alone, before anything is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visualheads.errors import CheckpointError
from visualheads.models.conversion.sources import Header, Original, headers
from visualheads.paths import read_table

TOWER = "vision_tower.vision_model."
EMBEDDING = "language_model.model.embed_tokens.weight"
OUTPUT = "language_model.lm_head.weight"
RULES: dict[str, list[list[str]]] = read_table(__file__, "names.yml")
"""Where a name comes from → pairs of a pattern and what stands for it in transformers' files."""

COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers of old checkpoints that are computed from the config."""

OTHER_HALF = re.compile(r"^(text_model\.|text_projection|visual_projection|text_embeds|logit_scale)")
"""What a CLIP folder holds beside its vision tower."""


def from_original(name: str) -> str | None:
    """The new name of an original checkpoint's weight; "" for what is computed, None for an unknown name."""
    return "" if COMPUTED.search(name) else _renamed(name, "checkpoint")


def from_tower(name: str) -> str | None:
    """The new name of a weight in a CLIP folder; "" for what a vision tower does not need, None for an unknown name."""
    return "" if COMPUTED.search(name) or OTHER_HALF.search(name) else _renamed(name, "tower")


def from_module(name: str) -> str:
    """The name in files of a weight of a transformers module: the form that all versions of transformers read."""
    return _renamed(name, "module") or name


def _renamed(name: str, origin: str) -> str | None:
    for pattern, target in RULES[origin]:
        new, changed = re.subn(pattern, target, name)
        if changed:
            return new
    return None


SHOWN = 4


@dataclass(frozen=True)
class Entry:
    """One weight on its way: its new name, where it lies, its final shape, and the file it goes to (counted from 0)."""

    name: str
    origin: str
    file: Path
    shape: tuple[int, ...]
    shard: int


@dataclass(frozen=True)
class WeightPlan:
    """Everything that will be written, in the order of the files it is read from.

    entries     weights
    dtype       of all that is written
    shards      number of files
    size        bytes
    """

    entries: tuple[Entry, ...]
    dtype: torch.dtype
    shards: int
    size: int

    def of(self, file: Path) -> dict[str, Entry]:
        """The entries read from one file, by the name they have in it."""
        return {entry.origin: entry for entry in self.entries if entry.file == file}

    @property
    def files(self) -> list[Path]:
        """The files to read, in order."""
        return list(dict.fromkeys(entry.file for entry in self.entries))

    def shard_name(self, shard: int) -> str:
        """File name of a shard: `model.safetensors` where there is one only."""
        return "model.safetensors" if self.shards == 1 else f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"


def embedding_of(original: Original) -> Header:
    """The embedding's header: its rows are the vocabulary, padding included. Raises CheckpointError."""
    header = original.headers.get("model.embed_tokens.weight")
    if header is None or len(header.shape) != 2:
        raise CheckpointError(
            f"{original.folder} has no model.embed_tokens.weight; convert a whole checkpoint, not parts of one."
        )
    return header


def has_tower(original: Original) -> bool:
    """Whether the checkpoint holds the vision tower's weights itself (it was tuned, as in LLaVA-1.6)."""
    return any((from_original(name) or "").startswith(TOWER) for name in original.headers)


def plan(
    original: Original, tower: Path | None, class_name: str, config: Any, dtype: torch.dtype, shard_bytes: int
) -> WeightPlan:
    """Map every weight, and compare names and shapes with those of the transformers class.

    Raises CheckpointError naming the weights that are left over, missing, or of another shape.
    """
    found = _mapped(original.headers, from_original, str(original.folder))
    if not has_tower(original) and tower is not None:
        found |= _mapped(headers(tower), from_tower, str(tower))
    wanted = expected(class_name, config)
    _compare(found, wanted, original)
    entries: list[Entry] = []
    shard = filled = size = 0
    for name, (origin, header) in found.items():
        room = math.prod(wanted[name]) * dtype.itemsize
        if filled and filled + room > shard_bytes:
            shard, filled = shard + 1, 0
        entries.append(Entry(name, origin, header.file, wanted[name], shard))
        filled, size = filled + room, size + room
    return WeightPlan(tuple(entries), dtype, shard + 1, size)


def expected(class_name: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Name in files → shape of every weight that the class needs, built without memory."""
    import transformers

    with torch.device("meta"):
        module = getattr(transformers, class_name)._from_config(config)
    shapes = {from_module(name): tuple(weight.shape) for name, weight in module.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[OUTPUT]
    return shapes


def _mapped(
    stored: dict[str, Header], rename: Callable[[str], str | None], where: str
) -> dict[str, tuple[str, Header]]:
    found: dict[str, tuple[str, Header]] = {}
    unknown = [name for name in stored if rename(name) is None]
    if unknown:
        raise CheckpointError(
            f"{where} holds {len(unknown)} weights of unknown use ({_some(unknown)}); it is not of a supported recipe."
        )
    for origin, header in stored.items():
        name = rename(origin)
        if not name:
            continue
        if name in found:
            raise CheckpointError(f"{where}: {found[name][0]} and {origin} are both {name}; take another copy.")
        found[name] = origin, header
    return found


def _compare(found: dict[str, tuple[str, Header]], wanted: dict[str, tuple[int, ...]], original: Original) -> None:
    if OUTPUT not in wanted:
        found.pop(OUTPUT, None)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CheckpointError(
            f"{original.folder} lacks {len(missing)} weights ({_some(missing)}); its files do not fit its config.json, "
            "or a shard is incomplete: fetch it again."
        )
    left = [origin for name, (origin, _) in found.items() if name not in wanted]
    if left:
        raise CheckpointError(
            f"{original.folder} has {len(left)} weights left over ({_some(left)}) that the model described by its "
            "config.json does not have; fetch config and weights of one checkpoint."
        )
    for name, (origin, header) in found.items():
        have, need = header.shape, wanted[name]
        grows = name in (EMBEDDING, OUTPUT)
        if have != need and not (grows and have[1:] == need[1:] and have[0] <= need[0]):
            raise CheckpointError(
                f"{origin} in {header.file.name} has shape {have}, but {need} is needed by config.json (or by the "
                "vision tower's); fetch config and weights of one checkpoint."
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
