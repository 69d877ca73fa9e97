"""Where heads look: their maps drawn over the picture.

One sample's maps of chosen heads, ready for `_overlays`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from visualheads.analysis import head_tables
from visualheads.analysis.steering import even_cells, targets
from visualheads.analysis.subset import BOUNDS, only_model, subset
from visualheads.charts.comparison import choice, chosen_model, placeholder
from visualheads.charts.display import GREY, colour, finished, rows, tips, told_ranges
from visualheads.errors import ParameterError, got
from visualheads.heads.ranking import rank
from visualheads.heads.selection import best_heads
from visualheads.models.token_map import TokenMap
from visualheads.tasks.sample import Sample

if TYPE_CHECKING:
    from visualheads.models.loading import VisionLanguageModel

PANEL = 180
"""Width of one picture in pixels."""
PER_ROW = 3
MOST_PIXELS = 448
"""Longest side at which pictures are put into pages."""
BOX_COLOUR = "#00e5ff"
"""Seen on any picture, and not the red of boxes that are part of the picture."""


def _overlays(
    picture: Image.Image,
    maps: Mapping[str, NDArray[np.floating]],
    token_map: TokenMap,
    box: Sequence[float] | None = None,
) -> Any:
    """The picture, then the picture under each map; cells are coloured up to the map's own maximum.

    maps: title → attention per cell, shape (row, column) of the whole-picture grid (NaN where no token lies).
    box: the asked region in pixels, drawn as a dashed outline (it is not part of the picture).
    Raises ParameterError where a map's shape is not the grid's.
    """
    width, height = picture.size
    scale = PANEL / width
    shown = ground(picture, scale)
    edges = [outline(box)] if box is not None else []
    panels = [panel(alt.layer(shown, *edges), "picture", height * scale)]
    for title, values in maps.items():
        if values.shape != token_map.grid_shape:
            raise ParameterError(got(f"shape of the map {title!r}", values.shape, f"{token_map.grid_shape}"))
        panels.append(panel(alt.layer(shown, _heat(values, token_map), *edges), title, height * scale))
    grid = alt.vconcat(*[alt.hconcat(*panels[i : i + PER_ROW], spacing=14) for i in range(0, len(panels), PER_ROW)])
    words = f"The picture, {len(maps)} times overlaid with where a head looks: {'; '.join(maps)}." + (
        " A dashed outline marks the asked object." if box is not None else ""
    )
    return finished(grid.resolve_scale(color="independent"), words).properties(usermeta={"margin": 20})


def picture_uri(picture: Image.Image) -> str:
    """The picture as a data address, at most MOST_PIXELS wide or high."""
    small = picture.convert("RGB")
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    kind, settings = ("jpeg", {"quality": 88}) if max(picture.size) > MOST_PIXELS else ("png", {"optimize": True})
    buffer = io.BytesIO()
    small.save(buffer, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def panel(chart: Any, title: str, height: float) -> Any:
    """One picture of a row of them."""
    return chart.properties(width=PANEL, height=height, title=title)


def _axis(size: float) -> alt.Scale:
    return alt.Scale(domain=[0, size], nice=False, zero=False)


def ground(picture: Image.Image, scale: float) -> Any:
    """The picture as a layer, `scale` pixels per pixel of it."""
    width, height = picture.size
    return (
        alt.Chart(rows([{"url": picture_uri(picture), "x": width / 2, "y": height / 2}]))
        .mark_image(width=PANEL, height=height * scale, aspect=False)
        .encode(
            x=alt.X("x:Q", axis=None, scale=_axis(width)),
            y=alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False, zero=False)),
            url="url:N",
        )
    )


def _heat(values: NDArray[np.floating], token_map: TokenMap) -> Any:
    chosen = token_map.is_patch & (token_map.tile == 0) & np.isfinite(token_map.box).all(axis=1)
    rows_, columns = token_map.grid_row[chosen], token_map.grid_column[chosen]
    return heat(values[rows_, columns], token_map.box[chosen])


def heat(values: NDArray[np.floating], boxes: NDArray[np.floating]) -> Any:
    """Cells (cell) in their boxes (cell, 4; pixels of the picture), coloured up to the largest; NaN cells left out."""
    top = float(np.nanmax(values)) or 1.0
    cells = pd.DataFrame(boxes, columns=["x", "y", "x2", "y2"]).assign(attention=values, share=values / top).dropna()
    return (
        alt.Chart(rows(cells.to_dict("records")))
        .mark_rect(stroke=None)
        .encode(
            x="x:Q",
            x2="x2:Q",
            y="y:Q",
            y2="y2:Q",
            color=alt.Color("share:Q", scale=alt.Scale(scheme="inferno", domain=[0, 1]), legend=None),
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.12, 0.82]), legend=None),
            tooltip=[alt.Tooltip("attention:Q", format=".4f")],
        )
    )


def outline(box: Sequence[float], colour: str = BOX_COLOUR, dash: Sequence[int] = (5, 3)) -> alt.Chart:
    """The outline of a box (left, top, right, bottom; pixels of the picture) as a layer."""
    data = rows([dict(zip(("x", "y", "x2", "y2"), map(float, box), strict=True))])
    return (
        alt.Chart(data)
        .mark_rect(filled=False, stroke=colour, strokeWidth=2, strokeDash=list(dash), strokeOpacity=1, opacity=1)
        .encode(x="x:Q", x2="x2:Q", y="y:Q", y2="y2:Q")
    )


def strongest_heads(
    ds: xr.Dataset, by: str = "region_weight", n: int = 5, query: str | None = None
) -> list[tuple[int, int]]:
    """The best heads of a model by a ranking; by image weight where the ranking has no values (no boxes).

    Parameters
    ----------
    ds : xarray.Dataset
        Traces of one model, dims (model, layer, head, sample).
    by : str
        A ranking, as in `vh.rank`.
    n : int
        How many heads.
    query : str, optional
        The attention row where the dataset holds several; by default last_prompt.

    Returns
    -------
    list of tuple of int
        (layer, head), best first.

    Raises
    ------
    ParameterError
        The ranking or row is unknown, or the dataset holds several models.
    """
    chosen = subset(ds, model=only_model(ds), trim=True)
    best = (best_heads(rank(chosen, name, query=query).isel(model=0), n) for name in (by, "image_weight"))
    return next(filter(None, best), [])


def sample_overlays(model: VisionLanguageModel, sample: Sample, traced: xr.Dataset) -> Any:
    """A sample's picture, and over it the map of every head whose map was kept.

    Each map is coloured up to its own maximum; the asked region is a dashed outline.

    Parameters
    ----------
    model : VisionLanguageModel
        The model that was traced: it tells where tokens lie in the picture.
    sample : Sample
        The sample that was traced.
    traced : xarray.Dataset
        Its trace with keep="maps" and chosen heads; the first attention row is shown.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    picture = sample.open()
    maps = traced["maps"].isel(model=0, sample=0)
    if "query" in maps.dims:
        maps = maps.isel(query=0)
    layers, heads = traced["selected_layer"].values, traced["selected_index"].values
    titled = {}
    for index, (layer, head) in enumerate(zip(layers.tolist(), heads.tolist(), strict=True)):
        values = maps.isel(selected_head=index).transpose("grid_row", "grid_column").values
        weight = traced["image_weight"].isel(model=0, sample=0).sel(layer=layer, head=head)
        titled[f"{head_tables.head_name(layer, head)}: {float(weight.squeeze()):.0%} on the picture"] = values
    return _overlays(picture, titled, model.token_map(picture.size), sample.box)


ORDERS = ("top", "random", "all")
MEASURES = {"accuracy": "share of answers", "margin": "margin (logits)"}
FOUND_COLOUR = "#ffd400"
NEEDS = "No heads were steered yet."
WIDE = 240


def steered_answers(table: pd.DataFrame, needs: str = NEEDS) -> Any:
    """How far answers move to the object steered to, by situation and kind of heads.

    Measure, bias and model are chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `steering.steer_table`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    data = alt.Chart(rows(table.to_dict("records")))
    choices = [chosen_model(list(dict.fromkeys(table["model"])))]
    data = data.transform_filter("datum.model === chosen_model")
    for column, labels in (("measure", MEASURES), ("bias", None)):
        options = list(dict.fromkeys(table[column]))
        words = [labels[name] if labels else f"+{name:g}" for name in options]
        start = 4.0 if column == "bias" and 4.0 in options else None
        choices.append(choice(f"{column}_shown", options, column.capitalize(), words, start))
        data = data.transform_filter(f"datum.{column} === {column}_shown")
    order = list(dict.fromkeys(table["what"]))
    orders = [name for name in ORDERS if name in set(table["order"])]
    hue = colour("order", orders, title="heads", legend=alt.Legend(orient="top"))
    told_of = ["what:N", "samples:Q", *tips(*BOUNDS, "clean", "excess")]
    conditions = list(dict.fromkeys(table["condition"]))
    panels = []
    for index, condition in enumerate(conditions):
        base = data.transform_filter(f"datum.condition === '{condition}'").encode(
            y=alt.Y("what:N", sort=order, title=None, axis=alt.Axis(labels=index % 2 == 0, ticks=index % 2 == 0)),
            color=hue,
        )
        x = alt.X("lower:Q", title="change towards the object" if index >= len(conditions) - 2 else None)
        zero = alt.Chart(rows([{"zero": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="zero:Q")
        bars = base.mark_rule(strokeWidth=2).encode(x=x, x2="upper:Q")
        points = base.mark_circle(size=60, opacity=1).encode(x="estimate:Q", tooltip=told_of)
        panels.append(alt.layer(zero, bars, points).properties(width=WIDE, height=alt.Step(18), title=condition))
    lines = [alt.hconcat(*panels[start : start + 2], spacing=18) for start in range(0, len(panels), 2)]
    first = table[table["measure"] == "accuracy"]
    told = told_ranges(first, ["condition", "order"], "estimate")
    words = f"How much more often the answer is that of the object steered to, by situation and heads. {told}."
    return finished(alt.vconcat(*lines).resolve_scale(x="shared").add_params(*choices), words)


def framed(
    samples: Sequence[Sample], maps: NDArray[np.floating], edges: Sequence[Sequence[alt.Chart]], words: str
) -> Any:
    """Pictures under maps (picture, row, column) that cut them evenly, each under its own outlines, side by side."""
    panels = []
    for sample, values, outlines in zip(samples, maps, edges, strict=True):
        picture = sample.open()
        scale = PANEL / picture.size[0]
        cells = heat(values.ravel(), even_cells(picture.size, values.shape).reshape(-1, 4))
        layers = alt.layer(ground(picture, scale), cells, *outlines)
        panels.append(panel(layers, sample.question.splitlines()[0], picture.size[1] * scale))
    chart = alt.hconcat(*panels, spacing=14).resolve_scale(color="independent")
    return finished(chart, words).properties(usermeta={"margin": 20})


def examples(
    found: Mapping[str, xr.Dataset], shown: tuple[str, str] | None, samples: Mapping[str, Sample], needs: str = NEEDS
) -> Any:
    """Example pictures under the maps by which heads locate objects, with the objects asked about and the boxes found.

    The boxes are by the first rule and all heads.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Boxes from heads' maps by model, as of `studies.steering.studied`; they keep the first pictures' maps.
    shown : tuple of str, optional
        (model, ranking) whose maps are shown, as of `steering.example_model`; None: nothing was located.
    samples : mapping of str to Sample
        The questions by id.
    needs : str
        What stands there where nothing was located.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if shown is None:
        return placeholder(needs)
    model, ranking = shown
    one = found[model].isel(model=0)
    ids = [str(name) for name in one["sample"].values[: one.sizes["example"]]]
    maps = one["map"].sel(ranking=ranking).transpose("example", "grid_row", "grid_column").values
    boxes = one["box"].sel(ranking=ranking).isel(rule=0, heads_used=-1).transpose("sample", "edge").values
    shown_ones = [samples[name] for name in ids]
    edges = [[outline(box) for box in targets(sample)] for sample in shown_ones]
    for drawn, box in zip(edges, boxes, strict=False):
        drawn += [outline(box, FOUND_COLOUR, (1, 0))] if np.isfinite(box).all() else []
    words = (
        f"{len(ids)} pictures overlaid with where the heads look: "
        f"{'; '.join(sample.question.splitlines()[0] for sample in shown_ones)}. Dashed outlines mark the "
        "objects asked about, yellow ones the box made from the map."
    )
    return framed(shown_ones, maps, edges, words)
