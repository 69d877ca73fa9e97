"""One prompt about one picture: the nouns that tasks make and tracing reads."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from visualheads.errors import BoxError, SampleError, shown
from visualheads.tasks import pictures
from visualheads.tasks.pictures import LazyImage, accepted, as_lazy

__all__ = ["LETTERS", "Box", "Format", "LazyImage", "Sample", "as_lazy", "checked_box", "clip_box", "picture_hash"]

Box = tuple[float, float, float, float]
Format = Literal["free", "letters"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXTS = ("id", "question", "answer", "answer_prefix", "condition", "question_id", "image_id", "task", "control")
"""Fields of a sample that are text."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""The null character, which ends texts in NetCDF, and halves of characters, which UTF-8 lacks."""
UNIT_BOX = (
    "a box lies between 0 and 1: boxes are in pixels of the upright picture, not shares of it; "
    "multiply by its width and height."
)


@dataclass(frozen=True)
class Sample:
    """One question about one picture, with what is known about its answer.

    Parameters
    ----------
    id
        Unique within a list of samples and stable between runs.
    image
        The picture: a path, a PIL picture, an array (height, width, 3), a tensor (3, height, width), the bytes of a
        file, or a LazyImage; see `visualheads.tasks.pictures.accepted`. Files are read only by `open`. The picture is
        seen upright: its EXIF orientation is applied.
    question
        The whole text put after the picture, instructions included.
    answer
        Free form: the word; with choices: the letter of the right one; "" when unknown.
    box
        The asked region, (left, top, right, bottom) in pixels of the upright picture, or None.
    boxes
        All labelled objects, {name: [box, …]} in the same frame, or None.
    choices
        Option texts in letter order A, B, C…, or None for free form.
    answers
        Further accepted answers.
    answer_prefix
        Text that the answer is made to begin with.
    condition, question_id, image_id, task, control
        Labels along `sample` in a traced Dataset.

    Raises
    ------
    SampleError
        Without an id, a question or one picture, or with a field of the wrong type.
    ImageError
        For a picture that cannot be used, such as an array whose range of values is unknown.
    BoxError
        For a box that is empty or not four finite numbers.
    """

    id: str
    image: Any = field(hash=False)
    question: str
    answer: str = ""
    box: Box | None = None
    boxes: Mapping[str, Sequence[Box]] | None = field(default=None, hash=False)
    choices: tuple[str, ...] | None = None
    answers: tuple[str, ...] = ()
    answer_prefix: str = ""
    condition: str = ""
    question_id: str = ""
    image_id: str = ""
    task: str = ""
    control: str = ""

    def __post_init__(self) -> None:
        where = f"sample {shown(self.id)}"
        _check_text(self, where)
        checked = {
            "image": accepted(self.image, where),
            "choices": _checked_choices(self, where),
            "answers": _checked_answers(self, where),
            "box": None if self.box is None else checked_box(self.box, where),
            "boxes": None if self.boxes is None else _checked_boxes(self.boxes, where),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def format(self) -> Format:
        """ "letters" with choices, "free" without."""
        return "letters" if self.choices else "free"

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels of the upright picture, from its header alone.

        Raises
        ------
        ImageError
            For a picture that is missing, huge, or none.
        BoxError
            For a box that lies outside it.
        """
        in_memory = isinstance(self.image, Image.Image)
        size = pictures.upright_size(self.image) if in_memory else as_lazy(self.image).size()
        self._check_boxes(size)
        return size

    def open(self) -> Image.Image:
        """Return the picture as the model shall see it: upright, RGB.

        Raises
        ------
        ImageError
            For a picture that is missing, corrupt or huge.
        BoxError
            For a box that lies outside it.
        """
        if isinstance(self.image, Image.Image):
            picture = pictures.to_rgb(self.image, f"picture of sample {self.id}")
        else:
            picture = as_lazy(self.image).open()
        self._check_boxes(picture.size)
        return picture

    def _check_boxes(self, size: tuple[int, int]) -> None:
        where = f"sample {self.id!r}"
        if self.box is not None:
            clip_box(self.box, size, where)
        for name, found in (self.boxes or {}).items():
            for box in found:
                clip_box(box, size, f"{where}, boxes of {name!r}")


def picture_hash(sample: Sample) -> str:
    """Return a SHA-256 (64 hex digits) of what a sample shows: the bytes of its picture and the operations on them.

    A file overwritten at the same path, or a picture edited in memory, has another hash. A file is read and decoded
    once in a process, as long as its size and time of change stay the same.

    Raises
    ------
    ImageError
        For a picture that is missing, corrupt or huge.
    """
    if isinstance(sample.image, Image.Image):
        picture = pictures.to_rgb(sample.image, f"picture of sample {sample.id}")
        content = f"{picture.size} {hashlib.sha256(picture.tobytes()).hexdigest()}"
    else:
        content = as_lazy(sample.image).hash()
    return hashlib.sha256(content.encode()).hexdigest()


def checked_box(box: Any, where: str) -> Box:
    """Return the box as four floats.

    A box within 0…1 is warned of: such boxes are shares of a picture, not pixels.

    Raises
    ------
    BoxError
        Unless it is (left, top, right, bottom), finite and not empty.
    """
    try:
        left, top, right, bottom = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise BoxError(
            f"{where}: the box {shown(box)} is not four numbers; give (left, top, right, bottom) in pixels."
        ) from None
    if not (left < right < float("inf") and top < bottom < float("inf") and min(left, top) > float("-inf")):
        raise BoxError(
            f"{where}: the box {shown(box)} is empty or not finite; give (left, top, right, bottom) in pixels of the "
            "upright picture with left < right and top < bottom."
        )
    if max(right, bottom) <= 1 and min(left, top) >= 0:
        warnings.warn(UNIT_BOX, stacklevel=2)
    return left, top, right, bottom


def clip_box(box: Box, size: tuple[int, int], where: str) -> Box:
    """Return the part of the box inside a picture of `size` (width, height). Raises BoxError when nothing is inside."""
    left, top, right, bottom = box
    width, height = size
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise BoxError(
            f"{where}: the box {box} lies outside the picture, which is {width} × {height} pixels; "
            "boxes are (left, top, right, bottom) in pixels of the upright picture."
        )
    return inside


def _check_text(sample: Sample, where: str) -> None:
    for name in TEXTS:
        value = getattr(sample, name)
        if not isinstance(value, str):
            raise SampleError(f"{where}: {name} must be text, got {type(value).__name__} {shown(value)}.")
        if NO_TEXT.search(value):
            raise SampleError(f"{where}: {name} holds characters that no file can: {shown(value)}; remove them.")
    for name in ("id", "question"):
        if not getattr(sample, name).strip():
            raise SampleError(f"{where}: {name} is empty; every sample needs its own {name}.")


def _checked_boxes(boxes: Any, where: str) -> dict[str, list[Box]]:
    if not isinstance(boxes, Mapping) or not all(isinstance(name, str) for name in boxes):
        raise SampleError(f"{where}: boxes must be {{name: [box, …]}}, got {shown(boxes)}.")
    wrong = next((found for found in boxes.values() if isinstance(found, str) or not isinstance(found, Sequence)), None)
    if wrong is not None:
        raise SampleError(f"{where}: boxes must be {{name: [box, …]}} with a list for each name, got {shown(wrong)}.")
    return {name: [checked_box(box, f"{where}, boxes of {name!r}") for box in found] for name, found in boxes.items()}


def _checked_choices(sample: Sample, where: str) -> tuple[str, ...] | None:
    choices = sample.choices
    if choices is None:
        return None
    if not _are_texts(choices):
        raise SampleError(f"{where}: choices must be a tuple of non-empty texts, got {shown(choices)}.")
    if not 2 <= len(choices) <= len(LETTERS):
        raise SampleError(f"{where} has {len(choices)} choices; give 2 to {len(LETTERS)}, or None.")
    allowed = tuple(LETTERS[: len(choices)])
    if sample.answer and sample.answer not in allowed:
        raise SampleError(
            f"{where}: with choices the answer is a letter, one of {', '.join(allowed)}; got {shown(sample.answer)}."
        )
    return tuple(choices)


def _checked_answers(sample: Sample, where: str) -> tuple[str, ...]:
    if not _are_texts(sample.answers):
        raise SampleError(f"{where}: answers must be a tuple of non-empty texts, got {shown(sample.answers)}.")
    if sample.answers and not sample.answer:
        raise SampleError(f"{where}: answers are accepted besides answer, which is empty; give the first one there.")
    wrong = [answer for answer in sample.answers if answer not in tuple(LETTERS[: len(sample.choices or ())])]
    if sample.choices is not None and wrong:
        raise SampleError(f"{where}: with choices all answers are letters; got {shown(wrong[0])}.")
    return tuple(sample.answers)


def _are_texts(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, Sequence):
        return False
    return all(isinstance(value, str) and value.strip() for value in values)
