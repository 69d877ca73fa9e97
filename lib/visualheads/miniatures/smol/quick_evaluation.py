"""A quick look at held-out scenes while training: share of questions answered exactly, by kind."""

from __future__ import annotations

import random
from collections import defaultdict

import torch

from visualheads.miniatures.smol.packing import IGNORED, pack
from visualheads.miniatures.smol.training import Learner, Mix, mean, training_rows

SCENES = 40
BATCH = 8


def exact_answers(
    learner: Learner, scenes: int = SCENES, seed: str = "held-out", texts: bool = False
) -> dict[str, float]:
    """Return the share of exactly answered questions of each kind on fresh scenes that training never draws.

    An answer is right if every token is the most probable one after the right tokens before it: what greedy decoding
    gives, too.
    """
    rng = random.Random(seed)
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(-(-scenes // BATCH)):
        rows, pictures = training_rows(learner, rng, Mix(0, BATCH) if texts else Mix(BATCH))
        batch = pack(learner.tokenizer, rows, learner.tokenizer.pad_token_id)
        with torch.no_grad():
            features = learner.features(pictures) if pictures else None
            logits, targets = learner.scores(batch, learner.inputs(batch, features, len(pictures)))
        hits = torch.ones_like(batch.targets, dtype=torch.bool)
        hits[batch.targets != IGNORED] = logits.argmax(-1) == targets
        for row, (_, asked) in enumerate(rows):
            for number, question in enumerate(asked):
                of_question = hits[row][batch.question[row] == number]
                kind = question.kind if question.kind != "exists" else f"exists-{question.answer}"
                right[kind].append(float(of_question.all() if kind != "list" else of_question.float().mean()))
    return {kind: mean(values) for kind, values in sorted(right.items())}
