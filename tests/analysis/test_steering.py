"""Boxes from attention maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualheads.analysis import steering
from visualheads.errors import ParameterError


def square_cells(side: int, pixels: float = 10.0) -> np.ndarray:
    left, top = np.meshgrid(np.arange(side) * pixels, np.arange(side) * pixels)
    return np.stack([left, top, left + pixels, top + pixels], axis=-1)


def test_a_box_surrounds_the_strongest_part():
    values = np.zeros((4, 4))
    values[1, 1], values[1, 2], values[3, 0] = 1.0, 0.6, 0.9
    cells = square_cells(4)
    assert steering.box_of_map(values, cells) == (10, 10, 30, 20)
    assert steering.box_of_map(values, cells, level=0.7) == (10, 10, 20, 20)
    assert steering.point_of_map(values, cells) == (15, 15)
    assert steering.box_of_map(np.zeros((4, 4)), cells) is None
    assert steering.point_of_map(np.zeros((4, 4)), cells) is None
    values[3, 0] = 0
    assert steering.box_of_map(values, cells, "gaussian") == (0, 0, 30, 30), "smoothing spreads"
    cells[1, 1] = np.nan
    assert steering.point_of_map(values, cells) == (25, 15), "a cell that shows nothing of the picture points nowhere"
    for wrong in ({"rule": "guess"}, {"level": 0.0}, {"level": 1.5}):
        with pytest.raises(ParameterError):
            steering.box_of_map(values, cells, **wrong)


def test_overlap_of_boxes():
    assert steering.iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert steering.iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert steering.iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 1.0), st.sampled_from(steering.RULES))
def test_the_strongest_cell_lies_in_the_box(seed, level, rule):
    values = np.random.default_rng(seed).random((5, 6))
    cells = np.stack([np.moveaxis(np.indices((5, 6))[::-1], 0, -1)] * 2, axis=2).reshape(5, 6, 4).astype(float)
    cells[..., 2:] += 1
    box = steering.box_of_map(values, cells, rule, level)
    assert box is not None and 0 <= box[0] < box[2] <= 6 and 0 <= box[1] < box[3] <= 5
    if rule == "threshold" and level == 1.0:
        assert steering.inside(steering.point_of_map(values, cells), box)
    heads = np.random.default_rng(seed).random((3, 5, 6))
    np.testing.assert_allclose(steering.combined(heads * np.array([1, 10, 100])[:, None, None]),
                               steering.combined(heads))  # fmt: skip
