"""Every file of a store deleted, emptied, cut off, or changed in one bit: told, or without any effect; never silent."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from helpers.datasets import traced_dataset
from helpers.stores import GRID, fill, plan_for
from visualheads.errors import StoreError
from visualheads.store import write
from visualheads.store.files import DamageWarning
from visualheads.store.read import open_store
from visualheads.store.upkeep import pack, repair, verify

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda _raw: None,
    "emptied": lambda _raw: b"",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "flipped": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 4]) + raw[len(raw) // 2 + 1 :],
    "flipped at its end": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
}


@pytest.fixture
def ds() -> xr.Dataset:
    return traced_dataset(boxes="some", maps=True, grid=GRID, samples=7)


@pytest.fixture
def path(tmp_path: Path, ds: xr.Dataset) -> Path:
    plan = plan_for(ds, shard=4)
    path = write.create(tmp_path / "m" / "looktwice.zarr", plan)
    fill(path, ds, plan)
    return path


def same(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Values, coordinates and attributes."""
    return one.identical(other) and all(one[name].attrs == other[name].attrs for name in one.variables)


def is_silent(path: Path, whole: xr.Dataset) -> bool:
    """Whether a damaged store opens and gives something else than it should."""
    try:
        return not same(open_store(path).load(scheduler="synchronous"), whole)
    except StoreError as error:
        assert path.name in str(error)
        return False


def damaged(path: Path) -> Iterator[tuple[str, str]]:
    """Each file of a store with each damage, put right again afterwards."""
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        raw = file.read_bytes()
        for damage, change in DAMAGES.items():
            changed = change(raw)
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            yield str(file.relative_to(path)), damage
            file.write_bytes(raw)


@pytest.mark.long
def test_no_damage_is_silent(path: Path) -> None:
    whole = open_store(path).load()
    silent = [(name, damage) for name, damage in damaged(path) if is_silent(path, whole)]
    assert silent == []


@pytest.mark.long
def test_verify_tells_every_damage(path: Path) -> None:
    def told(name: str) -> bool:
        try:
            return name in verify(path)
        except StoreError as error:
            return name in str(error)

    assert verify(path) == {}
    assert [(name, damage) for name, damage in damaged(path) if not told(name)] == []


@pytest.mark.long
def test_no_damage_of_a_packed_store_is_silent(path: Path, tmp_path: Path) -> None:
    """Bits of the file, and files left out of it."""
    packed = pack(path, tmp_path / "looktwice.zarr.zip", bits=23)
    whole, raw = open_store(packed).load(), packed.read_bytes()
    silent: list[object] = []
    for place in range(0, len(raw), 97):
        packed.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        silent += [place] if is_silent(packed, whole) else []
    for length in (0, 10, len(raw) // 2, len(raw) - 1):
        packed.write_bytes(raw[:length])
        silent += [length] if is_silent(packed, whole) else []
    packed.write_bytes(raw)
    with zipfile.ZipFile(packed) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name in content:
        for damage, change in DAMAGES.items():
            with zipfile.ZipFile(packed, "w") as archive:
                for other, one in content.items():
                    changed = change(one) if other == name else one
                    if changed is not None:
                        archive.writestr(other, changed)
            silent += [(name, damage)] if is_silent(packed, whole) else []
    assert silent == []


@pytest.mark.parametrize(
    ("damage", "word"), [("deleted", "missing"), ("cut off", "truncated"), ("flipped", "checksum")]
)
def test_a_damaged_shard_is_told_and_done_anew(path: Path, ds: xr.Dataset, damage: str, word: str) -> None:
    file, whole, plan = path / "concentration" / "c.0.0.0.1.0", open_store(path).load(), plan_for(ds, shard=4)
    changed = DAMAGES[damage](file.read_bytes())
    file.unlink()
    if changed is not None:
        file.write_bytes(changed)
    opened = open_store(path)
    assert opened["image_weight"].notnull().all()
    with pytest.raises(StoreError, match=r"looktwice\.zarr is damaged: concentration/c\.0\.0\.0\.1\.0"):
        opened["concentration"].load()
    assert verify(path) == {"concentration/c.0.0.0.1.0": word}
    assert write.pending(path) == [1]
    with pytest.warns(DamageWarning, match="done anew"):
        write.create(path, plan)
    assert write.pending(path) == [1] == list(write.todo(path))
    fill(path, ds, plan)
    assert verify(path) == {} and same(open_store(path).load(), whole)


def test_a_repaired_store_is_open_again(path: Path) -> None:
    (path / "shards" / "0.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"shards/0\.json"):
        open_store(path)
    assert repair(path) == [0]
    assert open_store(path).sizes["sample"] == 3 and verify(path) == {}


def test_only_a_lost_mark_is_put_back(path: Path) -> None:
    (path / "done" / "c.1").unlink()
    assert verify(path) == {"done/c.1": "missing"}
    assert repair(path) == [] and verify(path) == {}


def test_what_killed_writers_left_is_removed(path: Path, ds: xr.Dataset) -> None:
    left = f".c.0.{os.uname().nodename.replace('.', '-')}.{2**22 + 1}.abc.partial"
    (path / "image_weight" / left).write_bytes(b"half")
    draft = path.with_name(left.replace(".c.0.", f".{path.name}."))
    shutil.copytree(path, draft)
    write.create(path, plan_for(ds, shard=4))
    assert not draft.exists() and not list(path.rglob("*.partial"))


def test_values_are_on_disk_before_their_shard_is_done(
    path: Path, ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).parent.name), replace(a, b))[1])
    repair_needed = path / "shards" / "1.json"
    repair_needed.unlink()
    (path / "done" / "c.1").unlink()
    fill(path, ds, plan_for(ds, shard=4), [1])
    record = order.index("shards")
    assert order.count("sync") > np.sum([name not in ("sync", "shards", "done") for name in order[:record]])
    assert order.index("done") > record
