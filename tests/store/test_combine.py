"""All results of a folder as one lazy dataset; packed stores; provenance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from dask import config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.datasets import samples_of, traced_dataset
from helpers.stores import GRID, stored, traced
from visualheads.errors import ParameterError, StoreError
from visualheads.store import schema, write
from visualheads.store import upkeep as packing
from visualheads.store.combine import open_results
from visualheads.store.files import DamageWarning
from visualheads.store.read import open_store
from visualheads.store.upkeep import pack


def test_models_of_different_shapes_are_padded(tmp_path: Path) -> None:
    small, large = traced("small", 2, 3), traced("large", 4, 4, llm="vicuna-13b", parameters=13.0)
    stored(tmp_path, small)
    stored(tmp_path, large)
    ds = open_results(tmp_path)
    assert dict(ds.sizes) == {
        "model": 2,
        "layer": 4,
        "head": 4,
        "sample": 12,
        "query": 2,
        "map_condition": 2,
        "grid_row": 2,
        "grid_column": 3,
    }
    assert ds["image_weight"].chunks
    for source in (small, large):
        name = source["model"].item()
        kept = ds["image_weight"].sel(model=name, layer=source["layer"], head=source["head"])
        assert np.array_equal(kept, source["image_weight"][0])
    assert ds["image_weight"].sel(model="small", layer=[2, 3]).isnull().all()
    assert ds["image_weight"].sel(model="small", head=3).isnull().all()
    assert ds["prediction"].sel(model="small").values.tolist() == small["prediction"].values[0].tolist()
    assert ds["llm"].sel(model="large").item() == "vicuna-13b"
    assert ds["parameters"].sel(model="small").item() == 7.0
    assert ds["depth_stage"].sel(model="small").values.tolist() == ["early", "late", "", ""]
    assert ds["task"].values.tolist() == ["looktwice"] * 12
    assert ds["image_weight"].attrs["units"] == "share of attention"
    schema.assert_valid(ds)


def test_models_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    path = stored(tmp_path, traced("m", 2, 3))
    other = path.parent.with_name("elsewhere-m")
    path.parent.rename(other)
    stored(tmp_path, traced("m", 2, 3, 5))
    ds = open_results(tmp_path)
    assert sorted(ds["model"].values.tolist()) == ["elsewhere-m", "m"]
    seen = ds["image_weight"].isel(layer=0, head=0, query=0).notnull().sum("sample")
    assert seen.sel(model="elsewhere-m") == 12 and seen.sel(model="m") == 5


def test_tasks_follow_one_another_along_sample(tmp_path: Path) -> None:
    counting, yes_no = traced("a", 2, 2), traced("a", 2, 2, 7, task="pope", conditions=("adversarial",), boxes=False)
    stored(tmp_path, counting, task_files="t1")
    stored(tmp_path, yes_no, task="pope", task_files="t2")
    other = traced("b", 2, 2)
    stored(tmp_path, other, task_files="t1")
    ds = open_results(tmp_path)
    assert ds["sample"].values.tolist() == [*counting["sample"].values, *yes_no["sample"].values]
    assert ds["task"].values.tolist() == ["looktwice"] * 12 + ["pope"] * 7
    assert ds["map_condition"].values.tolist() == ["plain-general", "visual-object", "adversarial"]
    assert ds["image_weight"].sel(model="b").isel(sample=slice(12, None)).isnull().all()
    assert ds["prediction"].sel(model="b").isel(sample=slice(12, None)).values.tolist() == [""] * 7
    assert ds["mean_map_count"].sel(model="a").values.tolist() == [6, 6, 7]
    assert ds["mean_map"].sel(map_condition="adversarial", model="b").isnull().all()
    told = json.loads(ds["provenance"].sel(model="a").item())
    assert told["identity"] == {"checkpoint": "a", "task_files": {"looktwice": "t1", "pope": "t2"}}
    assert told["circumstance"] == {"device": "cpu"}
    schema.assert_valid(ds)


def test_what_is_done_of_a_store_is_included(tmp_path: Path) -> None:
    whole, half = traced("whole", 2, 2), traced("half", 2, 2)
    stored(tmp_path, whole)
    stored(tmp_path, half, done=[1])
    stored(tmp_path, traced("empty", 2, 2), done=[])
    ds = open_results(tmp_path)
    assert ds["model"].values.tolist() == ["half", "whole"]
    assert ds["sample"].size == 12
    seen = ds["image_weight"].sel(model="half").notnull().all(["layer", "head", "query"])
    assert sorted(ds["sample"].values[seen.values]) == sorted(half["sample"].values[5:10])
    schema.assert_valid(ds)


def test_one_id_for_different_samples_is_told_apart(tmp_path: Path) -> None:
    """Shipped scenes and real pictures number their questions alike."""
    stored(tmp_path, traced("mini", 2, 2), task_files="scenes")
    stored(tmp_path, traced("real", 2, 2), task_files="visual genome")
    stored(tmp_path, traced("mini-2", 2, 2), task_files="scenes")
    fewer = traced("mini-3", 2, 2).isel(sample=slice(5))
    stored(tmp_path, fewer, task_files="scenes", samples="others")
    ds = open_results(tmp_path)
    assert ds["sample"].size == 24
    assert ds["image_weight"].sel(model="mini-3")[0, 0, :, 0].notnull().sum() == 5
    mine = ds["sample"].values[ds["image_weight"].sel(model="mini")[0, 0, :, 0].notnull().values]
    assert mine[0].startswith("looktwice-0-plain-general-free-none@") and len(mine) == 12
    assert ds["image_weight"].sel(model="real", sample=mine).isnull().all()
    assert ds["image_weight"].sel(model="mini-2", sample=mine).notnull().all()
    schema.assert_valid(ds)


def test_a_condition_of_several_tasks_is_led_by_the_task(tmp_path: Path) -> None:
    for task in ("seedbench", "mmbench"):
        stored(tmp_path, traced("a", 2, 2, task=task, conditions=("plain",)), task=task)
    stored(tmp_path, traced("a", 2, 2, task="qbench", conditions=("",)), task="qbench")
    ds = open_results(tmp_path)
    assert ds["map_condition"].values.tolist() == ["mmbench: plain", "qbench", "seedbench: plain"]
    assert ds["mean_map_count"].values.tolist() == [[12, 12, 12]]


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    for model in ("a", "b"):
        path = stored(tmp_path, traced(model, 2, 2))
        for chunk in (path / "image_weight").glob("c.*"):
            chunk.write_bytes(b"broken")
    ds = open_results(tmp_path)
    assert ds["region_weight"].mean().compute() > 0
    with pytest.raises(StoreError), config.set(scheduler="synchronous"):
        ds["image_weight"].compute()


def test_graphs_stay_small(tmp_path: Path) -> None:
    """Lazy chunks hold many shards: a graph per variable counts models and tasks, not shards."""
    samples = samples_of(600)
    for model in ("a", "b", "c"):
        ds = traced_dataset(model, 2, 2, samples, maps=True, grid=GRID)
        plan = write.StorePlan(ds.drop_vars(list(ds.data_vars)), {"checkpoint": model}, shard=4)
        path = write.create(tmp_path / model / "looktwice.zarr", plan)
        write.write_shard(path, 0, ds.isel(sample=plan.slice(0)))
    ds = open_results(tmp_path)
    graph = ds["image_weight"].__dask_graph__()
    assert graph is not None and len(graph) < 30


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no results in .*visualheads trace"):
        open_results(tmp_path)


def test_old_stores_set_aside_are_left_out(tmp_path: Path) -> None:
    ds = traced("a", 2, 2)
    path = stored(tmp_path, ds)
    plan = write.StorePlan(ds.drop_vars(list(ds.data_vars)), {"checkpoint": "other"}, shard=5)
    write.create(path, plan, fresh=True)
    write.write_shard(path, 0, ds.isel(sample=plan.slice(0)))
    assert open_results(tmp_path).sizes["sample"] == 5


def test_packing_keeps_everything_but_the_last_bits(tmp_path: Path) -> None:
    ds = traced("a", 4, 4, boxes="some")
    path = stored(tmp_path, ds)
    packed = pack(path, tmp_path / "shipped" / "a" / "looktwice.zarr.zip")
    opened, live = open_store(packed), open_store(path)
    assert set(opened.variables) == set(live.variables)
    for name in live.data_vars:
        if live[name].dtype.kind == "f":
            np.testing.assert_allclose(opened[name], live[name], rtol=2**-11)
            assert np.array_equal(opened[name].isnull(), live[name].isnull())
        else:
            assert np.array_equal(opened[name].values, live[name].values)
        assert opened[name].dtype == live[name].dtype
    for name in live.coords:
        assert np.array_equal(opened[name].values, live[name].values)
    schema.assert_valid(opened)
    assert packed.stat().st_size < sum(file.stat().st_size for file in path.rglob("*")) / 2
    assert [p.name for p in packed.parent.iterdir()] == ["looktwice.zarr.zip"]
    again = pack(path, tmp_path / "again.zarr.zip")
    assert again.read_bytes() == packed.read_bytes()
    shipped = open_results(tmp_path / "shipped")
    assert np.array_equal(shipped["image_weight"], opened["image_weight"])


def test_a_dataset_in_memory_is_packed_and_opened(tmp_path: Path) -> None:
    """Several moments of training in one file."""
    moments = [traced_dataset(f"m@{step}", 2, 2, 3, training_step=step, maps=True) for step in (0, 100)]
    ds = xr.concat(moments, "model", coords="minimal", compat="override", join="outer", data_vars="all")
    packed = pack(ds, tmp_path / "moments.zarr.zip", bits=23)
    opened = open_store(packed)
    assert opened["training_step"].values.tolist() == [0, 100]
    xr.testing.assert_identical(opened["image_weight"].compute(), ds["image_weight"])
    schema.assert_valid(opened)


@pytest.mark.parametrize(
    ("target", "bits", "message"),
    [("a.zarr", 10, r"ends in \.zarr\.zip"), ("a.zarr.zip", 0, "bits: got 0; allowed: 1")],
)
def test_bad_packing_is_refused(tmp_path: Path, target: str, bits: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        pack(traced_dataset(), tmp_path / target, bits)


@given(
    hnp.arrays("float32", st.integers(1, 20), elements=st.floats(-(2.0**120), 2.0**120, width=32)), st.integers(1, 23)
)
def test_rounding_is_close_and_keeps_order(values: np.ndarray, bits: int) -> None:
    rounded = packing._rounded(xr.DataArray(values), bits).values
    assert (np.abs(rounded - values) <= np.abs(values) * 2.0 ** -(bits + 1) + 1e-38).all()
    assert (np.diff(rounded[np.argsort(values)]) >= 0).all()


def test_numbers_that_are_none_are_not_rounded() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1 + 2**-12, 0.0], dtype="float32")
    assert np.array_equal(packing._rounded(xr.DataArray(values), 10), [np.nan, np.inf, -np.inf, 1, 0], equal_nan=True)


def test_one_bad_store_does_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = stored(tmp_path, traced("good", 2, 3)), stored(tmp_path, traced("bad", 2, 3))
    (bad / "zarr.json").write_bytes((bad / "zarr.json").read_bytes()[:-9])
    with pytest.warns(DamageWarning, match=r"bad.looktwice\.zarr"):
        assert open_results(tmp_path)["model"].values.tolist() == ["good"]
    (good / "zarr.json").unlink()
    with pytest.warns(DamageWarning), pytest.raises(StoreError, match="no results"):
        open_results(tmp_path)


def test_some_variables_are_joined_in_memory_as_lazily(tmp_path: Path) -> None:
    stored(tmp_path, traced("small", 2, 3))
    stored(tmp_path, traced("large", 4, 4, samples=7, task="pope"))
    whole = open_results(tmp_path)
    names = ("image_weight", "correct", "no such measure")
    some = open_results(tmp_path, variables=names, lazy=False)
    assert not open_results(tmp_path, variables=["none of them"]).data_vars
    assert list(some.data_vars) == ["image_weight", "correct"]
    assert all(isinstance(some[name].data, np.ndarray) for name in some.data_vars)
    xr.testing.assert_identical(some, whole[list(some.data_vars)].load())


def test_stores_of_two_seeds_are_not_mixed(tmp_path: Path) -> None:
    for seed, name in ((0, "looktwice"), (1, "looktwice-seed1")):
        stored(tmp_path, traced("m", 2, 3), task=name, seed=seed)
    ds = open_results(tmp_path)
    assert ds.sizes["sample"] == 24 and len(set(ds["sample"].values)) == 24
    assert {"looktwice: plain-general", "looktwice-seed1: plain-general"} <= set(ds["map_condition"].values)
    schema.assert_valid(ds)
