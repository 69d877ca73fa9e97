"""Jobs in processes of their own: one that is killed, or meets a damaged store, stops no other."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from helpers.children import page_run, process, protocol_run, traced, worked
from helpers.pages import a_page
from visualheads.book import run, traces
from visualheads.errors import KernelError, StoreError
from visualheads.studies import full_protocol
from visualheads.tracing.jobs import TraceJob

JOBS = {
    "a": ("A", ""),
    "die": (None, run.KILLED),
    "b": ("B", ""),
    "refuse": (None, "file.json, line 3: no object"),
    "c": ("C", ""),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_and_a_refusal_stop_no_other(workers: int) -> None:
    found = {job: (value, why) for job, value, why in run.side_by_side(worked, list(JOBS), workers)}
    assert found == JOBS


def test_jobs_start_in_their_order_and_none_are_none() -> None:
    assert [job for job, *_ in run.side_by_side(worked, ["c", "a", "b"], 1)] == ["c", "a", "b"]
    assert list(run.side_by_side(worked, [])) == []


def test_processes_are_kept_until_the_workers_end() -> None:
    with run.Workers(1) as workers:
        first, second = ({found for _, found, _ in workers.run(process, ["a", "b"])} for _ in range(2))
    assert first == second and len(first) == 1
    assert {found for _, found, _ in run.side_by_side(process, ["a"], 1)} != first


def test_a_process_killed_while_it_was_idle_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once:
        """Does one job, and is then found dead."""

        def __init__(self, *_: object, **_settings: object) -> None:
            self.dead = False
            made.append(self)

        def submit(self, run: Any, *given: Any) -> Future[Any]:
            if self.dead:
                raise BrokenProcessPool
            future: Future[Any] = Future()
            future.set_result(run(*given))
            self.dead = True
            return future

        def shutdown(self, **_: object) -> None:
            ended.append(self)

    made: list[Once] = []
    ended: list[Once] = []
    monkeypatch.setattr(run, "ProcessPoolExecutor", Once)
    assert list(run.side_by_side(worked, ["a", "b", "c"], 1)) == [(job, job.upper(), "") for job in "abc"]
    assert ended == made and len(made) == 3


@pytest.mark.long  # as the other pages do
def test_the_other_traces_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / traces.TEMPLATE).write_text("{}")
    jobs = [TraceJob(name, results=str(tmp_path)) for name in ("a", "die", "b", "c")]
    monkeypatch.setattr(traces, "book_jobs", lambda *_: jobs)
    monkeypatch.setattr(traces, "trace_one", traced)
    said: list[str] = []
    failed = traces.trace_all(tmp_path, [], workers=2, report=said.append)
    assert failed == [f"trace of die on looktwice: {run.KILLED}"]
    ended = sorted(line.partition(" (")[0] for line in said)
    assert ended == ["failed: trace of die on looktwice", *(f"traced {n} on looktwice" for n in "abc")]
    Path(jobs[0].path).mkdir(parents=True)
    assert not traces._is_done(jobs[0], traces.made_from(jobs[0])), "a damaged store is not done, and no error yet"


@pytest.mark.long
def test_the_other_protocols_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def current(name: str) -> bool:
        if name == "b":
            raise StoreError("damaged")
        return name == "c"

    monkeypatch.setattr(traces, "full_models", lambda: ["a", "die", "refuse", "b", "c"])
    monkeypatch.setattr(full_protocol, "is_current", current)
    monkeypatch.setattr(traces, "run_one", protocol_run)
    said: list[str] = []
    failed = traces.run_full(tmp_path, workers=2, report=said.append)
    assert sorted(failed) == [f"full protocol of {name}: {JOBS[name][1]}" for name in ("die", "refuse")]
    told = {line.split(":")[0]: line.split(" ", 1)[1] for line in said}
    assert told["b"].endswith("is done") and told["die"].endswith("failed") and told["c"].endswith("up to date")


def test_the_other_pages_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process is killed, or the stores that a page compares are damaged."""
    damaged = tmp_path / "results" / "m" / "looktwice.zarr"
    damaged.mkdir(parents=True)
    (damaged / "zarr.json").write_text("{")
    pages = {
        name: dataclasses.replace(
            a_page(tmp_path / name), title=name, stores=tmp_path / "results" if name == "compares" else None,
            last=name in ("compares", "late"),
        )
        for name in ("compares", "die", "refuse", "good", "late")
    }  # fmt: skip
    monkeypatch.setattr(run, "_run_one", page_run)
    monkeypatch.setattr(run.inputs, "recorded", lambda _output: {})
    pages["compares"].output.parent.mkdir(parents=True)
    pages["compares"].output.write_text("{}")
    said: list[str] = []
    with pytest.raises(KernelError, match="not a readable zarr store") as caught:
        run.run_pages(pages.values(), tmp_path, workers=2, report=said.append)
    ended = sorted(line.partition(" (")[0] for line in said if not line.startswith("running"))
    assert ended == ["failed: compares", "failed: die", "failed: refuse", "ran good", "ran late"]
    for told in (f"page 'die': {run.KILLED}", "page 'refuse': file.json, line 3", f"page 'compares': {damaged}"):
        assert told in str(caught.value)
