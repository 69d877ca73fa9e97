"""Reading pictures safely: upright, RGB, 8 bits a channel, and refused by name where that cannot be."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import stat
import struct
import warnings
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from visualheads.errors import ImageError

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


def file_hash(path: str) -> str:
    """Return the SHA-256 of a picture's file, kept by path, size and time of change.

    The picture is decoded the first time, so that what cannot be read is found before a run starts. Raises ImageError
    like `read_image`.
    """
    return _hash_of_file(path, *_stamp(path))


def text_hash(text: str) -> str:
    """Return the SHA-256 of a picture given as base64 text. Raises ImageError like `read_image`."""
    read_image(text=text)
    return hashlib.sha256(_decoded(text, _name("", text))).hexdigest()


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
