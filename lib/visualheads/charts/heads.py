"""Charts with one mark per head of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.charts.display import CHOSEN, MAIN, colour, finished, rows
from visualheads.store.variables import STAGES, VARIABLES

BINS = 20
SIDE = 262
"""Width of one of two charts side by side."""
SINGLE = 540
"""Width of a chart by itself."""
TALLEST = 420
DIM = 0.85
NORMALISED = "min–max normalised over all heads"
"""What a colour bar says of values that are stretched over the whole matrix, as the paper's figures are."""


LAYER = alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True))
HEAD = alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, labelOverlap=True))


def chosen_head(best: pd.Series, name: str = "chosen_head") -> alt.Parameter:
    """What a click on a head sets; the best one at first."""
    return alt.selection_point(
        name=name, fields=["layer", "head"], empty=False,
        value=[{"layer": int(best["layer"]), "head": int(best["head"])}],
    )  # fmt: skip


def title_of(measure: str) -> str:
    """A measure's long name."""
    return VARIABLES[measure].long_name if measure in VARIABLES else measure.replace("_", " ")


def stage_colour(**options: Any) -> alt.Color:
    """Colour by stage of depth, the same in every chart."""
    return colour("stage", STAGES, title="stage", **options)


def head_map(
    ds: xr.Dataset,
    measures: Sequence[str] = ("image_weight", "region_weight"),
    query: str = head_tables.QUERY,
    model: str | None = None,
    *,
    normalise: bool = False,
) -> Any:
    """Layer × head maps; a click on a head shows its values over samples and where in the picture it looks.

    Colour bars start at zero and end at the largest mean. The strongest head is chosen first.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces (model, layer, head, sample); with `mean_map`, the picture's map is shown too.
    measures : sequence of str
        One or two variables per head and sample; those without any value are left out.
    query : str
        The attention row, where the dataset holds several.
    model : str, optional
        The model; needed where the dataset holds several.
    normalise : bool
        Stretch each matrix to run from 0, the weakest head, to 1, the strongest, as in the paper's figures; the colour
        bar says so, and tooltips tell the measured mean too.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    table = head_tables.head_table(ds, measures, query, model)
    measures = [name for name in measures if table[name].notna().any()]  # region measures need boxes
    maps = head_tables.mean_maps(ds, query, model)
    coloured = [f"{name}_normalised" if normalise else name for name in measures]
    if normalise:
        own = table[measures]
        table[coloured] = (own - own.min()) / (own.max() - own.min()).replace(0, 1)
    columns = ["layer", "head", "name", "stage", *dict.fromkeys([*measures, *coloured])]
    records: list[dict[str, Any]] = table[columns].to_dict("records")
    widths = {}
    for name in measures:
        counts, widths[name] = head_tables.histograms(ds, name, BINS, query, model)
        for record, counted in zip(records, counts.reshape(-1, BINS), strict=True):
            record[f"{name}_counts"] = counted.tolist()
    if maps is not None:
        for record, cells in zip(records, maps.reshape(len(records), -1), strict=True):
            record["map"] = cells.tolist()
    data = rows(records)
    first = measures[0]
    best = table.loc[table[first].idxmax()]
    chosen = chosen_head(best, "head")
    matrices = [_matrix(name, coloured[i], table, chosen, i) for i, name in enumerate(measures)]
    top = alt.hconcat(*matrices).resolve_scale(color="independent")
    bars = [_distribution(data, name, widths[name], chosen) for name in measures]
    detail = alt.vconcat(_chosen_name(data, chosen), *bars, spacing=6)
    parts = [detail] if maps is None else [detail, _mean_map(data, maps.shape[-2:], chosen)]
    chart = alt.vconcat(top, alt.hconcat(*parts).resolve_scale(color="independent"), data=data)
    words = (
        f"Map of {table.layer.nunique()} layers by {table['head'].nunique()} heads, coloured by {title_of(first)}"
        + (f" and, beside it, by {title_of(measures[1])}" if len(measures) > 1 else "")
        + (f", {NORMALISED}" if normalise else "")
        + f". The strongest head is {best['name']} with {best[first]:.2f}."
        + (" A chosen head's values over samples" + (" and mean map" if maps is not None else "") + " stand below.")
    )
    return finished(_clickable(chart, chosen, len(measures)), words)


def _clickable(chart: Any, chosen: alt.Parameter, maps: int) -> Any:
    """One selection over all maps: adding it to each of them would make Altair warn of duplicates."""
    told: Any = chosen.param.to_dict()  # pyright: ignore[reportAttributeAccessIssue]
    chart.params = [
        alt.TopLevelSelectionParameter.from_dict({**told, "views": [f"map_{index}" for index in range(maps)]})
    ]
    return chart


def _matrix(measure: str, coloured: str, table: Any, chosen: alt.Parameter, index: int) -> Any:
    """coloured: the column that the colour shows; the measure itself, or its values stretched to 0…1."""
    layers, heads, stretched = table.layer.nunique(), table["head"].nunique(), coloured != measure
    height = min(TALLEST, max(120, SIDE * layers / heads))
    scale = alt.Scale(scheme="viridis", domain=[0, 1]) if stretched else alt.Scale(scheme="viridis", domainMin=0)
    base = alt.Chart().encode(x=HEAD, y=LAYER.title(None) if index else LAYER)
    cells = (
        base.properties(name=f"map_{index}")
        .mark_rect(cursor="pointer")
        .encode(
            color=alt.Color(
                f"{coloured}:Q",
                scale=scale,
                legend=alt.Legend(
                    orient="top",
                    title=[title_of(measure), NORMALISED] if stretched else title_of(measure),
                    titleLimit=SIDE,
                    gradientLength=SIDE - 10,
                    format=".2~f",
                ),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="head"),
                alt.Tooltip("stage:N"),
                alt.Tooltip(f"{measure}:Q", title=title_of(measure), format=".3f"),
                *([alt.Tooltip(f"{coloured}:Q", title="normalised", format=".3f")] if stretched else []),
            ],
        )
    )
    frame = base.transform_filter(chosen).mark_rect(filled=False, stroke=CHOSEN, strokeWidth=2.5)
    return alt.layer(cells, frame).properties(width=SIDE, height=height)


def _chosen_name(data: alt.Data, chosen: alt.Parameter) -> Any:
    return (
        alt.Chart(data, width=SIDE, height=16)
        .transform_filter(chosen)
        .mark_text(align="left", x=0, fontSize=13, color=CHOSEN)
        .encode(text=alt.Text("label:N"))
        .transform_calculate(label="'Layer ' + datum.layer + ', head ' + datum.head + ' (' + datum.stage + ')'")
    )


def _distribution(data: alt.Data, measure: str, width: float, chosen: alt.Parameter) -> Any:
    return (
        alt.Chart(data, width=SIDE, height=80)
        .transform_filter(chosen)
        .transform_calculate(bin=f"sequence(0, {BINS})", counts=f"datum.{measure}_counts")
        .transform_flatten(["bin", "counts"])
        .transform_calculate(low=f"datum.bin * {width:.6g}", high=f"(datum.bin + 1) * {width:.6g}")
        .mark_bar(color=MAIN)
        .encode(
            x=alt.X("low:Q", bin="binned", title=title_of(measure), axis=alt.Axis(format=".2~f", tickCount=5)),
            x2="high:Q",
            y=alt.Y("counts:Q", title="samples", axis=alt.Axis(tickCount=3)),
            tooltip=[
                alt.Tooltip("low:Q", format=".3f", title="from"),
                alt.Tooltip("high:Q", format=".3f", title="to"),
                alt.Tooltip("counts:Q", title="samples"),
            ],
        )
    )


def _mean_map(data: alt.Data, shape: tuple[int, ...], chosen: alt.Parameter) -> Any:
    high, wide = shape
    return (
        alt.Chart(data, width=SIDE - 40, height=(SIDE - 40) * high / wide, title="mean attention over the picture")
        .transform_filter(chosen)
        .transform_calculate(cell=f"sequence(0, {high * wide})")
        .transform_flatten(["cell", "map"])
        .transform_calculate(row=f"floor(datum.cell / {wide})", column=f"datum.cell % {wide}")
        .mark_rect()
        .encode(
            x=alt.X("column:O", axis=None, scale=alt.Scale(domain=list(range(wide)))),
            y=alt.Y("row:O", axis=None, scale=alt.Scale(domain=list(range(high)))),
            color=alt.Color(
                "map:Q",
                scale=alt.Scale(scheme="magma", domainMin=0),
                legend=alt.Legend(orient="right", title=None, gradientLength=120, format=".2~r"),
            ),
            tooltip=[
                alt.Tooltip("row:O"),
                alt.Tooltip("column:O"),
                alt.Tooltip("map:Q", format=".4f", title="attention"),
            ],
        )
    )


def one_row(table: pd.DataFrame) -> Any:
    """The attention that one row gives to each token, coloured by kind of token.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per token. Columns: token, kind, attention (a share in [0, 1]).

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    bars = (
        alt.Chart(rows(table.to_dict("records")), width=SINGLE - 60, height=150)
        .mark_bar()
        .encode(
            x=alt.X("token:N", sort=table["token"].tolist(), title=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("attention:Q", title="share of attention", axis=alt.Axis(format="%")),
            color=colour("kind", table["kind"], title=None, legend=alt.Legend(orient="top")),
            tooltip=["token:N", "kind:N", alt.Tooltip("attention:Q", format=".0%")],
        )
    )
    told = ", ".join(f"{row.token} {row.attention:.2f}" for row in table.itertuples())
    return finished(bars, f"Bars: how one row of attention is split among {len(table)} tokens: {told}.")


def weight_concentration(ds: xr.Dataset, query: str = head_tables.QUERY, model: str | None = None) -> Any:
    """Image weight against concentration, one point per head, coloured by stage of depth.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with `image_weight`, `concentration` and `effective_patches` (model, layer, head, sample).
    query : str
        The attention row, where the dataset holds several.
    model : str, optional
        The model; needed where the dataset holds several.

    Returns
    -------
    AnyChart
        The chart with its alternative text; heads without a concentration are left out.

    Raises
    ------
    ParameterError
        The model is unknown, or not named where there are several.
    """
    table = head_tables.head_table(ds, ["image_weight", "concentration", "effective_patches"], query, model)
    table = table.dropna(subset=["concentration"])
    hovered = alt.selection_point(name="stage_choice", fields=["stage"], bind="legend")
    chart = (
        alt.Chart(rows(table.to_dict("records")), width=SINGLE, height=320)
        .mark_circle(size=70)
        .encode(
            x=alt.X(
                "image_weight:Q",
                title=title_of("image_weight"),
                scale=alt.Scale(domainMin=0),
                axis=alt.Axis(tickCount=8),
            ),
            y=alt.Y("concentration:Q", title=title_of("concentration"), scale=alt.Scale(domainMin=0)),
            color=stage_colour(legend=alt.Legend(orient="top")),
            opacity=alt.condition(hovered, alt.value(DIM), alt.value(0.1)),
            tooltip=[
                alt.Tooltip("name:N", title="head"),
                alt.Tooltip("image_weight:Q", format=".3f", title=title_of("image_weight")),
                alt.Tooltip("concentration:Q", format=".3f", title=title_of("concentration")),
                alt.Tooltip("effective_patches:Q", format=".1f", title=title_of("effective_patches")),
            ],
        )
        .add_params(hovered)
    )
    strongest = table.loc[table.image_weight.idxmax()]
    words = (
        f"Scatter plot of {len(table)} heads: attention on image tokens against concentration within the image. "
        f"{strongest['name']} has the largest weight ({strongest.image_weight:.2f}, concentration "
        f"{strongest.concentration:.2f})."
    )
    return finished(chart, words)
