"""Training batches of the glyph world; each is a pure function of (seed, stage, step), so that training can resume."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from visualheads.miniatures import listing, turns, words
from visualheads.miniatures.pictures import picture, prepared
from visualheads.miniatures.turns import Pair


def generator(seed: int, stage: str, step: int) -> random.Random:
    """The random source of one training step."""
    return random.Random(f"{seed}/{stage}/{step}")


def pad(pairs: Iterable[Pair]) -> tuple[Int[Tensor, "batch key"], Int[Tensor, "batch key"]]:
    """Right-padded ids and labels; causal attention needs no mask then, since nothing real looks at the padding."""
    rows = list(pairs)
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), words.vocabulary()[words.PAD], dtype=torch.long)
    labels = torch.full((len(rows), longest), turns.IGNORED, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def behind(listed: list[int], told: Pair) -> Pair:
    """What is said behind the opening and its list or image tokens, which are not supervised."""
    head = [*listing.opening(), *listed]
    return head + told[0], [turns.IGNORED] * len(head) + told[1]


def text_pair(
    rng: random.Random, fillers: int, task: str, length: int, plain: bool = False, together: float = 0.0
) -> Pair:
    """One list in words with what `turns.told` says about it; `plain` lists tell neither colours nor distortions."""
    coloured = True if task == "colours" else None
    listed, known = listing.text_list(rng, fillers, plain=plain, coloured=coloured, together=together)
    return behind(listed, turns.told(rng, known, task, length))


def picture_batch(
    rng: random.Random, size: int, task: str, processor: Any, length: int, boxed: float, colourful: bool = False
) -> dict[str, Any]:
    """Model inputs with labels: `size` pictures with what `turns.told` says about them in at most `length` tokens; a
    share `boxed` with a drawn box."""
    shown = [picture(rng, boxed, colourful) for _ in range(size)]
    inputs, counts = prepared(processor, [each.image for each in shown])
    image = words.vocabulary()[words.IMAGE]
    pairs = [
        behind([image] * count, turns.told(rng, each.listing, task, length))
        for each, count in zip(shown, counts, strict=True)
    ]
    ids, labels = pad(pairs)
    return {**inputs, "input_ids": ids, "labels": labels}


def by_length(batch: dict[str, Any], parts: int = 2) -> Iterator[tuple[dict[str, Any], float]]:
    """A batch's rows in parts of like length, none padded further than it needs, with its share of the supervised
    tokens: losses weighted by these shares add up to the whole batch's, at less cost where lengths vary."""
    lengths = (batch["input_ids"] != words.vocabulary()[words.PAD]).sum(dim=1)
    supervised = (batch["labels"] != turns.IGNORED).sum().item()
    for rows in lengths.argsort(stable=True).chunk(parts):
        longest = int(lengths[rows].max())
        part = {name: value[rows] for name, value in batch.items()}
        part |= {name: part[name][:, :longest] for name in ("input_ids", "labels")}
        yield part, (part["labels"] != turns.IGNORED).sum().item() / supervised
