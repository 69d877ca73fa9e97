"""One tracing job as a value: which model, which samples, which store. It runs here or, shard by shard, on workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from visualheads import plugins
from visualheads.cards import name_of
from visualheads.errors import DeviceMemoryError, ParameterError
from visualheads.models.devices import aside, put_aside
from visualheads.models.loading import load, untrained
from visualheads.models.progress import Wish, progress_bar
from visualheads.paths import RESULTS, store_path
from visualheads.store import write
from visualheads.store.read import open_asked
from visualheads.store.variables import UNTRAINED
from visualheads.tasks import Benchmark, Sample, Samples, task
from visualheads.tasks.sampling import Skipped
from visualheads.tracing import cluster, trace
from visualheads.tracing.settings import answers_of

if TYPE_CHECKING:
    import torch
    import xarray as xr

    from visualheads.models.wrapper import VisionLanguageModel

UNTRAINED_N = 48
"""Questions per condition that an untrained network is asked at most: pictures are what a null has to be sure of."""
UNTRAINED_TOKENS = 2
"""… and the tokens it may say: only the first one's row is read."""


@dataclass(frozen=True)
class TraceJob:
    """A trace, described so that any process builds the same model and the same list of samples.

    conditions, formats     () = all conditions of the task, its first format
    controls                as `task.samples` takes them; "" = the pictures as they are
    n                       questions per condition, None = all
    device, dtype, revision, adapter, prompt, system, chat_template
                            as `load` takes them
    answer_prefix           what every answer is made to begin with
    untrained               a network of the model's shape with random weights of `seed`, instead of the model
    """

    model: str
    task: str = "looktwice"
    data: str | None = None
    conditions: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    controls: tuple[str, ...] = ("",)
    split: str | None = None
    n: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    batch_tokens: int | None = None
    skip_bad: bool = False
    results: str = str(RESULTS)
    untrained: bool = False
    adapter: str | None = None
    prompt: str | None = None
    system: str | None = None
    chat_template: str | None = None
    answer_prefix: str = ""

    def __post_init__(self) -> None:
        if not self.controls:
            raise ParameterError('controls: got an empty list; give "" for the pictures as they are.')

    @property
    def path(self) -> str:
        """The store's path. Controls alone, and every other seed, have a store of their own: `looktwice-seed1.zarr`."""
        name = "-".join([self._benchmark.store_name, *(() if "" in self.controls else self.controls)])
        name = f"{name}-seed{self.seed}" if self.seed else name
        name = f"{name}-{UNTRAINED}" if self.untrained else name
        called = f"{name_of(self.model)}-{name_of(self.adapter)}" if self.adapter else name_of(self.model)
        return str(store_path(self.results, called, name))

    @cached_property
    def _benchmark(self) -> Benchmark:
        return task(self.task, data=self.data)

    @cached_property
    def drawn(self) -> tuple[Samples, ...]:
        """The samples, one list per format and control. Raises what `task.samples` raises."""
        benchmark: Any = self._benchmark
        return tuple(
            benchmark.samples(
                condition=self.conditions or None,
                format=chosen,
                control=control or None,
                split=self.split,
                n=self.n,
                seed=self.seed,
                skip_bad=self.skip_bad,
            )
            for chosen in self.formats or (None,)
            for control in self.controls
        )

    @property
    def samples(self) -> list[Sample]:
        """All samples, in the order in which they are stored."""
        drawn = [sample for part in self.drawn for sample in part]
        if not self.answer_prefix:
            return drawn
        return [replace(sample, answer_prefix=self.answer_prefix) for sample in drawn]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What skip_bad left out."""
        return tuple(dict.fromkeys(entry for part in self.drawn for entry in part.skipped))

    @property
    def left_out(self) -> dict[str, int]:
        """Reason → number of questions that the benchmark, or a format, does not ask."""
        return {reason: count for part in self.drawn for reason, count in part.left_out.items()}

    def arguments(self) -> dict[str, Any]:
        """What decides the store, besides model and samples."""
        files = self._benchmark.files_hash()
        told = {"batch_tokens": self.batch_tokens, "seed": self.seed, "task_files": files}
        if self.untrained:
            return {**told, "keep": (), "kind": UNTRAINED, "max_new_tokens": UNTRAINED_TOKENS}
        # maps of controls would mix with those of the pictures
        return {**told, "keep": ("mean_map",) if "" in self.controls else ()}

    def setup(self, fresh: bool = False) -> trace.ShardTracer:
        """Load the model and make the store, or check that the one there is of this very run (`cluster.ShardWork`)."""
        return trace.prepare_store(self.loaded(), self.samples, self.path, fresh=fresh, **self.arguments())

    def shard(self, state: trace.ShardTracer, index: int) -> xr.Dataset:
        """On a worker: one shard's measures."""
        return state.shard(index)

    def loaded(self) -> Any:
        """The model, or the untrained network of its shape."""
        model = load(self.model, self.device, self.dtype, self.revision, **self.loading())
        # a model that only tells the network's shape must not take its place
        return untrained(model, self.seed, put_aside(model.module)) if self.untrained else model

    def loading(self) -> dict[str, Any]:
        """The LoRA and the form of prompts, as keyword arguments of `load`."""
        return {name: getattr(self, name) for name in ("adapter", "prompt", "system", "chat_template")}

    def white(self) -> TraceJob:
        """The same questions about white pictures, in the job's first format: the control of `above_null`."""
        return replace(self, formats=self.formats[:1], controls=("white",))

    def fresh_network(self, most: int = UNTRAINED_N) -> TraceJob:
        """The same questions, or `most` per condition, asked of an untrained network of the model's shape: the other
        control of `above_null`."""
        n = most if self.n is None else min(self.n, most)
        return replace(self, formats=self.formats[:1], controls=("",), n=n, untrained=True)

    def __getstate__(self) -> dict[str, Any]:
        """Only the description travels: samples are drawn again where the shards are traced."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__} | {"plugins": plugins.named()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What adds benchmarks or adapters here is imported there too."""
        plugins.use(state.pop("plugins"))
        self.__dict__.update(state)


def run(job: TraceJob, *, scheduler: Any = None, fresh: bool = False, progress: Wish = "auto") -> xr.Dataset:
    """Trace what the job's store still lacks and return it opened; here, or on the workers of a Dask scheduler.

    scheduler   None, an address, a distributed Cluster or a Client (see `cluster.run_shards`); the store is then made
                by a worker, for its device and in its precision: this machine need not hold the model
    """
    samples = job.samples  # bad input is told before any worker starts
    if scheduler is None:
        return trace.trace_to_store(job.loaded(), samples, job.path, fresh=fresh, progress=progress, **job.arguments())
    cluster.make_store(job, scheduler, fresh)
    ids = [sample.id for sample in samples]
    todo = list(write.todo(job.path, ids))
    with progress_bar(f"shards {job.model}", len(todo), progress) as advance:
        cluster.run_shards(job, scheduler, lambda _done, _total: advance(1), todo)
    return open_asked(job.path, ids, answers_of(samples))


def untrained_control(
    model: VisionLanguageModel, job: TraceJob, *, fresh: bool = False, progress: Wish = "auto"
) -> tuple[xr.Dataset | None, str]:
    """Trace `job.fresh_network()` where `model`, the job's, is loaded; (its store in memory, "").

    The model waits on the CPU meanwhile, so that its device has to hold one network at a time. Where the model lies in
    several places it cannot wait, and the network is spread beside it. (None, why) where memory does not suffice.
    """
    with aside(model.module) as device:
        try:
            return _untrained_traced(model, job.fresh_network(), device, fresh, progress), ""
        except DeviceMemoryError as error:
            return None, str(error)


def _untrained_traced(
    model: VisionLanguageModel, asked: TraceJob, device: torch.device, fresh: bool, progress: Wish
) -> xr.Dataset:
    network = untrained(model, asked.seed, device)
    return trace.trace_to_store(
        network, asked.samples, asked.path, fresh=fresh, progress=progress, **asked.arguments()
    ).load()
