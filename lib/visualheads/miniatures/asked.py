"""What a miniature is asked, by kind of question: how often in its training, and in what was measured meanwhile.

Nothing is kept of that while training: every question is drawn from a seed, so it is counted by drawing again.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from visualheads.miniatures import batches, questions, tower, training
from visualheads.miniatures.architectures import Miniature, build_processor, text_shape
from visualheads.miniatures.dialogues import IGNORED
from visualheads.miniatures.distortions import QUALITIES
from visualheads.miniatures.fitting import Schedule
from visualheads.miniatures.pictures import BOXED, picture
from visualheads.miniatures.text_lists import text_list

DRAWN = 12_000
"""Questions drawn to count kinds: a share of 3 % is known to within 0.3 points."""


def shares(recipe: Miniature, text: Schedule, tuning: Schedule) -> dict[str, dict[str, float]]:
    """Shares of the kinds among the questions of text training and of visual tuning, kinds never asked included.

    text      of lists at their full length, as many of them told as after the restart as there are steps after it
    tuning    of pictures, as many of them with a drawn box as in the whole stage
    """
    rng = batches.generator(recipe.seed, "kinds", 0)
    late = [(text.steps - first) / text.steps for first in text.restarts[:1]]
    lists = [text_list(rng, training.MOST_FILLERS, together=training.TOGETHER * sum(late))[1] for _ in range(DRAWN)]
    boxed = boxed_share(tuning)
    pictures = [picture(rng, boxed).listing for _ in range(DRAWN)]
    return {"text": _kinds(rng, lists), "tuning": _kinds(rng, pictures)}


def boxed_share(tuning: Schedule) -> float:
    """Share of the pictures of visual tuning's questions that have a drawn box."""
    first = tuning.restarts[0] if tuning.restarts else tuning.steps
    early = first * training.TUNING_SHARES["questions"]
    late = (tuning.steps - first) * training.LATE_SHARES["questions"]
    return (early * BOXED + late * training.LATE_BOXED) / (early + late)


def measured(recipe: Miniature, stage: str, schedule: Schedule) -> dict[str, int]:
    """Over how many answers each figure of a stage's curve is, at its end; the tower's precision, whose number is that
    of what it finds, is left out."""
    match stage:
        case "tower":
            return tower_counts(schedule.tested)
        case "alignment" | "tuning":
            asked = training.picture_test(recipe.seed, schedule.tested)
            return dict(sorted(Counter(kind for _, told in asked for kind, _ in told).items()))
        case _:
            return text_counts(text_shape(recipe.text).seed, schedule)


def tower_counts(pictures: int) -> dict[str, int]:
    """Objects, boxed ones, ones whose colour shows, pictures: what the tower's figures are over."""
    batch = tower.tower_batch(batches.generator(tower.TOWER_SEED, "tower-test", 0), pictures, build_processor("1.5"))
    objects = batch["kind"] > tower.PART
    shown = objects & (batch["quality"] != QUALITIES.index("fading"))[:, None]
    boxed = objects & (batch["boxed"] > 0.5)
    found = {"recall": objects, "box_accuracy": objects, "box_recall": boxed, "colour": shown}
    return {**{name: int(chosen.sum()) for name, chosen in found.items()}, "quality": pictures}


def text_counts(seed: int, schedule: Schedule) -> dict[str, int]:
    """Supervised words by kind, the end of an answer aside: what a language model's figures are over."""
    _, fillers, together = training.hardness(schedule, schedule.steps - 1)
    found: Counter[str] = Counter()
    for kind, (_, labels) in training.text_test(seed, schedule.tested, fillers, together):
        found[kind] += sum(label != IGNORED for label in labels) - 1
    return dict(sorted(found.items()))


def _kinds(rng: random.Random, listings: Any) -> dict[str, float]:
    found = Counter(questions.ask(rng, listing).kind for listing in listings)
    return {kind: found[kind] / len(listings) for kind in questions.WEIGHTS}
