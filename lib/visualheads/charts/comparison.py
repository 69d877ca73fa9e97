"""Models and benchmarks beside each other: intervals, matrices with a choice of model, points with linked maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.charts.display import (
    GREY,
    MAIN,
    benchmark,
    colour,
    finished,
    in_words,
    rows,
    tips,
    told_ranges,
    with_family,
)
from visualheads.charts.heads import SINGLE, title_of
from visualheads.heads.patterns import MARGIN

CORRELATIONS = ("correlation", "within_layers", "ceiling")
FORMAT_NAMES = {"free": "free form", "letters": "letters A–D"}
COLUMN = 440
"""Pixels that panels side by side share; axis labels stand beside them."""


def placeholder(reason: str) -> Any:
    """What stands where a figure needs models that were not traced: the reason, in words."""
    chart = alt.Chart(rows([{"text": reason}]), width=SINGLE, height=40).mark_text(fontSize=13, color=GREY)
    return finished(chart.encode(text="text:N"), reason)


def intervals(
    table: pd.DataFrame,
    label: str,
    words: str,
    *,
    title: str,
    value: str = "estimate",
    panel: str | None = None,
    by: str | None = None,
    rule: str | float | None = None,
    share: bool = False,
    shared: bool = True,
    needs: str = "Nothing to compare yet.",
) -> Any:
    """Points with intervals: one line per label, panels side by side.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows with the columns lower, upper, and those that are named below; rows without a value are left out.
    label : str
        The column that names the lines.
    words : str
        How the alternative text begins.
    title : str
        Title of the axis.
    value : str
        The column with the estimates.
    panel : str, optional
        The column by which panels stand side by side.
    by : str, optional
        The column that colours the points, side by side; models are coloured by their language model.
    rule : str or float, optional
        A number drawn as a dashed line in all panels, or a column with a number per row (such as chance).
    share : bool
        The values are shares: the axis runs from 0 to 100 %.
    shared : bool
        All panels have one scale.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ValueError
        `by` has more values than hues can be told apart.
    """
    table = in_words(table.dropna(subset=[value])) if len(table) else table
    if table.empty:
        return placeholder(needs)
    table = with_family(table) if by == "model" else table
    names = list(dict.fromkeys(table[label]))
    panels = list(dict.fromkeys(table[panel])) if panel else [""]
    drawn = ["lower", value, "upper", *([rule] if isinstance(rule, str) else [])]
    low, high = (float(f(table[drawn].stack().dropna())) for f in (min, max))
    line = rule if isinstance(rule, (int, float)) else None
    if share:
        low, high = 0.0, 1.0
    elif line is not None:
        low, high = min(low, line), max(high, line)
    narrow = len(panels) > 2
    axis = alt.Axis(format="%" if share else ".2~f", tickCount=3 if narrow else 4 if panel else 6)
    if share and narrow:  # "50%" and "100%" would touch
        title, axis.labelExpr = f"{title} (%)", "format(100 * datum.value, 'd')"
    shown = []
    for index, name in enumerate(panels):
        part = table[table[panel] == name] if panel else table
        base = alt.Chart(rows(part.to_dict("records"))).encode(
            y=alt.Y(f"{label}:N", sort=names, scale=alt.Scale(domain=names), title=None,
                    axis=alt.Axis(labels=index == 0, ticks=index == 0, labelLimit=190)),
            tooltip=[*(f"{name}:N" for name in (label, by) if name), *tips(value, "lower", "upper")],
        )  # fmt: skip
        tint: dict[str, Any] = {"color": alt.value(MAIN)}
        if by:
            hue = "family" if by == "model" else by
            tint = {"color": colour(hue, table[hue], title=None, legend=alt.Legend(orient="top", columns=3))}
            beside = alt.YOffset(f"{by}:N", sort=list(dict.fromkeys(table[by])))
            base = base.encode(yOffset=beside) if _crowded(part, label) else base
        scale = alt.Scale(domain=[low, high], nice=not share) if shared else alt.Scale(zero=False)
        x = alt.X("lower:Q", title=title if index == 0 or len(panels) < 3 else None, axis=axis, scale=scale)
        layers = [base.mark_rule(strokeWidth=2).encode(x=x, x2="upper:Q", **tint)]
        layers.append(base.mark_circle(size=60, opacity=1).encode(x=f"{value}:Q", **tint))
        if line is not None:
            edge = alt.Chart(rows([{"edge": line}])).mark_rule(strokeDash=[4, 3], color=GREY)
            layers.append(edge.encode(x=alt.X("edge:Q")))
        elif isinstance(rule, str):
            layers.append(base.mark_tick(color=GREY, thickness=3).encode(x=f"{rule}:Q"))
        height = alt.Step(11) if by and _crowded(part, label) else max(60, 17 * len(names))
        shown.append(alt.layer(*layers).properties(width=COLUMN / len(panels) - 8, height=height, title=str(name)))
    told = told_ranges(table, [name for name in (panel, by or label) if name], value)
    return finished(alt.hconcat(*shown, spacing=12), f"{words} {told}.")


def pattern_matrices(told: xr.Dataset, needs: str = "Nothing to compare yet.") -> Any:
    """How alike the head patterns of every two groups are, one matrix; the model is chosen below it.

    Parameters
    ----------
    told : xarray.Dataset
        A result of `patterns.group_agreement` (with `model`) or of `patterns.model_agreement` (without).
    needs : str
        What stands there without any pair.

    Returns
    -------
    AnyChart
        The chart with its alternative text; pairs that are NaN are left out.
    """
    models, found = matrix_models(told), matrix(told)
    if found is None:
        return placeholder(needs)
    chart, words = found
    return finished(chart.add_params(chosen_model(models)), words)


def matrix_models(told: xr.Dataset) -> list[str]:
    """The models of which a `told` of `pattern_matrices` holds anything, one name "" where it has no models."""
    if "model" not in told.dims:
        return [""]
    there = told["correlation"].notnull().any([dim for dim in told["correlation"].dims if dim != "model"])
    return [str(name) for name in told["model"].values[there.values]]


def matrix(told: xr.Dataset, low: float | None = None) -> tuple[Any, str] | None:
    """The layers of one matrix of `pattern_matrices` and its words, without the choice of model; None without any pair.

    low: the correlation that is palest; by default the tenth below the smallest.
    """
    told = told if "model" in told.dims else told.expand_dims(model=[""])
    places = ["model", "group", "other"]
    table = told[list(CORRELATIONS)].to_dataframe(places).dropna(subset="correlation").reset_index()
    table = in_words(table[[*places, *CORRELATIONS]])
    if table.empty:
        return None
    groups = [name for group in told["group"].values if (name := benchmark(str(group))) in set(table["group"])]
    low = palest(table["correlation"]) if low is None else low
    base = alt.Chart(rows(table.to_dict("records")), width=min(400, 60 * len(groups)), height=36 * len(groups))
    base = base.transform_filter("datum.model === chosen_model").encode(
        x=alt.X("other:N", sort=groups, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=150)),
        y=alt.Y("group:N", sort=groups, title=None, axis=alt.Axis(labelLimit=150)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("correlation:Q", scale=alt.Scale(scheme="blues", domain=[low, 1]), legend=None),
        tooltip=["group:N", "other:N", *tips(*CORRELATIONS)],
    )
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("correlation:Q", format=".2f"),
        color=alt.condition(
            f"datum.correlation > {0.55 * (1 - low) + low:.2f}", alt.value("white"), alt.value("black")
        ),
    )
    own = table[table["group"] == table["other"]]["correlation"]
    pairs = table[table["group"] != table["other"]]["correlation"]
    words = (
        f"Matrix of rank correlations over heads between {len(groups)} groups, on different halves of the pictures. "
        f"On the diagonal {own.min():.2f} to {own.max():.2f}"
        + (f", elsewhere {pairs.min():.2f} to {pairs.max():.2f}." if len(pairs) else ".")
    )
    return alt.layer(cells, numbers), words


def palest(correlations: pd.Series | xr.DataArray) -> float:
    """The tenth below all of these: patterns that agree within a tenth or two still differ in colour."""
    low = float(correlations.min())
    return min(0.9, math.floor(10 * low) / 10) if math.isfinite(low) else 0.0


def predictions(table: pd.DataFrame, statistics: dict[str, str], needs: str) -> Any:
    """Score as predicted from heads of models of other language models, against the score, both minus the baseline.

    Benchmarks differ in how hard they are, which would look like prediction. On the dashed line both are equal; what is
    predicted from is chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows with the columns model, task, statistic, score, predicted and baseline, all three shares in [0, 1].
    statistics : dict of str to str
        Words for the values of `statistic`.
    needs : str
        What stands there without rows.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    table, names = in_words(table), list(dict.fromkeys(table["statistic"]))
    shown = choice("statistic", names, "Heads", [str(statistics.get(name, name)) for name in names])
    table = table.assign(over=table["score"] - table["baseline"], expected=table["predicted"] - table["baseline"])
    low, high = (float(f(table[["over", "expected"]].stack())) for f in (min, max))
    axis = alt.Axis(format="+.0%")
    points = (
        alt.Chart(rows(table.to_dict("records")))
        .transform_filter("datum.statistic === statistic")
        .mark_circle(size=80, opacity=0.9)
        .encode(
            x=alt.X("expected:Q", title="predicted from heads of other models, minus the benchmark's mean", axis=axis),
            y=alt.Y("over:Q", title="score, minus the benchmark's mean", axis=axis),
            color=colour("task", table["task"], title="benchmark"),
            tooltip=["model:N", "task:N", *tips("predicted", "baseline", "score", form=".1%")],
        )
    )
    words = (
        f"Scores of {table['model'].nunique()} models minus the benchmark's mean over other language models: as "
        f"predicted from heads, {table['expected'].min():+.1%} to {table['expected'].max():+.1%}, and as measured, "
        f"{table['over'].min():+.1%} to {table['over'].max():+.1%}."
    )
    chart = alt.layer(diagonal(low, high), points).properties(width=SINGLE - 100, height=320)
    return finished(chart.add_params(shown), words)


def diagonal(low: float, high: float) -> alt.Chart:
    """The line on which both axes have the same value."""
    data = rows([{"a": low}, {"a": high}])
    return alt.Chart(data).mark_line(strokeDash=[4, 4], color=GREY).encode(x="a:Q", y="a:Q")


def relation_points(table: pd.DataFrame, relations: Sequence[str], needs: str, measure: str = "image_weight") -> Any:
    """How alike the head patterns of two models are, by what they are to each other: one point per pair.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `lineage.relations`.
    relations : sequence of str
        Relations in the order in which they are shown.
    needs : str
        What stands there without rows.
    measure : str
        The measure that the patterns are of.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder(needs)
    order = [name for name in relations if name in set(table["relation"])]
    base = alt.Chart(rows(table.to_dict("records")), width=SINGLE - 130, height=alt.Step(46)).encode(
        y=alt.Y("relation:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)),
        tooltip=["group:N", "other:N", *tips(*CORRELATIONS)],
    )
    x = alt.X(
        "correlation:Q",
        title=f"Spearman over heads, {title_of(measure)}",
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(domain=[min(-0.2, float(table["correlation"].min())), 1]),
    )
    ceilings = base.mark_tick(color=GREY, thickness=2, size=18).encode(x="ceiling:Q")
    points = base.mark_circle(size=80, opacity=0.8, color=MAIN).encode(x=x)
    means = base.mark_tick(color=MAIN, thickness=3, size=30).encode(x="mean(correlation):Q", tooltip=alt.value(None))
    told = "; ".join(f"{name}: mean {table[table['relation'] == name]['correlation'].mean():.2f}" for name in order)
    return finished(
        alt.layer(ceilings, points, means), f"Correlations of head patterns between models by relation. {told}."
    )


def chosen_model(models: Sequence[str]) -> alt.Parameter:
    """The parameter `chosen_model`, with a list to choose from below the chart where there are several models."""
    return choice("chosen_model", models, "Model")


def choice(
    name: str, options: Sequence[Any], label: str, words: Sequence[str] = (), start: Any = None
) -> alt.Parameter:
    """A parameter, with a list to choose from below the chart where there are several options; `words` are shown."""
    value = options[0] if start is None else start
    if len(options) == 1:
        return alt.param(name=name, value=value)
    labels = list(words) or [str(option) for option in options]
    bind = alt.binding_select(options=list(options), labels=labels, name=f"{label}: ")
    return alt.param(name=name, value=value, bind=bind)


def _crowded(table: pd.DataFrame, label: str) -> bool:
    return bool(table[label].duplicated().any())


def condition_matrices(told: xr.Dataset, needs: str = "Nothing to compare yet.") -> Any:
    """How alike the head patterns of every two conditions are, one matrix per answer format.

    The model is chosen below.

    Parameters
    ----------
    told : xarray.Dataset
        A result of `patterns.format_agreement`.
    needs : str
        What stands there without any pair.

    Returns
    -------
    AnyChart
        The chart with its alternative text; pairs that are NaN are left out.
    """
    low = palest(told["correlation"])
    found = {str(form): matrix(told.sel(format=form), low) for form in told["format"].values}
    drawn = {FORMAT_NAMES.get(form, form): parts for form, parts in found.items() if parts is not None}
    if not drawn:
        return placeholder(needs)
    charts = [chart.properties(title=name) for name, (chart, _) in drawn.items()]
    words = " ".join(f"{name}: {text}" for name, (_, text) in drawn.items())
    return finished(alt.vconcat(*charts).add_params(chosen_model(matrix_models(told))), words)


def condition_shortfalls(pairs: pd.DataFrame, kind: str, words: str) -> Any:
    """How far the pairs of one kind stay below their ceiling, one panel per answer format, on one scale.

    Parameters
    ----------
    pairs : pandas.DataFrame
        A result of `patterns.pairs` on one of `patterns.format_agreement`.
    kind : str
        The kind of pair.
    words : str
        How the alternative text begins.

    Returns
    -------
    AnyChart
        The chart with its alternative text; the dashed line is the margin below which patterns count as alike.
    """
    table = pairs[pairs["kind"] == kind]
    table = table.assign(form=table["format"].map(lambda name: FORMAT_NAMES.get(name, name)))
    return intervals(
        table, "pair", words, title="shortfall of the correlation", value="shortfall", panel="form", by="model",
        rule=MARGIN,
    )  # fmt: skip
