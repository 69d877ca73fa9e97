"""What stands beside the nine miniatures: untrained networks, benchmarks' own figures, pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.model_datasets import model_dataset, questions, several, stored
from helpers.networks import Tiny, llava
from visualheads import charts
from visualheads.analysis import benchmarks, lineage, scores
from visualheads.analysis import models as survey
from visualheads.analysis.subset import subset
from visualheads.charts import display
from visualheads.models import loading
from visualheads.store.upkeep import pack
from visualheads.studies.evidence import gather
from visualheads.tracing.jobs import UNTRAINED_N, TraceJob


def test_an_untrained_network_has_the_shape_and_the_name_and_other_weights():
    model = loading.wrap(*llava(Tiny(layers=2)), name="tiny", validate=False)
    before = torch.random.get_rng_state()
    first, again, other = (loading.untrained(model, seed) for seed in (7, 7, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.name == model.name and first.shape == model.shape and first.dtype == model.dtype
    hashes = [one.identity["weights"] for one in (model, first, other)]
    assert len(set(hashes)) == 3 and first.identity == again.identity
    assert "untrained" in first.identity["checkpoint"]
    assert first.end_tokens == model.end_tokens


def test_untrained_networks_have_stores_of_their_own():
    job = TraceJob("m", formats=("free", "letters"), n=48, results="r").fresh_network()
    assert job.path == "r/m/looktwice-untrained.zarr" and job.formats == ("free",) and job.n == UNTRAINED_N
    assert TraceJob("m", n=4).fresh_network().n == 4 and TraceJob("m", n=None).fresh_network().n == UNTRAINED_N
    assert job.arguments()["kind"] == "untrained"


def test_further_trainings_are_no_models_of_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = {"mini-1.5-7B-text1": {"text_model": "another"}}
    monkeypatch.setattr(lineage, "training_record", lambda name: records.get(name, {}))
    ds = several(("looktwice",), pictures=4)
    seed = ds.sel(model=["mini-1.5-7B"]).assign_coords(model=["mini-1.5-7B-seed1"])
    retrained = ds.sel(model=["mini-vip-llama-3-8B"]).assign_coords(
        model=["mini-1.5-7B-text1"], llm=("model", ["Vicuna-7B"])
    )
    stored(tmp_path, ds)
    stored(tmp_path, seed)
    stored(tmp_path, retrained)
    assert survey.traced(tmp_path).sizes["model"] == 4
    every = subset(survey.traced(tmp_path, variants=True), task="looktwice")
    assert every.sizes["model"] == 6
    found = lineage.relations(every)
    assert (found["relation"] == lineage.RETRAINED).sum() == 3
    own = lineage._kin_pairs(found, every)
    assert len(own) == 3 and not {"mini-1.5-7B-seed1", "mini-1.5-7B-text1"} & {*own["group"], *own["other"]}
    assert own["same"].sum() == 1 and lineage.kin_difference(found, every) is not None
    assert lineage.matched_pairs(every, lineage.RECIPE) == [("mini-1.5-7B", "mini-1.6-vicuna-7B")]
    gathered = gather(tmp_path, full=tmp_path / "none").evidence
    assert gathered.traces is not None and gathered.traces.sizes["model"] == 4


def test_untrained_networks_are_controls_and_no_models(tmp_path: Path):
    ds = several(("looktwice",), pictures=4)
    stored(tmp_path, ds)
    assert survey.untrained(tmp_path) is None
    fresh = model_dataset(samples=questions(pictures=4), pattern=np.full((4, 4), 0.5))
    pack(fresh, tmp_path / "mini-1.5-7B" / "looktwice-untrained.zarr.zip", kind="untrained")
    control = survey.untrained(tmp_path)
    assert control is not None and survey.traced(tmp_path).sizes["sample"] == ds.sizes["sample"]
    many = control.expand_dims(draw=np.arange(40))  # the heads of one network are too few to place one beyond 95 %
    told = survey.visual_heads(survey.traced(tmp_path), fresh=many).set_index("model")
    assert 0 < told.loc["mini-1.5-7B", "above"] < 16
    assert np.isnan(told.loc["mini-1.5-13B", "above"])
    statistics = benchmarks.head_statistics(control)
    assert statistics["image_weight"][0] == pytest.approx(0.45, abs=0.01)
    one = ds.sel(model=["mini-1.5-7B"])
    assert "untrained" in display.spec_of(charts.against_untrained(one, control))["description"]
    assert "No untrained" in display.spec_of(charts.against_untrained(one, None))["description"]


def answered(task: str, answers: list[str], said: list[str], condition: str = "plain") -> xr.Dataset:
    """One model's answers to questions of a task, one picture each."""
    ds = model_dataset(samples=questions((condition,), len(answers), task))
    ds = ds.assign_coords(answer=("sample", np.array(answers, dtype=object)))
    ds["prediction"][:] = np.array([said], dtype=object)
    ds["correct"][:] = np.array([[float(a == s) for a, s in zip(answers, said, strict=True)]])
    return ds


def test_popes_figure_by_hand():
    told = answered("pope", ["Yes", "Yes", "Yes", "No", "No"], ["Yes", "Yes", "No", "Yes", "No"], "random")
    assert scores._f1(told)["estimate"] == pytest.approx(2 / 3) and scores._f1(told)["n"] == 5
    assert scores._f1(answered("pope", ["Yes", "No"], ["No", "No"]))["estimate"] == 0
    assert np.isnan(scores._f1(answered("pope", ["No"], ["No"]))["estimate"])


@settings(max_examples=10)
@given(st.lists(st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from(["Yes", "No"])), min_size=1, max_size=9))
def test_a_figure_is_a_share_within_its_interval(pairs: list[tuple[str, str]]):
    found = scores._f1(answered("pope", [a for a, _ in pairs], [s for _, s in pairs]))
    if not np.isnan(found["estimate"]):
        assert 0 <= found["lower"] < found["upper"] <= 1 and 0 <= found["estimate"] <= 1
        assert found["lower"] < found["estimate"] or found["estimate"] < 1, "a few pictures prove no 100 %"


def test_statistics_by_benchmark_and_their_words():
    ds = several(pictures=4).sel(model=["mini-1.5-7B"])
    fresh = model_dataset(samples=questions(pictures=4), pattern=np.full((4, 4), 0.5))
    found = benchmarks.statistic_intervals(ds, fresh)
    assert set(found["task"]) == {"looktwice", "pope"} and len(found) == 6
    weight = found[(found["task"] == "looktwice") & (found["statistic"] == "image weight")].iloc[0]
    own = benchmarks.head_statistics(ds).set_index("task").loc["looktwice", "image_weight"]
    assert weight["estimate"] == pytest.approx(own, abs=1e-6) and weight["untrained"] == pytest.approx(0.45, abs=0.01)
    assert found[found["task"] == "pope"]["untrained"].isna().all()
    shown = display.spec_of(
        charts.intervals(found, "task", "w", title="t", panel="statistic", rule="untrained", shared=False)
    )
    assert "image weight" in shown["description"]


def test_the_running_example_takes_no_model_that_its_page_alone_can_load() -> None:
    ds = xr.Dataset(coords={"model": np.array(["own-model", "1.5-7B", "mini-1.5-7B", "mini-vip-7B"], dtype=object)})
    assert survey.examples(ds) == ["mini-1.5-7B", "mini-vip-7B"]
