"""Putting charts on pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from visualheads.errors import ParameterError
from visualheads.store import files

MIME = "application/vnd.vegalite.v5+json"
"""The type that JupyterLab draws; its Vega-Lite 5 reads what Altair writes for 6, the book brings 6 itself."""
VEGA_LITE = alt.SCHEMA_VERSION.lstrip("v").rsplit(".", 1)[0]
WIDTH = 560
"""Width of a chart's data area in pixels: with axes it fits the book's text column of 688."""
DIGITS = 4
"""Significant digits of the numbers that go into a chart: enough for any tooltip, and small pages."""

AnyChart = alt.Chart | alt.LayerChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart | alt.FacetChart


def finished(chart: Any, alt_text: str) -> Any:
    """The chart with its alternative text and the book's common look."""
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

    alt_text: what a reader would see; by default the chart's own description. Raises ParameterError without words.
    """
    from IPython.display import display

    if not alt_text and not isinstance(chart.description, str):
        raise ParameterError(
            "show: the chart has no description; give alt_text, the words for those who do not see it."
        )
    spec = spec_of(chart, alt_text)
    display({MIME: spec, "text/plain": spec["description"]}, raw=True)


def spec_of(chart: Any, alt_text: str = "") -> dict[str, Any]:
    """The chart's specification as plain JSON values, the same text in every run; equal data stand there once."""
    with alt.data_transformers.enable("default", consolidate_datasets=True, max_rows=None):
        spec = json.loads(chart.to_json(indent=None, allow_nan=False))
    if alt_text:
        spec["description"] = alt_text
    return spec


def save_spec(chart: Any, path: str | Path) -> Path:
    """Write the chart's specification for the `{vegalite}` directive of another page; return the path."""
    path = Path(path)
    with files.refusals_told(path):
        files.write_file(path, json.dumps(spec_of(chart), sort_keys=True).encode())
    return path


def rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Inline data of a chart; numbers are rounded to DIGITS significant digits, NaN becomes null.

    A table, because Altair copies inline values at every composition; of types in which missing values become null.
    """
    told = [{name: plain(value) for name, value in record.items()} for record in records]
    return pd.DataFrame(told, dtype=object).convert_dtypes()


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else float(f"{value:.{DIGITS}g}")
    return value
