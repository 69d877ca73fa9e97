"""Arrays as text, and attention in four bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.looks import dequantise, key_weights
from visualheads.explorer.look_data import KEYS, pack, quantise, text_keys, unpack


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f2", "f4"])
@pytest.mark.parametrize("size", [0, 3, 1000])
def test_arrays_survive(dtype: str, size: int):
    values = (np.arange(size) % 200).reshape(-1, 1)
    packed = pack(values, dtype)
    assert unpack(packed).tolist() == values.tolist()
    assert bool(packed.get("gzip")) == (size == 1000)
    assert pack(values, dtype) == packed, "the same text in every run"


def read(weights: np.ndarray) -> np.ndarray:
    coded = quantise(weights)
    assert coded["codes"].dtype == np.uint8 and coded["codes"].shape == (len(weights), -(-weights.shape[1] // 2))
    return dequantise(coded["codes"], coded["low"], coded["peak"], coded["total"], weights.shape[1])


@given(st.integers(0, 10_000), st.floats(0.2, 2.5), st.integers(1, 90))
def test_weights_come_back_within_a_step(seed: int, spread: float, tokens: int):
    random = np.random.default_rng(seed)
    weights = random.lognormal(0, spread, (3, tokens)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True) * 1.5
    coded, found = quantise(weights), read(weights)
    assert found.sum(1) == pytest.approx(weights.sum(1), rel=1e-4), "sums are exact"
    step = (coded["peak"] / coded["low"]) ** (1 / 14)
    large = weights >= coded["low"][:, None] * 1.01
    ratio = np.where(large, found / np.maximum(weights, 1e-30), 1)
    # half a step, and what scaling to the exact sum adds
    assert (ratio <= step[:, None] * 1.05).all() and (ratio >= 1 / step[:, None] / 1.05).all()


def test_a_sink_does_not_hide_the_rest():
    weights = np.full((1, 200), 1e-4, np.float32) * np.random.default_rng(0).lognormal(0, 0.5, (1, 200))
    weights[0, 7] = 0.9
    found = read(weights.astype(np.float32))
    others = np.delete(found[0], 7)
    assert (others > 0).mean() > 0.9
    assert others.sum() == pytest.approx(np.delete(weights[0], 7).sum(), rel=0.1)


def test_heads_without_a_map_or_without_attention():
    weights = np.array([[np.nan, np.nan], [0, 0], [0.5, 0.5], [0.25, 0]], np.float32)
    found = read(weights)
    assert np.isnan(found[0]).all()
    assert found[1:].tolist() == [[0, 0], [0.5, 0.5], [0.25, 0]]


def test_text_keys_are_the_heaviest_in_order():
    random = np.random.default_rng(1)
    weights = random.random((4, 40)).astype(np.float32) / 40
    positions = np.arange(100, 140)
    kept, codes = text_keys(weights, positions)
    assert kept.shape == (4, KEYS) and (np.diff(kept) > 0).all()
    exact = np.take_along_axis(weights, kept - 100, axis=1)
    assert key_weights(codes) == pytest.approx(exact, rel=0.03)
    assert exact.min(1).tolist() == [np.sort(row)[-KEYS] for row in weights]
    few, codes = text_keys(np.array([[0.0, 1.0]], np.float32), np.array([3, 9]))
    assert few.tolist() == [[3, 9]] and codes.tolist() == [[0, 255]]
