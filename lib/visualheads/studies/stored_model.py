"""A model on a real language model as its shipped stores tell of it, without any weights; and what makes them.

Pages and claims need little of it: its traces besides the parts about causes. It is asked the scenes that it learned
to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import xarray as xr
from numcodecs import BitRound

from visualheads.analysis.effects import EFFECT, MAIN_TASK
from visualheads.cards import Card, cards
from visualheads.errors import StoreError
from visualheads.heads.selection import select
from visualheads.models.smol.architecture import GRID, SIDE
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap, stretched
from visualheads.studies import ablation, shipped, sinks
from visualheads.studies.ablation import EFFECTS, Removed
from visualheads.studies.full_protocol import (
    CONDITION,
    LATE_TOKENS,
    Made,
    Part,
    Setting,
    late_heads,
    single_head_effects,
    untrained_heads,
)
from visualheads.tasks import task as benchmark
from visualheads.tasks.sample import Sample
from visualheads.tracing import trace
from visualheads.tracing.forward import LAST_PROMPT, QUERIES

LOOK = "look"
"""Name and kind of the store with the maps of a few heads on one question."""
LETTERS, WHITE = f"{MAIN_TASK}-letters", f"{MAIN_TASK}-white"
LATE = {"uniform_released, all": "late-uniform_released", "mean, all": "late-mean"}


@dataclass(frozen=True)
class StoredModel:
    """A joined model of the catalogue whose stores are shipped. Raises StoreError where they do not hold."""

    name: str

    def __post_init__(self) -> None:
        lacking = {MAIN_TASK, LETTERS, WHITE, LOOK} - set(shipped.full_stores(self.name))
        if lacking:
            raise StoreError(
                f"shipped stores of {self.name} are missing or made from other weights: {', '.join(sorted(lacking))}; "
                f"`visualheads full {self.name}` makes them, and `visualheads page {self.name}` needs none."
            )

    @property
    def card(self) -> Card:
        """Its card."""
        return cards()[self.name]

    @property
    def parameters(self) -> float:
        """Billions of parameters, as its card tells."""
        return self.card.parameters or 0.0

    def token_map(self, image_size: tuple[int, int]) -> TokenMap:
        """Where each image token of a picture lies in it."""
        return single_grid(stretched(image_size, (SIDE, SIDE)), (GRID, GRID))

    @cached_property
    def traces(self) -> xr.Dataset:
        """The main benchmark in both formats, and where heads look on average."""
        free, letters = (self._opened(name) for name in (MAIN_TASK, LETTERS))
        both: xr.Dataset = xr.concat(
            [free.drop_vars("mean_map"), letters], "sample", data_vars="all", coords="minimal", compat="override"
        )
        patches = GRID**2 * np.exp(-both["focus_nats"])  # as both are defined
        return both.assign(mean_map=free["mean_map"], effective_patches=patches)

    @cached_property
    def white(self) -> xr.Dataset:
        """The same questions about white pictures."""
        return self._opened(WHITE)

    def _opened(self, name: str) -> xr.Dataset:
        found = shipped.opened(self.name, name)
        assert found is not None  # checked when this was made
        return found.drop_vars("provenance")

    def look(self) -> tuple[Sample, xr.Dataset]:
        """One question, and its trace with the maps of a few heads."""
        one = self._opened(LOOK)
        wanted = str(one["sample"].values[0])
        asked = benchmark(MAIN_TASK, data=shipped.task_folder(self.name, MAIN_TASK)).samples(format="free")
        return next(sample for sample in asked if sample.id == wanted), one

    def removed(self) -> Removed:
        """Late heads removed, as far as that is shipped."""
        found = {words: shipped.opened(self.name, name) for words, name in LATE.items()}
        sweeps = {words: ds for words, ds in found.items() if ds is not None}
        return Removed(sweeps, self.traces, 0, why="only the late heads of claim 5 were removed")

    @property
    def effects(self) -> xr.Dataset | None:
        """What the margin loses when one head's output is replaced by its mean."""
        found = shipped.opened(self.name, EFFECTS)
        return None if found is None else found.rename({"whole_margin": EFFECT})


TASKS = (MAIN_TASK, "pope", "seedbench")
SIZES = {"n": 24, "most": 96, "single": 12}
"""Of `run_protocol`: what two cores do in an hour."""
DRAWS = 40
"""Untrained adapters."""
SEEN = {
    "image_weight": QUERIES,
    **dict.fromkeys((
        "region_weight", "concentration", "image_log_odds_no_sink", "focus_nats", "top_share",
        "spatial_entropy", "region_lift",
    ), (LAST_PROMPT,)),
}  # fmt: skip
"""Measures that are shipped of the main benchmark, and of which rows."""
FEW = {name: (LAST_PROMPT,) for name in ("image_weight", "region_weight", "concentration")}
"""… of other benchmarks and formats; of white pictures the log odds alone."""
ODDS = {"image_log_odds_no_sink": (LAST_PROMPT,)}
ANSWERS = ("prediction", "correct", "margin", "n_image_tokens")
LOOKING = 5
"""Heads whose maps are shipped of one question."""
BITS = 3
"""Mantissa bits of what every head has of every prompt: 6 % of a number that only means are taken of."""
STORES = (MAIN_TASK, LETTERS, WHITE, *TASKS[1:])


def traces(setting: Setting) -> Made:
    """Traces of every benchmark, and of white pictures, as the book makes them of miniatures."""
    main, n = setting.benchmark(MAIN_TASK), setting.n
    asked = {
        MAIN_TASK: (MAIN_TASK, main.samples(format="free", n=n), SEEN),
        LETTERS: (MAIN_TASK, main.samples(format="letters", n=n), FEW),
        WHITE: (MAIN_TASK, main.samples(CONDITION, "free", "white", n=n), ODDS),
        **{name: (name, setting.benchmark(name).samples(n=n), FEW) for name in TASKS[1:]},
    }
    found: dict[str, tuple[xr.Dataset, str, tuple[str, ...]]] = {}
    for store, (task, samples, kept) in asked.items():
        setting.report(f"{setting.model.name}: tracing {len(samples)} questions of {store}")
        ds = trace.trace(
            setting.model, samples, QUERIES, ("mean_map",) if kept is SEEN else (), max_new_tokens=LATE_TOKENS,
            task_files=setting.benchmark(task).files_hash(), progress=setting.progress,
        )  # fmt: skip
        found[store] = (_reduced(ds, kept), "trace", (task,))
    return found


def _reduced(ds: xr.Dataset, kept: dict[str, tuple[str, ...]]) -> xr.Dataset:
    """These measures in these rows, rounded to BITS, and one mean map of the row that gives the answer."""
    codec, told = BitRound(keepbits=BITS), ds[list(ANSWERS)]
    for name, rows in kept.items():
        values = ds[name].where(ds["query"].isin(rows))
        told[name] = values.copy(data=codec.decode(codec.encode(values.values)).reshape(values.shape))
    if "mean_map" in ds:
        counts = ds["mean_map_count"]
        mean = (ds["mean_map"] * counts).sum("map_condition") / counts.sum("map_condition")
        told["mean_map"] = mean.where(ds["query"] == LAST_PROMPT)
    return told.assign_attrs(ds.attrs)


def one_question(setting: Setting) -> Made:
    """One question with the maps of the heads that put most on asked regions."""
    seen = shipped.opened(setting.model.name, MAIN_TASK)
    traces = setting.traces if seen is None else seen
    marks = select(traces, "region_weight", LOOKING, query=LAST_PROMPT).isel(model=0)
    found = trace.trace(
        setting.model, setting.judged[:1], LAST_PROMPT, ("maps",), heads=marks, max_new_tokens=LATE_TOKENS,
        task_files=setting.benchmark(MAIN_TASK).files_hash(), progress=setting.progress,
    )  # fmt: skip
    kept = [*ANSWERS, "image_weight", "maps"]
    return {LOOK: (found[kept], LOOK, (MAIN_TASK,))}


def sink_tokens(setting: Setting) -> Made:
    """Sink tokens, and concentration without them."""
    found = sinks.find(setting.model, setting.judged, setting.progress)
    kept = found[["sink_share", "concentration", "concentration_no_sink"]]
    return {sinks.SINKS: (kept, sinks.SINKS, (MAIN_TASK,))}


PARTS: dict[str, Part] = {
    "traces": Part(STORES, traces),
    "one question": Part((LOOK,), one_question),
    "untrained heads": Part((shipped.NULL,), partial(untrained_heads, draws=DRAWS)),
    "sink tokens": Part((sinks.SINKS,), sink_tokens),
    "late heads": Part(("late-uniform_released", "late-mean"), partial(late_heads, curves=False)),
    "effects of single heads": Part((ablation.EFFECTS,), single_head_effects),
}
"""In the order in which they run."""
