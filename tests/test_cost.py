"""The cost measurement: its table, that it is kept, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from visualheads import cost
from visualheads.errors import ParameterError


@pytest.mark.slow
def test_a_small_network_is_measured():
    table = cost.measure_cost("llava", cost.Shape(layers=2, heads=2, hidden=32), runs=1)
    assert table.index.tolist() == ["plain", "trace", "eager"]
    assert (table.tokens > 576).all() and table.tokens.nunique() == 1
    assert table.cpu_ratio["plain"] == 1
    assert (table.cpu_seconds > 0).all()
    assert table.memory_above_mb["plain"] == 0
    assert np.isfinite(table.memory_mb).all() == (sys.platform == "linux")


def test_it_is_measured_once_and_kept(tmp_path, monkeypatch):
    calls = []

    def measured(**settings):
        calls.append(settings)
        return pd.DataFrame({"method": ["plain"], "cpu_seconds": [float(len(calls))]}).set_index("method")

    monkeypatch.setattr(cost, "measure_cost", measured)
    first = cost.kept_cost(tmp_path / "a" / "cost.json", kind="llava", runs=3)
    again = cost.kept_cost(tmp_path / "a" / "cost.json", kind="llava", runs=3)
    pd.testing.assert_frame_equal(first, again)
    assert len(calls) == 1
    cost.kept_cost(tmp_path / "a" / "cost.json", kind="llava", runs=4)
    assert len(calls) == 2, "other settings are measured anew"


@pytest.mark.parametrize("wrong", [{"kind": "qwen"}, {"methods": ("fast",)}, {"runs": 0}, {"pictures": 0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ParameterError):
        cost.measure_cost(**wrong)
