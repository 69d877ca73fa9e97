"""Samples and pictures: what is accepted, what is drawn, what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.task_files import as_base64, picture
from visualheads.errors import BoxError, ImageError, SampleError
from visualheads.tasks import pictures
from visualheads.tasks.pictures import DrawBox, ShuffleBlocks, Whiten
from visualheads.tasks.records import inside
from visualheads.tasks.sample import LazyImage, Sample, clip_box


def sample(**changes: Any) -> Sample:
    return Sample(**{"id": "1", "image": picture(0), "question": "How many?", "answer": "2", **changes})


def test_format_follows_choices() -> None:
    assert sample().format == "free"
    assert sample(choices=("1", "2"), answer="B").format == "letters"


def test_open_gives_rgb_for_every_kind_of_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(0).convert("P").save(path)
    for image in (
        picture(0).convert("L"),
        path,
        str(path),
        LazyImage(path=str(path)),
        LazyImage(base64=as_base64(picture(0))),
    ):
        opened = sample(image=image).open()
        assert (opened.mode, opened.size) == ("RGB", (96, 64))


def test_transparent_palette_opens_without_warning(tmp_path: Path) -> None:
    picture(0).convert("P").save(tmp_path / "a.png", transparency=b"\x00" * 5)
    assert sample(image=tmp_path / "a.png").open().mode == "RGB"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": None},
        {"image": ""},
        {"image": [picture(0), picture(1)]},
        {"image": 3},
        {"question": " "},
        {"id": ""},
        {"answer": 2},
        {"choices": ("1",), "answer": "A"},
        {"choices": "AB", "answer": "A"},
        {"choices": ("1", " "), "answer": "A"},
        {"choices": ("1", "2"), "answer": "C"},
        {"choices": ("1", "2"), "answer": "2"},
        {"choices": ("1", "2"), "answer": "AB"},
    ],
)
def test_impossible_samples_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match="sample"):
        sample(**changes)


def test_several_pictures_are_counted_in_the_message() -> None:
    with pytest.raises(SampleError, match="2 pictures"):
        sample(image=[picture(0), picture(1)])


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (5, 5, 5, 9), (5, 9, 9, 5), (0, 0, float("nan"), 4), (0, 0, float("inf"), 4), "abcd", 7]
)
def test_empty_or_broken_boxes_are_refused(box: Any) -> None:
    with pytest.raises(BoxError, match="box"):
        sample(box=box)
    with pytest.raises(BoxError, match="boxes"):
        sample(boxes={"dog": [box]})


def test_box_outside_the_picture_is_refused_on_open() -> None:
    with pytest.raises(BoxError, match="96 × 64"):
        sample(box=(96, 0, 120, 20)).open()
    assert sample(box=(90, 0, 120, 20)).open().size == (96, 64)


def test_samples_pickle_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(0).save(path)
    one = sample(image=LazyImage(path=str(path), operations=(DrawBox((1, 1, 9, 9)),)))
    stored = pickle.dumps(one)
    assert len(stored) < 1000
    assert pickle.loads(stored) == one
    assert len({one, pickle.loads(stored)}) == 1


def test_lazy_image_wants_exactly_one_source() -> None:
    with pytest.raises(ImageError, match="exactly one"):
        LazyImage()
    with pytest.raises(ImageError, match="exactly one"):
        LazyImage(path="a", base64="b")


def test_missing_corrupt_and_truncated_pictures(tmp_path: Path) -> None:
    whole, cut, text = tmp_path / "whole.png", tmp_path / "cut.png", tmp_path / "text.png"
    picture(0).save(whole)
    cut.write_bytes(whole.read_bytes()[:4000])
    text.write_text("not a picture")
    with pytest.raises(ImageError, match="does not exist"):
        sample(image=tmp_path / "none.png").open()
    with pytest.raises(ImageError, match="corrupt or truncated"):
        sample(image=cut).open()
    with pytest.raises(ImageError, match=r"text\.png"):
        sample(image=text).open()
    with pytest.raises(ImageError, match="cannot be read"):
        sample(image=tmp_path).open()
    with pytest.raises(ImageError, match="base64"):
        LazyImage(base64="@@@").open()
    with pytest.raises(ImageError, match="not a picture"):
        LazyImage(base64="AAAA").open()


@pytest.mark.parametrize("size", [(7100, 7100), (11000, 9000), (16000, 16000)])
def test_decompression_bombs_are_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    """Sizes above our limit, above Pillow's warning and above Pillow's error."""
    path = tmp_path / "bomb.png"
    Image.new("1", size).save(path)
    with pytest.raises(ImageError, match="pixels"):
        LazyImage(path=str(path)).open()
    with pytest.raises(ImageError, match="pixels"):
        LazyImage(path=str(path)).size()


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "..\\a.png", "", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="data folder"):
        inside(tmp_path, name)
    assert inside(tmp_path, "vg/a.png") == tmp_path / "vg" / "a.png"


def test_drawn_box_by_hand() -> None:
    drawn = np.asarray(DrawBox((3, 2, 6, 5)).apply(Image.new("RGB", (10, 8))))
    red = (drawn == pictures.RED).all(axis=2)
    expected = np.zeros((8, 10), dtype=bool)
    expected[1:6, 2:7] = True  # one pixel around columns 3…5 and rows 2…4
    expected[2:5, 3:6] = False
    np.testing.assert_array_equal(red, expected)


def test_line_width_follows_the_picture() -> None:
    for side, width in ((96, 1), (336, 3), (672, 6)):
        drawn = np.asarray(DrawBox((40, 40, 60, 60)).apply(Image.new("RGB", (side, side))))
        assert (drawn[50, :40] == pictures.RED).all(axis=1).sum() == width


@given(
    st.tuples(st.floats(-20, 90), st.floats(-20, 60), st.floats(0.2, 80), st.floats(0.2, 80)),
)
def test_drawing_keeps_the_box_and_marks_the_picture(sides: tuple[float, float, float, float]) -> None:
    left, top, wide, high = sides
    box = (left, top, left + wide, top + high)
    before = Image.new("RGB", (96, 64))
    if box[2] <= 0 or box[3] <= 0 or left >= 96 or top >= 64:
        with pytest.raises(BoxError):
            clip_box(box, before.size, "here")
        return
    clipped = clip_box(box, before.size, "here")
    assert 0 <= clipped[0] < clipped[2] <= 96
    assert 0 <= clipped[1] < clipped[3] <= 64
    red = (np.asarray(DrawBox(clipped).apply(before)) == pictures.RED).all(axis=2)
    assert red.any()
    # nothing inside the box is touched, unless the box reaches the picture's edge
    inner = [round(clipped[0]) or 1, round(clipped[1]) or 1, min(round(clipped[2]), 95), min(round(clipped[3]), 63)]
    assert not red[inner[1] : inner[3], inner[0] : inner[2]].any()


def test_white_picture_keeps_the_size() -> None:
    white = np.asarray(Whiten().apply(picture(0)))
    assert white.shape == (64, 96, 3)
    assert (white == 255).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_shuffling_moves_pixels_but_keeps_them(seed: int, wide: int, high: int) -> None:
    original = picture(1, (wide, high))
    shuffled = ShuffleBlocks(seed).apply(original)
    assert shuffled.size == original.size
    assert ShuffleBlocks(seed).apply(original).tobytes() == shuffled.tobytes()
    before, after = (np.asarray(image).reshape(-1, 3) for image in (original, shuffled))
    np.testing.assert_array_equal(before[np.lexsort(before.T)], after[np.lexsort(after.T)])


def test_shuffled_blocks_are_whole_patches() -> None:
    original = picture(2, (96, 96))
    shuffled = ShuffleBlocks(3).apply(original)

    def blocks(image: Image.Image) -> list[bytes]:
        pixels = np.asarray(image)
        return [pixels[y : y + 12, x : x + 12].tobytes() for y in range(0, 96, 12) for x in range(0, 96, 12)]

    assert sorted(blocks(original)) == sorted(blocks(shuffled))
    assert blocks(original) != blocks(shuffled)
