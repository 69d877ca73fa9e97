"""The full protocol: what it asks, how it is shipped, when it holds, and that pages and verdicts read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from helpers.model_datasets import model_dataset, stored
from helpers.planted import swept
from visualheads.analysis import effects, models
from visualheads.book import traces
from visualheads.cards import data_folder, miniature_folder
from visualheads.errors import HeadError, ParameterError, StoreError
from visualheads.heads import lists as head_lists
from visualheads.models.loading import load
from visualheads.models.provenance import HASH_LENGTH
from visualheads.store.combine import open_results
from visualheads.store.read import open_store
from visualheads.store.schema import assert_valid
from visualheads.studies import ablation, full_protocol, shipped, stored_model
from visualheads.studies import evidence as gathering
from visualheads.tracing.trace import trace

NAME = "mini-1.5-7B"


@pytest.fixture
def planted_sweep() -> xr.Dataset:
    """A sweep with the coordinates of a real one: three sets, forty questions."""
    ds = swept(0.25, samples=40)
    texts = {"task": "looktwice", "format": "free", "condition": "plain-object", "control": ""}
    along = {name: ("sample", np.array([value] * 40, dtype=object)) for name, value in texts.items()}
    told = np.array(['{"identity": {}, "circumstance": {}}'], dtype=object)
    return ds.assign_coords(
        **along, mode=("model", ["zero"]), positions=("model", ["all"]), seed=("set", [-1, 0, 1]),
        provenance=("model", told), chosen_pictures=("model", [20]),
    )  # fmt: skip


def identity(path: Path) -> dict[str, Any]:
    """What a shipped store says it was made from."""
    return json.loads(str(open_store(path)["provenance"].values[0]))["identity"]


def shipped_sweep(ds: xr.Dataset, root: Path) -> Path:
    return shipped.ship(ds, NAME, "zero-all", ["looktwice"], "sweep-zero-all", root=root)


def test_what_is_shipped_holds_until_something_it_was_made_from_changes(
    planted_sweep: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shipped_sweep(planted_sweep, tmp_path)
    assert path == tmp_path / NAME / "zero-all.zarr.zip" and shipped.why_outdated(path) == ""
    assert shipped.full_stores(NAME, tmp_path) == {"zero-all": path}
    found = shipped.opened(NAME, "zero-all", tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found["correct"], planted_sweep["correct"])
    np.testing.assert_array_equal(found["heads"], planted_sweep["heads"])
    assert path.read_bytes() == shipped_sweep(planted_sweep, tmp_path).read_bytes()
    assert {"reference", "bias"}.isdisjoint(identity(path))
    made = {"reference": "a1b2", "bias": 2.0, "checkpoint": "what it was called then"}
    own = np.array([json.dumps({"identity": made, "circumstance": {}})], dtype=object)
    path = shipped_sweep(planted_sweep.assign_coords(provenance=("model", own)), tmp_path)
    assert shipped.why_outdated(path) == "" and identity(path)["checkpoint"] == NAME
    assert (identity(path)["reference"], identity(path)["bias"]) == ("a1b2", 2.0)
    several = planted_sweep.expand_dims(bias=[0.0, 2.0]).assign_coords(provenance=("model", own))
    assert shipped._kept(several) == {"reference": "a1b2"}, "of several biases the identity tells one"
    astray = tmp_path / "mini-vip-7B" / path.name
    astray.parent.mkdir()
    astray.write_bytes(path.read_bytes())
    assert (
        "another model" in shipped.why_outdated(astray) and shipped.opened("mini-vip-7B", "zero-all", tmp_path) is None
    )
    for name, changed in (("DEFINITIONS_VERSION", "other"), ("VERSION", "other"), ("PROTOCOL", "other")):
        with monkeypatch.context() as patch:
            patch.setattr(shipped, name, changed)
            assert "made from other" in shipped.why_outdated(path)
            assert not shipped.full_stores(NAME, tmp_path) and shipped.opened(NAME, "zero-all", tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(shipped, "REVISED", {"mean-all": "2"})
        assert shipped.why_outdated(path) == "", "another store's part has changed"
        patch.setitem(shipped.REVISED, "zero-all", "2")
        assert shipped.why_outdated(path) == "made from other protocol than there are now"
    monkeypatch.setattr(shipped, "_weights", lambda *_: "other")
    assert shipped.why_outdated(path) == "made from other weights than there are now"
    assert shipped.opened(NAME, "mean-all", tmp_path) is None


def test_verdicts_come_from_full_stores_that_hold(
    planted_sweep: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, full = tmp_path / "results", tmp_path / "full"
    stored(results, model_dataset())
    assert gathering.reduced_models([NAME], full) == [NAME]
    late = planted_sweep.assign_coords(task=("sample", ["looktwice"] * planted_sweep.sizes["sample"]))
    shipped.ship(late, NAME, "late-mean", ["looktwice"], "late-mean", root=full)
    found = gathering.gather(results, full=full)
    assert list(found.evidence.late) == ["mean"]
    row = found.sources.set_index("store").loc[f"full: {NAME}/late-mean.zarr.zip"]
    assert row["used"] and not row["why"]
    shipped_sweep(planted_sweep, full)
    assert gathering.reduced_models([NAME], full) == [] and list(gathering.removed(results, full=full)) == ["zero, all"]
    assert gathering.removed(results, ["another"], full) == {}
    monkeypatch.setattr(shipped, "PROTOCOL", "other")
    found = gathering.gather(results, full=full)
    row = found.sources.set_index("store").loc[f"full: {NAME}/late-mean.zarr.zip"]
    assert not row["used"] and "protocol" in row["why"] and not found.evidence.late


@pytest.fixture(scope="module")
def model() -> Any:
    if not (miniature_folder(NAME) / "config.json").is_file():
        pytest.skip("the miniature is not there")
    return load(NAME)


def test_traces_of_a_model_that_readers_cannot_run_are_shipped_small(model: Any, tmp_path: Path) -> None:
    setting = full_protocol.Setting(model, stored_model.TASKS, tmp_path, n=1)
    made = stored_model.traces(setting)
    assert tuple(made) == stored_model.STORES
    main, white = made["looktwice"][0], made["looktwice-white"][0]
    rows = main["image_weight"].notnull().any(["model", "layer", "head", "sample"])
    assert rows.sel(query="last_prompt") and rows.sel(query="first_generated")
    focus = main["concentration"].notnull().any(["model", "layer", "head", "sample"])
    assert focus.sel(query="last_prompt") and not focus.sel(query="first_generated")
    assert list(white.data_vars) == [*stored_model.ANSWERS, "image_log_odds_no_sink"]
    whole = trace(model, list(setting.benchmark("looktwice").samples(format="free", n=1)))
    both = (main[["image_weight"]].sel(query="last_prompt", sample=whole["sample"]), whole[["image_weight"]])
    np.testing.assert_allclose(*(one["image_weight"].values for one in both), rtol=0.07)
    store, kind, tasks = made["pope"]
    path = shipped.ship(store, NAME, "pope", tasks, kind, root=tmp_path)
    assert shipped.why_outdated(path) == "" and open_results(tmp_path)["task"].values[0] == "pope"


def test_files_of_a_benchmark_lie_where_a_model_learned_to_see(tmp_path: Path) -> None:
    assert shipped.task_folder(NAME, "pope") == data_folder() / "scenes" / "pope"
    assert shipped.task_folder("smol-1.5", "pope") == data_folder() / "smol" / "scenes"
    (tmp_path / "pope").mkdir()
    assert {shipped.task_folder(name, "pope", tmp_path) for name in (NAME, "smol-1.5")} == {tmp_path / "pope"}


@pytest.mark.long
def test_the_whole_protocol_is_run_resumed_shipped_and_repeated(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_protocol, "MODES", (("zero", "all"), ("mean", "all")))
    monkeypatch.setitem(
        full_protocol.PARTS, "removed heads", full_protocol.Part(("zero-all", "mean-all"), full_protocol.removed_heads)
    )
    monkeypatch.setattr(full_protocol, "PARTS", {"removed heads": full_protocol.PARTS["removed heads"]})
    monkeypatch.setattr(full_protocol, "STAGES", ("late",))
    monkeypatch.setattr(full_protocol, "_more", lambda setting: setting.halves[1][setting.n : setting.n + 1])
    monkeypatch.setattr(full_protocol, "usable", lambda _traces: ["image_weight", "gaze"])
    first, second = full_protocol.Setting(model, ("looktwice",), tmp_path).halves
    assert not {one.image_id for one in first} & {one.image_id for one in second}
    monkeypatch.setattr(full_protocol.Setting, "halves", (first[:4], second))
    said: list[str] = []
    root = tmp_path / "full"
    made = full_protocol.run_protocol(model, ["pope"], tmp_path / "work", said.append, root=root, n=2)
    assert [path.name for path in made] == ["zero-all.zarr.zip", "mean-all.zarr.zip"]
    assert full_protocol.is_current(NAME, root=root) and not full_protocol.is_current(NAME, root=tmp_path)
    assert full_protocol.run_protocol(model, ["pope"], tmp_path / "work", said.append, root=root, n=2) == []
    assert said[-1] == f"{NAME}: removed heads is up to date"
    ds = shipped.opened(NAME, "zero-all", root)
    assert ds is not None
    assert_valid(ds)
    assert set(ds["task"].values.tolist()) == {"looktwice", "pope"} and set(ds["format"].values.tolist()) >= {"letters"}
    orders = ds["order"].values.tolist()
    assert {"top", "bottom", "random", "single"} == set(orders)
    assert len({int(seed) for seed in ds["seed"].values[np.array(orders) == "random"]}) == 5
    late = ds.isel(sample=np.flatnonzero(ds["sample"].isin([second[2].id]).values))
    tried = late["kl"].isel(model=0, sample=0).notnull().values
    assert set(ds["ranking"].values[tried].tolist()) == {"image_weight"} and tried.sum() == 6

    repeated = ablation.repeat(model, ds)
    assert repeated.samples == 2 and repeated.margin < 0.05
    with pytest.raises(StoreError, match="margin differs by"):
        ablation.repeat(model, ds.assign(margin=ds["margin"] + 1))
    with pytest.raises(StoreError, match="correct differs by"):
        ablation.repeat(model, ds.assign(correct=1 - ds["correct"]))

    monkeypatch.setattr(shipped, "full_folder", lambda: root)
    shape = model.shape[:2]
    stored(tmp_path / "results", model_dataset(NAME, pattern=np.random.default_rng(0).random(shape)))
    shipped.ship(ds.isel(set=[0]), NAME, "late-mean", ["looktwice"], "late-mean", root=root)
    shown = ablation.removed(model, tmp_path / "results")
    assert list(shown.sweeps) == ["zero, all", "mean, all"] and shown.repeated is not None and shown.pictures == 4
    assert len(identity(root / NAME / "mean-all.zarr.zip")["reference"]) == HASH_LENGTH
    table = effects.loss_table(shown.sweeps)
    assert table["estimate"].notna().all() and set(table["mode"]) == {"zero, all", "mean, all"}
    assert set(effects.released_share(table)["stage"]) == {"late", "all"}
    monkeypatch.setattr(shipped, "PROTOCOL", "other")
    assert "made from other protocol" in ablation._why_reduced(NAME, True)


def test_the_full_protocol_of_models_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "full_models", lambda: ["a", "b"])
    with pytest.raises(ParameterError, match="model"):
        traces.run_full(tmp_path, ["c"])
    monkeypatch.setattr(full_protocol, "is_current", lambda name, *_: name == "a")
    ran: list[str] = []

    def breaks(name: str, *_: object) -> None:
        ran.append(name)
        raise StoreError("it broke")

    monkeypatch.setattr(traces, "run_one", breaks)
    said: list[str] = []
    assert traces.run_full(tmp_path, report=said.append) == ["full protocol of b: it broke"]
    assert ran == ["b"] and said == ["a: the full protocol is up to date"]


def test_published_lists_join_the_models_they_are_of(tmp_path: Path) -> None:
    shapes = models.shapes(model_dataset(NAME, pattern=np.random.default_rng(0).random((3, 2))))
    assert shapes == {NAME: (3, 2)}
    assert head_lists.published(tmp_path, shapes) == {}
    (tmp_path / NAME).mkdir()
    (tmp_path / "another-model").mkdir()
    (tmp_path / NAME / "gaze.json").write_text('[{"layer": 1, "head": 0, "score": 0.5}]', encoding="utf-8")
    (tmp_path / "another-model" / "gaze.json").write_text('{"40-1": [1.0]}', encoding="utf-8")
    (tmp_path / "own.csv").write_text(f"model,layer,head,score\n{NAME},2,1,3.0\n", encoding="utf-8")
    found = head_lists.published(tmp_path, shapes)
    assert list(found) == [NAME] and list(found[NAME]) == ["gaze", "own"]
    assert found[NAME]["gaze"].shape == (3, 2) and float(found[NAME]["gaze"][1, 0]) == 0.5
    assert np.isnan(found[NAME]["own"].values).sum() == 5
    (tmp_path / NAME / "wrong.json").write_text('{"7-1": [1.0]}', encoding="utf-8")
    with pytest.raises(HeadError, match=r"wrong\.json"):
        head_lists.published(tmp_path, shapes)
