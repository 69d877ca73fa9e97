"""What samples are drawn by: requests, the stratified order of questions, seeds, and controls.

Controls: the same question with a picture that cannot, or should not, tell the answer.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from visualheads.tasks.pictures import DrawBox, ShuffleBlocks, Whiten
from visualheads.tasks.records import Question
from visualheads.tasks.sample import Box, LazyImage, Sample


@dataclass(frozen=True)
class Skipped:
    """A malformed record or unusable picture that `skip_bad=True` left out: where it is and what is wrong."""

    where: str
    reason: str
    picture: bool = False


class Samples(list[Sample]):
    """The list of samples that a task gives, with what was skipped and left out on the way.

    skipped   malformed records and unusable pictures (only with skip_bad=True)
    left_out  reason → number of questions that the format cannot ask
    split, seed   as drawn
    """

    def __init__(
        self,
        samples: Iterable[Sample] = (),
        skipped: Sequence[Skipped] = (),
        left_out: Mapping[str, int] | None = None,
        split: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(samples)
        self.skipped, self.left_out, self.split, self.seed = tuple(skipped), dict(left_out or {}), split, seed


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `samples`, checked."""

    conditions: tuple[str, ...]
    format: str
    control: str
    split: str
    seed: int
    skip_bad: bool


def in_drawing_order(questions: Sequence[Question], seed: int) -> list[Question]:
    """All questions in a seeded order of which every beginning holds the strata in about their shares.

    Within a stratum the order is random; the i-th of its m questions stands at (i + u) / m with one random u per
    question. So a smaller draw is the beginning of a larger one.
    """
    rng = random.Random(seed)
    strata: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        strata[question.stratum].append(question)
    placed: list[tuple[float, Question]] = []
    for _, members in sorted(strata.items()):
        rng.shuffle(members)
        placed += [((place + rng.random()) / len(members), member) for place, member in enumerate(members)]
    return [question for _, question in sorted(placed, key=lambda pair: pair[0])]


Control = Literal["white", "shuffled", "swapped"]
CONTROLS: tuple[Control, ...] = ("white", "shuffled", "swapped")
"""white     a white picture of the same size, nothing drawn on it (paper code)
shuffled  the picture's 8 × 8 blocks permuted; a box, where the condition draws one, is drawn afterwards (ours)
swapped   another sample's picture with that sample's own box; question and right answer stay (ours)"""


def seed_of(*parts: object) -> int:
    """A 32-bit seed from any values: the same on every machine, unrelated for different values."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")


def as_shown(picture: LazyImage, control: str, drawn: Box | None, seed: int) -> LazyImage:
    """The picture as a sample shows it: the control's operation, then the red box where `drawn` gives one."""
    if control == "white":
        return picture.with_operation(Whiten())
    if control == "shuffled":
        picture = picture.with_operation(ShuffleBlocks(seed))
    return picture if drawn is None else picture.with_operation(DrawBox(drawn))
