"""Stores: made whole, filled shard by shard, resumed after a kill, never mixed, open while being filled."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.datasets import samples_of, traced_dataset
from helpers.stores import CIRCUMSTANCE, GRID, IDENTITY, fill, part_of, plan_for
from visualheads.errors import DiskFullError, IdentityMismatch, ParameterError, StoreError
from visualheads.store import files, read, schema
from visualheads.store import write as store
from visualheads.store.combine import open_results
from visualheads.store.read import open_asked, open_store
from visualheads.store.upkeep import verify
from visualheads.store.variables import TRACED, VARIABLES


@pytest.fixture
def ds() -> xr.Dataset:
    return traced_dataset(boxes="some", maps=True, grid=GRID)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m" / "looktwice.zarr"


def test_a_filled_store_gives_back_what_was_written(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    assert store.create(path, plan) == path
    assert store.pending(path) == [0, 1, 2]
    fill(path, ds, plan)
    assert store.pending(path) == []
    opened = open_store(path)
    assert all(opened[name].chunks for name in TRACED if name != "prediction"), "variables are lazy"
    for name in TRACED:
        xr.testing.assert_equal(opened[name].compute().reset_coords(drop=True), ds[name].reset_coords(drop=True))
        assert opened[name].attrs == ds[name].attrs
        assert opened[name].dtype == ds[name].dtype
    for name in set(ds.coords) - {"provenance"}:
        assert np.array_equal(opened[name].values, ds[name].values), name
    assert json.loads(opened["provenance"].item()) == {"identity": IDENTITY, "circumstance": CIRCUMSTANCE}
    schema.assert_valid(opened)


def test_mean_maps_are_means_over_samples(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan)
    opened = open_store(path)
    assert opened["mean_map"].dims == ("model", "layer", "head", "query", "map_condition", "grid_row", "grid_column")
    assert opened["mean_map_count"].values.tolist() == [[6, 6]]
    for condition in ("plain-general", "visual-object"):
        chosen = ds["image_weight"].isel(sample=np.flatnonzero(ds["condition"].values == condition))
        mean = opened["mean_map"].sel(map_condition=condition).isel(grid_row=1, grid_column=2)
        assert np.allclose(mean, chosen.mean("sample") / 6, atol=1e-6)


def test_a_mean_map_pools_no_formats_and_no_controls(path: Path) -> None:
    """Three conditions: free answers, the same under a control, and letters; by hand: weights 0.1, 0.2, 0.4, 0.8."""
    kinds = [("plain", None, ""), ("plain", None, "white"), ("plain", ("two", "one"), ""), ("visual", None, "none")]
    samples = [
        dataclasses.replace(sample, condition=condition, choices=choices, control=control, answer="A")
        for sample, (condition, choices, control) in zip(samples_of(4, boxes=False), kinds, strict=True)
    ]
    ds = traced_dataset(samples=samples, maps=True, grid=GRID)
    ds["image_weight"][:] = np.array([0.1, 0.2, 0.4, 0.8])[:, None]
    plan = plan_for(ds, shard=3)
    store.create(path, plan)
    fill(path, ds, plan)
    opened = open_store(path)
    assert opened["mean_map_count"].values.tolist() == [[1, 1, 1, 1]]
    labels = zip(*(opened[name].values for name in ("map_condition", "map_format", "map_control")), strict=True)
    groups = [("plain", "free", ""), ("plain", "free", "white"), ("plain", "letters", ""), ("visual", "free", "none")]
    assert list(labels) == groups
    assert np.allclose(
        opened["mean_map"].mean(["layer", "head", "query", "grid_row", "grid_column"]) * 6, [0.1, 0.2, 0.4, 0.8]
    )
    assert opened["mean_map"].sel(map_condition="plain").sizes["map_condition"] == 3
    schema.assert_valid(opened)


def test_mean_maps_of_an_earlier_version_are_refused(ds: xr.Dataset, path: Path) -> None:
    """They pooled what must not be pooled."""
    plan = plan_for(ds)
    store.create(path, dataclasses.replace(plan, coords=plan.coords.drop_vars(["map_format", "map_control"])))
    with pytest.raises(StoreError, match=r"without their groups .*--fresh"):
        open_store(path)


def with_maps(ds: xr.Dataset, heads: list[tuple[int, int]]) -> tuple[xr.Dataset, xr.Dataset]:
    """A dataset's coordinates with selected heads; and with maps, each filled with its head's image weight."""
    bare = ds.drop_vars([name for name in ds.variables if str(name).startswith(("mean_map", "map_"))])
    layers, indices = (np.array(part) for part in zip(*heads, strict=True))
    named = bare.assign_coords(selected_layer=("selected_head", layers), selected_index=("selected_head", indices))
    weights = bare["image_weight"].values[:, layers, indices]
    maps = np.broadcast_to(
        np.moveaxis(weights, 1, 3)[..., None, None] / 6, (*weights.shape[:1], 12, 2, len(heads), *GRID)
    )
    dims = VARIABLES["maps"].dims
    return named.drop_vars(list(named.data_vars)), named.assign(maps=(dims, maps.astype("float32")))


def test_maps_of_selected_heads_are_kept_and_resumed(ds: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "m" / "looktwice.zarr"
    coords, traced = with_maps(ds, [(3, 1), (0, 2)])
    plan = store.StorePlan(coords, IDENTITY, CIRCUMSTANCE, 5, ("maps",), GRID)
    store.create(path, plan)
    for index in (1, 0):
        store.write_shard(path, index, traced.drop_vars("provenance").isel(sample=plan.slice(index)))
    store.create(path, plan)
    assert store.pending(path) == [2]
    store.write_shard(path, 2, traced.drop_vars("provenance").isel(sample=plan.slice(2)))
    opened = open_store(path)
    assert opened["selected_layer"].values.tolist() == [3, 0]
    assert opened["selected_index"].values.tolist() == [1, 2]
    np.testing.assert_array_equal(opened["maps"], traced["maps"])
    schema.assert_valid(opened)
    other, _ = with_maps(ds, [(3, 1), (0, 3)])
    with pytest.raises(IdentityMismatch) as error:
        store.create(path, store.StorePlan(other, IDENTITY, CIRCUMSTANCE, 5, ("maps",), GRID))
    assert error.value.differences == {"selected heads": ("2: 3, 1 … 0, 2", "2: 3, 1 … 0, 3")}
    with pytest.raises(ParameterError, match="selected="):
        plan_for(ds, keep=("maps",))


def test_maps_of_several_stores_meet_head_by_head(tmp_path: Path) -> None:
    """Two models with other heads selected, and another task: none is taken for another."""
    chosen = {("a", "looktwice"): [(3, 1), (0, 2)], ("a", "pope"): [(0, 2)], ("b", "looktwice"): [(2, 2), (0, 2)]}
    all_maps = {}
    for (model, task), heads in chosen.items():
        coords, traced = with_maps(traced_dataset(model, task=task), heads)
        plan = store.StorePlan(coords, {"checkpoint": model}, {}, 12, ("maps",), GRID)
        path = store.create(tmp_path / model / f"{task}.zarr", plan)
        store.write_shard(path, 0, traced.drop_vars("provenance"))
        all_maps[model, task] = traced
    ds = open_results(tmp_path)
    heads = list(zip(ds["selected_layer"].values.tolist(), ds["selected_index"].values.tolist(), strict=True))
    assert sorted(heads) == [(0, 2), (2, 2), (3, 1)]
    for (model, task), traced in all_maps.items():
        seen = ds["maps"].sel(model=model).isel(sample=np.flatnonzero(ds["task"].values == task))
        for place, head in enumerate(heads):
            if head in chosen[model, task]:
                own = traced["maps"].isel(model=0, selected_head=chosen[model, task].index(head))
                np.testing.assert_array_equal(seen.isel(selected_head=place), own)
            else:
                assert seen.isel(selected_head=place).isnull().all()
    schema.assert_valid(ds)


def test_chunks_of_conditions_that_a_shard_lacks_are_not_written(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds, shard=6)
    store.create(path, plan)
    fill(path, ds, plan)
    assert len([f for f in (path / "mean_map_sum").glob("c.*")]) == 2


def test_readers_see_only_what_is_done(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    assert open_store(path).sizes["sample"] == 0
    fill(path, ds, plan, [1])
    opened = open_store(path)
    assert opened["sample"].values.tolist() == ds["sample"].values[5:10].tolist()
    assert np.array_equal(opened["image_weight"], ds["image_weight"][:, :, :, 5:10])
    assert opened["mean_map_count"].values.tolist() == [[1, 4]]
    schema.assert_valid(opened)
    whole = open_store(path, all_samples=True)
    assert whole.sizes["sample"] == 12
    assert whole["image_weight"].isnull().any(["layer", "head", "query"]).values[0].tolist() == [
        *[True] * 5,
        *[False] * 5,
        *[True] * 2,
    ]
    assert whole["n_image_tokens"].values[0, 0] == -1
    assert whole["prediction"].values[0, 0] == ""


def test_a_shard_is_done_with_its_record(ds: xr.Dataset, path: Path) -> None:
    """The moments before the record, and between record and mark."""
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan)
    (path / "done" / "c.1").unlink()
    assert open_store(path).sizes["sample"] == 12
    (path / "shards" / "1.json").unlink()
    opened = open_store(path)
    assert opened.sizes["sample"] == 7
    assert opened["mean_map_count"].sum() == 7
    assert store.pending(path) == [1]


def test_writing_a_shard_again_changes_nothing(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan)
    before = contents(path)
    fill(path, ds, plan, [1, 2])
    assert contents(path) == before


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_where_work_is_split_changes_nothing(ds: xr.Dataset, tmp_path: Path) -> None:
    opened = []
    for shard in (1, 5, 12, 50):
        plan, path = plan_for(ds, shard=shard), tmp_path / f"{shard}.zarr"
        store.create(path, plan)
        fill(path, ds, plan)
        opened.append(open_store(path).load())
    for other in opened[1:]:
        xr.testing.assert_allclose(other, opened[0], rtol=1e-6)


def test_another_identity_is_refused_and_every_difference_told(ds: xr.Dataset, path: Path) -> None:
    store.create(path, plan_for(ds))
    other = {**IDENTITY, "weights": "xyz", "seed": 1, "revision": "main"}
    with pytest.raises(IdentityMismatch, match="--fresh") as error:
        store.create(path, plan_for(ds, identity=other))
    assert error.value.differences == {"revision": (None, "main"), "seed": (0, 1), "weights": ("abc", "xyz")}
    assert all(word in str(error.value) for word in ("weights", "'abc'", "'xyz'", str(path)))


@pytest.mark.parametrize(
    ("change", "key"),
    [({"keep": ()}, "mean_map_sum"), ({"grid": (4, 4)}, "mean_map_sum")],
)
def test_another_layout_is_refused(ds: xr.Dataset, path: Path, change: dict[str, object], key: str) -> None:
    store.create(path, plan_for(ds))
    with pytest.raises(IdentityMismatch) as error:
        store.create(path, plan_for(ds, **change))  # type: ignore[arg-type]
    assert key in error.value.differences


def test_another_order_is_the_same_store(ds: xr.Dataset, path: Path) -> None:
    plan, turned = plan_for(ds), ds.isel(sample=slice(None, None, -1))
    store.create(path, plan)
    store.create(path, plan_for(turned))
    fill(path, ds, plan)
    found = open_asked(path, turned["sample"].values.tolist())
    assert np.array_equal(found["image_weight"], turned["image_weight"])
    assert found["mean_map"].notnull().all()


def test_a_subset_is_served_and_its_mean_maps_are_its_own_or_missing(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan)
    general = ds["sample"].values[ds["condition"].values == "plain-general"].tolist()
    few = store.create(path, plan_for(ds.sel(sample=general)))
    assert store.todo(few, general) == {}
    found = open_asked(path, general)
    assert np.array_equal(found["image_weight"], ds["image_weight"].sel(sample=general))
    assert found["mean_map_count"].values.tolist() == [[6, 0]]
    assert found["mean_map"].sel(map_condition="plain-general").notnull().all()
    assert found["mean_map"].sel(map_condition="visual-object").isnull().all()
    assert open_asked(path, general[:3])["mean_map"].isnull().all()
    schema.assert_valid(found)


@pytest.mark.parametrize("asked", [5, 12])
def test_missing_samples_are_added_and_nothing_is_measured_twice(ds: xr.Dataset, path: Path, asked: int) -> None:
    """Seven samples, two shards; then all twelve, in a shard that was half full and a new one of the same length."""
    first, plan = ds.isel(sample=slice(7)), plan_for(ds)
    store.create(path, plan_for(first))
    fill(path, first, plan_for(first))
    before = contents(path)
    store.create(path, plan_for(ds, shard=asked))
    ids = ds["sample"].values.tolist()
    todo = store.todo(path, ids)
    assert todo == {1: ids[7:10], 2: ids[10:]}
    assert np.array_equal(open_store(path)["image_weight"], first["image_weight"]), "what is there stays readable"
    for index, missing in todo.items():
        store.write_shard(path, index, part_of(ds.sel(sample=missing), plan, slice(None)))
    opened = open_store(path)
    for name in TRACED:
        assert np.array_equal(opened[name].values, ds[name].values, equal_nan=ds[name].dtype.kind == "f"), name
    assert opened["mean_map_count"].values.tolist() == [[6, 6]]
    mean = ds["image_weight"].groupby("condition").mean() / 6
    assert np.allclose(opened["mean_map"].isel(grid_row=0, grid_column=0), mean.transpose(..., "condition"), atol=1e-6)
    first_shard = {
        name: raw for name, raw in contents(path).items() if name.endswith("0.0.0.0.0") and "map" not in name
    }
    assert first_shard.items() <= before.items()
    assert not list(path.parent.glob("*.replaced")) and not verify(path)
    schema.assert_valid(opened)


def test_a_kill_while_samples_are_added_loses_nothing(ds: xr.Dataset, path: Path) -> None:
    first = ds.isel(sample=slice(7))
    store.create(path, plan_for(first))
    fill(path, first, plan_for(first))
    path.rename(path.with_name(f"{path.name}.replaced"))
    store.create(path, plan_for(ds))
    assert store.todo(path) == {1: ds["sample"].values[7:10].tolist(), 2: ds["sample"].values[10:].tolist()}


def test_another_question_of_the_same_id_is_refused(ds: xr.Dataset, path: Path) -> None:
    hashes = [f"h{index}" for index in range(12)]
    store.create(path, plan_for(ds, hashes=hashes))
    store.create(path, plan_for(ds.isel(sample=slice(4, 6)), hashes=hashes[4:6]))
    with pytest.raises(IdentityMismatch, match="question, picture or prompt") as error:
        store.create(path, plan_for(ds, hashes=[*hashes[:11], "other"]))
    assert list(error.value.differences) == ["questions"]


def test_margins_over_other_answers_are_not_shown(ds: xr.Dataset, path: Path) -> None:
    first = ds.isel(sample=slice(5))
    store.create(path, plan_for(first, answers="one, two"))
    fill(path, first, plan_for(first))
    assert open_asked(path, first["sample"].values.tolist(), "one, two")["margin"].notnull().all()
    assert open_asked(path, first["sample"].values.tolist(), "one, three")["margin"].isnull().all()
    store.create(path, plan_for(ds, answers="one, two, three"))
    fill(path, ds, plan_for(ds))
    assert open_store(path)["margin"].notnull().values[0].tolist() == [False] * 5 + [True] * 7


def test_fresh_starts_anew_and_keeps_the_old_store(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan)
    before = contents(path)
    for number in (1, 2):
        store.create(path, plan_for(ds, identity={**IDENTITY, "seed": number}), fresh=True)
        assert store.pending(path) == [0, 1, 2]
        assert path.with_name(f"looktwice.zarr.old-{number}").is_dir()
    assert contents(path.with_name("looktwice.zarr.old-1")) == before


def test_another_circumstance_warns_once_and_is_recorded(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan, [0])
    other = plan_for(ds, circumstance={**CIRCUMSTANCE, "device": "cuda"})
    with pytest.warns(store.CircumstanceWarning, match="device: 'cpu' → 'cuda'") as told:
        store.create(path, other)
    assert len(told) == 1
    store.write_shard(path, 1, part_of(ds, plan, 1), circumstance=other.circumstance)
    store.create(path, other)  # recorded by now: warnings are errors here
    fill(path, ds, plan)
    recorded = json.loads(open_store(path)["provenance"].item())
    assert recorded["circumstance"] == CIRCUMSTANCE
    assert recorded["other_circumstances"] == [{**CIRCUMSTANCE, "device": "cuda"}]
    store.create(path, plan_for(ds, circumstance={"device": "tpu"}))  # nothing left to do: nothing to warn of


def test_the_circumstance_of_a_shard_is_read_off_its_provenance(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    told = np.array([schema.provenance({}, {"device": "mps"})], dtype=object)
    store.write_shard(path, 0, part_of(ds, plan, 0).assign_coords(provenance=("model", told)))
    assert json.loads(open_store(path)["provenance"].item())["other_circumstances"] == [{"device": "mps"}]


def test_another_shards_samples_are_refused(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    with pytest.raises(StoreError, match=r"shard 1 of .* holds 5 samples from"):
        store.write_shard(path, 1, part_of(ds, plan, 0))
    with pytest.raises(ParameterError, match="shard: got 3; allowed: 0 to 2"):
        store.write_shard(path, 3, part_of(ds, plan, 2))
    assert store.pending(path) == [0, 1, 2]


def test_a_shard_of_another_shape_is_refused(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    part = part_of(ds, plan, 0)
    with pytest.raises(StoreError, match="trace with both queries"):
        store.write_shard(path, 0, part.isel(query=0))
    with pytest.raises(StoreError, match="'layer': 3"):
        store.write_shard(path, 0, part.isel(layer=[0, 1, 2]))
    assert store.pending(path) == [0, 1, 2]


def test_a_missing_variable_stays_missing(ds: xr.Dataset, path: Path) -> None:
    plan = plan_for(ds, keep=(), grid=None)
    store.create(path, plan)
    store.write_shard(path, 0, part_of(ds, plan, 0).drop_vars(["sink_share"]))
    opened = open_store(path)
    assert opened["sink_share"].isnull().all()
    schema.assert_valid(opened)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": 0}, "shard: got 0"),
        ({"keep": ("attention",)}, "keep: got 'attention'"),
        ({"grid": None}, "grid: got None"),
        ({"variables": {"speed": ("model", "sample")}}, "variable: got 'speed'"),
    ],
)
def test_a_bad_plan_is_refused(ds: xr.Dataset, change: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plan_for(ds, **change).layout()  # type: ignore[arg-type]


def test_mean_maps_need_groups(ds: xr.Dataset) -> None:
    with pytest.raises(ParameterError, match="groups="):
        plan_for(ds.drop_vars(["mean_map", "mean_map_count", "map_condition", "map_format", "map_control"]))


def test_a_sweep_is_stored_the_same_way(path: Path) -> None:
    """Other variables, another dimension, chosen by the plan."""
    coords = schema.coordinates("m", samples_of(6), 2, 2).assign_coords(set=np.arange(3))
    dims = {"correct": ("model", "set", "sample"), "kl": ("model", "set", "sample")}
    plan = store.StorePlan(coords, IDENTITY, shard=4, variables=dims, kind="sweep")
    store.create(path, plan)
    values = np.arange(12, dtype="float32").reshape(1, 3, 4)
    part = coords.isel(sample=plan.slice(0)).assign(kl=(dims["kl"], values))
    store.write_shard(path, 0, part)
    opened = open_store(path)
    assert np.array_equal(opened["kl"], values)
    with pytest.raises(StoreError, match="kind 'trace'"):
        open_results(path.parents[1])
    assert open_results(path.parents[1], kind="sweep").sizes["set"] == 3


def test_paths_without_a_store_are_told(ds: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        open_store(tmp_path / "nothing.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(StoreError, match="is not a readable zarr store"):
        store.create(tmp_path / "empty.zarr", plan_for(ds))
    xr.Dataset({"x": ("y", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(StoreError, match="is not a results store"):
        open_store(tmp_path / "other.nc")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is not a readable zarr store"):
        store.pending(tmp_path / "broken.zarr")


def test_a_full_disk_is_told_and_loses_nothing(ds: xr.Dataset, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(ds)
    store.create(path, plan)
    fill(path, ds, plan, [0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFullError, match="make room and run the same command again"):
            fill(path, ds, plan, [1])
        with pytest.raises(DiskFullError):
            store.create(path.with_name("other.zarr"), plan)
    assert store.pending(path) == [1, 2]
    assert not path.with_name("other.zarr").exists()
    assert [p.name for p in path.parent.iterdir()] == ["looktwice.zarr"]
    fill(path, ds, plan)
    assert open_store(path).sizes["sample"] == 12


def test_an_end_between_any_two_writes_loses_the_shard_in_hand_only(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before the first, the tenth, the last write of the second shard, and after it."""

    class Ended(BaseException):
        pass

    plan = plan_for(ds)
    write = files.write_file
    writes = len(TRACED) + 2 + 1 + 1  # two conditions have a chunk each; then come the record and the mark
    for allowed in (0, 9, writes - 2, writes):
        path = tmp_path / f"{allowed}.zarr"
        store.create(path, plan)
        fill(path, ds, plan, [0])
        left = [allowed]

        def limited(*args: Any, left: list[int] = left, **more: Any) -> None:
            if left[0] == 0:
                raise Ended
            left[0] -= 1
            write(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_file", limited)
            with contextlib.suppress(Ended):
                store.write_shard(path, 1, part_of(ds, plan, 1))
        assert store.pending(path) == ([2] if allowed == writes else [1, 2])
        schema.assert_valid(open_store(path))
        store.create(path, plan)
        fill(path, ds, plan)
        opened = open_store(path)
        assert np.array_equal(opened["image_weight"], ds["image_weight"])
        assert opened["mean_map_count"].values.tolist() == [[6, 6]]


WORKER = """
import sys, time
from helpers.stores import fill, part_of, plan_for, GRID
from helpers.stores import CIRCUMSTANCE, GRID, IDENTITY, fill, part_of, plan_for
from helpers.datasets import traced_dataset
from visualheads.store import write as store
path, rest = sys.argv[1], float(sys.argv[2])
ds = traced_dataset(samples=40, maps=True, grid=GRID)
plan = plan_for(ds, shard=2)
store.create(path, plan)
print("started", flush=True)
for index in store.pending(path):
    store.write_shard(path, index, part_of(ds, plan, index))
    time.sleep(rest)
"""


def worker(path: Path, rest: float) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORKER, str(path), str(rest)], env=env, text=True, stdout=subprocess.PIPE
    )


def await_shards(path: Path, count: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = len(list((path / "shards").glob("*.json"))) if path.exists() else 0
        if done >= count:
            return done
        time.sleep(0.01)
    raise AssertionError(f"fewer than {count} shards after a minute")


def test_a_killed_run_is_resumed_where_it_was(path: Path) -> None:
    ds = traced_dataset(samples=40, maps=True, grid=GRID)
    plan = plan_for(ds, shard=2)
    with worker(path, rest=0.02) as process:
        await_shards(path, 3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    todo = store.pending(path)
    assert 0 < len(todo) <= 17
    schema.assert_valid(open_store(path))
    store.create(path, plan)
    fill(path, ds, plan)
    opened = open_store(path)
    for name in TRACED:
        assert np.array_equal(opened[name].values, ds[name].values, equal_nan=ds[name].dtype.kind == "f")


def test_two_processes_fill_one_store(path: Path) -> None:
    ds = traced_dataset(samples=40, maps=True, grid=GRID)
    with worker(path, rest=0) as first, worker(path, rest=0) as second:
        assert first.wait(60) == 0
        assert second.wait(60) == 0
    assert store.pending(path) == []
    opened = open_store(path)
    assert np.array_equal(opened["image_weight"], ds["image_weight"])
    assert opened["mean_map_count"].values.tolist() == [[20, 20]]
    assert not list(path.parent.rglob("*.partial"))


def test_one_store_comes_of_many_makers(ds: xr.Dataset, path: Path) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            store.create(path, plan_for(ds))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [p.name for p in path.parent.iterdir()] == ["looktwice.zarr"]
    assert store.pending(path) == [0, 1, 2]


def test_reading_while_filling(path: Path) -> None:
    """Whatever moment a reader opens the store at, what it sees is valid and grows."""
    with worker(path, rest=0.05) as process:
        seen = [await_shards(path, 1)]
        while process.poll() is None and len(seen) < 4:
            opened = open_store(path)
            schema.assert_valid(opened)
            seen.append(opened.sizes["sample"])
            await_shards(path, min(20, opened.sizes["sample"] // 2 + 2))
    assert process.returncode == 0
    assert seen[1:] == sorted(seen[1:]) and seen[-1] > seen[1]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.integers(1, 9),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    shard=st.integers(1, 10),
    boxes=st.sampled_from([True, False, "some"]),
    order=st.randoms(use_true_random=False),
    words=st.lists(st.text(max_size=5).filter(lambda t: "\0" not in t), min_size=9, max_size=9),
)
def test_round_trip(
    tmp_path: Path,
    samples: int,
    layers: int,
    heads: int,
    shard: int,
    boxes: bool | str,
    order: object,
    words: list[str],
) -> None:
    """Any shape, any shard length, shards in any order, any text."""
    ds = traced_dataset(layers=layers, heads=heads, samples=samples, boxes=boxes, maps=True, grid=GRID)
    ds["prediction"].values[0] = np.array(words, dtype=object)[:samples]
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
    plan = plan_for(ds, shard=shard)
    store.create(path, plan)
    shards = list(range(plan.n_shards))
    order.shuffle(shards)  # type: ignore[attr-defined]
    fill(path, ds, plan, shards)
    opened = open_store(path).load()
    for name in TRACED:
        assert np.array_equal(opened[name].values, ds[name].values, equal_nan=ds[name].dtype.kind == "f"), name
    schema.assert_valid(opened)


def test_dask_chunks_hold_many_shards(path: Path) -> None:
    ds = traced_dataset(samples=400, layers=2, heads=2, maps=True, grid=GRID)
    store.create(path, plan_for(ds, shard=4))
    opened = open_store(path, all_samples=True)
    assert opened["image_weight"].chunksizes["sample"] == (400,)
    assert read.DASK_CHUNK_BYTES < 2**26
