"""The cost measurement: its table, that it is kept, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from visualheads import charts
from visualheads.book import cost, cost_sweeps
from visualheads.charts import display
from visualheads.errors import ParameterError
from visualheads.paths import browser_program


@pytest.mark.long
def test_a_small_network_is_measured():
    table = cost.measure_cost("llava", cost.Shape(layers=2, heads=2, hidden=32), runs=2, eager_runs=1)
    assert table.index.tolist() == ["plain", "trace", "eager"]
    assert table.runs.tolist() == [2, 2, 1]
    assert (table.tokens == 608).all(), "the length that the issue names"
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
    file = tmp_path / "a" / "cost.json"
    first = cost.kept_cost(file, kind="llava", runs=3)
    again = cost.kept_cost(file, kind="llava", runs=3)
    pd.testing.assert_frame_equal(first, again)
    assert first.attrs == again.attrs and "torch" in again.attrs["machine"], "where it was measured is kept too"
    assert len(calls) == 1
    cost.kept_cost(file, kind="llava", runs=4)
    assert len(calls) == 2, "another number of runs does not serve"
    cost.kept_cost(file, kind="llava", runs=4, eager_runs=1)
    cost.kept_cost(file, kind="llava_next", runs=4, eager_runs=1)
    assert len(calls) == 4, "nor do other settings"
    file.write_text(file.read_text()[:-20])
    cost.kept_cost(file, kind="llava_next", runs=4, eager_runs=1)
    assert len(calls) == 5, "nor a file that was cut off"


def test_ratios_are_those_of_runs_side_by_side(monkeypatch):
    """By hand: 3/2, 4/4, 9/3 → 1.5 for trace; 8/2 for the one eager run."""
    seconds = {"plain": [2.0, 4.0, 3.0], "trace": [3.0, 4.0, 9.0], "eager": [8.0]}
    memory = {"plain": [10.0, 11.0, 12.0], "trace": [20.0, 21.0, 15.0], "eager": [300.0]}
    monkeypatch.setattr(cost, "in_fresh_process", lambda *_: {"tokens": 608, "seconds": seconds, "memory": memory})
    table = cost.measure_cost(runs=3, eager_runs=1)
    assert table.cpu_ratio.tolist() == [1.0, 1.5, 4.0]
    assert table.cpu_seconds.tolist() == [3.0, 4.0, 8.0]
    assert table.memory_above_mb.tolist() == [0.0, 9.0, 289.0]
    assert table.runs.tolist() == [3, 3, 1]


@pytest.mark.parametrize("wrong", [{"kind": "qwen"}, {"runs": 0}, {"eager_runs": 0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ParameterError):
        cost.measure_cost(**wrong)


@pytest.mark.long
def test_a_sweep_is_measured_beside_a_naive_loop():
    table = cost_sweeps.measure_sweeps(cost.Shape(layers=3, heads=2, hidden=32), sets=4, naive_sets=2, runs=1)
    assert table.index.tolist() == list(cost_sweeps.CASES) and (table.tokens == 608).all()
    assert (table[["sweep_seconds", "naive_seconds", "ratio"]] > 0).all(axis=None)


def test_a_sweep_is_told_against_the_faster_naive_loop(tmp_path, monkeypatch):
    """By hand: batches of 1 take 4 and 6 seconds a set, of 2 take 9 and 11; the sweep 1 and 2: ratios 4 and 3."""
    seconds = {case: {"sweep": [1.0, 2.0], "naive": {"1": [4.0, 6.0], "2": [9.0, 11.0]}} for case in cost_sweeps.CASES}
    monkeypatch.setattr(cost_sweeps, "in_fresh_process", lambda *_: {"tokens": 608, "seconds": seconds})
    table = cost.kept_cost(tmp_path / "sweeps.json", cost_sweeps.measure_sweeps, shape=(16, 8, 512), runs=2)
    assert table.ratio.tolist() == [3.5, 3.5] and table.batch.tolist() == [1, 1]
    assert table.naive_seconds.tolist() == [5.0, 5.0]
    assert table.naive_sets.tolist() == [2, 2] and table.tried.tolist() == [[1, 2], [1, 2]]
    assert "naive loop: 5.000 s" in display.spec_of(charts.sweep_bars(table))["description"]
    monkeypatch.setattr(cost_sweeps, "in_fresh_process", None)
    pd.testing.assert_frame_equal(
        table, cost.kept_cost(tmp_path / "sweeps.json", cost_sweeps.measure_sweeps, shape=(16, 8, 512), runs=2)
    )
    with pytest.raises(ParameterError, match="naive_sets"):
        cost_sweeps.measure_sweeps(sets=1, naive_sets=2)


@pytest.mark.long
def test_looks_are_measured_on_a_shipped_model_and_on_random_networks() -> None:
    table = cost_sweeps.measure_looks(shape=(2, 2, 32))
    assert list(table.index) == ["mini-1.5-7B", "random llava", "random llava_next"]
    assert table["tokens"].tolist()[1:] == [576, 2928] and (table["queries"].iloc[1:] == 24).all()
    assert (table[["cpu_seconds", "megabytes"]] > 0).all(axis=None)
    there = browser_program() is not None
    assert (table["view_seconds"] > 0).all() if there else table["view_seconds"].isna().all()
