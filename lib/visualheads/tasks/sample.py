"""One prompt about one picture: the nouns that tasks make and tracing reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from visualheads.errors import BoxError, ImageError, SampleError
from visualheads.tasks import images

Box = tuple[float, float, float, float]
Format = Literal["free", "letters"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class LazyImage:
    """A picture that is read only when opened: a path or base64 text, and operations applied on the decoded pixels.

    `operations` run in the order given; see `visualheads.tasks.images` for what there is. A LazyImage pickles in a
    few bytes (or its base64 text), so lists of samples travel to workers without pixels.
    """

    path: str = ""
    base64: str = field(default="", repr=False)
    operations: tuple[images.Operation, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.base64):
            given = "both" if self.path else "neither"
            raise ImageError(f"LazyImage takes either a path or base64 text, got {given}; give exactly one of them.")

    @property
    def name(self) -> str:
        """What error messages call this picture."""
        return self.path or f"base64 picture starting {self.base64[:12]!r}"

    def with_operation(self, operation: images.Operation) -> LazyImage:
        """The same picture with one more operation at the end."""
        return LazyImage(self.path, self.base64, (*self.operations, operation))

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header alone. Raises ImageError like `open`."""
        return images.read_size(self.path, self.base64)

    def open(self) -> Image.Image:
        """Decode to RGB and apply the operations. Raises ImageError for a missing, corrupt or huge picture."""
        picture = images.read_image(self.path, self.base64)
        for operation in self.operations:
            picture = operation.apply(picture)
        return picture


@dataclass(frozen=True)
class Sample:
    """One question about one picture, with what is known about its answer.

    id          unique within a list of samples and stable between runs
    image       a PIL picture, a path, or a LazyImage (the last two are read only by `open`)
    question    the whole text put after the picture, instructions included
    answer      free form: the word; with choices: the letter of the right one; "" when unknown
    box         the asked region in pixels of the original picture, (left, top, right, bottom), or None
    boxes       all labelled objects, {name: [box, …]}, or None
    choices     option texts in letter order A, B, C…, or None for free form
    The rest are labels along `sample` in a traced Dataset.
    """

    id: str
    image: Image.Image | str | Path | LazyImage = field(hash=False)
    question: str
    answer: str
    box: Box | None = None
    boxes: Mapping[str, Sequence[Box]] | None = field(default=None, hash=False)
    choices: tuple[str, ...] | None = None
    condition: str = ""
    question_id: str = ""
    image_id: str = ""
    task: str = ""
    control: str = ""

    def __post_init__(self) -> None:
        _check_text(self)
        _check_picture(self)
        if self.choices is not None:
            object.__setattr__(self, "choices", _checked_choices(self))
        if self.box is not None:
            object.__setattr__(self, "box", checked_box(self.box, f"sample {self.id!r}"))
        if self.boxes is not None:
            where = f"sample {self.id!r}, boxes"
            boxes = {name: [checked_box(box, where) for box in found] for name, found in self.boxes.items()}
            object.__setattr__(self, "boxes", boxes)

    @property
    def format(self) -> Format:
        """ "letters" with choices, "free" without."""
        return "letters" if self.choices else "free"

    def open(self) -> Image.Image:
        """The picture as the model shall see it, RGB.

        Raises ImageError for a picture that is missing, corrupt or huge, BoxError for a box that lies outside it.
        """
        picture = images.to_rgb(self.image) if isinstance(self.image, Image.Image) else as_lazy(self.image).open()
        if self.box is not None:
            clip_box(self.box, picture.size, f"sample {self.id!r}")
        return picture


def as_lazy(image: str | Path | LazyImage) -> LazyImage:
    """A path as a LazyImage without operations; a LazyImage as it is."""
    return image if isinstance(image, LazyImage) else LazyImage(path=str(image))


def checked_box(box: Sequence[float], where: str) -> Box:
    """The box as four floats. Raises BoxError unless it is (left, top, right, bottom), finite and not empty."""
    try:
        left, top, right, bottom = (float(value) for value in box)
    except (TypeError, ValueError):
        raise BoxError(
            f"{where}: the box {box!r} is not four numbers; give (left, top, right, bottom) in pixels."
        ) from None
    if not (left < right < float("inf") and top < bottom < float("inf") and min(left, top) > float("-inf")):
        raise BoxError(
            f"{where}: the box {box!r} is empty or not finite; give (left, top, right, bottom) in pixels of the "
            "original picture with left < right and top < bottom."
        )
    return left, top, right, bottom


def clip_box(box: Box, size: tuple[int, int], where: str) -> Box:
    """The part of the box inside a picture of `size` (width, height). Raises BoxError when nothing is inside."""
    left, top, right, bottom = box
    width, height = size
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise BoxError(
            f"{where}: the box {box} lies outside the picture, which is {width} × {height} pixels; "
            "boxes are (left, top, right, bottom) in pixels of the original picture."
        )
    return inside


def _check_text(sample: Sample) -> None:
    for name in ("id", "question", "answer", "condition", "question_id", "image_id", "task", "control"):
        value = getattr(sample, name)
        if not isinstance(value, str):
            raise SampleError(f"sample {sample.id!r}: {name} must be text, got {type(value).__name__} {value!r}.")
    for name in ("id", "question"):
        if not getattr(sample, name).strip():
            raise SampleError(f"sample {sample.id!r}: {name} is empty; every sample needs its own {name}.")


def _check_picture(sample: Sample) -> None:
    image = sample.image
    if isinstance(image, (Image.Image, Path, LazyImage)) or (isinstance(image, str) and image):
        return
    if isinstance(image, (list, tuple)):
        given = f"{len(image)} pictures"
    else:
        given = "no picture" if image is None or image == "" else f"a {type(image).__name__}"
    raise SampleError(
        f"sample {sample.id!r} has {given}; give exactly one: a PIL picture, a path or a LazyImage "
        "(several pictures: make one sample of each, or paste them into one)."
    )


def _checked_choices(sample: Sample) -> tuple[str, ...]:
    choices = sample.choices or ()
    if isinstance(choices, str) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise SampleError(f"sample {sample.id!r}: choices must be a tuple of non-empty texts, got {sample.choices!r}.")
    if not 2 <= len(choices) <= len(LETTERS):
        raise SampleError(f"sample {sample.id!r} has {len(choices)} choices; give 2 to {len(LETTERS)}, or None.")
    allowed = LETTERS[: len(choices)]
    if sample.answer and sample.answer not in tuple(allowed):
        raise SampleError(
            f"sample {sample.id!r}: with choices the answer is a letter, one of {', '.join(allowed)}; "
            f"got {sample.answer!r}."
        )
    return tuple(choices)
