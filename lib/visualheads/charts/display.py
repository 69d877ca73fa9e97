"""Putting charts on pages; the words and colours of what stores and tables name by identifiers, one for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from visualheads.analysis.lineage import descent
from visualheads.errors import ParameterError
from visualheads.paths import read_table

MIME = "application/vnd.vegalite.v5+json"
"""The type that JupyterLab draws; its Vega-Lite 5 reads what Altair writes for 6, the book brings 6 itself."""
VEGA_LITE = alt.SCHEMA_VERSION.lstrip("v").rsplit(".", 1)[0]
DIGITS = 4
"""Significant digits of the numbers that go into a chart: enough for any tooltip, and small pages."""
LONGEST, MOST_TOLD = 400, 8
"""Characters of an alternative text, and rows that it tells one by one; of more it tells the range."""

AnyChart = alt.Chart | alt.LayerChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart | alt.FacetChart


def finished(chart: Any, alt_text: str) -> Any:
    """The chart with its alternative text, whose list ends where it gets too long, and the book's common look."""
    if len(alt_text) > LONGEST:
        alt_text = alt_text[: LONGEST - 10].rpartition("; ")[0] + "; and more."
    return (
        chart.properties(description=alt_text)
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridOpacity=0.35)
        .configure_legend(labelFontSize=11, titleFontSize=12, titleFontWeight="normal", labelLimit=260, titleLimit=300)
        .configure_title(fontSize=13, fontWeight="normal", anchor="start")
        .configure_header(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
    )


def show(chart: Any, alt_text: str = "") -> None:
    """Display a chart: interactive in the book and in JupyterLab, as words elsewhere.

    Parameters
    ----------
    chart : AnyChart
        Any Altair chart.
    alt_text : str
        What a reader would see; by default the chart's own description.

    Raises
    ------
    ParameterError
        There are no words.
    """
    from IPython.display import display

    if not alt_text and not isinstance(chart.description, str):
        raise ParameterError(
            "show: the chart has no description; give alt_text, the words for those who do not see it."
        )
    spec = spec_of(chart, alt_text)
    display({MIME: spec, "text/plain": spec["description"]}, raw=True)


def spec_of(chart: Any, alt_text: str = "") -> dict[str, Any]:
    """The chart's specification as plain JSON values, the same text in every run; equal data stand there once.

    Parameters
    ----------
    chart : AnyChart
        Any Altair chart.
    alt_text : str
        The words for those who do not see it; by default the chart's own description.

    Returns
    -------
    dict of str to Any
        Vega-Lite, as `show` displays it.
    """
    with alt.data_transformers.enable("default", consolidate_datasets=True, max_rows=None):
        spec = json.loads(chart.to_json(indent=None, allow_nan=False))
    if alt_text:
        spec["description"] = alt_text
    return spec


def rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Inline data of a chart; numbers are rounded to DIGITS significant digits, NaN becomes null.

    A table, because Altair copies inline values at every composition; of types in which missing values become null.
    """
    told = [{name: plain(value) for name, value in record.items()} for record in records]
    return pd.DataFrame(told, dtype=object).convert_dtypes()


def tips(*names: str, form: str = ".3f") -> list[alt.Tooltip]:
    """Columns of numbers for a tooltip, in one format."""
    return [alt.Tooltip(f"{name}:Q", title=name.replace("_", " "), format=form) for name in names]


def told_ranges(table: pd.DataFrame, columns: Sequence[str], value: str) -> str:
    """`top: 0.01 to 0.30; …`: a table's values in words, by as many of these columns as leave few groups."""
    if len(table) <= MOST_TOLD:
        return "; ".join(" ".join(str(row[c]) for c in columns) + f": {row[value]:.2f}" for _, row in table.iterrows())
    groups: list[str] = []
    for name in columns:
        groups += [name] if table.groupby([*groups, name]).ngroups <= MOST_TOLD else []
    cells = table.groupby(groups, sort=False)[value] if groups else [(("all",), table[value])]
    return "; ".join(f"{' '.join(map(str, key))}: {own.min():.2f} to {own.max():.2f}" for key, own in cells)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else float(f"{value:.{DIGITS}g}")
    return value


GREY = "#8a8a8a"
"""Controls: random heads, untrained networks, chance, ceilings."""
MAIN = "#4c78a8"
"""Marks that need no telling apart."""
CHOSEN = "#ff2d55"
"""What was clicked."""
COLOURS: dict[str, dict[str, str]] = {
    "order": {"top": "#d1495b", "random": GREY, "bottom": "#8c6bb1", "all": "#c98b2b"},
    "stage": {"early": "#8fb339", "middle": "#2e9c6e", "late": "#146b8c"},
    "task": {
        "LookTwice-QA": "#4269d0", "POPE": "#efb118", "MMBench": "#ff725c", "SEED-Bench": "#6cc5b0",
        "Q-Bench": "#a463f2",
    },
    "family": {
        "Vicuna-7B": "#1f77b4", "Vicuna-13B": "#76b7e5", "Mistral-7B-v0.2": "#e377c2", "Phi-3-mini": "#17a589",
        "Llama-3-8B": "#bc8f00", "SmolLM2-135M-Instruct": "#8c564b",
    },
    "kind": {"text": GREY, "patch": MAIN, "asked patch": "#d1495b", "newline": "#c98b2b",
             "the model it grew from": MAIN, "that network before its training": GREY,
             "a second training of that language model": "#c98b2b", "another language model": "#3f7f7a"},
    "heads": {"trained": MAIN, "untrained": GREY},
    "tokens": {"the marked tokens": "#d1495b", "random image tokens": GREY, "random background": "#8c6bb1"},
    "method": {
        "plain generation": GREY, "trace with all measures and store": MAIN, "eager, output_attentions": "#c98b2b",
    },
    "way": {"vh.sweep": MAIN, "naive loop": "#c98b2b"},
    "verdict": {
        "supported": "#2f7d4f", "not supported": "#b3402a", "undecided": "#b8860b", "not testable here": GREY,
    },
}  # fmt: skip
"""One meaning per colour across the book, by column and value; what is not listed takes the theme's colours in turn."""
MOST_HUES = 8

WORDS: dict[str, dict[str, str]] = read_table(__file__, "words.yml")
"""By kind of identifier; those that are words go by themselves."""


def benchmark(name: str) -> str:
    """`LookTwice-QA, letters` for `looktwice, letters`."""
    task, comma, rest = name.partition(", ")
    return WORDS["benchmark"].get(task, task) + comma + rest


def ranking(name: str) -> str:
    """`weight × concentration` for `weight_concentration`."""
    return WORDS["ranking"].get(name, name.replace("_", " "))


def mode(name: str) -> str:
    """`zero, after the image` for `zero, after_image`."""
    done, comma, positions = name.partition(", ")
    return done.replace("_", " ") + comma + WORDS["positions"].get(positions, positions)


def figure(name: str) -> str:
    """`objects found` for `recall`: what a curve of training measures."""
    return WORDS["figure"].get(name, name.replace("_", " "))


def moment(name: str) -> str:
    """`step 5 000 of tuning` for `tuning-5000`: a moment of training."""
    kind, _, step = name.partition("-")
    if not step.isdigit():
        return name
    if kind == "final":
        return f"the end (step {thousands(int(step))})"
    return WORDS["moment"].get(kind, f"step {thousands(int(step))} of {kind}")


def thousands(number: int) -> str:
    """`5 000`, with a space that does not break."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def answer_format(name: str) -> str:
    """`with letters` for `letters`."""
    return WORDS["format"].get(name, name)


OF_COLUMN: dict[str, Callable[[str], str]] = {
    "format": answer_format,
    "task": benchmark, "group": benchmark, "other": benchmark, "ranking": ranking, "mode": mode, "moment": moment,
}  # fmt: skip
"""Columns of tables whose values have words."""


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table with words for the identifiers in those of its columns that OF_COLUMN names."""
    told = {name: table[name].map(str).map(words) for name, words in OF_COLUMN.items() if name in table.columns}
    return table.assign(**told) if told else table


def colour(column: str, values: Sequence[Any], **options: Any) -> alt.Color:
    """The colour of a column's values, the same in every chart; legend and title as in Altair.

    Raises ValueError for more hues than a reader tells apart.
    """
    domain = list(dict.fromkeys(str(value) for value in values))
    known = COLOURS.get(column, {})
    scale = alt.Scale(domain=domain, range=[known[name] for name in domain]) if set(domain) <= set(known) else None
    if scale is None and len(domain) > MOST_HUES:
        raise ValueError(f"{len(domain)} values of {column!r} are more than {MOST_HUES} hues; draw them as panels")
    return alt.Color(f"{column}:N", sort=domain, scale=scale or alt.Scale(domain=domain), **options)


def with_family(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the language model of each `model` in the column `family`; its own name where that is unknown."""
    llm = descent([str(name) for name in dict.fromkeys(table["model"])])["llm"].to_dict()
    return table.assign(family=[llm[str(name)] or str(name) for name in table["model"]])
