"""How a miniature was trained, what its heads did meanwhile, and what they did on text before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from visualheads.charts.comparison import choice, chosen_model, placeholder
from visualheads.charts.display import (
    GREY,
    MAIN,
    AnyChart,
    colour,
    figure,
    finished,
    in_words,
    moment,
    rows,
    tips,
    told_ranges,
    with_family,
)
from visualheads.charts.heads import SINGLE, title_of

CLOCK = ("step", "seconds")
STAGES = ("tower", "language model", "alignment", "tuning")
PANELS = (("rho", "correlation with the end"), ("top", "mean of the heads strongest at the end"))


def curve_table(stages: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The curves of a training record as rows: stage, step, figure (loss, accuracy of a kind of question, …), value."""
    records = [
        {"stage": stage, "step": point["step"], "figure": name, "value": float(value)}
        for stage, told in stages.items()
        for point in told["curve"]
        for name, value in point.items()
        if name not in CLOCK and isinstance(value, (int, float))
    ]
    return pd.DataFrame(records, columns=["stage", "step", "figure", "value"])


def named_stages(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The stages of a training record by STAGES; the language model's stage goes by its own name in the record."""
    text = record.get("text_model", "")
    return {STAGES[1] if name == text else name: told for name, told in record.get("stages", {}).items()}


def training_curves(records: Mapping[str, Mapping[str, Any]]) -> Any:
    """Per training stage of the chosen miniature: the loss, and beside it every share measured on fresh scenes.

    The miniature is chosen below the figure.

    Parameters
    ----------
    records : mapping of str to mapping
        Training records by miniature, as of `emergence.training_records`; without any a placeholder.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    tables = [curve_table(named_stages(record)).assign(model=name) for name, record in records.items()]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        return placeholder("No miniature was trained yet.")
    is_loss = table["figure"].str.contains("loss")
    shares = sorted({figure(name) for name in table["figure"][~is_loss]})
    shown = choice("share_shown", shares or [""], "Coloured")
    lines = []
    for stage in dict.fromkeys(table["stage"]):
        of_stage = table["stage"] == stage
        parts = [
            _curves(table[of_stage & chosen], stage if first else "", words, domain)
            for first, chosen, words, domain in (
                (True, is_loss, "loss", None),
                (False, ~is_loss, "share right", [0, 1]),
            )
            if (of_stage & chosen).any()
        ]
        lines.append(alt.hconcat(*parts))
    names = ", ".join(dict.fromkeys(table["stage"]))
    words = f"Training curves of {', '.join(records)}, one chosen: loss and shares over the steps of {names}."
    chart = alt.vconcat(*lines).add_params(chosen_model(list(records)), shown)
    return finished(chart, words)


def _curves(table: pd.DataFrame, title: str, words: str, domain: Sequence[float] | None) -> Any:
    """All figures of a stage in grey, the chosen one coloured: there are more of them than hues one tells apart."""
    table = table.assign(figure=table["figure"].map(figure))
    scale = alt.Scale(domain=domain) if domain else alt.Scale()
    chosen = "datum.figure === share_shown" if domain else "true"
    return (
        alt.Chart(rows(table.drop(columns="stage").to_dict("records")), title=title, width=240, height=150)
        .transform_filter("datum.model === chosen_model")
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5)),
            y=alt.Y("value:Q", title=words, scale=scale),
            detail="figure:N",
            color=alt.condition(chosen, alt.value(MAIN), alt.value(GREY)),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.4)),
            tooltip=["figure:N", "step:Q", alt.Tooltip("value:Q", format=".3f")],
        )
    )


def moments_compared(table: pd.DataFrame, measure: str = "image_weight") -> Any:
    """Models through training: how near the head pattern is to its last form, and how strong its later heads are.

    Moments stand in the order of training, evenly spaced, and go by their numbers (`moments_in_order`).

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `emergence.moment_table`; without rows a placeholder.
    measure : str
        The measure that the patterns are of.

    Returns
    -------
    AnyChart
        The chart with its alternative text.

    Raises
    ------
    ValueError
        There are more language models than hues can be told apart.
    """
    if table.empty:
        return placeholder("No moments of training were kept with these models.")
    places = {moment(name): place for place, name in enumerate(moments_in_order(table), 1)}
    table = in_words(with_family(table))
    data = rows(table.assign(place=table["moment"].map(places)).to_dict("records"))
    panels = []
    for column, words in PANELS:
        panels.append(
            alt.Chart(data, width=240, height=240, title=words)
            .mark_line(point=alt.OverlayMarkDef(size=40))
            .encode(
                x=alt.X("place:O", title="moment of training", axis=alt.Axis(labelAngle=0)),
                y=alt.Y(f"{column}:Q", title="Spearman over heads" if column == "rho" else title_of(measure)),
                color=colour("family", table["family"], title="language model", legend=alt.Legend(orient="top")),
                detail="model:N",
                tooltip=["model:N", "moment:N", *tips("rho", "within", "top", "shared")],
            )
        )  # fmt: skip
    first = table.groupby("model", sort=False)["rho"].first()
    words = (
        f"Correlation of the pattern of {title_of(measure)} over heads with its last form, through training. The "
        f"models begin at {first.min():.2f} to {first.max():.2f}."
    )
    return finished(alt.hconcat(*panels), words)


def moments_in_order(table: pd.DataFrame) -> list[str]:
    """The moments of a table of `emergence.moment_table` in the order in which `moments_compared` numbers them."""
    order = list(dict.fromkeys(table.sort_values("step", kind="stable")["moment"]))
    return sorted(order, key=lambda name: name.startswith("final"))


def text_and_pictures(table: pd.DataFrame, measure: str = "region_weight") -> Any:
    """Attention on the asked words of text lists before any picture, against that on pictures after tuning.

    One point per head; the model is chosen below.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `emergence.all_head_pairs`; without rows a placeholder.
    measure : str
        The measure on pictures.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder("Needs a model whose text-only checkpoint is there too.")
    models = list(dict.fromkeys(table["model"]))
    chart = (
        alt.Chart(rows(table.to_dict("records")), width=SINGLE - 60, height=320)
        .transform_filter("datum.model === chosen_model")
        .mark_circle(size=80, opacity=0.85)
        .encode(
            x=alt.X("text:Q", title="attention on the asked words of text lists, before any picture"),
            y=alt.Y("picture:Q", title=f"{title_of(measure)}, after visual tuning"),
            color=alt.Color("layer:Q", scale=alt.Scale(scheme="viridis"), title="layer"),
            tooltip=["name:N", *tips("text", "picture")],
        )
        .add_params(chosen_model(models))
    )
    one = table[table["model"] == models[0]]
    best = one.loc[one["text"].idxmax()]
    words = (
        f"Scatter plot of the heads of {models[0]}: attention on asked words in text against {title_of(measure)} in "
        f"pictures. The strongest on text, {best['name']}, has {best['text']:.2f} there and {best['picture']:.2f} here."
    )
    return finished(chart, words)


def text_relations(table: pd.DataFrame) -> Any:
    """Correlations over heads of pictures with text lists, by which network read the lists, with intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `emergence.with_text`; without rows a placeholder.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    if table.empty:
        return placeholder("Needs a model whose text-only checkpoint is there too.")
    kinds = list(dict.fromkeys(table["kind"]))
    models = list(dict.fromkeys(table["model"]))
    base = alt.Chart(rows(table.to_dict("records")), width=SINGLE - 130, height=alt.Step(13)).encode(
        y=alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labelLimit=200)),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=colour("kind", kinds, title=None, legend=alt.Legend(orient="top", columns=1)),
        tooltip=["model:N", "text_model:N", "kind:N", *tips("rho", "lower", "upper", "within", "ceiling", form=".2f")],
    )
    fifths = [step / 5 for step in range(-5, 6)]  # 0 among them, wherever the axis begins
    x = alt.X(
        "lower:Q", title="Spearman over heads, with 95 % interval", scale=alt.Scale(domainMax=1),
        axis=alt.Axis(values=fifths),
    )  # fmt: skip
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=x, x2="upper:Q"),
        base.mark_circle(size=60, opacity=1).encode(x="rho:Q"),
        alt.Chart(rows([{"edge": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="edge:Q"),
    ]
    words = f"Correlation of heads on pictures with heads on text lists. {told_ranges(table, ['kind'], 'rho')}."
    return finished(alt.layer(*layers), words)


NAMES = {"plain": "plain generation", "trace": "trace with all measures and store", "eager": "eager, output_attentions"}
COST_PANELS = (("seconds", "processor seconds"), ("memory", "memory above the loaded model, MB"))


def cost_bars(measured: Sequence[pd.DataFrame]) -> AnyChart:
    """Time and memory of ways to read attention, by length of the prompt.

    Parameters
    ----------
    measured : sequence of pandas.DataFrame
        Results of `visualheads.book.cost.measure_cost`: a row per method, with tokens, cpu_seconds and memory_mb.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    table = pd.concat(measured).reset_index(names="method")[["method", "tokens", "cpu_seconds", "memory_mb"]]
    table = table.rename(columns={"cpu_seconds": "seconds", "memory_mb": "memory"}).replace({"method": NAMES})
    order = list(dict.fromkeys(table["method"]))
    data = rows(table.to_dict("records"))
    charts = [
        alt.Chart(data, width=200, height=alt.Step(16))
        .mark_bar()
        .encode(
            y=alt.Y("tokens:O", title=None if index else "tokens in the prompt"),
            yOffset=alt.YOffset("method:N", sort=order),
            x=alt.X(f"{field}:Q", title=words, axis=alt.Axis(tickCount=5)),
            color=colour("method", order, title=None, legend=alt.Legend(orient="top", columns=1)),
            tooltip=[
                "method:N",
                "tokens:O",
                alt.Tooltip("seconds:Q", format=".2f"),
                alt.Tooltip("memory:Q", format=".0f", title="MB"),
            ],
        )
        for index, (field, words) in enumerate(COST_PANELS)
    ]
    told = "; ".join(
        f"{r.method} at {r.tokens} tokens: {r.seconds:.2f} s, {r.memory:.0f} MB" for r in table.itertuples()
    )
    return finished(alt.hconcat(*charts), f"Cost of ways to read attention. {told}.")


SWEEPS = {"after_image": "after the image", "late, all": "all positions, late layers"}


def sweep_bars(measured: pd.DataFrame) -> AnyChart:
    """Seconds per head set of `vh.sweep` and of a naive loop.

    Parameters
    ----------
    measured : pandas.DataFrame
        A result of `visualheads.book.cost_sweeps.measure_sweeps`: a row per case, with sweep_seconds, naive_seconds and
        ratio.

    Returns
    -------
    AnyChart
        The chart with its alternative text.
    """
    records = [
        {"case": SWEEPS.get(str(case), str(case)), "way": way, "seconds": float(row[column]), "times": row["ratio"]}
        for case, row in measured.iterrows()
        for way, column in (("vh.sweep", "sweep_seconds"), ("naive loop", "naive_seconds"))
    ]
    chart = (
        alt.Chart(rows(records), width=360, height=alt.Step(16))
        .mark_bar()
        .encode(
            y=alt.Y("case:N", title=None, sort=None, axis=alt.Axis(labelLimit=200)),
            yOffset=alt.YOffset("way:N", sort=["vh.sweep", "naive loop"]),
            x=alt.X("seconds:Q", title="processor seconds per set of heads"),
            color=colour("way", ["vh.sweep", "naive loop"], title=None, legend=alt.Legend(orient="top", columns=2)),
            tooltip=["case:N", "way:N", alt.Tooltip("seconds:Q", format=".3f")],
        )
    )
    told = "; ".join(f"{r['case']}, {r['way']}: {r['seconds']:.3f} s" for r in records)
    return finished(chart, f"Cost of one set of heads on one question. {told}.")
