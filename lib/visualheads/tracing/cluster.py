"""The shards of one store on Dask workers: each loads its model once and writes shards that nobody else writes.

class TraceWork:                              # frozen dataclass: it travels to the workers, so it must pickle
    path: str                                 # the store, on a disk that all workers see
    def setup(self, fresh=False): …           # once per worker process: load the model, make the store or check it;
    def shard(self, state, index): …          # … what it returns comes back here; the Dataset of one shard

cluster.make_store(work, "tcp://head:8786")   # where the model runs: not every machine that submits can hold it
cluster.run_shards(work)                      # in this process, one shard after the other
cluster.run_shards(work, "tcp://head:8786")   # on the workers of a running scheduler
with cluster.from_yaml("slurm.yml") as slurm:
    cluster.run_shards(work, slurm)
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import xarray as xr
import yaml

from visualheads.errors import MissingDependencyError, ParameterError, StoreError, VisualHeadsError, got, listed
from visualheads.store import write

Progress = Callable[[int, int], None]
"""Called after every shard with (shards done in this run, shards of this run)."""


class ShardWork(Protocol):
    """What is done on a worker. Must be hashable and pickle; equal works share what `setup` made."""

    @property
    def path(self) -> str:
        """The store, made before the run by `store.create` or `make_store`."""
        ...

    def setup(self, fresh: bool = False) -> Any:
        """What every shard needs (a loaded model); once per worker process. Makes the store, or checks it."""
        ...

    def shard(self, state: Any, index: int) -> xr.Dataset:
        """The measured shard, as `store.write_shard` takes it; with provenance, or the plan's circumstance counts."""
        ...


class _Loaded:
    """The last work's state in this process. One at a time: models are large, and a wrapped model serves one thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work: ShardWork | None = None
        self.state: Any = None

    def state_of(self, work: ShardWork) -> Any:
        if self.work != work:
            self.renew(work, False)
        return self.state

    def renew(self, work: ShardWork, fresh: bool) -> None:
        """Set the work up even where it is: its store may be gone, or its weights others."""
        self.forget()  # the old model's memory is needed for the new one
        self.state, self.work = work.setup(fresh), work

    def forget(self) -> None:
        self.work, self.state = None, None


_LOADED = _Loaded()


def make_store(work: ShardWork, scheduler: Any, fresh: bool = False) -> None:
    """Let one worker set the work up, which makes the store or checks the one there is; `scheduler` as in `run_shards`.

    Device and precision are those of the worker, and this process loads no model. fresh: as in `store.create`.
    Warns CircumstanceWarning here. Raises what `work.setup` raises, StoreError where that is no VisualHeadsError.
    """
    with _client(work, scheduler) as client:
        future = client.submit(_make, work, fresh, pure=False)
        error = future.exception()
        if error is None:
            for text in future.result():
                warnings.warn(text, write.CircumstanceWarning, stacklevel=2)
    if isinstance(error, VisualHeadsError):
        raise error
    if error is not None:
        raise StoreError(
            f"no worker could load the model and make {work.path} ({type(error).__name__}: {error}); see the worker's "
            "log, and give workers that hold the model."
        ) from error


def run_shards(
    work: ShardWork, scheduler: Any = None, progress: Progress | None = None, todo: Sequence[int] | None = None
) -> int:
    """Do the shards `todo` of `work.path`, by default all that are not done; return how many were done.

    scheduler: None (here, one after the other), the address of a running Dask scheduler, a distributed Cluster
    (LocalCluster, one from `from_yaml`), or a Client. Shards are independent, so one that fails stops no other; at the
    end StoreError tells which failed and why. A VisualHeadsError that every shard would meet (bad input, a full disk)
    is raised at once when running here, or as it is when all failed of it.
    """
    todo = write.pending(work.path) if todo is None else list(todo)
    if not todo:
        return 0
    failures: dict[int, BaseException] = {}
    results = _here(work, todo) if scheduler is None else run_each(partial(_do, work), todo, scheduler)
    with contextlib.closing(results):
        for count, (index, _, error) in enumerate(results, start=1):
            if error is not None:
                failures[index] = error
            if progress is not None:
                progress(count, len(todo))
    if failures:
        raise _failure(failures, len(todo), work.path)
    return len(todo)


def run_each(
    function: Callable[..., Any], works: Sequence[Any], scheduler: Any, *arguments: Any
) -> Generator[tuple[Any, Any, BaseException | None]]:
    """Yield every work with what `function(work, *arguments)` gave on some worker, or its error, as they end.

    scheduler   as in `run_shards`, but None. Works that write stores must write different ones.
    """
    with _client((function, works), scheduler) as client:
        from distributed import as_completed

        # pure=False: a work is done for its effect, not for a value that could be remembered from an earlier run
        futures = [client.submit(function, work, *arguments, pure=False, retries=1) for work in works]
        work_of = dict(zip(futures, works, strict=True))
        for future in as_completed(futures, loop=client.loop, raise_errors=False):
            error = future.exception()
            yield work_of[future], None if error else future.result(), error


def from_yaml(path: str | Path) -> Any:
    """A cluster of batch jobs through dask-jobqueue, as a YAML file describes it; close it, or use it in `with`.

        cluster: SLURMCluster        # or PBSCluster, SGECluster, LSFCluster, … of dask_jobqueue
        jobs: 4                      # how many jobs to start
        options: {cores: 8, memory: 64GB, processes: 1, walltime: "04:00:00", job_extra_directives: ["--gres=gpu:1"]}

    Raises ParameterError for a file of another form, MissingDependencyError without dask-jobqueue.
    """
    path = Path(path)
    told = _read_yaml(path)
    try:
        import dask_jobqueue
    except ImportError:
        raise MissingDependencyError(
            f"{path} asks for batch jobs, which need dask-jobqueue; pip install -e '.[cluster]'."
        ) from None
    known = sorted(name for name in vars(dask_jobqueue) if name.endswith("Cluster"))
    if told["cluster"] not in known:
        raise ParameterError(got(f"{path}: cluster", told["cluster"], known))
    try:
        cluster = getattr(dask_jobqueue, told["cluster"])(**told["options"])
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: its scheduler could not start
        raise ParameterError(f"{path}: {told['cluster']} cannot start with these options: {error}") from error
    cluster.scale(jobs=told["jobs"])
    return cluster


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}; give the YAML file of a cluster.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {error}") from error
    keys = ("cluster", "jobs", "options")
    if not isinstance(told, Mapping) or set(told) - set(keys):
        raise ParameterError(got(str(path), list(told) if isinstance(told, Mapping) else told, keys, suggest=False))
    read: dict[str, Any] = {"cluster": "SLURMCluster", "jobs": 1, "options": {}} | dict(told)
    jobs, options = read["jobs"], read["options"]
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ParameterError(got(f"{path}: jobs", jobs, "1 or more"))
    if not isinstance(options, Mapping):
        raise ParameterError(got(f"{path}: options", options, "names and values"))
    # A head node is shared: somebody else's dashboard may hold the usual port.
    read["options"] = {"scheduler_options": {"dashboard_address": ":0"}, **options}
    return read


def _here(work: ShardWork, todo: list[int]) -> Any:
    """A generator of outcomes. Any error ends the run: the next shard in this process would meet it as well."""
    try:
        for index in todo:
            _do(work, index)
            yield index, None, None
    finally:
        _LOADED.forget()


@contextlib.contextmanager
def _client(work: object, scheduler: Any) -> Iterator[Any]:
    """A client of the scheduler, closed at the end unless it was given."""
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError("running on a scheduler needs distributed; pip install distributed.") from None
    _check_pickles(work)
    own = not isinstance(scheduler, Client)
    client = _connect(Client, scheduler) if own else scheduler
    try:
        yield client
    finally:
        if own:
            client.close()


def _connect(client: Any, scheduler: Any) -> Any:
    try:
        return client(scheduler, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ParameterError(
            got("scheduler", scheduler, "None, an address such as tcp://host:8786, a distributed Cluster or Client")
            + f" ({error})"
        ) from error


def _check_pickles(work: object) -> None:
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"the work cannot travel to workers ({error}); describe it by names and paths, and load models in setup()."
        ) from error


def _make(work: ShardWork, fresh: bool) -> list[str]:
    """The work set up in whatever process this is; what is to be said of the circumstances."""
    with _LOADED.lock, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", write.CircumstanceWarning)
        _LOADED.renew(work, fresh)
    others = [one for one in told if not issubclass(one.category, write.CircumstanceWarning)]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return [str(one.message) for one in told if one not in others]


def _do(work: ShardWork, index: int) -> None:
    """One shard, in whatever process this is."""
    with _LOADED.lock:
        state = _LOADED.state_of(work)
        write.write_shard(work.path, index, work.shard(state, index))


def _failure(failures: Mapping[int, BaseException], count: int, path: str) -> BaseException:
    first = failures[min(failures)]
    same = {(type(error), str(error)) for error in failures.values()}
    if len(failures) == count and len(same) == 1 and isinstance(first, VisualHeadsError):
        return first
    told = [f"{index} ({type(error).__name__}: {error})" for index, error in sorted(failures.items())]
    error = StoreError(
        f"{len(failures)} of {count} shards of {path} failed: {listed(told)}; the others are done and kept, "
        "run the same command again for the rest."
    )
    error.__cause__ = first
    return error
