"""One tracing job as a value: which model, which samples, which store. It runs here or, shard by shard, on workers.

`estimate` tells what it would take: the real architecture is built from its configuration, and no weights are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from visualheads import plugins
from visualheads.cards import Card, cards, name_of
from visualheads.errors import CheckpointError, DeviceMemoryError, ParameterError, got
from visualheads.models import blueprints, checkpoints
from visualheads.models.blueprints import Blueprint
from visualheads.models.checkpoints import Source
from visualheads.models.devices import AUTO, aside, chosen_device, put_aside
from visualheads.models.loading import load, untrained
from visualheads.models.progress import Wish, progress_bar
from visualheads.paths import RESULTS, store_path
from visualheads.store import write
from visualheads.store.read import open_asked
from visualheads.store.variables import QUERIES, TRACED, UNTRAINED
from visualheads.store.write import SHARD
from visualheads.tasks import Benchmark, Sample, Samples, task
from visualheads.tasks.sampling import Skipped
from visualheads.tracing import cluster, trace
from visualheads.tracing.forward import BATCH_TOKENS
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
        called = self._benchmark.store_name if self.data else self.task  # shipped scenes need not be there
        name = "-".join([called, *(() if "" in self.controls else self.controls)])
        name = f"{name}-seed{self.seed}" if self.seed else name
        name = f"{name}-{UNTRAINED}" if self.untrained else name
        model = f"{name_of(self.model)}-{name_of(self.adapter)}" if self.adapter else name_of(self.model)
        return str(store_path(self.results, model, name))

    @cached_property
    def _benchmark(self) -> Benchmark:
        return task(self.task, data=self.data)

    @cached_property
    def drawn(self) -> tuple[Samples, ...]:
        """The samples, one list per format and control. Raises what `task.samples` raises."""
        drawn: Any = partial(
            self._benchmark.samples, split=self.split, n=self.n, seed=self.seed, skip_bad=self.skip_bad
        )
        return tuple(
            drawn(self.conditions or None, chosen, control or None)
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
        asked = trace.StoreSettings(**self.arguments())
        return trace.prepare_store(self.loaded(), self.samples, self.path, asked, fresh)

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
    asked = job.fresh_network()
    settings = {"fresh": fresh, "progress": progress, **asked.arguments()}
    with aside(model.module) as device:
        try:
            return _traced_control(model, asked, device, settings), ""
        except DeviceMemoryError as error:
            return None, str(error)


def _traced_control(
    model: VisionLanguageModel, asked: TraceJob, device: torch.device, settings: dict[str, Any]
) -> xr.Dataset:
    """The network is gone when this returns: it must not stay on the device to which the model comes back."""
    network = untrained(model, asked.seed, device)
    return trace.trace_to_store(network, asked.samples, asked.path, **settings).load()


STORED_BYTES = 4
"""Measures are stored in float32; stores are compressed, so this is an upper bound."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HALF = "bfloat16"
"""Stands for a checkpoint's own precision on a GPU: 16 bits."""
LOOKED_AT = 256
"""Pictures whose sizes are read for the range of image tokens: only their headers."""
TYPICAL = ((336, 336), (672, 672), (640, 480), (300, 1000))
"""Picture sizes (width, height) whose image tokens are always told."""
MLP_STATES, RESIDUAL_STATES = 3, 6
"""States of a token that are alive at once in the widest place of a layer: in its MLP, and of the residual's width.
Ours; fragmentation and the vision tower come on top."""


@dataclass(frozen=True)
class Needs:
    """What a job takes, in numbers.

    shape        layers, query heads, key-value heads; parts are None where nothing tells before the model is loaded
    parameters   of the model; None likewise
    tokens       image tokens of a picture, mean over the job's; NaN likewise
    memory       bytes for weights and a batch; NaN likewise
    disk         bytes of the store, at most; NaN likewise
    """

    shape: tuple[int | None, int | None, int | None]
    parameters: float | None
    tokens: float
    memory: float
    disk: float


def needs(job: TraceJob) -> Needs:
    """What a trace would take. Raises what resolving the model and drawing the samples raise."""
    source, plan = _meant(job)
    card = source.card
    stored = sum(_bytes(plan.shape if plan else _shape(card), job, _grid(plan, job)))
    if plan is None:
        known = card.parameters * 1e9 if card and card.parameters else None
        weights = math.nan if known is None else known * DTYPE_BYTES[HALF]
        return Needs(_shape(card), known, math.nan, weights, stored)
    batch = _batch(plan, job, card)
    tokens = sum(batch.counts) / len(batch.counts)
    return Needs(plan.shape, plan.parameters, tokens, batch.weights + batch.memory, stored)


def estimate(job: TraceJob) -> dict[str, str]:
    """Rows of a table: model class, shape, image tokens, memory, samples, shards, disk; "unknown" where nothing tells.

    Raises what resolving the model and drawing the samples raise.
    """
    source, plan = _meant(job)
    known = _of_blueprint(plan, _batch(plan, job, source.card)) if plan else _of_card(source.card)
    return {
        "model": f"{source.name} ({source.location})",
        **known,
        "samples": str(len(job.samples)),
        "shards": f"{-(-len(job.samples) // SHARD)} of up to {SHARD} samples",
        "store": job.path,
        "disk": _disk(plan.shape if plan else _shape(source.card), job, _grid(plan, job)),
    }


def _meant(job: TraceJob) -> tuple[Source, Blueprint | None]:
    """What is meant, for a catalogued model that has to be converted first its original; and its blueprint, if any."""
    card = cards().get(job.model)
    if card is not None and not (card.miniature or card.joined or card.hub_id):
        source = Source(card.name, f"{card.original_id}, to be converted", card)
    else:
        source = checkpoints.resolve(job.model)
    checkpoints.check_revision(source, job.revision)
    if source.card is not None and source.card.joined:
        return source, None
    if source.folder is None and source.card is not None and blueprints.has_blueprint(source.card):
        return source, blueprints.of_card(source.card)
    try:
        return source, blueprints.prepare(source, job.revision, **job.loading()).check().plan
    except CheckpointError:
        if source.folder is not None:
            raise
        return source, None  # no connection: the card tells what it knows


def _of_blueprint(plan: Blueprint, batch: Batch) -> dict[str, str]:
    layers, heads, kv_heads = plan.shape
    beside = f"{batch.tokens:,} tokens together on {batch.device}"
    typical = ", ".join(f"{plan.image_tokens(size):,} of {size[0]} × {size[1]}" for size in TYPICAL)
    return {
        "class": plan.module_class.__name__,
        "configuration": plan.origin,
        "layers × heads / kv heads": f"{layers} × {heads} / {kv_heads}",
        "parameters": f"{plan.parameters / 1e9:.4g} billion",
        "image tokens": f"{_range(batch.counts)}; in general {typical}" if batch.counts else typical,
        "memory for weights": f"{batch.weights / 1e9:.3g} GB in {batch.dtype}",
        "memory for a batch": f"about {batch.memory / 1e9:.2g} GB for {beside}",
        "memory": f"about {(batch.weights + batch.memory) / 1e9:.3g} GB",
    }


def _of_card(card: Card | None) -> dict[str, str]:
    layers, heads, kv_heads = _shape(card)
    return {
        "class": card.class_name if card else "unknown before its configuration is fetched",
        "configuration": "not to be had offline; facts of its card" if card else "not to be had offline",
        "layers × heads / kv heads": f"{layers} × {heads} / {kv_heads}" if layers else "unknown without it",
        "image tokens": (card.image_tokens if card else "") or "unknown before loading",
        "memory for weights": f"{card.memory_gb:g} GB in 16 bit" if card and card.memory_gb else "unknown",
    }


def _shape(card: Card | None) -> tuple[int | None, int | None, int | None]:
    return card.shape if card else (None, None, None)


class Batch(NamedTuple):
    """Where a batch would run, the image tokens of pictures, the tokens that run together, and bytes."""

    device: str
    dtype: str
    counts: list[int]
    tokens: int
    weights: float
    memory: float


def _batch(plan: Blueprint, job: TraceJob, card: Card | None) -> Batch:
    """Weights, and of a batch keys and values of all layers, the widest states of one, the attention rows of all."""
    device, dtype = _placed(job, card is not None and card.miniature)
    size, text = DTYPE_BYTES[dtype], plan.config.get_text_config()
    counts = list(map(plan.image_tokens, _sizes(job.samples)))
    tokens = max([job.batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"]), *counts])
    layers, heads, kv_heads = plan.shape
    features = getattr(text, "head_dim", None) or text.hidden_size // heads
    held = 2 * layers * kv_heads * features * size
    states = (MLP_STATES * text.intermediate_size + RESIDUAL_STATES * text.hidden_size) * size
    rows = layers * heads * len(QUERIES) * STORED_BYTES
    return Batch(device, dtype, counts, tokens, plan.parameters * size, tokens * (held + states + rows))


def _placed(job: TraceJob, miniature: bool) -> tuple[str, str]:
    """(kind of device, dtype) that `load` would choose."""
    import torch

    device = job.device or str(chosen_device(None, miniature))
    try:
        # whether there is one matters where the trace runs
        kind = "cuda" if device == AUTO else torch.device(device).type
    except RuntimeError:
        raise ParameterError(got("device", device, ["cpu", "cuda", "cuda:1", "mps", AUTO])) from None
    dtype = job.dtype or ("float32" if miniature or kind == "cpu" else HALF)
    chosen = HALF if dtype == AUTO else dtype
    if chosen not in DTYPE_BYTES:
        raise ParameterError(got("dtype", dtype, [*DTYPE_BYTES, AUTO]))
    return kind, chosen


def _sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(width, height) of up to LOOKED_AT pictures, evenly spread over the list."""
    step = max(1, -(-len(samples) // LOOKED_AT))
    return [sample.size() for sample in samples[::step]]


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,} here" if low == high else f"{low:,} to {high:,} here, {sum(counts) / len(counts):,.0f} on average"


def _grid(plan: Blueprint | None, job: TraceJob) -> tuple[int, int] | None:
    sizes = _sizes(job.samples[:1])
    return plan.grid_shape(sizes[0]) if plan and sizes else None


def _disk(shape: tuple[int | None, int | None, int | None], job: TraceJob, grid: tuple[int, int] | None) -> str:
    measures, maps = _bytes(shape, job, grid)
    if math.isnan(measures):
        return "unknown"
    if grid is None:
        return f"at most {measures / 1e6:.0f} MB and the mean maps"
    return f"at most {(measures + maps) / 1e6:.0f} MB, {maps / 1e6:.0f} MB of it mean maps"


def _bytes(
    shape: tuple[int | None, int | None, int | None], job: TraceJob, grid: tuple[int, int] | None
) -> tuple[float, float]:
    """At most so many of the measures, and of the mean maps (0 without a grid); NaN for an unknown shape."""
    layers, heads, _ = shape
    if not layers or not heads:
        return math.nan, 0.0
    count, conditions = len(job.samples), len({sample.condition for sample in job.samples})
    cells = layers * heads * len(QUERIES) * STORED_BYTES
    maps = 0.0 if grid is None else -(-count // SHARD) * conditions * grid[0] * grid[1] * cells
    return count * cells * len(TRACED), maps
