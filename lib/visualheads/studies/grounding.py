"""How well a few heads ground what is asked: boxes from their maps, against the objects that samples ask about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis import grounding
from visualheads.analysis.grounding import targets
from visualheads.errors import HeadError, ParameterError, SampleError, got
from visualheads.heads.ranking import top_heads
from visualheads.interventions.results import objects, samples_only
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
    rules: Sequence[Literal["threshold", "gaussian"]] = grounding.RULES,
    level: float = grounding.LEVEL,
    query: str = "last_prompt",
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
    rules, level
        How a box is made from a map: see `grounding.box_of_map`.
    query
        Attention row.
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
    ds = trace(model, samples, query=query, keep=("maps",), heads=union, **settings)
    maps = ds["maps"].values[0]
    shape = (1, len(best), len(rules), used, len(samples))
    hit, overlap = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    boxes = np.full((*shape, 4), np.nan, np.float32)
    added = np.zeros((1, len(best), len(samples), *maps.shape[-2:]), np.float32)
    baselines = {name: np.zeros((1, len(samples)), np.float32) for name in ("chance", "whole_iou", "centre_hit")}
    for index, sample in enumerate(samples):
        size = sample.open().size
        asked, token_map = targets(sample), model.token_map(size)
        cells = grounding.cells_of(token_map, maps.shape[-2:])
        for name, value in _baselines(token_map, asked, size).items():
            baselines[name][0, index] = value
        for place, chosen in enumerate(best.values()):
            own = maps[index, [union.index(pair) for pair in chosen]]
            for count in range(used):
                values = grounding.combined(own[: count + 1])
                point = grounding.point_of_map(values, cells)
                hit[0, place, :, count, index] = point is not None and any(
                    grounding.inside(point, box) for box in asked
                )
                for way, rule in enumerate(rules):
                    found = grounding.box_of_map(values, cells, rule, level)
                    if found is not None:
                        boxes[0, place, way, count, index] = found
                        overlap[0, place, way, count, index] = max(grounding.iou(found, box) for box in asked)
            added[0, place, index] = grounding.combined(own)
    dims = ("model", "ranking", "rule", "heads_used", "sample")
    pairs = np.array(list(best.values()))
    along = ("ranking", "heads_used")
    return samples_only(ds).assign(
        hit=(dims, hit), iou=(dims, overlap), box=((*dims, "edge"), boxes),
        map=(("model", "ranking", "sample", "grid_row", "grid_column"), added),
    ).assign({name: (("model", "sample"), values) for name, values in baselines.items()}).assign_coords(
        ranking=objects(list(best)),
        rule=objects(list(rules)),
        heads_used=np.arange(1, used + 1),
        edge=objects(EDGES),
        selected_layer=(along, pairs[..., 0]),
        selected_head=(along, pairs[..., 1]),
    )  # fmt: skip


def _best(scores: xr.DataArray, most: int) -> list[tuple[int, int]]:
    if "bound" in scores.dims:
        scores = scores.sel(bound="estimate", drop=True)
    if "model" in scores.dims:
        if scores.sizes["model"] != 1:
            raise ParameterError(got("models in the ranking", scores.sizes["model"], "1", "select this model's scores"))
        scores = scores.squeeze("model", drop=True)
    values = scores.transpose("layer", "head").values
    flat: NDArray[np.floating] = np.where(np.isfinite(values), values, np.nan).reshape(-1, 1)
    marks = top_heads(flat, min(most, int(np.isfinite(flat).sum())))[:, 0]
    if not marks.any():
        raise HeadError("the ranking has no finite score, so there is no head to ground with.")
    order = sorted(np.flatnonzero(marks), key=lambda place: (-flat[place, 0], place))
    return [(int(place) // values.shape[1], int(place) % values.shape[1]) for place in order]


def _baselines(token_map: TokenMap, asked: Sequence[Box], size: tuple[int, int]) -> dict[str, float]:
    patches = token_map.is_patch & (token_map.tile == 0)
    inside = np.any([token_map.in_box(box, rule="centre") for box in asked], axis=0)
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    middle = (size[0] / 2, size[1] / 2)
    return {
        "chance": float(inside[patches].mean()) if patches.any() else float("nan"),
        "whole_iou": max(grounding.iou(whole, box) for box in asked),
        "centre_hit": float(any(grounding.inside(middle, box) for box in asked)),
    }
