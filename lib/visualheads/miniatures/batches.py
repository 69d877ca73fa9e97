"""Training batches of the glyph world; each is a pure function of (seed, stage, step), so that training can resume."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from visualheads.miniatures import dialogues, language, text_lists
from visualheads.miniatures.dialogues import Pair
from visualheads.miniatures.pictures import picture, prepared


def generator(seed: int, stage: str, step: int) -> random.Random:
    """The random source of one training step."""
    return random.Random(f"{seed}/{stage}/{step}")


def pad(pairs: Iterable[Pair]) -> tuple[Int[Tensor, "batch key"], Int[Tensor, "batch key"]]:
    """Right-padded ids and labels; causal attention needs no mask then, since nothing real looks at the padding."""
    rows = list(pairs)
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), language.vocabulary()[language.PAD], dtype=torch.long)
    labels = torch.full((len(rows), longest), dialogues.IGNORED, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def behind(listed: list[int], told: Pair) -> Pair:
    """What is said behind the opening and its list or image tokens, which are not supervised."""
    head = [*text_lists.opening(), *listed]
    return head + told[0], [dialogues.IGNORED] * len(head) + told[1]


def text_pair(
    rng: random.Random, fillers: int, task: str, length: int, plain: bool = False, together: float = 0.0
) -> Pair:
    """One list in words with what `turns.told` says about it; `plain` lists tell neither colours nor distortions."""
    coloured = True if task == "colours" else None
    listed, known = text_lists.text_list(rng, fillers, plain=plain, coloured=coloured, together=together)
    return behind(listed, dialogues.told(rng, known, task, length))


def picture_batch(
    rng: random.Random, size: int, task: str, processor: Any, length: int, boxed: float, colourful: bool = False
) -> dict[str, Any]:
    """Model inputs with labels: `size` pictures with what `turns.told` says about them in at most `length` tokens; a
    share `boxed` with a drawn box."""
    shown = [picture(rng, boxed, colourful) for _ in range(size)]
    inputs, counts = prepared(processor, [each.image for each in shown])
    image = language.vocabulary()[language.IMAGE]
    pairs = [
        behind([image] * count, dialogues.told(rng, each.listing, task, length))
        for each, count in zip(shown, counts, strict=True)
    ]
    ids, labels = pad(pairs)
    return {**inputs, "input_ids": ids, "labels": labels}


def by_length(batch: dict[str, Any], parts: int = 2) -> Iterator[tuple[dict[str, Any], float]]:
    """A batch's rows in parts of like length, none padded further than it needs, with its share of the supervised
    tokens: losses weighted by these shares add up to the whole batch's, at less cost where lengths vary."""
    lengths = (batch["input_ids"] != language.vocabulary()[language.PAD]).sum(dim=1)
    supervised = (batch["labels"] != dialogues.IGNORED).sum().item()
    for rows in lengths.argsort(stable=True).chunk(parts):
        longest = int(lengths[rows].max())
        part = {name: value[rows] for name, value in batch.items()}
        part |= {name: part[name][:, :longest] for name in ("input_ids", "labels")}
        yield part, (part["labels"] != dialogues.IGNORED).sum().item() / supervised
