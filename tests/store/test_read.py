"""Datasets saved by any writer and opened again: here, and by plain xarray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import visualheads as vh
from helpers.datasets import traced_dataset
from helpers.stores import GRID, fill, plan_for, stored
from visualheads.errors import StoreError
from visualheads.store import write
from visualheads.store.variables import VARIABLES

WRITERS = {
    "zarr": lambda ds, path: ds.to_zarr(path, consolidated=False),
    "zarr 2": lambda ds, path: ds.to_zarr(path, consolidated=False, zarr_format=2),
    "netcdf": lambda ds, path: ds.to_netcdf(path),
}


def made(path: Path, source: str) -> xr.Dataset:
    ds = traced_dataset(boxes="some", maps=True, grid=GRID)
    return ds if source == "in memory" else vh.open_store(stored(path, ds))


@pytest.mark.parametrize("source", ["in memory", "stored"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_dataset_is_saved_and_opened_by_any_writer(tmp_path: Path, writer: str, source: str) -> None:
    ds, path = made(tmp_path, source), tmp_path / f"saved.{writer}"
    WRITERS[writer](ds, path)
    found = vh.open_store(path)
    assert set(found.variables) == set(ds.variables)
    for name in ds.variables:
        same = np.array_equal(found[name].values, ds[name].values, equal_nan=ds[name].dtype.kind == "f")
        assert same and found[name].dims == ds[name].dims, name
        assert found[name].attrs == ds[name].attrs, name
    vh.assert_valid(found)
    for by in ("detection", "image_weight", "localization"):
        again = vh.rank(found, by=by, interval=True)
        np.testing.assert_array_equal(again, vh.rank(ds, by=by, interval=True))
    WRITERS[writer](found, tmp_path / "again")


@pytest.mark.parametrize("writer", WRITERS)
def test_what_plain_xarray_reopens_is_ranked(tmp_path: Path, writer: str) -> None:
    ds = made(tmp_path, "in memory")
    WRITERS[writer](ds, tmp_path / "saved")
    more = {"engine": "zarr", "consolidated": False} if "zarr" in writer else {}
    found = xr.open_dataset(tmp_path / "saved", **more)
    np.testing.assert_array_equal(vh.rank(found), vh.rank(ds))
    np.testing.assert_array_equal(vh.select(found, by="image_weight", k=3), vh.select(ds, by="image_weight", k=3))
    vh.assert_valid(found)


def test_heads_are_found_by_their_labels(tmp_path: Path) -> None:
    ds = made(tmp_path, "stored")
    one = ds["image_weight"].where(ds["label"] == "L1H2", drop=True).squeeze(("layer", "head"))
    np.testing.assert_array_equal(one, ds["image_weight"].sel(layer=1, head=2))
    scores = vh.rank(ds, by="image_weight").isel(model=0)
    flat = scores.stack(at=("layer", "head"), create_index=False).set_xindex("label")
    wanted = list(vh.top(ds, by="image_weight", n=3, model=str(ds["model"].values[0])).index)
    np.testing.assert_array_equal(flat.sel(label=wanted), np.sort(flat.values)[::-1][:3])
    bare = made(tmp_path, "in memory").drop_vars("label")
    write.create(tmp_path / "older.zarr", plan_for(bare))
    assert "L0H0" in vh.open_store(tmp_path / "older.zarr", all_samples=True)["label"]


def test_a_file_cut_anywhere_is_told(tmp_path: Path) -> None:
    made(tmp_path, "in memory").to_netcdf(tmp_path / "a.nc")
    raw = (tmp_path / "a.nc").read_bytes()
    for length in (4, 9, 40, len(raw) // 3, len(raw) - 9):
        (tmp_path / "b.nc").write_bytes(raw[:length])
        with pytest.raises(StoreError, match=r"b\.nc"):
            vh.open_store(tmp_path / "b.nc").load()


def test_a_choice_of_conditions_chooses_maps_or_samples(tmp_path: Path) -> None:
    ds = made(tmp_path, "stored")
    dims = VARIABLES["mean_map"].dims
    assert ds["mean_map"].sel(map_condition="plain-general").dims == tuple(d for d in dims if d != "map_condition")
    assert set(ds.sel(condition="plain-general")["condition"].values) == {"plain-general"}


@pytest.mark.parametrize(("name", "raw"), [("x.nc", b"nothing"), ("x.txt", b""), ("x.zarr.zip", b"PK\x03\x04")])
def test_files_that_are_no_results_are_told(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(StoreError, match=name):
        vh.open_store(tmp_path / name)


def test_a_store_of_a_later_layout_is_not_read(tmp_path: Path) -> None:
    ds = traced_dataset(maps=True, grid=GRID)
    path = write.create(tmp_path / "m.zarr", plan_for(ds))
    fill(path, ds, plan_for(ds))
    raw = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(raw.replace('"visualheads_store": 2', '"visualheads_store": 9'))
    with pytest.raises(StoreError, match=r"m\.zarr"):
        vh.open_store(path)
