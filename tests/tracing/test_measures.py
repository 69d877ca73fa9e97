"""Every definition of the method chapter's section 2: by hand, by property, and its NaN rule."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualheads.errors import ParameterError
from visualheads.models.attention_call import find_sink_dimensions, sink_scores, sink_threshold, sink_tokens
from visualheads.tracing import measures
from visualheads.tracing.measures import MEASURES, TokenSets, measure, spatial_entropy, whole_picture_maps

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)

GRID = (2, 2)

# One sample of nine keys: text, four patches (2 × 2), newline, text, text, padding. The box covers the second patch.
IMAGE = [False, True, True, True, True, True, False, False, False]
PATCH = [False, True, True, True, True, False, False, False, False]
REGION = [False, False, True, False, False, False, False, False, False]
VISIBLE = [True] * 8 + [False]
ROW = [-1, 0, 0, 1, 1, -1, -1, -1, -1]
COLUMN = [-1, 0, 1, 0, 1, -1, -1, -1, -1]
HAND = [0.2, 0.1, 0.2, 0.1, 0.0, 0.1, 0.2, 0.1, 0.0]


def sets_of(sink: list[bool] | None = None, **changes: list[bool] | list[int]) -> TokenSets:
    lists = {
        "image": IMAGE,
        "patch": PATCH,
        "region": REGION,
        "visible": VISIBLE,
        "row": ROW,
        "column": COLUMN,
    } | changes
    tensors = {name: torch.tensor([values]) for name, values in lists.items()}
    return TokenSets(**tensors, sink=None if sink is None else torch.tensor([sink]))


def measured(row: list[float], sets: TokenSets, grid: tuple[int, int] | None = GRID) -> dict[str, float]:
    return {name: float(values) for name, values in measure(torch.tensor([[[row]]]), sets, grid).items()}


def random_case(seed: int, n_patches: int = 16, n_text: int = 5) -> tuple[torch.Tensor, TokenSets, tuple[int, int]]:
    """Rows (2 samples, 3 heads, 2 queries) over text, a 4 × 4 grid, one newline and text; different boxes."""
    generator = torch.Generator().manual_seed(seed)
    n = n_text + n_patches + 1
    sharpness = 1 + 5 * torch.rand(2, 3, 2, 1, generator=generator)
    rows = torch.softmax(sharpness * torch.randn(2, 3, 2, n, generator=generator), dim=-1)
    image = torch.zeros(2, n, dtype=torch.bool)
    image[:, 2 : 2 + n_patches + 1] = True
    patch = image.clone()
    patch[:, 2 + n_patches] = False
    region = patch & (torch.rand(2, n, generator=generator) < 0.3)
    region[:, 2] = True
    side = int(n_patches**0.5)
    cell = torch.where(patch, torch.arange(n) - 2, -1)
    row = torch.where(patch, cell // side, -1)
    column = torch.where(patch, cell % side, -1)
    sink = torch.zeros_like(patch)
    sink[:, 3] = True
    visible = torch.ones_like(patch)
    return rows, TokenSets(image, patch, region, visible, row, column, sink), (side, side)


def test_weights_by_hand():
    found = measured(HAND, sets_of())
    assert found["image_weight"] == pytest.approx(0.5)
    assert found["region_weight"] == pytest.approx(0.2)
    assert found["newline_weight"] == pytest.approx(0.1)


def test_entropies_by_hand():
    # p = 1/4, 1/2, 1/4, 0: H = 1.5 ln 2.
    found = measured(HAND, sets_of())
    entropy = 1.5 * math.log(2)
    assert found["concentration"] == pytest.approx(1 - entropy / math.log(4), abs=1e-6)
    assert found["concentration"] == pytest.approx(0.25, abs=1e-6)
    assert found["focus_nats"] == pytest.approx(math.log(4) - entropy, abs=1e-6)
    assert found["effective_patches"] == pytest.approx(2**1.5, abs=1e-5)


def test_log_odds_by_hand():
    # w = 0.5, five of eight visible keys are image tokens: logit(0.5) − logit(5/8) = −ln(5/3).
    assert measured(HAND, sets_of())["image_log_odds"] == pytest.approx(-math.log(5 / 3), abs=1e-6)


def test_neither_the_first_key_nor_sinks_count_in_the_null_s_log_odds():
    # 0.5 on five image tokens against 0.3 on two words; without the third key, 0.3 on four against the same.
    assert measured(HAND, sets_of())["image_log_odds_no_sink"] == pytest.approx(math.log(5 / 3 / 2.5), abs=1e-6)
    sink = [False, False, True] + [False] * 6
    assert measured(HAND, sets_of(sink))["image_log_odds_no_sink"] == pytest.approx(-math.log(2), abs=1e-6)
    assert math.isnan(measured([1.0] + [0.0] * 8, sets_of())["image_log_odds_no_sink"])


def test_the_strongest_patch_by_hand():
    assert measured(HAND, sets_of())["top_share"] == pytest.approx(0.5)


def test_region_by_hand():
    # Half of the patch weight on one patch of four: twice what an even spread would give; and the peak is in the box.
    found = measured(HAND, sets_of())
    assert found["region_lift"] == pytest.approx(2.0, abs=1e-5)
    assert found["top_patch_hit"] == 1.0
    elsewhere = [False, True] + [False] * 7
    assert measured(HAND, sets_of(region=elsewhere))["top_patch_hit"] == 0.0


def test_sinks_by_hand():
    sink = [True, False, True] + [False] * 6  # the first text token is a sink too, but not an image token
    found = measured(HAND, sets_of(sink))
    assert found["sink_share"] == pytest.approx(0.2 / 0.5)
    # Without the sink: 0.1, 0.1, 0 on three patches.
    assert found["concentration_no_sink"] == pytest.approx(1 - math.log(2) / math.log(3), abs=1e-6)


def test_spatial_entropy_by_hand():
    # Mean 1/8. Excess: one component of two cells (0.375 each) and one single cell (0.25).
    maps = torch.zeros(4, 4)
    maps[0, 0] = maps[1, 1] = 0.5  # diagonal neighbours are one component
    maps[3, 3] = 0.375
    maps += 0.0
    mean = 1.375 / 16
    parts = torch.tensor([2 * (0.5 - mean), 0.375 - mean])
    share = parts / parts.sum()
    assert float(spatial_entropy(maps)) == pytest.approx(float(-(share * share.log()).sum()), abs=1e-6)


def test_spatial_entropy_one_blob_is_zero_and_maps_do_not_touch_each_other():
    blob = torch.zeros(3, 3)
    blob[0, 0] = 1.0
    two = torch.zeros(3, 3)
    two[0, 0] = two[2, 2] = 1.0
    found = spatial_entropy(torch.stack([blob, two, blob]))
    assert found.tolist() == pytest.approx([0.0, math.log(2), 0.0], abs=1e-6)


def test_spatial_entropy_is_nan_for_constant_and_empty_maps():
    assert spatial_entropy(torch.stack([torch.full((5, 5), 0.04), torch.zeros(5, 5)])).isnan().all()


def test_cells_without_a_token_do_not_count():
    small = torch.zeros(2, 2)
    small[0, 0] = 1.0
    small[1, 1] = 0.5
    padded = torch.full((4, 3), float("nan"))
    padded[:2, :2] = small
    assert torch.allclose(spatial_entropy(padded), spatial_entropy(small))


def test_no_box_makes_region_measures_nan_only():
    found = measured(HAND, sets_of([False] * 9, region=[False] * 9))
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {"region_weight", "region_lift", "top_patch_hit"}


def test_no_sink_dimensions_makes_sink_measures_nan_only():
    missing = {name for name, value in measured(HAND, sets_of()).items() if math.isnan(value)}
    assert missing == {"sink_share", "concentration_no_sink"}


def test_no_grid_makes_spatial_entropy_nan():
    assert math.isnan(measured(HAND, sets_of(), grid=None)["spatial_entropy"])


def test_a_row_without_image_weight_has_no_shares():
    row = [0.5, 0, 0, 0, 0, 0, 0.25, 0.25, 0]
    found = measured(row, sets_of([False] * 9))
    assert found["image_weight"] == found["region_weight"] == found["newline_weight"] == 0
    for name in ("concentration", "focus_nats", "effective_patches", "region_lift", "top_patch_hit", "sink_share"):
        assert math.isnan(found[name]), name
    assert math.isfinite(found["image_log_odds"])  # kept finite by the clamp
    assert found["image_log_odds"] < -10


def test_log_odds_is_nan_where_only_image_or_no_image_is_visible():
    assert math.isnan(measured(HAND, sets_of(visible=IMAGE))["image_log_odds"])
    text_only = [not image for image in IMAGE]
    found = measured(HAND, sets_of(visible=text_only))
    assert math.isnan(found["image_log_odds"])
    assert found["image_weight"] == 0


def test_log_odds_are_exact_close_to_saturation():
    # 1 − w = 3e-5 + 1e-6 would lose two digits as a float32 difference.
    row = [3e-5, 0.5, 0.3, 0.1, 0.05, 0.05 - 3.1e-5, 1e-6, 0.0, 0.0]
    exact = math.log((1 - 3.1e-5) / 3.1e-5) - math.log(5 / 3)
    assert measured(row, sets_of())["image_log_odds"] == pytest.approx(exact, abs=1e-5)


def test_one_patch_has_no_concentration():
    one = [False, True] + [False] * 7
    found = measured(HAND, sets_of(patch=one, region=one))
    assert math.isnan(found["concentration"])
    assert found["effective_patches"] == 1


def test_uniform_and_one_hot_rows():
    uniform = [0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0, 0, 0]
    found = measured(uniform, sets_of())
    assert found["concentration"] == pytest.approx(0, abs=1e-6)
    assert found["effective_patches"] == pytest.approx(4, abs=1e-5)
    assert math.isnan(found["spatial_entropy"])
    hot = measured([0, 0, 1.0, 0, 0, 0, 0, 0, 0], sets_of())
    assert hot["concentration"] == pytest.approx(1)
    assert hot["focus_nats"] == pytest.approx(math.log(4))
    assert hot["spatial_entropy"] == pytest.approx(0, abs=1e-6)


def test_left_padding_changes_nothing():
    sets = sets_of([False, False, True] + [False] * 6)
    plain = measure(torch.tensor([[[HAND]]]), sets, GRID)
    pad = 3
    padded = TokenSets(
        **{
            field.name: torch.nn.functional.pad(
                getattr(sets, field.name), (pad, 0), value=-1 if field.name in ("row", "column") else False
            )
            for field in dataclasses.fields(sets)
        }
    )
    shifted = measure(torch.tensor([[[[0.0] * pad + HAND]]]), padded, GRID)
    for name in MEASURES:
        assert torch.equal(plain[name], shifted[name]), name


def test_a_batch_equals_its_samples_one_by_one():
    rows, sets, grid = random_case(0)
    together = measure(rows, sets, grid)
    for index in range(2):
        one = TokenSets(*(getattr(sets, field.name)[index : index + 1] for field in dataclasses.fields(sets)))
        alone = measure(rows[index : index + 1], one, grid)
        for name in MEASURES:
            assert torch.allclose(together[name][index], alone[name][0], atol=1e-6, equal_nan=True), name


def test_half_precision_rows_give_float32_statistics():
    rows, sets, grid = random_case(1)
    exact, half = measure(rows, sets, grid), measure(rows.to(torch.bfloat16), sets, grid)
    for name in MEASURES:
        assert half[name].dtype == torch.float32
    assert torch.allclose(exact["image_weight"], half["image_weight"], atol=0.02)


@examples
@given(st.integers(0, 10_000))
def test_ranges(seed: int):
    rows, sets, grid = random_case(seed)
    found = measure(rows, sets, grid)
    assert list(found) == list(MEASURES)
    n_patch = 16
    ranges = {
        "image_weight": (0, 1),
        "region_weight": (0, 1),
        "concentration": (0, 1),
        "focus_nats": (0, math.log(n_patch)),
        "effective_patches": (1, n_patch),
        "image_log_odds": (-30, 30),
        "region_lift": (0, n_patch),
        "top_patch_hit": (0, 1),
        "newline_weight": (0, 1),
        "sink_share": (0, 1),
        "concentration_no_sink": (0, 1),
        "spatial_entropy": (0, math.log(n_patch)),
    }
    for name, (low, high) in ranges.items():
        values = found[name]
        assert values.shape == (2, 3, 2)
        assert ((values >= low - 1e-6) & (values <= high + 1e-4)).all(), name
    assert (found["region_weight"] <= found["image_weight"] + 1e-6).all()


@examples
@given(st.integers(0, 10_000))
def test_permuting_the_keys_changes_nothing(seed: int):
    """But for the first key, which one measure leaves out, and those before it, which nobody sees."""
    rows, sets, grid = random_case(seed)
    kept = int(sets.visible.int().argmax(dim=-1).max()) + 1
    moved = kept + torch.randperm(rows.shape[-1] - kept, generator=torch.Generator().manual_seed(seed))
    order = torch.cat([torch.arange(kept), moved])
    permuted = TokenSets(*(getattr(sets, field.name)[:, order] for field in dataclasses.fields(sets)))
    before, after = measure(rows, sets, grid), measure(rows[..., order], permuted, grid)
    for name in MEASURES:
        assert torch.allclose(before[name], after[name], rtol=1e-4, atol=1e-5), name


@examples
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_scaling_the_weight_on_the_picture_changes_only_how_much_not_where(seed: int, factor: float):
    rows, sets, grid = random_case(seed)
    scaled = torch.where(sets.image[:, None, None], rows * factor, rows)
    before, after = measure(rows, sets, grid), measure(scaled, sets, grid)
    for name in ("image_weight", "region_weight", "newline_weight"):
        assert torch.allclose(before[name] * factor, after[name], rtol=1e-4), name
    for name in ("concentration", "focus_nats", "region_lift", "top_patch_hit", "sink_share", "spatial_entropy"):
        assert torch.allclose(before[name], after[name], atol=2e-4), name


@examples
@given(st.integers(0, 10_000))
def test_rotating_the_grid_keeps_spatial_entropy(seed: int):
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(spatial_entropy(maps), spatial_entropy(maps.rot90(1, (1, 2))), atol=1e-6)


def test_maps_lie_where_row_and_column_say():
    maps = whole_picture_maps(torch.tensor([[[HAND]]]), sets_of(), (2, 3))
    expected = torch.tensor([[0.1, 0.2, float("nan")], [0.1, 0.0, float("nan")]])
    assert torch.allclose(maps[0, 0, 0], expected, equal_nan=True)


def test_bad_shapes_are_named():
    with pytest.raises(ParameterError, match=r"attention rows: got \(1, 1, 9\)"):
        measure(torch.zeros(1, 1, 9), sets_of(), GRID)
    with pytest.raises(ParameterError, match=r"TokenSets.patch"):
        dataclasses.replace(sets_of(), patch=torch.zeros(1, 8, dtype=torch.bool))
    with pytest.raises(ParameterError, match=r"TokenSets.image"):
        dataclasses.replace(sets_of(), image=torch.zeros(1, 9))
    with pytest.raises(ParameterError, match="grid"):
        whole_picture_maps(torch.tensor([[[HAND]]]), sets_of(), (1, 2))


def test_sink_scores_by_hand():
    hidden = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # RMS = √(25/4) = 2.5.
    assert sink_scores(hidden, [0])[:, 0].tolist() == pytest.approx([1.2, 0.0])
    assert sink_scores(hidden, [0, 1])[0].tolist() == pytest.approx([1.2, 1.6])
    assert sink_threshold(4096) == 20
    assert sink_threshold(1024) == 10


@examples
@given(st.floats(0.01, 100))
def test_sink_scores_do_not_depend_on_scale(factor: float):
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sink_scores(hidden, [3]), sink_scores(hidden * factor, [3]), rtol=1e-4)


def test_planted_sink_dimension_is_found_and_noise_is_not():
    hidden = torch.randn(4, 50, 96, generator=torch.Generator().manual_seed(0))
    assert find_sink_dimensions(hidden) == ()
    hidden[:, 7, 40] = 300.0
    assert find_sink_dimensions(hidden) == (40,)
    every = torch.ones(4, 50, dtype=torch.bool)
    assert sink_tokens(hidden, (40,), every).sum() == 4
    assert sink_tokens(hidden, (40,), every)[:, 7].all()
    hidden[..., 11] = 300.0  # large everywhere: a bias, not a sink
    assert 11 not in find_sink_dimensions(hidden)


def test_a_dimension_that_is_large_on_most_tokens_of_a_kind_marks_none_of_them():
    hidden = torch.randn(1, 60, 96, generator=torch.Generator().manual_seed(0))
    image = torch.arange(60)[None] >= 30
    text = ~image & (torch.arange(60)[None] >= 10)  # ten tokens of padding
    hidden[:, 30:, 11] = 100.0  # all image tokens
    hidden[:, [0, 12], 11] = 100.0  # one of padding, one of text
    hidden[:, 40, 40] = 300.0
    assert sink_tokens(hidden, (11, 40), image, text).nonzero()[:, 1].tolist() == [12, 40]


@pytest.mark.parametrize("dimensions", [[], [96], [-1]])
def test_sink_dimensions_out_of_range(dimensions: list[int]):
    with pytest.raises(ParameterError, match="sink dimensions"):
        sink_scores(torch.zeros(2, 96), dimensions)


def test_definitions_have_a_version():
    assert measures.DEFINITIONS_VERSION
