"""The paper itself on checkpoints in folders: planned, estimated, killed, gone on with, and then among the results."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command import run
from helpers.model_datasets import model_dataset, questions
from helpers.networks import llava, vip_llava
from helpers.task_files import looktwice, pope
from visualheads.analysis import models as survey
from visualheads.analysis import scores
from visualheads.book import paper
from visualheads.cards import DATA_VARIABLE, cards
from visualheads.errors import DeviceMemoryError, DiskFullError, KernelError, ParameterError, SampleError
from visualheads.store.read import open_store
from visualheads.studies import full_protocol, shipped
from visualheads.studies.evidence import gather
from visualheads.tasks.records import MissingDataError
from visualheads.tracing import jobs, trace

ASKED = ("-n", "2", "--judged", "2", "--device", "cpu")
PARTS = ("effects of single heads", "late heads")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with official files of two benchmarks and two small checkpoints, in which commands run."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    for name, write in (("looktwice", looktwice), ("pope", pope)):
        (tmp_path / "official" / name).mkdir(parents=True)
        write(tmp_path / "official" / name)
    networks: dict[str, Any] = {"one": llava(), "other": vip_llava()}
    for name, (module, processor) in networks.items():
        module.save_pretrained(tmp_path / "checkpoints" / name)
        processor.save_pretrained(tmp_path / "checkpoints" / name)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(shipped, "full_folder", lambda: tmp_path / "data" / "full")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(project: Path) -> list[str]:
    named = [part for name in ("one", "other") for part in ("--model", str(project / "checkpoints" / name))]
    return ["paper", str(project / "official"), *named, *ASKED]


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_protocol, "PARTS", {name: full_protocol.PARTS[name] for name in PARTS})


@pytest.mark.long
def test_it_fails_goes_on_and_joins_the_results(
    project: Path, few_parts: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, done = trace.trace_to_store, []

    def broken(path: Any) -> bool:
        return "other" in Path(path).parent.name and "pope" in Path(path).name

    def fails(model: Any, samples: Any, path: Any, **settings: Any) -> Any:
        if broken(path):
            raise SampleError("it broke")
        done.append(Path(path))
        return real(model, samples, path, **settings)

    monkeypatch.setattr(trace, "trace_to_store", fails)
    code, out, err = run(capsys, *arguments(project))
    assert code == 1 and "checkpoints-other: it broke" in err and "run the same command again" in err
    assert "6 of 6" in out and "checkpoints-one: done" in out and "at most" in out
    assert not any(map(broken, done))
    first, done[:] = len(done), []
    monkeypatch.setattr(trace, "trace_to_store", lambda *a, **k: (done.append(Path(a[2])), real(*a, **k))[1])
    code, out, _ = run(capsys, *arguments(project), "--dry-run")
    assert code == 0 and "0 of 6" in out and "4 of 6" in out and not done
    code, out, _ = run(capsys, *arguments(project))
    assert code == 0 and [path.name for path in done] == ["pope.zarr", "looktwice-untrained.zarr"] and first == 6
    assert "checkpoints-one: all is done" in out

    assert sorted(survey.traced("data/results")["model"].values) == ["checkpoints-one", "checkpoints-other"]
    assert set(shipped.full_stores("checkpoints-one")) == {"effects", "late-mean", "late-uniform_released"}
    official = project / "official"
    assert shipped.full_stores("checkpoints-one", data=official) and shipped.opened("checkpoints-one", "effects")
    (official / "pope" / "coco_pope_random.json").write_text("", encoding="utf-8")
    assert set(shipped.full_stores("checkpoints-one", data=official)) == {"effects"}, "the late heads are asked POPE"
    sources = gather("data/results").sources
    assert {"checkpoints-one", "checkpoints-other"} <= set(sources[sources["what"] == "trace"]["model"])


@pytest.mark.long
def test_a_killed_run_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part, in a process of its own that is killed while heads are removed."""
    work = project / "data" / "results-full" / "protocol"
    started = subprocess.Popen([sys.executable, "-m", "visualheads", *arguments(project)], env={**os.environ})
    until = time.monotonic() + 300
    while not list(work.glob("*/looktwice*.zarr")) and started.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (project / "data" / "results").glob("*/*.zarr/zarr.json")}
    assert kept
    code, out, _ = run(capsys, *arguments(project))
    assert code == 0 and "checkpoints-other: done" in out
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items()), "what was traced stays as it was"
    for name in ("checkpoints-one", "checkpoints-other"):
        stores = {store for part in full_protocol.PARTS.values() for store in part.stores}
        left_out = {
            store for part in ("steering",) for store in full_protocol.PARTS[part].stores if f"{part} left" in out
        }
        assert set(shipped.full_stores(name)) == stores - left_out


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_model_is_gone_before_the_next_is_loaded(
    project: Path, few_parts: None, fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine models of up to 13 billion parameters run on a device that holds one; also after one that failed."""
    load, loaded, alive = jobs.load, list[weakref.ref[Any]](), []

    def loads(*given: Any, **settings: Any) -> Any:
        alive.append([one for one in loaded if one() is not None])
        model = load(*given, **settings)
        loaded.extend(map(weakref.ref, (model, model.module)))
        return model

    def breaks(*_: Any, **__: Any) -> Any:
        raise SampleError("it broke")

    monkeypatch.setattr(jobs, "load", loads)
    if fails:
        monkeypatch.setattr(trace, "trace_to_store", breaks)
    gc.disable()  # the collector must not do by chance what the command has to do
    try:
        code, out, _ = run(capsys, *arguments(project))
    finally:
        gc.enable()
    assert code == int(fails) and f"checkpoints-one: {'failed' if fails else 'done'}" in out
    assert alive == [[], []]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("paper", "nowhere"), "data: got 'nowhere'"),
        (("paper", "checkpoints"), "looktwice"),
        (("paper", "official", "--model", "no-such-model"), "got 'no-such-model'"),
        (("paper", "official", "--model", "vip-phi-3-3.8B"), "visualheads convert"),
        (("paper", "official", "--scheduler", "tcp://a:1", "--cluster", "b.yml"), "--scheduler and --cluster"),
    ],
)
def test_wrong_input_is_one_sentence(
    project: Path, given: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *given)
    assert code == 2 and told in " ".join(err.split()) and "Traceback" not in err
    assert not (project / "data" / "results").exists()


def test_the_nine_are_planned_and_what_must_be_converted_is_told(project: Path) -> None:
    found, missing = paper.plans("official", n=1)
    converted = [name for name in paper.paper_models() if not cards()[name].hub_id]
    assert [plan.name for plan in found] == [name for name in paper.paper_models() if name not in converted]
    assert len(paper.paper_models()) == 9 and len(missing) == len(converted) == 2
    assert found[0].tasks == ("looktwice", "pope") and len(found[0].traces) == 4
    assert {Path(job.path).name for job in found[0].traces} == {
        "looktwice.zarr", "looktwice-white.zarr", "looktwice-untrained.zarr", "pope.zarr",
    }  # fmt: skip
    with pytest.raises(MissingDataError):
        paper.plans("checkpoints")
    with pytest.raises(ParameterError, match="judged"):
        paper.plans("official", judged=0)


def test_what_does_not_fit_is_told_before_anything_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,), _ = paper.plans("official", [str(project / "checkpoints" / "one")], n=2, device="cpu")
    found = paper.estimate(plan, speed=1e9)
    layers, heads, _ = found.needs.shape
    assert layers and heads and found.needs.parameters
    assert found.prompts > full_protocol.passes(layers * heads, 2, 64) / 2
    per_prompt = 2 * found.needs.parameters * (found.needs.tokens + paper.TEXT_TOKENS) * paper.PASSES
    assert found.seconds == pytest.approx(per_prompt * found.prompts / 1e9)
    assert np.isnan(paper.estimate(plan).seconds) and paper.speed_of("cpu", None) > 0
    assert np.isnan(paper.speed_of("cuda:7", None)), "a cluster's device is not here"
    paper.check_room(found, "cpu")
    with pytest.raises(DiskFullError, match="free"):
        paper.check_room(replace(found, disk=1e18), "cpu")
    monkeypatch.setattr(paper, "_memory_of", lambda _device: 1.0)
    with pytest.raises(DeviceMemoryError, match="bfloat16"):
        paper.check_room(found, "cpu")


def test_plans_run_on_the_workers_of_a_cluster(project: Path, few_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.setattr("distributed.utils._get_ip", lambda *_, **__: "127.0.0.1")
    found, _ = paper.plans("official", [str(project / "checkpoints" / "one")], project, 2, n=2, device="cpu")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        assert paper.run_all(found, scheduler=client) == []
    assert found[0].left() == ([], [])


def test_scores_are_held_against_what_was_published() -> None:
    asked = [replace(one, image_id=f"COCO_val2014_{i}") for i, one in enumerate(questions(("random",), 40, "pope"))]

    def answered(right: int, name: str = "1.5-7B", given: Any = asked) -> Any:
        ds = model_dataset(samples=given).assign_coords(model=[name])
        ds = ds.assign_coords(answer=("sample", np.array(["Yes"] * 40, dtype=object)))
        ds["prediction"][:] = np.array([["Yes"] * right + ["No"] * (40 - right)], dtype=object)
        ds["correct"][:] = np.array([[1.0] * right + [0.0] * (40 - right)])
        return ds

    told = scores.known_answers(answered(30)).iloc[0]  # precision 1, recall 3/4: F1 = 6/7
    assert told["estimate"] == pytest.approx(6 / 7) and told["published"] == pytest.approx(0.859) and told["as_known"]
    both = answered(30)
    both = both.assign_coords(condition=("sample", np.array(["random"] * 30 + ["popular"] * 10, dtype=object)))
    assert scores.known_answers(both).iloc[0]["estimate"] == pytest.approx(0.5), "the mean of 1 and 0, as published"
    assert "MODEL_ZOO" in told["source"]
    assert not scores.known_answers(answered(20)).iloc[0]["as_known"]
    assert scores.known_answers(answered(30, "llava-hf/llava-1.5-7b-hf")).iloc[0]["as_known"]
    assert scores.known_answers(answered(30, "mini-1.5-7B")).empty
    assert scores.known_answers(answered(30, given=questions(("random",), 40, "pope"))).empty, "other pictures"
    nine = [card for card in cards().values() if card.paper_name and not card.miniature]
    assert all(card.pope and card.pope_source for card in nine)


def test_a_plan_of_other_weights_is_not_mixed_with_what_is_there(project: Path, few_parts: None) -> None:
    place = project / "checkpoints" / "one"
    found, _ = paper.plans("official", [str(place)], project, 2, n=2, device="cpu")
    job = found[0].main
    trace.trace_to_store(job.loaded(), job.samples[:1], job.path, progress=False, **job.arguments())
    other: Any = llava(seed=5)
    other[0].save_pretrained(place)
    with pytest.raises(KernelError, match="--fresh"):
        paper.run_all(found)
    assert open_store(job.path).sizes["sample"] == 1
