"""Traces of a folder of results, read once and kept together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from helpers.model_datasets import model_dataset, stored
from visualheads.analysis import models
from visualheads.store.files import DamageWarning
from visualheads.store.stored import write_whole


def live(results: Path, name: str) -> None:
    """A model's traces as a store that tracing left, not a packed one."""
    folder = results / name / "looktwice.zarr"
    folder.parent.mkdir()
    write_whole(folder, model_dataset(name), {"kind": "trace"})


def test_traces_are_joined_once_and_anew_when_a_store_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(tmp_path, "one")
    first = models.traced(tmp_path)
    with monkeypatch.context() as no_second_reading:
        no_second_reading.setattr(models, "open_results", None)
        again = models.traced(tmp_path)
    xr.testing.assert_identical(first.drop_attrs(), again.drop_attrs())
    assert all(first[name].dtype == again[name].dtype for name in first.variables)
    live(tmp_path, "two")
    assert models.traced(tmp_path)["model"].values.tolist() == ["one", "two"]
    shutil.rmtree(tmp_path / "one")
    assert models.traced(tmp_path)["model"].values.tolist() == ["two"]


def test_other_models_are_kept_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        live(tmp_path, name)
    assert models.traced(tmp_path)["model"].values.tolist() == ["one", "two"]
    assert models.traced(tmp_path, models=["two"])["model"].values.tolist() == ["two"]


def test_a_damaged_store_is_told_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        live(tmp_path, name)
    (tmp_path / "one" / "looktwice.zarr" / "zarr.json").write_text("{")
    for _ in range(2):
        with pytest.warns(DamageWarning):
            assert models.traced(tmp_path)["model"].values.tolist() == ["two"]
    assert not list(tmp_path.glob(f"{models.TOGETHER}*"))


def test_much_is_not_kept_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(tmp_path, "one")
    monkeypatch.setattr(models, "KEPT_BYTES", 100)
    assert np.isfinite(models.traced(tmp_path)["image_weight"].mean())
    assert not list(tmp_path.glob(f"{models.TOGETHER}*"))


def test_nothing_is_written_beside_packed_stores(tmp_path: Path) -> None:
    stored(tmp_path, model_dataset("one"))
    assert models.traced(tmp_path)["model"].values.tolist() == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
