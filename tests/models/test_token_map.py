"""Tokens to pixels and back, for every kind of layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches

from visualheads.errors import BoxError, ImageError, ParameterError
from visualheads.models.token_layouts import (
    anyres,
    best_resolution,
    dynamic_size,
    merged_patches,
    single_grid,
    tile_arrangement,
    tiled,
)
from visualheads.models.token_map import (
    Placement,
    TokenMap,
    centre_cropped,
    letterboxed,
    padded_square,
    prepared,
    stretched,
)

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

sizes = st.tuples(st.integers(30, 1200), st.integers(30, 1200))


def maps_of(size: tuple[int, int]) -> dict[str, TokenMap]:
    """One map of every layout for a picture of this size."""
    rows, columns = tile_arrangement(size, (448, 448), 1, 6)
    tile_rows, tile_columns = (4, 4 * size[1] // size[0] or 1)
    return {
        "stretched": single_grid(stretched(size, (336, 336)), (24, 24)),
        "cropped": single_grid(centre_cropped(size, 336, (336, 336)), (24, 24)),
        "padded": single_grid(padded_square(size, 336), (24, 24)),
        "anyres": anyres(size, PINPOINTS, 336, 14),
        "onevision": anyres(size, PINPOINTS, 336, 14, max_tiles=2),
        "merged": merged_patches(size, 14, 2, 56 * 56, 14 * 14 * 4 * 1280),
        "idefics": tiled(size, tile_rows, tile_columns, 8),
        "internvl": tiled(size, rows, columns, 16),
    }


@pytest.mark.parametrize(
    ("size", "tokens"), [((336, 336), 1176), ((672, 672), 2928), ((640, 480), 2340), ((300, 1000), 576 + 72 * 23)]
)
def test_anyres_token_counts(size: tuple[int, int], tokens: int):
    assert len(anyres(size, PINPOINTS, 336, 14)) == tokens


def test_anyres_layout_by_hand():
    # 480 high, 640 wide: canvas 672 × 672, picture 504 high, 84 padding above, which is 6 patches.
    tokens = anyres((640, 480), PINPOINTS, 336, 14)
    assert tokens.grid_shape == (24, 24)
    assert tokens.tile_shape == (36, 48)
    assert (tokens.kind == "newline").sum() == 36
    assert tokens.kind[576 + 48] == "newline"
    assert tokens.grid_row[576 + 48] == 0
    assert tokens.grid_column[576 + 48] == -1
    np.testing.assert_allclose(tokens.box[0], [0, 0, 640 / 24, 480 / 24])
    np.testing.assert_allclose(tokens.box[576], [0, 0, 640 / 48, 480 / 36])
    assert set(tokens.tile[:576]) == {0}
    assert set(tokens.tile[576:]) == {1, 2, 3, 4}
    first_of_right_tile = 576 + 24
    assert tokens.tile[first_of_right_tile] == 2
    below = 576 + 18 * 49  # row 18 of the unpadded grid is row 24 of the canvas: the lower tiles
    assert tokens.tile[below - 49] == 1
    assert tokens.tile[below] == 3


def test_centre_crop_by_hand():
    # 400 wide, 200 high, edge 100, crop 100 × 100: resized to 200 × 100, the middle half of the width is seen.
    tokens = single_grid(centre_cropped((400, 200), 100, (100, 100)), (2, 2))
    np.testing.assert_allclose(tokens.box[0], [100, 0, 200, 100])
    np.testing.assert_allclose(tokens.box[3], [200, 100, 300, 200])
    assert not tokens.in_box((0, 0, 99, 200)).any()  # cropped away


def test_padded_square_by_hand():
    # 400 wide, 100 high on a 400 square: rows 0 and 3 of a 4 × 4 grid are padding, rows 1 and 2 half picture.
    tokens = single_grid(padded_square((400, 100), 40), (4, 4))
    boxes = tokens.box.reshape(4, 4, 4)
    assert np.isnan(boxes[[0, 3]]).all()
    np.testing.assert_allclose(boxes[1, 0], [0, 0, 100, 50])
    np.testing.assert_allclose(boxes[2, 3], [300, 50, 400, 100])
    assert tokens.is_patch.all()


def test_merged_patches_by_hand():
    assert dynamic_size((640, 480), 28, 56 * 56, 28 * 28 * 1280) == (644, 476)
    tokens = merged_patches((640, 480), 14, 2, 56 * 56, 28 * 28 * 1280)
    assert tokens.grid_shape == (17, 23)
    assert dynamic_size((20, 20), 28, 56 * 56, 28 * 28 * 1280) == (56, 56)
    width, height = dynamic_size((4000, 3000), 28, 56 * 56, 28 * 28 * 1280)
    assert width * height <= 28 * 28 * 1280
    with pytest.raises(ImageError, match="aspect ratio"):
        dynamic_size((10_000, 10), 28, 56 * 56, 28 * 28 * 1280)


def test_tiles_by_hand():
    tokens = tiled((800, 400), 1, 2, 4)
    assert len(tokens) == 3 * 16
    assert tokens.tile_shape == (4, 8)
    assert tokens.tile.tolist() == [1] * 16 + [2] * 16 + [0] * 16
    np.testing.assert_allclose(tokens.box[0], [0, 0, 100, 100])
    np.testing.assert_allclose(tokens.box[16], [400, 0, 500, 100])
    np.testing.assert_allclose(tokens.box[32], [0, 0, 200, 100])
    assert len(tiled((800, 400), 1, 1, 4)) == 16


def test_tile_arrangement_by_hand():
    assert tile_arrangement((800, 400), (448, 448), 1, 6) == (1, 2)
    assert tile_arrangement((400, 1200), (448, 448), 1, 6) == (3, 1)
    # A large square takes 2 × 2 rather than one tile; a small one does not.
    assert tile_arrangement((2000, 2000), (448, 448), 1, 6) == (2, 2)
    assert tile_arrangement((300, 300), (448, 448), 1, 6) == (1, 1)


def test_best_resolution_wastes_least():
    assert best_resolution((640, 480), PINPOINTS) == (672, 672)
    assert best_resolution((300, 1000), PINPOINTS) == (1008, 336)
    assert best_resolution((1000, 300), PINPOINTS) == (336, 1008)


@examples
@given(sizes)
def test_boxes_lie_in_the_picture_and_every_layout_has_its_whole_grid(size: tuple[int, int]):
    for name, tokens in maps_of(size).items():
        boxes = tokens.box[np.isfinite(tokens.box).all(axis=1)]
        assert (boxes[:, :2] >= 0).all(), name
        assert (boxes[:, 2:] <= np.array(size)).all(), name
        assert (boxes[:, :2] < boxes[:, 2:]).all(), name
        assert np.isnan(tokens.box[~tokens.is_patch]).all(), name
        whole = tokens.is_patch & (tokens.tile == 0)
        assert whole.sum() == np.prod(tokens.grid_shape), name
        assert (tokens.is_patch & (tokens.tile > 0)).sum() == np.prod(tokens.tile_shape), name


@examples
@given(sizes)
def test_patches_tile_what_the_model_sees_without_gap_or_overlap(size: tuple[int, int]):
    width, height = size
    for name, tokens in maps_of(size).items():
        if name == "cropped":
            continue
        for tile in ("whole", "tiles"):
            chosen = tokens.is_patch & ((tokens.tile == 0) == (tile == "whole"))
            boxes = tokens.box[chosen & np.isfinite(tokens.box).all(axis=1)]
            if not len(boxes):
                continue
            area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
            # Unpadding cuts whole patches: AnyRes drops up to one row or column of a long picture's rim.
            lost = 1 / min(tokens.tile_shape) if tile == "tiles" else 0
            assert width * height * (1 - lost - 1e-9) <= area <= width * height * (1 + 1e-9), (name, tile)


@examples
@given(sizes, st.data())
def test_values_survive_the_way_to_the_map_and_back(size: tuple[int, int], data: st.DataObject):
    for tokens in maps_of(size).values():
        values = np.arange(2 * len(tokens), dtype=np.float32).reshape(2, -1)
        for grid in ("whole", "tiles") if tokens.tile_shape != (0, 0) else ("whole",):
            maps = tokens.to_map(values, grid)
            assert maps.dtype == np.float32
            chosen = np.flatnonzero(tokens.is_patch & ((tokens.tile == 0) == (grid == "whole")))
            back = maps[:, tokens.grid_row[chosen], tokens.grid_column[chosen]]
            np.testing.assert_array_equal(back, values[:, chosen])
            assert np.isfinite(maps).all()


@examples
@given(sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_pixel_lies_in_the_patches_that_its_box_names(size: tuple[int, int], u: float, v: float):
    x, y = u * (size[0] - 2), v * (size[1] - 2)
    for name, tokens in maps_of(size).items():
        inside = tokens.in_box((x, y, x + 1, y + 1))
        if name != "cropped":
            assert inside[tokens.tile == 0].any(), name
        for box in tokens.box[inside]:
            assert box[0] < x + 1
            assert box[2] > x
            assert box[1] < y + 1
            assert box[3] > y


@examples
@given(sizes)
def test_the_box_of_a_patch_names_that_patch_alone_on_its_grid(size: tuple[int, int]):
    for name, tokens in maps_of(size).items():
        patches = np.flatnonzero(np.isfinite(tokens.box).all(axis=1))
        for index in patches[:: max(1, len(patches) // 5)]:
            named = tokens.in_box(tuple(tokens.box[index]))
            same_grid = (tokens.tile == 0) == (tokens.tile[index] == 0)
            assert np.flatnonzero(named & same_grid).tolist() == [index], name
            assert tokens.in_box(tuple(tokens.box[index]), "centre")[index], name


@examples
@given(sizes, st.floats(0, 0.8), st.floats(0, 0.8))
def test_placements_undo_themselves(size: tuple[int, int], u: float, v: float):
    box = (u * size[0], v * size[1], (u + 0.2) * size[0], (v + 0.2) * size[1])
    for placement in (
        stretched(size, (336, 448)),
        letterboxed(size, (672, 336)),
        padded_square(size, 336),
        centre_cropped(size, 336, (336, 336)),
    ):
        on_canvas = np.array(box) * np.tile(placement.scale, 2) + np.tile(placement.offset, 2)
        np.testing.assert_allclose(placement.to_original([on_canvas])[0], box, atol=1e-6)


def test_prepared_reads_a_processors_settings():
    assert prepared((400, 200), {"shortest_edge": 336}, {"height": 336, "width": 336}) == centre_cropped(
        (400, 200), 336, (336, 336)
    )
    assert prepared((400, 200), {"height": 96, "width": 96}) == stretched((400, 200), (96, 96))
    assert prepared((400, 200), {"shortest_edge": 336}, pad_to_square=True) == padded_square((400, 200), 336)
    with pytest.raises(ParameterError, match="size"):
        prepared((400, 200), {"longest_edge": 336})
    with pytest.raises(ParameterError, match="crop_size"):
        prepared((400, 200), {"height": 96, "width": 96}, {"height": 80, "width": 80})


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 10, 20),
        (20, 10, 10, 20),
        (400, 0, 500, 10),
        (-20, 0, -1, 10),
        (0, 0, float("nan"), 5),
        (0, 0, 5),
        "box",
        None,
    ],
)
def test_bad_boxes(box: object):
    tokens = single_grid(stretched((400, 200), (96, 96)), (8, 8))
    with pytest.raises(BoxError, match="box"):
        tokens.in_box(box)  # pyright: ignore[reportArgumentType]


def test_a_box_may_stick_out():
    tokens = single_grid(stretched((80, 80), (96, 96)), (8, 8))
    assert tokens.in_box((-5, -5, 10, 10)).sum() == 1


def test_touching_is_not_overlapping():
    tokens = single_grid(stretched((80, 80), (96, 96)), (8, 8))
    assert tokens.in_box((10, 10, 20, 20)).sum() == 1
    assert tokens.in_box((9, 10, 21, 20)).sum() == 3
    assert tokens.in_box((9, 10, 21, 20), "centre").sum() == 1
    assert tokens.in_box((11, 11, 12, 12), "centre").sum() == 0


def test_bad_arguments_are_named():
    tokens = single_grid(stretched((80, 80), (96, 96)), (8, 8))
    with pytest.raises(ParameterError, match="rule"):
        tokens.in_box((0, 0, 5, 5), "nearest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ParameterError, match="64 image tokens"):
        tokens.to_map(np.zeros(63))
    with pytest.raises(ParameterError, match="not cut into tiles"):
        tokens.to_map(np.zeros(64), "tiles")
    with pytest.raises(ParameterError, match="grid"):
        tokens.to_map(np.zeros(64), "all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ParameterError, match=r"TokenMap\.tile"):
        TokenMap(tokens.kind, tokens.tile[:5], tokens.grid_row, tokens.grid_column, tokens.box, (80, 80), (8, 8))
    with pytest.raises(ImageError, match="image size"):
        Placement((0, 5), (5, 5), (1, 1), (0, 0))
    with pytest.raises(ParameterError, match="multiples of the tile"):
        anyres((80, 80), [[100, 100]], 96, 12)
    with pytest.raises(ParameterError, match="pinpoints"):
        best_resolution((80, 80), [])


def test_maps_are_read_only_and_bools_become_shares():
    tokens = single_grid(stretched((80, 80), (96, 96)), (8, 8))
    with pytest.raises(ValueError, match="read-only"):
        tokens.box[0, 0] = 5.0
    assert tokens.to_map(tokens.in_box((0, 0, 10, 10))).sum() == 1.0


@examples
@given(sizes)
def test_anyres_equals_the_models_own_packing(size: tuple[int, int]):
    """Features that carry their own tile, row and column, packed by transformers' code, lie where the map says."""
    width, height = size
    side, tile_size, patch_size = 6, 84, 14
    pinpoints = [[84, 168], [168, 84], [168, 168], [252, 84], [84, 252]]
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=tile_size, patch_size=patch_size), image_grid_pinpoints=pinpoints
    )
    n_tiles = image_size_to_num_patches((height, width), pinpoints, tile_size)
    tile, row, column = torch.meshgrid(torch.arange(n_tiles), torch.arange(side), torch.arange(side), indexing="ij")
    features = torch.stack([tile, row, column], dim=-1).reshape(n_tiles, side * side, 3).float()
    model = cast(LlavaNextModel, SimpleNamespace(config=config))
    [packed], _ = LlavaNextModel.pack_image_features(
        model, [features], [(height, width)], "default", torch.full((3,), -1.0)
    )
    tokens = anyres(size, pinpoints, tile_size, patch_size)
    assert len(tokens) == len(packed)
    np.testing.assert_array_equal(tokens.kind == "newline", packed[:, 0].numpy() == -1)
    np.testing.assert_array_equal(tokens.tile[tokens.is_patch], packed[tokens.is_patch][:, 0].numpy())
    # The grid columns of one tile follow the features' columns, moved by what unpadding cut.
    for index in range(1, n_tiles):
        of_tile = tokens.is_patch & (tokens.tile == index)
        for grid, own in ((tokens.grid_row, 1), (tokens.grid_column, 2)):
            moved = grid[of_tile] - packed[of_tile][:, own].numpy()
            assert len(np.unique(moved)) <= 1
