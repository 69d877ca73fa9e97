"""Pictures of samples: lazy ones, whatever else people take for a picture, and what prompts and controls do to one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, UnidentifiedImageError

from visualheads.errors import ImageError, SampleError, shown

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before decoding: a small file can unpack to many gigabytes. Ours."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what sets the picture upright (EXIF 2.3, tag 274)."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits, which its own conversion clips to white."""
PROGRAMS = ("EPS",)
"""Formats that Pillow hands to another program (Ghostscript), which would run what the picture says."""
DARK = 1 / 16
"""Share of its range that a 16-bit picture has to reach: what 12 bits fill would be shown as nearly black. Ours."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, OverflowError, struct.error)
"""What Pillow raises on damaged files."""
REMEMBERED = 1 << 17
"""Files whose size and hash are kept in memory, by path, size and time of change."""


def read_size(path: str = "", text: str = "") -> tuple[int, int]:
    """Return width and height in pixels of the upright picture, from the header of a file or of base64 text.

    Raises
    ------
    ImageError
        Like `read_image`, except that pixels are not looked at.
    """
    if text:
        with _opened(text=text) as picture:
            return upright_size(picture)
    return _size_of_file(path, *_stamp(path))


def read_image(path: str = "", text: str = "") -> Image.Image:
    """Return the decoded picture of a file or of base64 text: upright, RGB; of several frames the first.

    Raises
    ------
    ImageError
        For a picture that is missing, corrupt, truncated, over MAX_PIXELS, or whose range of values is unknown.
    """
    name = _name(path, text)
    with _opened(path, text) as picture:
        if picture.format != "PNG":
            return to_rgb(picture, name)
        try:
            picture.verify()  # checksums, which decoding leaves out; the picture has to be opened anew after it
        except UNREADABLE as error:
            raise ImageError(
                f"the picture {name[:200]!r} is corrupt or truncated ({error}); copy or save it again."
            ) from error
    with _opened(path, text) as picture:
        return to_rgb(picture, name)


def to_rgb(picture: Image.Image, name: str = "the picture in memory") -> Image.Image:
    """Return the picture upright (its EXIF orientation applied) and in RGB, 8 bits a channel.

    16-bit and float pictures are scaled (see `eight_bit`); transparency is dropped, not blended, as transformers'
    processors do.

    Raises
    ------
    ImageError
        For a picture that cannot be decoded, is over MAX_PIXELS, or whose range of values is unknown.
    """
    _check_pixels(picture.size, name)
    try:
        turn = TURNS.get(_orientation(picture))
        if picture.mode in DEEP_MODES:
            picture = Image.fromarray(eight_bit(np.asarray(picture), name))
        elif picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        picture = picture.convert("RGB")
    except ImageError:
        raise
    except UNREADABLE as error:
        raise ImageError(f"the picture {name!r} is corrupt or truncated ({error}); fetch it again.") from error
    return picture if turn is None else picture.transpose(turn)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return width and height of the picture after its EXIF orientation is applied."""
    width, height = picture.size
    return (height, width) if _orientation(picture) in SIDEWAYS else (width, height)


def eight_bit(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """Return pixel values as uint8: bool and floats from 0 to 1 are stretched to 255, uint16 is divided by 257.

    A uint16 picture that fills 12 bits or fewer is warned of.

    Raises
    ------
    ImageError
        For other types, and for floats outside 0…1: their range is unknown, and a guess would show white or black.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        if values.size and 0 < values.max() < DARK * 65535:
            warnings.warn(
                f"{name} has 16 bits and no value above {values.max()}, so it is shown nearly black; scale its values "
                "to 0…65535 where fewer bits are meant.",
                stacklevel=2,
            )
        return np.rint(values.astype(np.float64) / 257).astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ImageError(
            f"{name} has values of type {values.dtype}; allowed: uint8, uint16, bool, or floats from 0 to 1."
        )
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    raise ImageError(
        f"{name} has {values.dtype} values from {low:g} to {high:g}, whose range is unknown; allowed: uint8, uint16, "
        "bool, or floats from 0 to 1; fix: undo a normalisation, scale the values, or convert them to uint8."
    )


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of change, by which files count as unchanged. Raises ImageError where there is no such file."""
    try:
        told = Path(path).stat()
    except FileNotFoundError:
        raise ImageError(f"the picture {path!r} does not exist; check the name and the data folder.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"the picture {path[:200]!r} cannot be read ({error}).") from error
    if not stat.S_ISREG(told.st_mode):  # a pipe would be waited for, a device never ends
        raise ImageError(f"the picture {path!r} cannot be read: it is no file; give the path of a picture.")
    return told.st_size, told.st_mtime_ns


@lru_cache(maxsize=REMEMBERED)
def _size_of_file(path: str, _bytes: int, _changed: int) -> tuple[int, int]:
    with _opened(path) as picture:
        return upright_size(picture)


@lru_cache(maxsize=REMEMBERED)
def _hash_of_file(path: str, _bytes: int, _changed: int) -> str:
    read_image(path)
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":
        return 1  # Pillow's reader sets these upright itself
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:
        return 1  # the EXIF block is damaged, which the pixels need not be


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in PROGRAMS]


def _name(path: str, text: str) -> str:
    return path or f"base64 picture starting {text[:12]!r}"


def _opened(path: str = "", text: str = "") -> Image.Image:
    name = _name(path, text)
    if path:
        _stamp(path)
    try:
        picture = Image.open(io.BytesIO(_decoded(text, name)) if text else path, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the picture {name!r} is larger than {MAX_PIXELS:,} pixels ({error}); shrink it.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name!r} is not a picture that Pillow can read; is the file corrupt?") from None
    except ImageError:
        raise
    except UNREADABLE as error:
        raise ImageError(f"the picture {name[:200]!r} cannot be read ({error}).") from error
    try:
        _check_pixels(picture.size, f"the picture {name!r}")
    except ImageError:
        picture.close()
        raise
    return picture


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{name} is {size[0]} × {size[1]} pixels; at most {MAX_PIXELS:,} pixels are read, shrink it.")
    if not size[0] * size[1]:
        raise ImageError(f"{name} is {size[0]} × {size[1]} pixels, which is empty; give a picture with pixels.")


def _decoded(text: str, name: str) -> bytes:
    body = text.split(",", 1)[1] if text.startswith("data:") and "," in text else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the {name} is not valid base64 ({error}); is the record cut short?") from None


RED = (255, 0, 0)
"""Colour of the drawn box (paper code)."""

LINE_WIDTH, LINE_ANCHOR = 3, 336
"""The drawn line is 3 pixels wide in a picture whose longer side has 336 (paper code)."""

SHUFFLE_GRID = 8
"""A shuffled picture is cut into 8 × 8 equal blocks: one per patch in a miniature of 64 image tokens. Ours."""


ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}")
"""The beginning of a URL; one letter would be a drive."""
LONGEST_PATH = 4096
"""Longer text is no path on any system in use."""
CHANNELS = (1, 3, 4)
"""Grey, RGB, and RGB with transparency."""
ALLOWED = (
    "a path, a PIL picture, an array (height, width, 3), a tensor (3, height, width), the bytes of a picture file, or "
    "a vh.LazyImage"
)


class Operation(Protocol):
    """Something done to a decoded RGB picture. Implementations are frozen dataclasses: samples stay comparable."""

    def apply(self, picture: Image.Image) -> Image.Image:
        """A new picture of the same size."""
        ...


@dataclass(frozen=True)
class DrawBox:
    """Draw a rectangle into the pixels around `box` (left, top, right, bottom), clipped to the picture.

    The line lies outside the box, so that it hides nothing of the object unless the box touches the picture's edge
    (ours; the paper's code draws inwards, half transparent). `width` 0 takes the paper code's line: 3 pixels where the
    longer side has 336, in proportion elsewhere, at least 1.
    """

    box: tuple[float, float, float, float]
    colour: tuple[int, int, int] = RED
    width: int = 0

    def apply(self, picture: Image.Image) -> Image.Image:
        picture = picture.copy()
        width = self.width or max(1, int(LINE_WIDTH * max(picture.size) / LINE_ANCHOR))
        left, top, right, bottom = (round(edge) for edge in self.box)
        edges = (left - width, top - width, right + width - 1, bottom + width - 1)
        frame = [min(max(edge, 0), length - 1) for edge, length in zip(edges, picture.size * 2, strict=True)]
        ImageDraw.Draw(picture).rectangle(frame, outline=self.colour, width=width)
        return picture


@dataclass(frozen=True)
class Whiten:
    """A white picture of the same size: same number of image tokens, nothing to see (paper code)."""

    def apply(self, picture: Image.Image) -> Image.Image:
        return Image.new("RGB", picture.size, (255, 255, 255))


@dataclass(frozen=True)
class ShuffleBlocks:
    """Permute equal blocks of the picture, seeded: what is in the blocks stays, where it is does not (ours).

    The picture is cut into `grid` × `grid` blocks of equal size (fewer where it has fewer pixels); the strips that
    remain at the right and at the bottom stay as they are.
    """

    seed: int
    grid: int = SHUFFLE_GRID

    def apply(self, picture: Image.Image) -> Image.Image:
        pixels = np.asarray(picture.convert("RGB"))
        rows, columns = min(self.grid, pixels.shape[0]), min(self.grid, pixels.shape[1])
        high, wide = pixels.shape[0] // rows, pixels.shape[1] // columns
        shuffled = pixels.copy()
        blocks = pixels[: rows * high, : columns * wide].reshape(rows, high, columns, wide, 3).swapaxes(1, 2)
        order = np.random.default_rng(self.seed).permutation(rows * columns)
        moved = blocks.reshape(rows * columns, high, wide, 3)[order].reshape(rows, columns, high, wide, 3)
        shuffled[: rows * high, : columns * wide] = moved.swapaxes(1, 2).reshape(rows * high, columns * wide, 3)
        return Image.fromarray(shuffled)


@dataclass(frozen=True)
class LazyImage:
    """A picture that is read only when opened: a path or base64 text, and operations applied on the decoded pixels.

    A LazyImage pickles in a few bytes (or its base64 text), so lists of samples travel to workers without pixels.

    Parameters
    ----------
    path, base64
        Where the picture is; exactly one of them.
    operations
        What is done to the upright picture, in the order given; see `visualheads.tasks.pictures`.
    """

    path: str = ""
    base64: str = field(default="", repr=False)
    operations: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not isinstance(self.base64, str):
            raise ImageError(f"LazyImage: path and base64 are text, got {shown(self.path)} and {shown(self.base64)}.")
        if bool(self.path) == bool(self.base64):
            given = "both" if self.path else "neither"
            raise ImageError(f"LazyImage takes either a path or base64 text, got {given}; give exactly one of them.")

    def with_operation(self, operation: Operation) -> LazyImage:
        """Return the same picture with one more operation at the end."""
        return LazyImage(self.path, self.base64, (*self.operations, operation))

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels of the upright picture, from the header. Raises ImageError like `open`."""
        return read_size(self.path, self.base64)

    def hash(self) -> str:
        """Return a SHA-256 of the file's bytes, and the operations.

        A file's is kept by path, size and time of change. The picture is decoded the first time, so that what cannot be
        read is found before a run starts. Raises ImageError like `open`.
        """
        if self.path:
            content = _hash_of_file(self.path, *_stamp(self.path))
        else:
            read_image(text=self.base64)
            content = hashlib.sha256(_decoded(self.base64, _name("", self.base64))).hexdigest()
        return f"{content} {self.operations}" if self.operations else content

    def open(self) -> Image.Image:
        """Decode to upright RGB and apply the operations.

        Raises
        ------
        ImageError
            For a picture that is missing, corrupt, huge, or whose range of values is unknown.
        """
        picture = read_image(self.path, self.base64)
        for operation in self.operations:
            picture = operation.apply(picture)
        return picture


def as_lazy(image: str | Path | LazyImage) -> LazyImage:
    """Return a path as a LazyImage without operations; a LazyImage as it is."""
    return image if isinstance(image, LazyImage) else LazyImage(path=str(image))


def accepted(image: Any, where: str) -> Image.Image | str | Path | LazyImage:
    """Return what people take for a picture as a PIL picture, a path or a LazyImage.

    Paths are only named: the file is looked at when the picture is opened.

    Parameters
    ----------
    image
        A path; a PIL picture; an array (height, width[, channels]) or tensor (channels, height, width) of uint8,
        uint16, bool, or floats from 0 to 1, channels in the order red, green, blue; the bytes of a picture file, or a
        file opened for reading; a record {"bytes": …, "path": …} as data sets hold them; a LazyImage.
    where
        What error messages call the sample.

    Raises
    ------
    SampleError
        For everything else, with its kind.
    ImageError
        For an address, an empty file, or an array whose shape or range of values is unknown.
    """
    if isinstance(image, (Image.Image, LazyImage)):
        return image
    if isinstance(image, (str, os.PathLike)):
        return _path(image, where)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(image), where)
    if hasattr(image, "read"):
        try:
            return _of_bytes(image.read(), where)
        except (OSError, ValueError) as error:  # one that is closed, or opened as text
            raise ImageError(f"{where}: the file cannot be read ({error}); open it with mode 'rb'.") from None
    if isinstance(image, Mapping):
        inside = image.get("bytes") or image.get("path")
        if isinstance(inside, (str, bytes)) and inside:
            return accepted(inside, where)
    if hasattr(image, "__array__"):
        return Image.fromarray(_pixels(image, f"the picture of {where}"))
    raise SampleError(f"{where} has {_told(image)}; give exactly one picture: {ALLOWED}.")


def _path(image: str | os.PathLike[Any], where: str) -> str | Path | LazyImage:
    try:
        text = os.fspath(image)
    except Exception as error:
        raise SampleError(f"{where} has {_told(image)}, whose path fails ({error}); give {ALLOWED}.") from error
    if not isinstance(text, str) or not text:
        raise SampleError(f"{where} has no picture: the path is {shown(text)}; give {ALLOWED}.")
    if text.startswith("data:"):
        return LazyImage(base64=text)
    if ADDRESS.match(text):
        raise ImageError(
            f"{where}: {shown(text)} is an address, and pictures are read from files only; download it and give the "
            "path of the file."
        )
    if len(text) > LONGEST_PATH:
        raise ImageError(
            f"{where}: the picture is text of {len(text):,} characters, too long for a path; base64 text goes into "
            "vh.LazyImage(base64=…)."
        )
    return image if isinstance(image, (str, Path)) else Path(text)


def _of_bytes(content: Any, where: str) -> LazyImage:
    if not isinstance(content, bytes) or not content:
        raise ImageError(f"{where}: the picture is an empty file or one opened as text; open it with mode 'rb'.")
    return LazyImage(base64=base64.b64encode(content).decode())


def _pixels(image: Any, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The (height, width[, channels]) uint8 array of an array or a tensor."""
    is_tensor = hasattr(image, "detach")
    if is_tensor:
        image = image.detach()
        image = image.float() if image.is_floating_point() else image
    try:
        values = np.asarray(image.cpu() if is_tensor else image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImageError(f"{name} has no values to read ({error}); give a picture with pixels.") from None
    if values.ndim == 3 and values.shape[0] in CHANNELS and (is_tensor or values.shape[-1] not in CHANNELS):
        values = np.moveaxis(values, 0, -1)
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in CHANNELS):
        raise ImageError(
            f"{name} is an array of shape {values.shape}; allowed: (height, width), (height, width, 3) or (…, 4), "
            "tensors with channels first; fix: take one picture of a batch, such as batch[0]."
        )
    pixels = eight_bit(values, name)
    return np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)


def _told(image: Any) -> str:
    if isinstance(image, (list, tuple, set)):
        return f"{len(image)} pictures (several: make one sample of each, or paste them into one)"
    return "no picture" if image is None else f"a {type(image).__name__}"
