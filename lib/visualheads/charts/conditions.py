"""The conditions of a task beside each other."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.charts.comparison import chosen_model, intervals, matrix, matrix_models, placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import SINGLE, title_of
from visualheads.heads.patterns import MARGIN

FORMAT_NAMES = {"free": "free form", "letters": "letters A–D"}
SMALL = 158
"""Width of one of three maps side by side."""
COLUMNS = 3


def condition_scores(ds: xr.Dataset, model: str | None = None) -> Any:
    """Accuracy per condition and answer format, with intervals over pictures."""
    table = head_tables.accuracy_table(ds, model)
    table["form"] = table["format"].map(lambda name: FORMAT_NAMES.get(name, name))
    shown = list(dict.fromkeys(table["condition"]))
    base = alt.Chart(rows(table.to_dict("records")), width=SINGLE - 40, height=alt.Step(13)).encode(
        y=alt.Y("condition:N", sort=shown, title=None),
        yOffset=alt.YOffset("form:N"),
        color=alt.Color("form:N", title="answer", legend=alt.Legend(orient="top")),
        tooltip=[
            "condition:N",
            "form:N",
            *[alt.Tooltip(f"{b}:Q", format=".1%") for b in ("estimate", "lower", "upper")],
            "n:Q",
        ],
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X(
            "lower:Q",
            title="right answers, with 95 % interval",
            axis=alt.Axis(format="%"),
            scale=alt.Scale(domain=[0, 1]),
        ),
        x2="upper:Q",
    )
    points = base.mark_circle(size=75, opacity=1).encode(x="estimate:Q")
    told = "; ".join(f"{r.condition}, {r.form}: {r.estimate:.0%}" for r in table.itertuples())
    return finished(alt.layer(bars, points), f"Share of right answers per condition and answer format. {told}.")


def condition_maps(ds: xr.Dataset, measure: str = "image_weight", query: str = head_tables.QUERY) -> Any:
    """One layer × head map per condition, on one colour scale; the format is chosen below where there are several."""
    forms = head_tables.formats(ds)
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for form in forms:
        for r in head_tables.condition_patterns(ds, measure, query, form).itertuples():
            merged.setdefault((r.condition, r.name), {"layer": r.layer, "head": r.head, "name": r.name})[form] = r.value
    shown = head_tables.conditions(ds)
    top = max(value for record in merged.values() for form in forms if (value := record.get(form)) is not None)
    names = [FORMAT_NAMES.get(form, form) for form in forms]
    fixed = alt.param(name="form", value=forms[0])
    choice = alt.param(
        name="form", value=forms[0], bind=alt.binding_radio(options=forms, labels=names, name="Answers: ")
    )
    layers = len({record["layer"] for record in merged.values()})
    heads = len({record["head"] for record in merged.values()})
    charts = []
    for index, condition in enumerate(shown):
        first = index % COLUMNS == 0
        data = rows(record for (c, _), record in merged.items() if c == condition)
        charts.append(
            alt.Chart(data, title=condition, width=SMALL, height=min(240, max(90, SMALL * layers / heads)))
            .transform_calculate(value="datum[form]")
            .mark_rect()
            .encode(
                x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                y=alt.Y("layer:O", title="layer" if first else None, axis=alt.Axis(labelOverlap=True)),
                color=alt.Color(
                    "value:Q",
                    scale=alt.Scale(scheme="viridis", domain=[0, top]),
                    legend=alt.Legend(orient="bottom", title=title_of(measure), gradientLength=300, format=".2~f"),
                ),
                tooltip=[
                    alt.Tooltip("name:N", title="head"),
                    alt.Tooltip("value:Q", format=".3f", title=title_of(measure)),
                ],
            )
        )
    grid = alt.vconcat(*[alt.hconcat(*charts[i : i + COLUMNS]) for i in range(0, len(charts), COLUMNS)])
    told = ", ".join(shown)
    words = f"{len(shown)} maps of layers by heads, one per condition ({told}), coloured by {title_of(measure)}."
    return finished(grid.add_params(choice) if len(forms) > 1 else grid.add_params(fixed), words)


def condition_agreement(ds: xr.Dataset, measure: str = "image_weight", query: str = head_tables.QUERY) -> Any:
    """How alike the head patterns of every two conditions are, one matrix per answer format; the diagonal is each
    pattern's own reliability."""
    told = {
        form: head_tables.pattern_agreement(head_tables.where(ds, format=form), measure, query)
        for form in head_tables.formats(ds)
    }
    low = min(0.0, *(float(table["value"].min()) for table in told.values()))
    charts, words = [], []
    for form, table in told.items():
        name = FORMAT_NAMES.get(form, form)
        charts.append(_agreement(table, low).properties(title=name))
        own = table["condition"] == table["other"]
        words.append(f"{name}: on the diagonal {_range(table['value'][own])}")
        if not own.all():
            words[-1] += f", elsewhere {_range(table['value'][~own])}"
    text = f"Matrix of rank correlations over heads between conditions, per answer format. {'; '.join(words)}."
    return finished(alt.vconcat(*charts), text)


def _agreement(table: pd.DataFrame, low: float) -> Any:
    """One matrix of `tables.pattern_agreement`, palest at `low`."""
    shown = list(dict.fromkeys(table["condition"]))
    base = alt.Chart(rows(table.to_dict("records")), width=360, height=max(110, 28 * len(shown))).encode(
        x=alt.X("other:N", sort=shown, title=None, axis=alt.Axis(labelAngle=-35)),
        y=alt.Y("condition:N", sort=shown, title=None),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", scale=alt.Scale(scheme="blues", domain=[low, 1]), legend=None),
        tooltip=[
            "condition:N", "other:N",
            alt.Tooltip("value:Q", format=".2f", title="Spearman"),
            alt.Tooltip("within:Q", format=".2f", title="Spearman within layers"),
        ],
    )  # fmt: skip
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(f"datum.value > {0.55 * (1 - low) + low:.2f}", alt.value("white"), alt.value("black")),
    )
    return alt.layer(cells, numbers)


def _range(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def condition_matrices(told: xr.Dataset, needs: str = "Nothing to compare yet.") -> Any:
    """How alike the head patterns of every two conditions are, one matrix per answer format; the model is chosen below.

    `told` is a result of `alike.format_agreement`.
    """
    low = min(0.0, float(told["correlation"].min()))
    found = {str(form): matrix(told.sel(format=form), low) for form in told["format"].values}
    drawn = {FORMAT_NAMES.get(form, form): parts for form, parts in found.items() if parts is not None}
    if not drawn:
        return placeholder(needs)
    charts = [chart.properties(title=name) for name, (chart, _) in drawn.items()]
    words = " ".join(f"{name}: {text}" for name, (_, text) in drawn.items())
    return finished(alt.vconcat(*charts).add_params(chosen_model(matrix_models(told))), words)


def condition_shortfalls(pairs: pd.DataFrame, kind: str, words: str) -> Any:
    """How far the pairs of one kind stay below their ceiling, one panel per answer format, on one scale.

    `pairs` is a result of `patterns.pairs`; `words` begin the alternative text.
    """
    table = pairs[pairs["kind"] == kind]
    table = table.assign(form=table["format"].map(lambda name: FORMAT_NAMES.get(name, name)))
    return intervals(
        table, "pair", words, title="shortfall of the correlation", value="shortfall", panel="form", colour="model",
        rule=MARGIN,
    )  # fmt: skip
