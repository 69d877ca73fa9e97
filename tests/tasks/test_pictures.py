"""Pictures as users have them: turned by EXIF, deeper than 8 bits, in Python objects of every kind; and their hash."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.task_files import as_base64, picture
from visualheads.errors import BoxError, ImageError, SampleError
from visualheads.tasks import LazyImage, Sample, picture_hash
from visualheads.tasks.pictures import TURNS

PIXELS = np.asarray(picture(0))
"""(64, 96, 3)"""
TURN_BACK = {5: 5, 6: 8, 7: 7, 8: 6}


def sample(image: Any, **changes: Any) -> Sample:
    return Sample("1", image, "How many?", **changes)


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The picture as a camera held otherwise stores it, with the EXIF tag that sets it upright."""
    stored = picture(0)
    if orientation in TURNS:
        stored = stored.transpose(TURNS[TURN_BACK.get(orientation, orientation)])
    exif = Image.Exif()
    exif[274] = orientation
    return stored, exif


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    stored, exif = turned(orientation)
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as opened:
        for image in (path, opened, path.read_bytes()):
            one = sample(image, box=(90, 0, 96, 10))
            assert one.size() == (96, 64)
            np.testing.assert_array_equal(np.asarray(one.open()), PIXELS)


def test_boxes_are_in_the_upright_frame(tmp_path: Path) -> None:
    stored, exif = turned(6)
    stored.save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.size == (64, 96)
    inside, outside = sample(tmp_path / "a.jpg", box=(90, 0, 96, 10)), sample(tmp_path / "a.jpg", box=(0, 90, 10, 96))
    assert inside.size() == inside.open().size == (96, 64)
    for look in (outside.size, outside.open):
        with pytest.raises(BoxError, match="96 × 64"):
            look()
    with pytest.raises(BoxError, match="boxes of 'dog'"):
        sample(tmp_path / "a.jpg", boxes={"dog": [(0, 0, 9, 9), (0, 90, 10, 96)]}).size()


def test_deep_pictures_are_scaled(tmp_path: Path) -> None:
    grey = np.asarray(picture(0).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "b.tif")
    for name in ("a.png", "a.tif", "b.tif"):
        opened = np.asarray(sample(tmp_path / name).open())
        np.testing.assert_array_equal(opened, np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "c.png")
    with pytest.warns(UserWarning, match="nearly black"):  # 12 bits, as X-ray pictures have
        sample(tmp_path / "c.png").open()


def test_no_picture_starts_another_program(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="not a picture"):
        sample(tmp_path / "a.jpg").open()


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), 200.0, np.float32),
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), -0.5, np.float32),
        np.full((4, 4), 60000, np.int32),
        np.full((4, 4), 200, np.int32),
    ],
    ids=["float255", "nan", "negative", "int32", "int32-8bit"],
)
def test_pictures_of_unknown_range_are_refused(tmp_path: Path, values: Any) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"range is unknown; allowed: uint8"):
        sample(tmp_path / "a.tif").open()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_of_8_bits_are_converted(mode: str) -> None:
    base = picture(0).convert("RGB" if mode == "PA" else mode if mode != "LAB" else "RGB")
    given = Image.new("LAB", (96, 64)) if mode == "LAB" else base.convert(mode)
    assert sample(given).open().mode == "RGB"


def file_of(content: bytes) -> io.BytesIO:
    return io.BytesIO(content)


def png() -> bytes:
    stream = io.BytesIO()
    picture(0).save(stream, "PNG")
    return stream.getvalue()


ACCEPTED: dict[str, Callable[[], Any]] = {
    "uint8 array": lambda: PIXELS,
    "read-only, strided array": lambda: np.asarray(picture(0))[:, :, ::-1][:, :, ::-1],
    "with transparency": lambda: np.dstack([PIXELS, np.full((64, 96), 7, np.uint8)]),
    "channels first": lambda: np.moveaxis(PIXELS, -1, 0),
    "float64 array": lambda: PIXELS / 255,
    "float16 array": lambda: (PIXELS / 255).astype(np.float16),
    "uint16 array": lambda: PIXELS.astype(np.uint16) * 257,
    "uint8 tensor": lambda: torch.tensor(PIXELS).permute(2, 0, 1),
    "float tensor": lambda: torch.tensor(PIXELS).permute(2, 0, 1) / 255,
    "tensor with gradient": lambda: (torch.tensor(PIXELS).permute(2, 0, 1) / 255).requires_grad_(),
    "tensor, channels last": lambda: torch.tensor(PIXELS),
    "bytes": png,
    "bytearray": lambda: bytearray(png()),
    "memoryview": lambda: memoryview(png()),
    "open file": lambda: file_of(png()),
    "record with bytes": lambda: {"bytes": png(), "path": None},
    "data URI": lambda: f"data:image/png;base64,{as_base64(picture(0))}",
    "LazyImage": lambda: LazyImage(base64=as_base64(picture(0))),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_people_take_for_a_picture(kind: str) -> None:
    opened = np.asarray(sample(ACCEPTED[kind]()).open())
    assert opened.shape == PIXELS.shape
    assert np.abs(opened.astype(int) - PIXELS).max() <= (1 if "float16" in kind else 0)


def test_grey_masks_and_paths(tmp_path: Path) -> None:
    assert np.asarray(sample(np.array([[True, False]])).open()).tolist() == [[[255] * 3, [0] * 3]]
    assert sample(np.zeros((4, 5, 1), np.uint8)).open().size == (5, 4)
    picture(0).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), {"path": str(tmp_path / "a.png"), "bytes": None}):
        assert sample(image).open().size == (96, 64)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, SampleError, "no picture"),
    "empty text": ("", SampleError, "no picture"),
    "number": (3, SampleError, "a int"),
    "list": ([picture(0), picture(1)], SampleError, "2 pictures"),
    "tuple": ((), SampleError, "0 pictures"),
    "empty record": ({"bytes": None, "path": None}, SampleError, "a dict"),
    "function": (picture, SampleError, "a function"),
    "address": ("https://example.org/cat.jpg", ImageError, "download it"),
    "address as a path": (Path("http://example.org/cat.jpg"), ImageError, "download it"),
    "bucket": ("s3://bucket/cat.jpg", ImageError, "download it"),
    "file address": ("file:///tmp/cat.jpg", ImageError, "download it"),
    "base64 text": ("A" * 5000, ImageError, "too long for a path"),
    "empty bytes": (b"", ImageError, "empty"),
    "text stream": (io.StringIO("abc"), ImageError, "mode 'rb'"),
    "picture opened as text": (io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff")), ImageError, "mode 'rb'"),
    "normalised tensor": (torch.full((3, 4, 4), -1.5), ImageError, "undo a normalisation"),
    "floats to 255": (PIXELS.astype(np.float32), ImageError, "range is unknown"),
    "int64": (PIXELS.astype(np.int64), ImageError, "range is unknown"),
    "not finite": (np.full((4, 4, 3), np.inf), ImageError, "range is unknown"),
    "complex": (np.ones((4, 4), complex), ImageError, "complex128"),
    "objects": (np.array([[object()]]), ImageError, "object"),
    "batch": (PIXELS[None], ImageError, "batch"),
    "vector": (np.arange(5, dtype=np.uint8), ImageError, "shape"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), ImageError, "shape"),
    "five channels": (np.zeros((7, 7, 5), np.uint8), ImageError, "shape"),
    "single value": (np.float32(0.5), ImageError, "shape"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_by_name(kind: str) -> None:
    image, error, part = REFUSED[kind]
    with pytest.raises(error, match=part) as caught:
        sample(image)
    assert len(str(caught.value)) < 600


def test_a_box_between_0_and_1_warns() -> None:
    with pytest.warns(UserWarning, match="pixels of the upright picture"):
        sample(picture(0), box=(0.1, 0.2, 0.5, 0.9))
    with pytest.warns(UserWarning, match="pixels of the upright picture"):
        sample(picture(0), boxes={"dog": [(0.1, 0.2, 0.5, 0.9)]})
    sample(picture(0), box=(0, 0, 1, 2))


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.png", tmp_path / "elsewhere" / "b.png"
    copy.parent.mkdir()
    picture(0).save(path)
    copy.write_bytes(path.read_bytes())
    before = picture_hash(sample(path))
    assert len(before) == 64
    assert picture_hash(sample(str(path))) == picture_hash(sample(copy)) == before
    picture(1).save(path)
    assert picture_hash(sample(path)) != before
    path.write_bytes(copy.read_bytes())
    assert picture_hash(sample(path)) == before


def test_the_hash_follows_pixels_in_memory_and_operations(tmp_path: Path) -> None:
    from visualheads.tasks.pictures import Whiten

    image = picture(0)
    before = picture_hash(sample(image))
    image.putpixel((0, 0), (1, 2, 3))
    assert picture_hash(sample(image)) != before
    image.save(tmp_path / "a.png")
    lazy = LazyImage(str(tmp_path / "a.png"))
    assert picture_hash(sample(lazy)) != picture_hash(sample(lazy.with_operation(Whiten())))


def test_the_hash_refuses_what_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png()[:4000])
    one = sample(tmp_path / "a.png")
    assert one.size() == (96, 64)
    with pytest.raises(ImageError, match="corrupt or truncated"):
        picture_hash(one)
    with pytest.raises(ImageError, match="does not exist"):
        picture_hash(sample(tmp_path / "gone.png"))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_partial_picture_is_never_shown(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    picture(0).save(path)
    whole, content = sample(path).open().tobytes(), path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            assert sample(path).open().tobytes() == whole
        except ImageError:
            continue


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"answers": "2"}, "answers"),
        ({"answers": ("2", 3)}, "answers"),
        ({"answers": ("2",)}, "answer, which is empty"),
        ({"answer_prefix": 3}, "answer_prefix"),
        ({"boxes": [(1, 2, 3, 4)]}, "boxes must be"),
        ({"boxes": {"dog": "abcd"}}, "with a list for each name"),
        ({"boxes": {3: [(1, 2, 3, 4)]}}, "boxes must be"),
        ({"choices": ("a", "b"), "answer": "A", "answers": ("c",)}, "letters"),
        ({"choices": 5}, "choices"),
    ],
)
def test_fields_of_the_wrong_type_are_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(SampleError, match=part):
        sample(picture(0), **changes)


def test_a_path_whose_own_code_fails_is_named() -> None:
    class Broken:
        def __fspath__(self) -> str:
            raise RuntimeError("no disk")

    with pytest.raises(SampleError, match=r"a Broken.*no disk"):
        Sample("1", Broken(), "What is there?").open()  # pyright: ignore[reportArgumentType]
