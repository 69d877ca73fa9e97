"""The experiments of the steering page on one model: steering between objects, boosting, grounding.

`visualheads.studies.full_protocol` runs them large, a build of the book small (`REDUCED`),
unless a large run is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from visualheads.analysis.effects import MAIN_TASK
from visualheads.analysis.grounding import kind_of_box
from visualheads.errors import HeadError, ParameterError, SampleError, got
from visualheads.heads.ranking import rank
from visualheads.interventions import head_sets
from visualheads.interventions.modes import AFTER_IMAGE, ALL
from visualheads.interventions.results import objects
from visualheads.interventions.sweeps import sweep
from visualheads.studies import ablation
from visualheads.studies.grounding import MOST_HEADS, ground
from visualheads.tasks import task as benchmark
from visualheads.tasks.questions import free_form

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

Ask = Literal["count", "name"]
ASKED = ("count", "name")
NAME_QUESTION = "What is the object in the rectangle?"
"""What a steered model is asked for a name; miniatures are trained on this question, of drawn rectangles."""
STEERING, BOOST, GROUNDING = "steering", "boost", "grounding"
STORES = (STEERING, BOOST, GROUNDING)
"""Names and kinds of the stores that these experiments leave."""
CONDITION = "plain-object"
"""Questions that are boosted and grounded."""
SITUATIONS: tuple[tuple[Ask, str, str], ...] = (
    ("count", "nothing marked", "plain-general"),
    ("count", "another marked", "visual-general"),
    ("name", "nothing marked", "plain-general"),
    ("name", "another marked", "visual-general"),
)
"""What is asked of an object steered to, what the picture marks, and the condition whose pictures are used."""
RANDOM = "random"
EXAMPLES = 3
"""Pictures whose maps are kept to be shown."""


@dataclass(frozen=True)
class Size:
    """How much is run.

    questions   boosted and grounded; scenes: pictures that are steered in
    counts      numbers of top heads, of a model of 1024 heads
    seeds       random sets per top set
    biases      of steering; strengths: of boosting
    """

    questions: int = 16
    scenes: int = 10
    counts: tuple[int, ...] = (20, 100)
    ranking: str = "gaze"
    grounding: tuple[str, ...] = ("gaze", "localization")
    seeds: int = 3
    biases: tuple[float, ...] = (4.0,)
    strengths: tuple[float, ...] = (-4.0, -1.0, 1.0, 2.0, 4.0)
    most: int = MOST_HEADS
    positions: str = AFTER_IMAGE


REDUCED = Size()
FULL = Size(
    questions=64, scenes=32, counts=(20, 50, 100, 200), seeds=5, biases=(2.0, 4.0, 8.0),
    strengths=(-8.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 8.0),
)  # fmt: skip


def candidates(samples: Sequence[Sample], ask: Ask = "count", others: bool = False) -> list[Sample]:
    """Every object that a question could mean, as a sample of its own: steered to its box, does the answer follow?

    One sample per labelled kind of object (`boxes`), whose `box` is the first object of it, and whose `answer` is what
    would be right of it, so that `correct` of a steered run says whether the answer followed, `clean_correct` how often
    it is given anyway. Ids end in “→kind”.

    ask     "count": the question stays, the answer is the kind's number; needs two kinds in different numbers.
            "name": asks what the object in the rectangle is, the answer is the kind; needs two kinds
    others  leave out the kind that the sample's own box marks: steering against a mark
    Samples without two such kinds, or with choices (whose letters name other things), are left out. Raises SampleError
    where none is left, ParameterError for another `ask`.
    """
    if ask not in ASKED:
        raise ParameterError(got("ask", ask, ASKED))
    made = []
    for sample in samples:
        boxes = {name: found for name, found in (sample.boxes or {}).items() if found}
        told = {name: str(len(found)) if ask == "count" else name for name, found in boxes.items()}
        if sample.choices or len(set(told.values())) < 2:
            continue
        own = kind_of_box(sample) if others else None
        question = sample.question if ask == "count" else free_form(NAME_QUESTION)
        made += [
            replace(
                sample, id=f"{sample.id}→{name}", box=tuple(boxes[name][0]), answer=answer, question=question,
                task=sample.task if ask == "count" else f"{sample.task}-names",
            )
            for name, answer in told.items()
            if name != own
        ]  # fmt: skip
    if not made:
        raise SampleError(
            "no sample has two kinds of labelled objects in different numbers; give free-form samples with `boxes`, "
            "such as vh.task('looktwice').samples(condition='plain-general', format='free')."
        )
    return made


def bias_curve(
    model: VisionLanguageModel, samples: Sequence[Sample], sets: Any, biases: Sequence[float], mode: str = "boost",
    positions: str = ALL, box: Any = None, **settings: Any,
) -> xr.Dataset:  # fmt: skip
    """The same sweep at several strengths: a Dataset with the dimension `bias` (model, bias, set, sample).

    mode "boost" (all image keys) or "steer" (to `box`). Negative biases take attention away; 0 is the clean run.
    Raises ParameterError for no strengths or another mode.
    """
    if mode not in ("boost", "steer"):
        raise ParameterError(got("mode", mode, ["boost", "steer"]))
    if not len(biases) or len(set(biases)) < len(biases):
        raise ParameterError(got("biases", list(biases), "at least one strength, each once"))
    runs = [sweep(model, samples, sets, mode, positions, bias=bias, box=box, **settings) for bias in biases]
    clean = [name for name in runs[0].data_vars if "set" not in runs[0][name].dims or name == "heads"]
    changed = xr.concat(
        [run.drop_vars(clean) for run in runs], "bias", coords="minimal", compat="override", combine_attrs="override"
    )
    order = ("model", "bias", "set", "sample")
    return changed.transpose(*order, ...).assign(runs[0][clean]).assign_coords(bias=[float(bias) for bias in biases])


def _shipped(condition: str) -> Sequence[Sample]:
    return benchmark(MAIN_TASK).samples(condition=condition, format="free")


def run(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size = FULL, progress: Any = False,
    questions: Callable[[str], Sequence[Sample]] = _shipped,
) -> dict[str, xr.Dataset]:  # fmt: skip
    """All experiments on one model: datasets by the name of their store, each with `model` of length 1.

    asked      questions about boxes (condition `CONDITION`); scenes are their pictures
    traces     of this model alone, both attention rows, on other pictures: there heads are chosen
    questions  condition → its questions, in whose scenes heads are steered; by default the shipped ones
    """
    return {
        STEERING: steering(model, asked, traces, size, progress, questions),
        BOOST: boost(model, asked, traces, size, progress),
        GROUNDING: grounding(model, asked, traces, size, progress),
    }


def sets_of(traces: xr.Dataset, size: Size) -> xr.DataArray:
    """Top heads by the ranking, matched random ones, and all heads (order "all")."""
    scores = rank(traces, size.ranking).isel(model=0)
    counts = head_sets.scaled_counts(int(np.isfinite(scores).sum()), size.counts)
    made = head_sets.protocol_sets({size.ranking: scores}, counts, ("all",), size.seeds, bottom=False)
    everything = head_sets.HeadSet(np.isfinite(scores.transpose("layer", "head").values), "", "all", "all")
    return head_sets.together([made, head_sets.as_array([everything])])


def steering(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size, progress: Any = False,
    questions: Callable[[str], Sequence[Sample]] = _shipped,
) -> xr.Dataset:  # fmt: skip
    """Heads steered to every candidate object of every situation: dims (model, bias, set, sample).

    `correct` tells whether the answer is that of the object steered to; the coordinate `condition` the situation, such
    as "name, another marked". Raises SampleError where no picture has two kinds of objects.
    """
    pictures = list(dict.fromkeys(sample.image_id for sample in asked))
    parts = []
    for ask, marked, condition in SITUATIONS:
        mine = {sample.image_id: sample for sample in questions(condition) if sample.image_id in set(pictures)}
        usable = _scenes([mine[picture] for picture in pictures if picture in mine], size.scenes)
        found = candidates(usable, ask, others=marked != "nothing marked")
        boxes = [sample.box for sample in found]
        swept = bias_curve(
            model, found, sets_of(traces, size), size.biases, "steer", size.positions, box=boxes, progress=progress
        )
        names = objects([f"{ask}, {marked}: {name}" for name in swept["sample"].values])
        label = objects([f"{ask}, {marked}"] * len(found))
        parts.append(_slim(swept).assign_coords(sample=names, condition=("sample", label)))
    settings: Any = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    return xr.concat(parts, "sample", **settings)


def boost(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size, progress: Any = False
) -> xr.Dataset:
    """All image keys boosted at several strengths: dims (model, bias, set, sample); the largest top set, and all."""
    sets = sets_of(traces, size)
    counts = sets["count"].values
    most = max(counts[sets["order"].values == "top"])
    chosen = np.flatnonzero((sets["order"].values == "all") | (counts == most))
    few = list(asked)[: size.questions]
    return _slim(bias_curve(
        model, few, sets.isel(set=chosen), size.strengths, "boost", size.positions, progress=progress
    ))  # fmt: skip


def grounding(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size, progress: Any = False
) -> xr.Dataset:
    """Boxes from the best heads by several rankings and from random heads ("random 0", …).

    Dims (model, ranking, rule, heads_used, sample); `map` of the first EXAMPLES samples only, along `example`.
    """
    rankings = {name: rank(traces, name).isel(model=0) for name in size.grounding}
    rankings = {name: scores for name, scores in rankings.items() if bool(np.isfinite(scores).any())}
    if not rankings:
        raise HeadError(f"no ranking of {', '.join(size.grounding)} has a finite score; trace samples with boxes.")
    like = next(iter(rankings.values()))
    for seed in range(size.seeds):
        rankings[f"{RANDOM} {seed}"] = like.copy(data=np.random.default_rng(seed).random(like.shape))
    few = list(asked)[: size.questions]
    found = ground(model, few, rankings, size.most, progress=progress, max_new_tokens=1)
    maps = (
        found["map"]
        .isel(sample=slice(EXAMPLES))
        .drop_vars([name for name in found["map"].coords if "sample" in found[name].dims])
    )
    return found.drop_vars("map").assign(map=maps.rename(sample="example"))


def studied(
    names: Sequence[str], results: str | Path, traces: xr.Dataset, size: Size = REDUCED, small: bool = False
) -> dict[str, dict[str, xr.Dataset]]:
    """`studies.studied` of these experiments: store name → model → dataset."""
    makers: dict[str, ablation.Maker] = {
        STEERING: lambda model, asked, traces, size, _: steering(model, asked, traces, size),
        BOOST: lambda model, asked, traces, size, _: boost(model, asked, traces, size),
        GROUNDING: lambda model, asked, traces, size, _: grounding(model, asked, traces, size),
    }
    asked = list(benchmark(MAIN_TASK).samples(condition=CONDITION, format="free", n=max(size.questions, size.scenes)))
    return ablation.studied(makers, names, results, traces, asked, size, small)


def _scenes(samples: Sequence[Sample], n: int) -> list[Sample]:
    """The first `n` pictures that hold two kinds of objects in different numbers: every situation can be asked."""
    able = [one for one in samples if len({len(found) for found in (one.boxes or {}).values()}) > 1]
    return able[:n]


def _slim(swept: xr.Dataset) -> xr.Dataset:
    """Without the texts of the answers and the marks of the heads, which the labels of the sets tell."""
    return swept.drop_vars([name for name in ("prediction", "clean_prediction", "heads") if name in swept])
