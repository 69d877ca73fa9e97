"""The experiments of the steering page on one model: steering between objects, grounding.

`visualheads.studies.full_protocol` runs them large, a build of the book small (`REDUCED`),
unless a large run is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from visualheads.analysis.effects import MAIN_TASK
from visualheads.analysis.steering import (
    RULES,
    box_of_map,
    cells_of,
    combined,
    inside,
    iou,
    kind_of_box,
    point_of_map,
    targets,
)
from visualheads.errors import HeadError, ParameterError, SampleError, got
from visualheads.heads.ranking import rank
from visualheads.heads.selection import best_heads
from visualheads.interventions import head_sets
from visualheads.interventions.modes import AFTER_IMAGE, LAST_PROMPT
from visualheads.interventions.sweeps import samples_only, sweep
from visualheads.store.schema import text
from visualheads.studies import ablation
from visualheads.tasks import task as benchmark
from visualheads.tasks.records import free_form
from visualheads.tracing.trace import trace

if TYPE_CHECKING:
    from visualheads.models.token_map import TokenMap
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample

MOST_HEADS = 10
"""Grounding is measured with the best 1 to 10 heads."""
EDGES = ("left", "top", "right", "bottom")


def ground(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    rankings: Mapping[str, xr.DataArray],
    most: int = MOST_HEADS,
    rules: Sequence[Literal["threshold", "gaussian"]] = RULES,
    **settings: Any,
) -> xr.Dataset:
    """Boxes from the maps of the best 1 … `most` heads by several rankings, against the objects that are asked about.

    Parameters
    ----------
    model
        Whose heads are ranked.
    samples
        Samples with a box. What they ask about is `targets(sample)`.
    rankings
        Name → scores (layer, head), or (model, layer, head) of this model, found on other pictures than those judged.
    most
        Largest number of heads. Where a ranking has fewer heads with a finite score, all rankings use that many.
    rules
        How a box is made from a map: see `analysis.steering.box_of_map`.
    **settings
        As in `trace`.

    Returns
    -------
    xarray.Dataset
        With the dimensions model, ranking, rule, heads_used and sample:

        hit : 1 where the strongest patch's centre lies in one of the objects' boxes (pointing game)
        iou : overlap of the box made from the map with the nearest object's, in [0, 1]
        box : (…, edge) that box: left, top, right, bottom in original pixels; NaN for an empty map
        map : (model, ranking, sample, grid_row, grid_column) the maps of the `most` best heads added up (`combined`)

        The baselines (model, sample): chance, the share of the picture's patches whose centre lies in one of the
        boxes, which is how often a random patch hits; whole_iou, of the whole picture; centre_hit, of the picture's
        middle. The coordinates selected_layer and selected_head (ranking, heads_used) name the heads in order.

    Raises
    ------
    SampleError
        For a sample without a box.
    HeadError
        For a ranking without a finite score.
    """
    if isinstance(most, bool) or not most >= 1:
        raise ParameterError(got("most", most, "1 or more heads"))
    for sample in samples:
        if sample.box is None:
            raise SampleError(f"sample {sample.id!r} has no box to ground; give samples that ask about a box.")
    best = {name: _best(scores, most) for name, scores in rankings.items()}
    used = min(len(chosen) for chosen in best.values())
    best = {name: chosen[:used] for name, chosen in best.items()}
    union = sorted({pair for chosen in best.values() for pair in chosen})
    ds = trace(model, samples, query=LAST_PROMPT, keep=("maps",), heads=union, **settings)
    maps = ds["maps"].values[0]
    shape = (1, len(best), len(rules), used, len(samples))
    hit, overlap = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    boxes = np.full((*shape, 4), np.nan, np.float32)
    added = np.zeros((1, len(best), len(samples), *maps.shape[-2:]), np.float32)
    baselines = {name: np.zeros((1, len(samples)), np.float32) for name in ("chance", "whole_iou", "centre_hit")}
    for index, sample in enumerate(samples):
        size = sample.open().size
        asked, token_map = targets(sample), model.token_map(size)
        cells = cells_of(token_map, maps.shape[-2:])
        for name, value in _baselines(token_map, asked, size).items():
            baselines[name][0, index] = value
        for place, chosen in enumerate(best.values()):
            own = maps[index, [union.index(pair) for pair in chosen]]
            for count in range(used):
                values = combined(own[: count + 1])
                point = point_of_map(values, cells)
                hit[0, place, :, count, index] = point is not None and any(inside(point, box) for box in asked)
                for way, rule in enumerate(rules):
                    found = box_of_map(values, cells, rule)
                    if found is not None:
                        boxes[0, place, way, count, index] = found
                        overlap[0, place, way, count, index] = max(iou(found, box) for box in asked)
            added[0, place, index] = combined(own)
    dims = ("model", "ranking", "rule", "heads_used", "sample")
    pairs = np.array(list(best.values()))
    along = ("ranking", "heads_used")
    return samples_only(ds).assign(
        hit=(dims, hit), iou=(dims, overlap), box=((*dims, "edge"), boxes),
        map=(("model", "ranking", "sample", "grid_row", "grid_column"), added),
    ).assign({name: (("model", "sample"), values) for name, values in baselines.items()}).assign_coords(
        ranking=text(list(best)),
        rule=text(list(rules)),
        heads_used=np.arange(1, used + 1),
        edge=text(EDGES),
        selected_layer=(along, pairs[..., 0]),
        selected_head=(along, pairs[..., 1]),
    )  # fmt: skip


def _best(scores: xr.DataArray, most: int) -> list[tuple[int, int]]:
    one = head_sets.one_model(scores)
    best = best_heads(one.where(np.isfinite(one)), most)
    if not best:
        raise HeadError("the ranking has no finite score, so there is no head to ground with.")
    return best


def _baselines(token_map: TokenMap, asked: Sequence[Box], size: tuple[int, int]) -> dict[str, float]:
    patches = token_map.is_patch & (token_map.tile == 0)
    covered = np.any([token_map.in_box(box, rule="centre") for box in asked], axis=0)
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    middle = (size[0] / 2, size[1] / 2)
    return {
        "chance": float(covered[patches].mean()) if patches.any() else float("nan"),
        "whole_iou": max(iou(whole, box) for box in asked),
        "centre_hit": float(any(inside(middle, box) for box in asked)),
    }


Ask = Literal["count", "name"]
ASKED = ("count", "name")
NAME_QUESTION = "What is the object in the rectangle?"
"""What a steered model is asked for a name; miniatures are trained on this question, of drawn rectangles."""
STEERING, GROUNDING = "steering", "grounding"
STORES = (STEERING, GROUNDING)
"""Names and kinds of the stores that these experiments leave."""
CONDITION = "plain-object"
"""Questions that are grounded."""
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

    questions   grounded; scenes: pictures that are steered in
    counts      numbers of top heads, of a model of 1024 heads
    seeds       random sets per top set
    biases      of steering
    """

    questions: int = 16
    scenes: int = 10
    counts: tuple[int, ...] = (20, 100)
    ranking: str = "gaze"
    grounding: tuple[str, ...] = ("gaze", "localization")
    seeds: int = 3
    biases: tuple[float, ...] = (4.0,)
    most: int = MOST_HEADS
    positions: str = AFTER_IMAGE


REDUCED = Size()
FULL = Size(
    questions=64, scenes=32, counts=(20, 50, 100, 200), seeds=5, biases=(2.0, 4.0, 8.0),
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
    model: VisionLanguageModel, samples: Sequence[Sample], sets: Any, biases: Sequence[float], mode: str,
    **settings: Any,
) -> xr.Dataset:  # fmt: skip
    """The same sweep at several strengths: a Dataset with the dimension `bias` (model, bias, set, sample).

    mode "boost" (all image keys) or "steer" (to `box`). Negative biases take attention away; 0 is the clean run.
    """
    runs = [sweep(model, samples, sets, mode, bias=bias, **settings) for bias in biases]
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
        how = {"positions": size.positions, "box": [sample.box for sample in found], "progress": progress}
        swept = bias_curve(model, found, sets_of(traces, size), size.biases, "steer", **how)
        names = text([f"{ask}, {marked}: {name}" for name in swept["sample"].values])
        label = text([f"{ask}, {marked}"] * len(found))
        swept = swept.drop_vars(["prediction", "clean_prediction", "heads"], errors="ignore")
        parts.append(swept.assign_coords(sample=names, condition=("sample", label)))
    settings: Any = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    return xr.concat(parts, "sample", **settings)


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
    maps = found["map"].isel(sample=slice(EXAMPLES))
    maps = maps.drop_vars([name for name in maps.coords if "sample" in maps[name].dims])
    return found.drop_vars("map").assign(map=maps.rename(sample="example"))


def studied(
    names: Sequence[str], results: str | Path, traces: xr.Dataset, size: Size = REDUCED, small: bool = False
) -> dict[str, dict[str, xr.Dataset]]:
    """`studies.studied` of these experiments: store name → model → dataset."""
    makers: dict[str, ablation.Maker] = {
        STEERING: lambda model, asked, traces, size, _: steering(model, asked, traces, size),
        GROUNDING: lambda model, asked, traces, size, _: grounding(model, asked, traces, size),
    }
    asked = list(benchmark(MAIN_TASK).samples(condition=CONDITION, format="free", n=max(size.questions, size.scenes)))
    return ablation.studied(makers, names, results, traces, asked, size, small)


def _scenes(samples: Sequence[Sample], n: int) -> list[Sample]:
    """The first `n` pictures that hold two kinds of objects in different numbers: every situation can be asked."""
    able = [one for one in samples if len({len(found) for found in (one.boxes or {}).values()}) > 1]
    return able[:n]
