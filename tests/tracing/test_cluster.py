"""The same shards on Dask workers."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import xarray as xr
from dask import config
from distributed import Client, LocalCluster

from helpers.datasets import traced_dataset
from helpers.networks import Tiny, llava
from helpers.stores import GRID, part_of, plan_for
from helpers.task_files import looktwice
from visualheads.errors import DiskFullError, IdentityMismatch, MissingDependencyError, ParameterError, StoreError
from visualheads.models import loading
from visualheads.store import write
from visualheads.store.read import open_store, read_attrs
from visualheads.tracing import cluster, jobs, settings


def dataset() -> xr.Dataset:
    return traced_dataset(maps=True, grid=GRID)


@dataclass(frozen=True)
class Work:
    """Shards of the synthetic dataset; notes every set-up in a folder that all processes see."""

    path: str
    notes: str
    broken: tuple[int, ...] = ()
    disk_full: bool = False

    def setup(self, fresh: bool = False) -> xr.Dataset:
        count = len(os.listdir(self.notes))
        Path(self.notes, f"{os.getpid()}-{count}").touch()
        return dataset()

    def shard(self, state: xr.Dataset, index: int) -> xr.Dataset:
        if self.disk_full:
            raise DiskFullError("no space left.")
        if index in self.broken:
            raise RuntimeError("broken on purpose")
        return part_of(state, plan_for(state, shard=2), index)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    path = tmp_path / "m" / "looktwice.zarr"
    write.create(path, plan_for(dataset(), shard=2))
    (tmp_path / "notes").mkdir()
    return Work(str(path), str(tmp_path / "notes"))


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Connecting may take long on a busy machine. The address is set: distributed would ask an outer host for it."""
    timeouts = dict.fromkeys((f"distributed.comm.timeouts.{name}" for name in ("connect", "tcp")), "180s")
    with pytest.MonkeyPatch.context() as patch, config.set(timeouts):
        patch.setattr("distributed.utils._get_ip", lambda *_, **__: "127.0.0.1")
        yield


def local_cluster(processes: bool) -> Any:
    """Two workers, and any free port for the dashboard, because another cluster may hold the usual one."""
    threads = 1 if processes else 2
    return LocalCluster(n_workers=2, processes=processes, threads_per_worker=threads, dashboard_address=":0")


@pytest.fixture(scope="module")
def local(patience: None) -> Iterator[Any]:
    """Workers as threads: quick to start. Another test has them as processes."""
    with local_cluster(processes=False) as made:
        yield made


def assert_complete(path: str) -> None:
    assert write.pending(path) == []
    opened = open_store(path)
    assert np.array_equal(opened["image_weight"], dataset()["image_weight"])
    assert opened["mean_map_count"].values.tolist() == [[6, 6]]


def test_here_one_after_the_other(work: Work) -> None:
    seen: list[tuple[int, int]] = []
    assert cluster.run_shards(work, progress=lambda done, count: seen.append((done, count))) == 6
    assert seen == [(i, 6) for i in range(1, 7)]
    assert len(os.listdir(work.notes)) == 1
    assert_complete(work.path)
    assert cluster.run_shards(work) == 0
    assert len(os.listdir(work.notes)) == 1, "nothing is loaded when there is nothing to do"


@pytest.mark.parametrize("by", ["cluster", "address", "client"])
def test_on_workers(work: Work, local: Any, by: str) -> None:
    write.write_shard(work.path, 1, work.shard(dataset(), 1))
    client = Client(local, set_as_default=False)
    scheduler: Any = {"cluster": local, "address": local.scheduler_address, "client": client}[by]
    assert cluster.run_shards(work, scheduler) == 5
    client.close()
    assert_complete(work.path)
    assert len(os.listdir(work.notes)) == 1, "the model is loaded once per process"


@pytest.mark.long
def test_on_processes(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    with local_cluster(processes=True) as processes:
        assert cluster.run_shards(work, processes) == 6
    assert_complete(work.path)
    pids = [name.split("-")[0] for name in os.listdir(work.notes)]
    assert len(set(pids)) == len(pids) <= 2
    assert str(os.getpid()) not in pids


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> jobs.TraceJob:
    """Submitted from a machine that cannot load the model; a worker has another precision by default than a CPU."""
    module, processor = llava(Tiny(layers=1))
    for part in (module, processor):
        part.save_pretrained(tmp_path / "small-llava")

    def load(
        name: str, device: str | None = None, dtype: str | None = None, revision: str | None = None, **_: Any
    ) -> Any:
        assert threading.current_thread() is not threading.main_thread(), "the submitting process loads no model"
        assert device == "cuda:7"
        return loading.load(name, dtype=dtype or "bfloat16", revision=revision, validate=False)

    monkeypatch.setattr(jobs, "load", load)
    data = looktwice(tmp_path / "looktwice")
    results = str(tmp_path / "results")
    return jobs.TraceJob(
        str(tmp_path / "small-llava"), data=str(data), conditions=("plain-object",), n=3, device="cuda:7",
        results=results,
    )  # fmt: skip


def test_the_store_is_made_where_the_model_runs(job: jobs.TraceJob, local: Any) -> None:
    ds = jobs.run(job, scheduler=local, progress=False)
    assert write.pending(job.path) == [] and ds.sizes["sample"] == 3
    assert read_attrs(job.path)["identity"]["dtype"] == "bfloat16"
    with pytest.raises(IdentityMismatch, match="dtype"):
        jobs.run(replace(job, dtype="float32"), scheduler=local, progress=False)
    jobs.run(replace(job, dtype="float32"), scheduler=local, fresh=True, progress=False)
    assert read_attrs(job.path)["identity"]["dtype"] == "float32"
    assert read_attrs(f"{job.path}.old-1")["identity"]["dtype"] == "bfloat16"
    shutil.rmtree(job.path)
    jobs.run(replace(job, dtype="float32"), scheduler=local, progress=False)
    assert write.pending(job.path) == [], "a worker that has the model makes the store again"


def test_what_the_worker_says_of_the_store_comes_back(job: jobs.TraceJob, local: Any, monkeypatch: Any) -> None:
    cluster.make_store(job, local)
    monkeypatch.setattr(settings, "_circumstance", lambda *_: {"device": "another"})
    with pytest.warns(write.CircumstanceWarning, match="another"):
        cluster.make_store(job, local)


def test_a_worker_that_cannot_load_the_model_is_told(job: jobs.TraceJob, local: Any, monkeypatch: Any) -> None:
    for error, message in ((ParameterError("device: got 'cuda'"), "^device: got"), (RuntimeError("no"), "no worker")):
        monkeypatch.setattr(jobs, "load", Mock(side_effect=error))
        with pytest.raises(type(error) if isinstance(error, ParameterError) else StoreError, match=message):
            jobs.run(job, scheduler=local, progress=False)
    assert not Path(job.path).exists()


def test_a_failing_shard_stops_no_other(work: Work, local: Any) -> None:
    broken = Work(work.path, work.notes, broken=(2, 4))
    with pytest.raises(StoreError, match=r"2 of 6 shards of .* failed: 2 \(RuntimeError: broken on purpose\), 4"):
        cluster.run_shards(broken, local)
    assert write.pending(work.path) == [2, 4]
    assert cluster.run_shards(work, local) == 2
    assert_complete(work.path)


def test_an_error_of_every_shard_is_told_as_it_is(work: Work, local: Any) -> None:
    full = Work(work.path, work.notes, disk_full=True)
    with pytest.raises(DiskFullError, match=r"^no space left\.$"):
        cluster.run_shards(full, local)
    with pytest.raises(DiskFullError, match=r"^no space left\.$"):
        cluster.run_shards(full)


def test_work_that_cannot_travel_is_refused(work: Work, local: Any) -> None:
    class Here(Work):
        pass

    with pytest.raises(ParameterError, match="cannot travel to workers"):
        cluster.run_shards(Here(work.path, work.notes), local)


def test_a_strange_scheduler_is_refused(work: Work) -> None:
    with pytest.raises(ParameterError, match="scheduler: got 42"):
        cluster.run_shards(work, 42)


SLURM = """
cluster: SLURMCluster
jobs: 3
options: {cores: 2, memory: 4GB, processes: 1, walltime: "01:00:00", job_extra_directives: ["--gres=gpu:1"]}
"""


def test_slurm_from_a_yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is an optional extra")
    asked: list[int] = []
    monkeypatch.setattr(jobqueue.SLURMCluster, "scale", lambda _, jobs: asked.append(jobs))
    (tmp_path / "slurm.yml").write_text(SLURM)
    with cluster.from_yaml(tmp_path / "slurm.yml") as slurm:
        script = slurm.job_script()
    assert asked[0] == 3
    assert all(line in script for line in ("#SBATCH --gres=gpu:1", "#SBATCH -t 01:00:00", "#SBATCH --cpus-per-task=2"))


# A cluster of dask-jobqueue that refuses its options is left half made, and says so when it is collected.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: [", "is not YAML"),
        ("- 1", "cluster, jobs, options"),
        ("nodes: 3", "cluster, jobs, options"),
        ("jobs: 0", "jobs: got 0"),
        ("options: 3", "options: got 3"),
        ("cluster: SlurmCluster", "did you mean 'SLURMCluster'"),
        ("options: {cores: 2, memory: 1GB, colour: red}", "cannot start with these options"),
    ],
)
def test_a_bad_yaml_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is an optional extra")
    (tmp_path / "slurm.yml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        cluster.from_yaml(tmp_path / "slurm.yml")


def test_a_missing_yaml_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"cannot read .*none\.yml"):
        cluster.from_yaml(tmp_path / "none.yml")


def test_missing_extras_are_told(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.yml").write_text(SLURM)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[cluster\]'"):
        cluster.from_yaml(tmp_path / "slurm.yml")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match="pip install distributed"):
        cluster.run_shards(work, "tcp://nowhere:1")
