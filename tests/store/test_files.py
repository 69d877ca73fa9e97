"""A store's files: written whole, sealed, checked when they are read, and plain Zarr to everybody else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from helpers.datasets import traced_dataset
from helpers.stores import GRID, fill, plan_for
from visualheads.errors import StoreError
from visualheads.store import files, write


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
    assert raw["condition"].dims == ("sample",) and raw["map_condition"].dims == ("map_condition",)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "c.0"
    files.write_file(file, b"first", sync=True)
    with monkeypatch.context() as patch:

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(files.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            files.write_file(file, b"second")
    assert file.read_bytes() == b"first"
    assert [found.name for found in file.parent.iterdir()] == ["c.0"]


def test_only_drafts_of_processes_that_are_gone_are_abandoned(tmp_path: Path) -> None:
    own = files.draft_of(tmp_path / "m.zarr")
    own.mkdir()
    gone = own.with_name(own.name.replace(f".{os.getpid()}.", f".{2**22 + 1}."))
    elsewhere = tmp_path / ".m.zarr.other-host.1.abc.partial"
    for draft in (gone, elsewhere):
        draft.mkdir()
    assert [files.is_abandoned(draft) for draft in (own, gone, elsewhere)] == [False, True, False]
    os.utime(elsewhere, (0, 0))
    assert files.is_abandoned(elsewhere)


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_sealed_document_opens_as_it_was_or_not_at_all(place: int) -> None:
    document = {"attributes": {"identity": {"seed": 0, "weights": "abc"}, "text": "Größe"}, "shape": [1, 2.5, None]}
    raw = files.sealed(document)
    assert files.unsealed(raw) == document
    for bit in range(8):
        flipped = bytearray(raw)
        flipped[place % len(raw)] ^= 1 << bit
        try:
            assert files.unsealed(bytes(flipped)) == document
        except ValueError:
            continue


@pytest.mark.parametrize(("change", "told"), [("", "missing"), ("cut", "cut off"), ("flip", "checksum")])
def test_what_was_written_is_what_is_read(tmp_path: Path, change: str, told: str) -> None:
    writer = files.CheckedStore(LocalStore(tmp_path / "x.zarr"), tmp_path / "x.zarr")
    array = zarr.create_array(writer, name="v", shape=(4,), chunks=(2,), dtype="f4", fill_value=0)
    array[:] = np.arange(1.0, 5.0)
    assert sorted(writer.known) == ["v/c/0", "v/c/1"]
    raw = (tmp_path / "x.zarr/v/c/1").read_bytes()
    if change:
        (tmp_path / "x.zarr/v/c/1").write_bytes(raw[:-1] if change == "cut" else raw[:-1] + bytes([raw[-1] ^ 1]))
    else:
        (tmp_path / "x.zarr/v/c/1").unlink()
    opened = zarr.open_array(writer, path="v", mode="r")
    assert opened[:2].tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(StoreError, match=rf"x\.zarr is damaged: v/c/1 .*{told}"):
        opened[:]


def test_metadata_is_read_from_one_sealed_file(tmp_path: Path) -> None:
    path = write.create(tmp_path / "m.zarr", plan_for(traced_dataset(), keep=(), grid=None))
    document = json.loads((path / "zarr.json").read_bytes())
    assert document["attributes"]["visualheads_store"] == 2
    assert set(document["consolidated_metadata"]["metadata"]) == {file.parent.name for file in path.glob("*/zarr.json")}
