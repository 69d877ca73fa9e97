"""Steering between objects, boosting over strength, boxes from heads' maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from visualheads.analysis.grounding import even_cells, targets
from visualheads.charts.comparison import chosen_model, placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.labels import GREY, colour
from visualheads.charts.overlays import PANEL, ground, heat, outline, panel
from visualheads.tasks.sample import Sample

ORDERS = ("top", "random", "all")
MEASURES = {"accuracy": "share of answers", "margin": "margin (logits)"}
FOUND_COLOUR = "#ffd400"
NEEDS = "No heads were steered yet."
WIDE = 240
BOUNDS = ("estimate", "lower", "upper")


def steered_answers(table: pd.DataFrame, needs: str = NEEDS) -> Any:
    """How far answers move to the object steered to, by situation and kind of heads; measure, bias and model chosen.

    `table` is a result of `steering_tables.steer_table`.
    """
    if table.empty:
        return placeholder(needs)
    data = alt.Chart(rows(table.to_dict("records")))
    choices = [chosen_model(list(dict.fromkeys(table["model"])))]
    data = data.transform_filter("datum.model === chosen_model")
    for column, labels in (("measure", MEASURES), ("bias", None)):
        options = list(dict.fromkeys(table[column]))
        words = [labels[name] if labels else f"+{name:g}" for name in options]
        bind = alt.binding_select(options=options, labels=words, name=f"{column.capitalize()}: ")
        fixed: dict[str, Any] = {} if len(options) == 1 else {"bind": bind}
        start = 4.0 if column == "bias" and 4.0 in options else options[0]
        choices.append(alt.param(name=f"{column}_shown", value=start, **fixed))
        data = data.transform_filter(f"datum.{column} === {column}_shown")
    order = list(dict.fromkeys(table["what"]))
    orders = [name for name in ORDERS if name in set(table["order"])]
    hue = colour("order", orders, title="heads", legend=alt.Legend(orient="top"))
    tips = [
        "what:N", "samples:Q", *[alt.Tooltip(f"{name}:Q", format=".3f") for name in (*BOUNDS, "clean", "excess")]
    ]  # fmt: skip
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
        points = base.mark_circle(size=60, opacity=1).encode(x="estimate:Q", tooltip=tips)
        panels.append(alt.layer(zero, bars, points).properties(width=WIDE, height=alt.Step(18), title=condition))
    lines = [alt.hconcat(*panels[start : start + 2], spacing=18) for start in range(0, len(panels), 2)]
    first = table[table["measure"] == "accuracy"]
    told = "; ".join(f"{row.condition}, {row.what}: {row.estimate:+.2f}" for row in first.head(24).itertuples())
    words = f"How much more often the answer is that of the object steered to, by situation and heads. {told}."
    return finished(alt.vconcat(*lines).resolve_scale(x="shared").add_params(*choices), words)


def framed(
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    maps: NDArray[np.floating],
    cells: Sequence[NDArray[np.floating]],
    asked: Sequence[Sequence[Sequence[float]]],
    found: Sequence[Sequence[float] | None],
) -> Any:
    """Pictures under their maps, with the objects asked about (dashed) and the boxes found (yellow), side by side.

    maps   (picture, row, column); cells: the box of each cell (row, column, 4) in pixels of each picture
    """
    panels = []
    for index, picture in enumerate(pictures):
        scale = PANEL / picture.size[0]
        layers = [ground(picture, scale), heat(maps[index].ravel(), cells[index].reshape(-1, 4))]
        layers += [edge for box in asked[index] for edge in outline(box)]
        box = found[index]
        if box is not None and np.isfinite(box).all():
            layers += outline(box, FOUND_COLOUR, (1, 0))
        panels.append(panel(alt.layer(*layers), titles[index], picture.size[1] * scale))
    words = (
        f"{len(panels)} pictures overlaid with where the heads look: {'; '.join(titles)}. Dashed outlines mark the "
        "objects asked about, yellow ones the box made from the map."
    )
    chart = alt.hconcat(*panels, spacing=14).resolve_scale(color="independent")
    return finished(chart, words).properties(usermeta={"margin": 20})


def examples(
    found: Mapping[str, xr.Dataset], shown: tuple[str, str] | None, samples: Mapping[str, Sample], needs: str = NEEDS
) -> Any:
    """`framed` of the examples that a grounding dataset keeps: boxes by the first rule and all heads.

    shown   (model, ranking) whose maps are shown, None: nothing was located; samples: the questions by id
    """
    if shown is None:
        return placeholder(needs)
    model, ranking = shown
    one = found[model].isel(model=0)
    ids = [str(name) for name in one["sample"].values[: one.sizes["example"]]]
    maps = one["map"].sel(ranking=ranking).transpose("example", "grid_row", "grid_column").values
    boxes = one["box"].sel(ranking=ranking).isel(rule=0, heads_used=-1).transpose("sample", "edge").values
    pictures = [samples[name].open() for name in ids]
    titles = [samples[name].question.splitlines()[0] for name in ids]
    cells = [even_cells(picture.size, maps.shape[-2:]) for picture in pictures]
    return framed(pictures, titles, maps, cells, [targets(samples[name]) for name in ids], boxes[: len(ids)].tolist())
