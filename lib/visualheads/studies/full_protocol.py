"""The full protocol of one model (*Method*, “Interventions”): everything that verdicts about causes come from.

Heads are chosen on one half of the pictures and judged on the other. Parts run one after the other, each through stores
of its own below `work`, so that a killed run goes on where it stopped; what a part gives is shipped (`visualheads.
shipped`) when all of the part is done. A new part is a function and an entry in PARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from visualheads.analysis.effects import MAIN_TASK, usable
from visualheads.heads.ranking import head_count, rank
from visualheads.interventions import head_sets
from visualheads.interventions.head_sets import split_samples
from visualheads.interventions.modes import ALL
from visualheads.interventions.sweeps import kind_of, sweep_path, sweep_to_store
from visualheads.miniatures.questions import without_looking
from visualheads.paths import slug_of
from visualheads.store.combine import joined
from visualheads.studies import ablation, shipped, steering
from visualheads.studies import sinks as sink_study
from visualheads.studies.ablation import run, sets_of
from visualheads.tasks import task as benchmark
from visualheads.tracing import trace
from visualheads.tracing.forward import QUERIES
from visualheads.tracing.settings import circumstance_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks import Benchmark
    from visualheads.tasks.sample import Format, Sample

N = 64
"""Questions on which every set is judged."""
CONDITION, OTHER_CONDITION = "plain-object", "visual-object"
"""Condition in which heads are chosen and judged; the other one only adds pictures' worth of answers to claim 5."""
SEEDS, FEWER_SEEDS = 5, 3
"""Random controls of a set; fewer in the stages that claim 5 is not about."""
NULL_N = 2
"""Questions per condition that untrained networks are asked."""
LATE_RANKING, LATE_N, LATE_TOKENS = "detection", 48, 4
"""What the late heads of claim 5 are the top of, questions of every benchmark, longest answer in tokens."""
STAGES = ("early", "middle", "late", "all")
MODES = (
    ("zero", ALL), ("zero", "after_image"), ("mean", ALL), ("uniform", ALL), ("uniform_released", ALL),
    ("image_knockout", ALL),
)  # fmt: skip
"""Modes and positions; the first is asked everything, the others the sets of claim 5 and every head alone."""
MAIN_RANKING = "image_weight"
TEXTS = ("prediction", "clean_prediction")
STEPS = {"margin": 2.0**-6, "clean_margin": 2.0**-6, "kl": 2.0**-10}
"""What is shipped is told in these steps (logits, nats): finer than any effect, and it packs well."""

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a part of the protocol works with.

    tasks    benchmarks that the model knows, the main one among them
    work     folder for what is unfinished
    n        questions on which every set is judged
    single   … and on which every head is removed alone where its effects are measured; None: as many
    data     folder of the official files, one folder per benchmark; None: the shipped scenes
    most     questions drawn of a condition of the main benchmark, of whose pictures half choose and half judge; None:
             all
    """

    model: VisionLanguageModel
    tasks: tuple[str, ...]
    work: Path
    report: Report = lambda _line: None
    progress: Any = False
    n: int = N
    data: Path | None = None
    most: int | None = None
    single: int | None = None

    def benchmark(self, name: str) -> Benchmark:
        """A benchmark with the setting's files."""
        return benchmark(name, data=shipped.task_folder(self.model.name, name, self.data))

    def asked(self, condition: str, form: Format = "free") -> list[Sample]:
        """Questions of the main benchmark."""
        return list(self.benchmark(MAIN_TASK).samples(condition=condition, format=form, n=self.most))

    @cached_property
    def halves(self) -> tuple[list[Sample], list[Sample]]:
        """Questions on which heads are chosen, and on which they are judged: no picture is in both."""
        first, second = split_samples(self.asked(CONDITION))
        return first, second

    @property
    def chosen(self) -> list[Sample]:
        """The half on which heads are chosen."""
        return self.halves[0]

    @property
    def judged(self) -> list[Sample]:
        """The first `n` questions of the half on which they are judged."""
        return self.halves[1][: self.n]

    @cached_property
    def traces(self) -> xr.Dataset:
        """The model on the half on which heads are chosen, both attention rows, in memory."""
        self.report(f"{self.model.name}: tracing {len(self.chosen)} questions on which heads are chosen")
        return trace.trace(self.model, self.chosen, query=QUERIES, progress=self.progress)


Made = Mapping[str, tuple[xr.Dataset, str, Sequence[str]]]
"""Datasets of one model by the name of their store: (dataset, kind of store, tasks whose files decided it)."""


@dataclass(frozen=True)
class Part:
    """A part of the protocol: the stores that it ships, and the function that gives their datasets."""

    stores: tuple[str, ...]
    run: Callable[[Setting], Made]


def removed_heads(setting: Setting) -> Made:
    """Heads removed in every mode: many sets, every head alone; the late sets on more questions."""
    found: dict[str, tuple[xr.Dataset, str, Sequence[str]]] = {}
    for mode, positions in MODES:
        tasks = setting.tasks if (mode, positions) == MODES[0] else (MAIN_TASK,)
        ds = _swept(setting, mode, positions, tasks)
        found[f"{mode}-{positions}"] = (ds, kind_of(mode, positions), tasks)
    return found


def steered_heads(setting: Setting) -> Made:
    """Heads steered to objects, boxes from heads' maps: the experiments of the page on steering."""
    found = steering.run(
        setting.model, setting.judged, setting.traces, steering.FULL, setting.progress, setting.asked
    )  # fmt: skip
    return {store: (ds, store, (MAIN_TASK,)) for store, ds in found.items()}


def sinks(setting: Setting) -> Made:
    """What sinks hold, and what hiding or redistributing them does: the experiments of the page on sinks."""
    found = sink_study.run(setting.model, setting.judged, setting.traces, sink_study.FULL, setting.progress)
    return {store: (ds, store, (MAIN_TASK,)) for store, ds in found.items()}


def single_head_effects(setting: Setting) -> Made:
    """Whole and looking effects of every head alone, and how far pictures move its output."""
    reference = setting.chosen[: setting.n]
    judged = setting.judged[: setting.single]
    found = ablation.head_effects(setting.model, judged, reference, setting.work, setting.progress)
    return {ablation.EFFECTS: (found, ablation.EFFECTS, (MAIN_TASK,))}


def untrained_heads(setting: Setting, draws: int = ablation.DRAWS) -> Made:
    """Heads of untrained networks on a few prompts of every condition: the null of counting visual heads."""
    samples = setting.benchmark(MAIN_TASK).samples(format="free", n=NULL_N)
    found = ablation.untrained_draws(setting.model, samples, draws, setting.progress)
    return {shipped.NULL: (found, shipped.NULL, (MAIN_TASK,))}


def late_heads(setting: Setting, curves: bool = True) -> Made:
    """Heads removed by number, stage and order on every benchmark: the loss curves of claim 5, or its sets alone."""
    layers, heads, _ = setting.model.shape
    k, scores = head_count(layers * heads), {LATE_RANKING: rank(setting.traces, LATE_RANKING).isel(model=0)}
    counts = sorted({max(1, k // 2), k, 2 * k}) if curves else [k]
    late = head_sets.protocol_sets(scores, counts, ("late",), SEEDS)
    others = [head_sets.protocol_sets(scores, [k], ("early", "middle", "all"), FEWER_SEEDS)] if curves else []
    sets = {
        "uniform_released": head_sets.together([late, *others]),
        "mean": late.isel(set=np.flatnonzero(late["count"].values == k)),
    }
    asked = {name: _others(setting, name, min(setting.n, LATE_N)) for name in setting.tasks} | {
        MAIN_TASK: setting.judged
    }
    return {f"late-{mode}": _late(setting, mode, chosen, asked) for mode, chosen in sets.items()}


def _late(
    setting: Setting, mode: str, sets: xr.DataArray, asked: Mapping[str, Sequence[Sample]]
) -> tuple[xr.Dataset, str, Sequence[str]]:
    """One mode's sweep on all benchmarks, with what an answerer without eyes gets right (`question_only`)."""
    model, parts = setting.model, []
    for name, samples in asked.items():
        setting.report(f"{model.name}: {mode}: {len(sets)} sets of heads, {len(samples)} questions of {name}")
        path = sweep_path(setting.work, slug_of(model.name), f"{name}-late", mode)
        swept = sweep_to_store(
            model, samples, sets, path, mode, ALL, setting.chosen[: setting.n] if mode == "mean" else None,
            max_new_tokens=LATE_TOKENS, task_files=setting.benchmark(name).files_hash(), progress=setting.progress,
        ).load()  # fmt: skip
        like = setting.benchmark(name).samples(condition=samples[0].condition, format=samples[0].format)
        blind = dict(zip((one.id for one in samples), without_looking(samples, like), strict=True))
        told = [float(blind[one]) for one in swept["sample"].values]
        parts.append(swept.assign_coords(question_only=("sample", told)))
    return joined(parts).drop_vars(list(TEXTS)), f"late-{mode}", setting.tasks


PARTS: dict[str, Part] = {
    "removed heads": Part(tuple(f"{mode}-{positions}" for mode, positions in MODES), removed_heads),
    "steering": Part(steering.STORES, steered_heads),
    "sinks": Part(sink_study.STORES, sinks),
    "effects of single heads": Part((ablation.EFFECTS,), single_head_effects),
    "untrained heads": Part((shipped.NULL,), untrained_heads),
    "late heads": Part(("late-uniform_released", "late-mean"), late_heads),
}
"""In the order in which they run."""


def run_protocol(
    model: VisionLanguageModel, tasks: Sequence[str], work: str | Path, report: Report = lambda _line: None,
    force: bool = False, progress: Any = False, root: Path | None = None, n: int = N, data: Path | None = None,
    most: int | None = None, parts: Mapping[str, Part] | Sequence[str] | None = None, single: int | None = None,
) -> list[Path]:  # fmt: skip
    """Run every part that is not shipped for what is there now, and ship it; return the stores that were written.

    tasks    benchmarks that the model knows; the main one is always asked
    work     folder for what is unfinished: the same call goes on from there
    root     where the stores go, by default the shipped ones' folder
    n, data, most, single   as in `Setting`
    parts    only these of PARTS, or others
    """
    known = (MAIN_TASK, *(name for name in tasks if name != MAIN_TASK))
    setting = Setting(model, known, Path(work), report, progress, n, data, most, single)
    written: list[Path] = []
    for name, part in _chosen(parts).items():
        if not force and is_current(model.name, {name: part}, root, data):
            report(f"{model.name}: {name} is up to date")
            continue
        for store, (ds, kind, decided) in part.run(setting).items():
            told = circumstance_of(model)
            written.append(shipped.ship(_stepped(ds), model.name, store, decided, kind, told, root, data))
        report(f"{model.name}: {name} done")
    return written


def is_current(
    model: str, parts: Mapping[str, Part] | Sequence[str] | None = None, root: Path | None = None,
    data: Path | None = None,
) -> bool:  # fmt: skip
    """Whether these parts (all) are shipped for the weights and files that are there now."""
    wanted = {store for part in _chosen(parts).values() for store in part.stores}
    return wanted <= set(shipped.full_stores(model, root, data))


def _chosen(parts: Mapping[str, Part] | Sequence[str] | None) -> Mapping[str, Part]:
    return parts if isinstance(parts, Mapping) else {name: PARTS[name] for name in parts or PARTS}


def passes(n_heads: int, tasks: int, n: int = N) -> int:
    """About how many prompts the protocol runs through the model, at most: what every head alone costs, and a tenth."""
    kinds = len(MODES) + tasks + len(ablation.KINDS)  # letters besides the modes; other benchmarks; two effects
    return round(1.1 * n_heads * n * kinds)


def _stepped(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign({name: (ds[name] / step).round() * step for name, step in STEPS.items() if name in ds})


def _swept(setting: Setting, mode: str, positions: str, tasks: Sequence[str]) -> xr.Dataset:
    """All sweeps of one mode, joined: sets × samples, NaN where a set was not tried."""
    model, first = setting.model, (mode, positions) == MODES[0]
    layers, heads, _ = model.shape
    names = usable(setting.traces) if first else (MAIN_RANKING,)
    sets = sets_of(setting.traces, names, STAGES if first else ("late", "all"), SEEDS, bottom=True)
    alone = sets.isel(set=np.flatnonzero(sets["order"].values == "single"))
    asked: list[tuple[str, str, list[Sample], xr.DataArray]] = [
        (MAIN_TASK, "", setting.judged, sets),
        (MAIN_TASK, "-more", _more(setting), _of_claim_five(sets, layers * heads)),
    ]
    if first:
        asked.append((MAIN_TASK, "-letters", _as_letters(setting), alone))
        asked += [(name, "", _others(setting, name, setting.n), alone) for name in tasks if name != MAIN_TASK]
    reference = setting.chosen[: setting.n] if mode == "mean" else None
    parts = []
    for task, ending, samples, chosen in asked:
        told = f"{len(chosen)} sets of heads, {len(samples)} questions of {task}{ending}"
        setting.report(f"{model.name}: {mode}, {positions}: {told}")
        parts.append(
            run(model, samples, chosen, setting.work, f"{task}{ending}", mode, positions,
                setting.benchmark(task).files_hash(), reference=reference, progress=setting.progress)
        )  # fmt: skip
    ds = joined(parts).drop_vars(list(TEXTS))
    pictures = len({sample.image_id for sample in setting.chosen})
    return ds.assign_coords(chosen_pictures=("model", [pictures]))


def _of_claim_five(sets: xr.DataArray, n_heads: int) -> xr.DataArray:
    """The late top set of the released share of heads, and its random controls."""
    late = (sets["ranking"].values == MAIN_RANKING) & (sets["stage"].values == "late")
    counts = sets["count"].values
    nearest = min(set(counts[late].tolist()), key=lambda count: abs(count - head_count(n_heads)))
    wanted = late & (counts == nearest) & np.isin(sets["order"].values, ["top", "random"])
    return sets.isel(set=np.flatnonzero(wanted))


def _more(setting: Setting) -> list[Sample]:
    """The rest of the judging half, and its pictures in the other condition."""
    other = setting.asked(OTHER_CONDITION)
    pictures = {sample.image_id for sample in setting.halves[1]}
    return [*setting.halves[1][setting.n :], *(sample for sample in other if sample.image_id in pictures)]


def _as_letters(setting: Setting) -> list[Sample]:
    """The judged questions with letters to choose from, as far as they have choices."""
    asked = {sample.question_id for sample in setting.judged}
    return [sample for sample in setting.asked(CONDITION, "letters") if sample.question_id in asked]


def _others(setting: Setting, task: str, n: int) -> list[Sample]:
    """Questions of another benchmark, in its first condition and format."""
    known = setting.benchmark(task)
    return list(known.samples(condition=known.conditions[0], format=known.formats[0], n=n))
