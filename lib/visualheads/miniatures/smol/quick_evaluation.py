"""A quick look at held-out scenes while training: share of questions answered exactly, by kind."""

from __future__ import annotations

import random
from collections import defaultdict

import torch

from visualheads.miniatures.smol.learner import Learner
from visualheads.miniatures.smol.packing import pack, right_answers
from visualheads.miniatures.smol.training import Mix, mean, training_rows

SCENES = 40
BATCH = 8


def exact_answers(
    learner: Learner, scenes: int = SCENES, seed: str = "held-out", texts: bool = False
) -> dict[str, float]:
    """Return the share of exactly answered questions of each kind on fresh scenes that training never draws."""
    rng = random.Random(seed)
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(-(-scenes // BATCH)):
        rows, pictures = training_rows(learner, rng, Mix(0, BATCH) if texts else Mix(BATCH))
        batch = pack(learner.tokenizer, rows, learner.tokenizer.pad_token_id)
        with torch.no_grad():
            features = learner.features(pictures) if pictures else None
            logits, targets = learner.scores(batch, learner.inputs(batch, features, len(pictures)))
        for (_, asked), answered in zip(rows, right_answers(batch, logits), strict=True):
            for question, hit in zip(asked, answered, strict=True):
                kind = question.kind if question.kind != "exists" else f"exists-{question.answer}"
                right[kind].append(float(hit))
        right["token"].extend((logits.argmax(-1) == targets).float().tolist())
    return {kind: mean(values) for kind, values in sorted(right.items())}
