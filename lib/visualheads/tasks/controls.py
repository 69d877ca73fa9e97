"""Controls: the same question with a picture that cannot, or should not, tell the answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

from visualheads.tasks.images import DrawBox, ShuffleBlocks, Whiten
from visualheads.tasks.sample import Box, LazyImage

Control = Literal["white", "shuffled", "swapped"]
CONTROLS: tuple[Control, ...] = ("white", "shuffled", "swapped")
"""white     a white picture of the same size, nothing drawn on it (paper code)
shuffled  the picture's 8 × 8 blocks permuted; a box, where the condition draws one, is drawn afterwards (ours)
swapped   another sample's picture with that sample's own box; question and right answer stay (ours)"""

Item = TypeVar("Item")


def seed_of(*parts: object) -> int:
    """A 32-bit seed from any values: the same on every machine, unrelated for different values."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")


def shown(picture: LazyImage, control: str, drawn: Box | None, seed: int) -> LazyImage:
    """The picture as a sample shows it: the control's operation, then the red box where `drawn` gives one."""
    if control == "white":
        return picture.with_operation(Whiten())
    if control == "shuffled":
        picture = picture.with_operation(ShuffleBlocks(seed))
    return picture if drawn is None else picture.with_operation(DrawBox(drawn))


def partners(own: str, others: Sequence[tuple[str, Item]], seed: int) -> list[Item]:
    """Up to 20 items, drawn without replacement, whose picture is not `own`: candidates to swap with, best first.

    `others` are (image id, item) pairs. The draw depends on `seed` and on the order of `others` alone.
    """
    rng = random.Random(seed)
    indices = rng.sample(range(len(others)), min(len(others), 200))
    return [others[index][1] for index in indices if others[index][0] != own][:20]
