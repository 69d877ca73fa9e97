"""Every family's token map against its own code: processor, tower, merging and packing, with traceable pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.llava_next.modeling_llava_next import select_best_resolution
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from helpers import families
from helpers.networks import Tiny, llava, llava_next, vip_llava
from helpers.traceable import positions_and_box, straighten, traced
from visualheads.errors import ImageError, ParameterError, UnsupportedModelError
from visualheads.models.adapters import idefics3_tiles
from visualheads.models.loading import wrap
from visualheads.models.token_layouts import best_resolution, dynamic_size, tile_arrangement

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

FINE = Tiny(layers=1, patch=14, grid=4)
UNEVEN = Tiny(layers=1, patch=14, grid=4, spare=9)
"""65 pixels a side: four patches of 14 leave 9 pixels that no patch sees."""


def padded(build: Callable[..., Any]) -> Any:
    """With the picture preparation of the original LLaVA-1.5."""
    module, processor = build(FINE)
    pictures = processor.image_processor
    processor.image_processor = hf.LlavaImageProcessorPil(
        size=pictures.size, crop_size=pictures.crop_size, do_pad=True, image_mean=pictures.image_mean
    )
    return module, processor


BUILT: dict[str, Callable[[], Any]] = {
    "llava, cropped": lambda: llava(FINE),
    "llava, stretched": lambda: llava(FINE, crop=False),
    "llava, padded": lambda: padded(llava),
    "llava, uneven tower": lambda: llava(UNEVEN),
    "vip": lambda: vip_llava(FINE),
    "vip, padded": lambda: padded(vip_llava),
    "next": lambda: llava_next(FINE),
    "next, uneven tower": lambda: llava_next(UNEVEN),
    **{name: (lambda build=build: build("sdpa")) for name, build in families.FAMILIES.items()},
    "onevision, more tiles": lambda: families.onevision("sdpa", most=16),
    "internvl, whole": lambda: whole_only(families.internvl),
    "idefics3, whole": lambda: whole_only(lambda how: families.idefics("idefics3", how)),
}
SIZES = [(160, 160), (320, 240), (240, 320), (400, 130), (130, 400), (513, 117), (97, 389), (301, 299)]


def whole_only(build: Callable[[str], Any]) -> Any:
    """Without tiles."""
    module, processor = build("sdpa")
    processor.image_processor.max_patches = 1
    processor.image_processor.do_image_splitting = False
    return module, processor


@cache
def straight(name: str) -> Any:
    """A wrapped model with a straightened picture path."""
    module, processor = BUILT[name]()
    return wrap(straighten(module), processor, validate=False)


@pytest.mark.parametrize("name", BUILT)
def test_tokens_show_the_pixels_that_their_boxes_name(name: str):
    model = straight(name)
    for width, height in SIZES:
        where = f"{name}, {width} × {height}"
        asked = (0.22 * width, 0.35 * height, 0.81 * width, 0.77 * height)
        found = traced(model, positions_and_box((width, height), asked))
        tokens = model.token_map((width, height))
        assert len(found.colour) == len(tokens), where
        assert (found.newline == (tokens.kind == "newline")).all(), where
        # a box where the token shows the picture, none where it shows padding or is no patch
        boxed = np.isfinite(tokens.box).all(axis=1)
        assert boxed[found.coverage > 0.15].all(), where
        assert (found.coverage[boxed] > 0).all(), where
        sure = boxed & (found.coverage > 0.15)
        box = tokens.box[sure]
        extent = box[:, 2:] - box[:, :2]
        centre = (box[:, :2] + box[:, 2:]) / 2
        shown = found.colour[sure, :2] * (width, height)
        # resizing blurs the rim of a picture and the colours have 255 levels
        assert (np.abs(centre - shown) < 0.08 * extent + 0.006 * np.array([width, height])).all(), where
        if "onevision" in name and len(tokens) < len(interpolated(model, (width, height))):
            continue  # a shrunk grid samples its patches, it does not average them
        left, top = np.maximum(box[:, :2], asked[:2]).T
        right, bottom = np.minimum(box[:, 2:], asked[2:]).T
        share = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None) / extent.prod(1)
        assert np.abs(share - found.colour[sure, 2]).max() < 0.16, where
        assert np.abs(share - found.colour[sure, 2]).mean() < 0.03, where
        inside = tokens.in_box(asked)[sure]
        assert inside[found.colour[sure, 2] > 0.16].all(), where
        assert (found.colour[sure, 2][~inside] < 0.16).all(), where


def interpolated(model: Any, size: tuple[int, int]) -> Any:
    """The token map as it would be were the tile grid not shrunk."""
    from visualheads.models.token_layouts import anyres

    tower = model.config.vision_config
    return anyres(size, model.config.image_grid_pinpoints, tower.image_size, tower.patch_size)


@pytest.mark.parametrize("name", BUILT)
def test_tiles_are_numbered_row_by_row_and_grids_are_joined_from_them(name: str):
    model = straight(name)
    for size in SIZES[1:4]:
        tokens = model.token_map(size)
        joined = tokens.is_patch & (tokens.tile > 0) & np.isfinite(tokens.box).all(axis=1)
        for chosen in (joined, tokens.is_patch & (tokens.tile == 0) & np.isfinite(tokens.box).all(axis=1)):
            if not chosen.any():
                continue
            for grid, edge in ((tokens.grid_row, 1), (tokens.grid_column, 0)):
                order = np.argsort(grid[chosen], kind="stable")
                assert (np.diff(tokens.box[chosen][order, edge]) > -1e-6).all(), "edges grow with row and column"
        centre = (tokens.box[joined, :2] + tokens.box[joined, 2:]) / 2
        across = centre[:, None] - centre[None]
        later = tokens.tile[joined][:, None] > tokens.tile[joined][None]
        assert not (later & (across[..., 0] < 0) & (across[..., 1] < -1e-6)).any()


edges = st.integers(20, 3000)


@given(edges, edges)
@settings(max_examples=60)
def test_tile_choices_equal_the_processors(width: int, height: int):
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, 12)
    assert tile_arrangement((width, height), (448, 448), 1, 12) == (rows, columns)
    pinpoints = [[384 * r, 384 * c] for r in range(1, 7) for c in range(1, 7)]
    assert best_resolution((width, height), pinpoints) == tuple(select_best_resolution([height, width], pinpoints))
    limits = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
    fitted = smart_resize(height, width, factor=28, **limits)
    assert dynamic_size((width, height), 28, *limits.values())[::-1] == tuple(fitted)
    pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 1456}, max_image_size={"longest_edge": 364})
    count, rows, columns = pictures.get_number_of_image_patches(height, width)
    config = SimpleNamespace(scale_factor=2, vision_config=SimpleNamespace(patch_size=14))
    tokens = idefics3_tiles(config, SimpleNamespace(image_processor=pictures, image_seq_len=169), (width, height))
    assert tokens.tile_shape == (13 * rows, 13 * columns) and len(tokens) == 169 * max(count, 1)


COUNTED = [name for name in BUILT if not name.startswith(("smolvlm", "idefics3", "internvl"))]
"""The others count the text marks around tiles too; their choice of tiles is compared in the test above."""


@pytest.mark.parametrize("name", COUNTED)
@given(width=edges, height=edges)
@settings(max_examples=25)
def test_there_are_as_many_tokens_as_the_processor_counts(name: str, width: int, height: int):
    model = straight(name)
    counted = model.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"]
    assert [len(model.token_map((width, height)))] == list(counted)


def changed(build: Callable[..., Any], **settings: Any) -> Any:
    """A model whose image processor has other settings."""
    module, processor = build()
    for name, value in settings.items():
        setattr(processor.image_processor, name, value)
    return wrap(module, processor, validate=False)


REFUSED = {
    "pan and scan": (lambda: families.gemma3("sdpa"), {"do_pan_and_scan": True}, "pan and scan"),
    "no resizing": (llava, {"do_resize": False}, "do_resize"),
    "other pinpoints": (llava_next, {"image_grid_pinpoints": [[24, 48]]}, "pinpoints"),
    "onevision, other pinpoints": (lambda: families.onevision("sdpa"), {"image_grid_pinpoints": [[52, 52]]}, "pinpoin"),
    "only the shorter edge": (llava, {"do_center_crop": False}, "crop"),
    "another tower": (llava, {"crop_size": {"height": 30, "width": 30}}, "30"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_is_refused(case: str):
    build, settings, told = REFUSED[case]
    with pytest.raises((UnsupportedModelError, ParameterError), match=told):
        changed(build, **settings).token_map((200, 100))


def test_class_tokens_among_the_image_tokens_are_refused():
    module, processor = llava()
    module.config.vision_feature_select_strategy = "full"
    with pytest.raises(UnsupportedModelError, match="class token"):
        wrap(module, processor, validate=False).token_map((100, 100))


def test_pictures_that_qwens_processor_refuses_are_refused():
    model = straight("qwen2-vl")
    with pytest.raises(ImageError, match="aspect ratio"):
        model.token_map((9000, 20))


def test_a_tower_that_is_no_multiple_of_its_patch_leaves_a_rim_unseen():
    """LLaVA-OneVision's and SmolVLM2's 384 pixels are 27 patches of 14 and 6 pixels more."""
    from visualheads.models.token_layouts import anyres, tiled

    whole = anyres((384, 384), [[384, 384], [768, 768]], 384, 14)
    assert whole.tile_shape == (27, 27)
    assert whole.box[whole.tile == 0].max() == pytest.approx(378)
    double = anyres((768, 768), [[384, 384], [768, 768]], 384, 14)
    assert double.tile_shape == (54, 54)
    first_row = double.box[(double.tile > 0) & double.is_patch & (double.grid_row == 0)]
    assert first_row[26].tolist() == pytest.approx([364, 0, 378, 14])
    assert first_row[27].tolist() == pytest.approx([384, 0, 398, 14])
    assert not double.in_box((379, 5, 383, 9))[double.tile > 0].any(), "no tile's patch sees these pixels"
    smol = tiled((768, 384), 1, 2, 9, covered=378 / 384)
    assert smol.box[smol.tile == 2][0].tolist() == pytest.approx([384, 0, 426, 42])
    assert smol.box[smol.tile == 0][-1, 3] == pytest.approx(378)
