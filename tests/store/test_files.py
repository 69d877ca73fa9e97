"""A store's files: plain Zarr that zarr and xarray read, written chunk by chunk and atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from helpers.datasets import traced_dataset
from helpers.stores import GRID, fill, plan_for
from visualheads.errors import StoreError
from visualheads.store import files, read, write
from visualheads.store import files as zarr_files

DTYPES = ("float32", "float64", "int32", "int64", "bool", "str")


def made(path: Path, **arrays: tuple[dict[str, Any], np.ndarray | None]) -> Path:
    zarr_files.write_new(path, {}, arrays)
    return path


def some(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-3, 4, shape)
    if dtype == "str":
        texts = np.array(["", "ein Wort", "Größe → 5", "\n", "x" * 300, "0", "ab"], dtype=object)
        return texts[numbers + 3]
    return numbers.astype(dtype) / (7 if dtype.startswith("float") else 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_reads_what_is_written(tmp_path: Path, dtype: str) -> None:
    """Chunks that fit, that stick out at the end, and that were never written."""
    values = some(dtype, (5, 4))
    fill = float("nan") if dtype.startswith("float") else "" if dtype == "str" else 0
    array = zarr_files.array_metadata(("a", "b"), (8, 4), dtype, chunks=(3, 2), fill=fill)
    path = made(
        tmp_path / "x.zarr", v=(array, None), whole=(zarr_files.array_metadata(("c",), (5,), dtype), values[:, 0])
    )
    zarr_files.write_region(path, "v", array, values[:2], (6, 0))
    zarr_files.write_region(path, "v", array, values[2:], (0, 0))
    expected = np.concatenate([values[2:], np.full((3, 4), fill, values.dtype), values[:2]])
    group: Any = zarr.open_group(path, mode="r")
    assert group["v"].metadata.dimension_names == ("a", "b")
    for found in (group["v"][:], zarr_files.read_array(path, "v", array)):
        assert np.array_equal(found.astype(values.dtype), expected.astype(values.dtype), equal_nan=dtype[0] == "f")
    assert group["whole"][:].tolist() == values[:, 0].tolist()


@given(st.data())
def test_regions_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    array = zarr_files.array_metadata([f"d{i}" for i in range(len(shape))], shape, dtype, chunks=chunks)
    path = made(tmp_path_factory.mktemp("r") / "x.zarr", v=(array, None))
    values = some(dtype, shape, data.draw(st.integers(0, 9)))
    zarr_files.write_region(path, "v", array, values, (0,) * len(shape))
    assert np.array_equal(zarr_files.read_array(path, "v", array), values)
    lazy = read.LazyArray(path, "v", array)
    assert np.array_equal(lazy[(slice(None),) * len(shape)], values)


def test_xarray_opens_a_store(tmp_path: Path) -> None:
    """No reader needs this package."""
    ds = traced_dataset(boxes="some", maps=True, grid=GRID)
    plan = plan_for(ds)
    path = write.create(tmp_path / "m.zarr", plan)
    fill(path, ds, plan)
    raw = xr.open_zarr(path, chunks=None)
    assert set(raw.coords) == set(ds.coords)
    for name in ("image_weight", "region_weight", "correct"):
        np.testing.assert_array_equal(raw[name].values, ds[name].values)
    assert raw["prediction"].values.tolist() == ds["prediction"].values.tolist()
    assert raw["condition"].dims == ("sample",) and raw["map_condition"].dims == ("condition",)


def test_a_store_that_zarr_made_is_read(tmp_path: Path) -> None:
    """Nested chunk names, metadata in each array's own file, other codecs than ours."""
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", attributes={"visualheads_store": read.FORMAT})
    for name, values in (("n", np.arange(6.0).reshape(2, 3)), ("t", some("str", (2, 3)))):
        group.create_array(name, shape=(2, 3), chunks=(1, 2), dtype="str" if name == "t" else "f8")[:] = values
    stored = read.opened(tmp_path / "x.zarr")
    assert stored.values("n").tolist() == np.arange(6.0).reshape(2, 3).tolist()
    assert stored.values("t").tolist() == some("str", (2, 3)).tolist()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "c.0"
    files.write_file(file, b"first")
    with monkeypatch.context() as patch:

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(files.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            files.write_file(file, b"second")
    assert file.read_bytes() == b"first"
    assert [found.name for found in file.parent.iterdir()] == ["c.0"]


def test_damaged_coordinates_are_told(tmp_path: Path) -> None:
    ds = traced_dataset()
    path = write.create(tmp_path / "m.zarr", plan_for(ds, keep=(), grid=None))
    chunk = path / "depth" / "c.0.0"
    whole = chunk.read_bytes()
    for raw in (b"", whole[:-3], b"nonsense that is long enough to have a header"):
        chunk.write_bytes(raw)
        with pytest.raises(StoreError, match=r"depth is damaged .*trace again"):
            write.open_store(path)
    other = json.loads((path / "zarr.json").read_text())
    other["consolidated_metadata"]["metadata"]["depth"]["codecs"][1] = {"name": "gzip", "configuration": {"level": 5}}
    (path / "zarr.json").write_text(json.dumps(other))
    with pytest.raises(StoreError, match="compressed with gzip"):
        write.open_store(path)
