"""Shares of right answers: intervals over pictures, also where all answers are alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visualheads.heads.bootstrap import bootstrap
from visualheads.heads.losses import (
    changes,
    head_effects,
    mean_change,
    most_unseen,
    newcombe,
    share_gained,
    share_right,
    shares,
)


def answers(values: list[float], pictures: list[str] | None = None) -> xr.DataArray:
    names = np.array([f"s{i}" for i in range(len(values))], dtype=object)
    images = names if pictures is None else np.array(pictures, dtype=object)
    return xr.DataArray(np.array(values, float), {"sample": names, "image_id": ("sample", images)}, ("sample",))


def test_all_right_is_not_certainly_always_right() -> None:
    told = share_right(answers([1.0] * 36))
    assert told["estimate"] == told["upper"] == 1
    assert told["lower"] == pytest.approx(0.025 ** (1 / 36))  # Clopper and Pearson: 0.9026
    assert share_right(answers([0.0] * 36)) == {
        "lower": 0,
        "estimate": 0,
        "upper": pytest.approx(1 - 0.025 ** (1 / 36)),
    }


def test_pictures_count_not_prompts() -> None:
    twelve = share_right(answers([1.0] * 36, [f"p{i // 12}" for i in range(36)]))
    assert twelve["lower"] == pytest.approx(0.025 ** (1 / 3))
    gaps = answers([1.0, np.nan, 1.0], ["a", "b", "c"])
    assert share_right(gaps)["lower"] == pytest.approx(0.025 ** (1 / 2))


def test_no_change_is_not_certainly_none() -> None:
    told = share_gained(answers([1.0, 0.0, 1.0, 1.0]), answers([1.0, 0.0, 1.0, 1.0]))
    assert told["estimate"] == 0 and told["upper"] == -told["lower"] == pytest.approx(1 - 0.025 ** (1 / 4))
    assert share_gained(answers([0.0, 0.0]), answers([1.0, 1.0]))["estimate"] == 1


def test_few_changes_are_no_surer_than_none() -> None:
    half = [1.0, -1.0] * 20 + [0.0] * 24
    np.testing.assert_allclose(changes(answers(half), n_boot=500), bootstrap(answers(half), n_boot=500))
    upper = [
        float(changes(answers([1.0] * count + [0.0] * (200 - count)), n_boot=500).sel(bound="upper"))
        for count in range(8)
    ]
    assert upper[0] == pytest.approx(most_unseen(200).item()) and upper[1] == pytest.approx(
        0.027542, abs=1e-6
    )  # of 200: 0, 1
    assert all(low < high for low, high in pairwise(upper))
    asked = [1.0, 0.0] + [0.0] * 398  # one of two questions about one of 200 pictures
    twice = changes(answers(asked, [f"p{i // 2}" for i in range(400)]), n_boot=500)
    assert most_unseen(200) <= float(twice.sel(bound="upper")) < upper[1]


def test_both_ways_widen_as_newcombe_adds_them() -> None:
    told = changes(answers([1.0] * 2 + [-1.0] + [0.0] * 97), n_boot=500)
    (up_low, up_high), (down_low, down_high) = (stats.binomtest(k, 100).proportion_ci(method="exact") for k in (2, 1))
    assert float(told.sel(bound="upper")) == pytest.approx(0.01 + np.hypot(up_high - 0.02, 0.01 - down_low))
    assert float(told.sel(bound="lower")) == pytest.approx(0.01 - np.hypot(0.02 - up_low, down_high - 0.01))


@pytest.mark.parametrize(("lost", "level"), [(0.02, 0.95), (0.05, 0.9)])
def test_a_margin_is_rarely_called_kept_where_it_is_lost(lost: float, level: float) -> None:
    """At a true loss as large as the margin, the upper bound lies below it no more often than the level allows."""
    chance = stats.binom(200, lost)
    below = 0.0
    for count in range(int(chance.ppf(1 - 1e-6))):
        gone = answers([1.0] * count + [0.0] * (200 - count))
        below += chance.pmf(count) * bool(float(newcombe(gone, level)[1]) < lost)
    assert below <= (1 - level) / 2 + 1e-9


def test_benchmarks_weigh_the_same_whatever_their_size() -> None:
    many, few = answers([1.0, 0.0] * 100), answers([1.0] * 4)
    assert mean_change([many, few])["estimate"] == pytest.approx(0.75)
    told = mean_change([many, answers([0.0] * 20000)])
    # the larger one alone spreads: half the width of its own interval
    own = changes(many)
    width = float(own.sel(bound="upper") - own.sel(bound="lower"))
    assert told["upper"] - told["lower"] == pytest.approx(width / 2, rel=0.1)


def test_nearly_all_right_is_no_surer_than_all() -> None:
    nearly = share_right(answers([1.0] * 35 + [0.0]))
    assert nearly["lower"] <= share_right(answers([1.0] * 36))["lower"] < nearly["estimate"] < nearly["upper"] <= 1


def test_what_all_pictures_show_is_not_certain() -> None:
    gained = share_gained(answers([0.0] * 4), answers([1.0] * 4))
    assert gained["estimate"] == gained["upper"] == 1 and 0 < gained["lower"] < 0.025 ** (1 / 4)
    both = mean_change([answers([1.0] * 4), answers([1.0] * 4)])
    assert both == pytest.approx(gained)


@given(st.integers(1, 500), st.floats(0.5, 0.999))
def test_what_was_most_unseen_gets_rarer_with_pictures(n: int, level: float) -> None:
    assert 0 < most_unseen(n + 1, level) < most_unseen(n, level) < 1
    assert (1 - most_unseen(n, level)) ** n == pytest.approx((1 - level) / 2)
    assert most_unseen(0, level) == 1


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 4))
def test_one_benchmark_alone_is_a_change(right: list[int], prompts: int) -> None:
    asked = answers([float(v) for v in right], [f"p{i // prompts}" for i in range(len(right))])
    one, alone = changes(asked, n_boot=50), mean_change([asked], n_boot=50)
    assert alone == {name: pytest.approx(float(one.sel(bound=name))) for name in alone}


def test_rows_have_the_bounds_they_have_alone() -> None:
    rows = xr.concat([answers([1.0, 0.0, 1.0, np.nan]), answers([1.0, 1.0, 1.0, 1.0])], "row")
    for many, one in ((shares, share_right), (changes, lambda v: share_gained(v * 0, v))):
        for place in range(2):
            told = many(rows).isel(row=place)
            assert {b: pytest.approx(float(told.sel(bound=b))) for b in ("lower", "estimate", "upper")} == one(
                rows.isel(row=place)
            )


def test_pictures_that_others_were_asked_about_are_not_drawn() -> None:
    own = answers([0.1, 0.5, 0.9, 0.2, 0.7])
    other = answers([0.3] * 9, [f"x{i}" for i in range(9)]).assign_coords(sample=[f"x{i}" for i in range(9)])
    both = xr.concat([own, other], "model", join="outer", coords="minimal", compat="override")
    both = both.assign_coords(image_id=("sample", [str(name) for name in both["sample"].values]))
    np.testing.assert_allclose(bootstrap(both).isel(model=0), bootstrap(own.drop_vars("image_id")))


def test_a_set_that_was_not_tried_takes_no_effect_away():
    marks = np.zeros((1, 3, 1, 2), bool)
    marks[0, 0, 0, 0] = marks[0, 1, 0, 1] = marks[0, 2, 0, 0] = True  # the third is the first head again
    lost = np.array([[[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]]])
    dims, zero = ("model", "set", "sample"), np.zeros((1, 2))
    ds = xr.Dataset(
        {"margin": (dims, -lost), "correct": (dims, 1 - lost), "kl": (dims, lost),
         "clean_margin": (("model", "sample"), zero), "clean_correct": (("model", "sample"), zero + 1),
         "heads": (("model", "set", "layer", "head"), marks)},
        {"model": ["m"], "set": ["a", "b", "a again"], "sample": ["s", "t"]},
    )  # fmt: skip
    np.testing.assert_array_equal(head_effects(ds).effect_margin[0, 0], [[1, 2], [3, 4]])
