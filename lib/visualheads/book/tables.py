"""Labelled tables on pages: the same in JupyterLab and in the book, and never wider than the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from visualheads.book.text import NOT_KNOWN
from visualheads.charts import display as labels

BOUNDS = ("lower", "upper")


def show_table(
    table: pd.DataFrame,
    columns: Sequence[str] | Mapping[str, str] = (),
    *,
    percent: Sequence[str] = (),
    digits: int = 2,
    head: int | None = None,
) -> None:
    """Display a table: numbers rounded, an estimate and its bounds in one cell, identifiers in words.

    Parameters
    ----------
    table : any labelled DataFrame.
    columns : the columns to show, in this order; a mapping also renames them. By default all of them.
    percent : columns of shares, shown as percent (with their bounds, where `estimate` is one).
    digits : decimals of numbers that are no percent.
    head : only so many rows; how many were left out is told.
    """
    from IPython.display import display

    shown = prepared(table, columns, percent=percent, digits=digits)
    rows = shown if head is None else shown.head(head)
    html = rows.to_html(index=False, border=0, na_rep=NOT_KNOWN, escape=True)
    more = f"<p>… {len(shown) - len(rows)} more rows.</p>" if len(rows) < len(shown) else ""
    display(
        {"text/html": f'<div class="table-scroll">{html}</div>{more}', "text/plain": rows.to_string(index=False)},
        raw=True,
    )


def download_table(table: pd.DataFrame, name: str, words: str = "") -> None:
    """Display a link that saves the whole table, unrounded, as the CSV file `name`; its text is `words`, or the name.

    The file is inside the page, so that it works offline: for tables of up to some thousand rows.
    """
    from IPython.display import display

    content = table.to_csv(index=False)
    uri = f"data:text/csv;base64,{base64.b64encode(content.encode()).decode()}"
    told = escape(words or f"{name} ({len(table)} rows)")
    link = f'<p><a download="{escape(name)}" href="{uri}">{told}</a></p>'
    display({"text/html": link, "text/plain": f"{name}: {len(table)} rows"}, raw=True)


def prepared(
    table: pd.DataFrame,
    columns: Sequence[str] | Mapping[str, str] = (),
    *,
    percent: Sequence[str] = (),
    digits: int = 2,
) -> pd.DataFrame:
    """The table of `show_table` as text, before it is displayed."""
    names = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns or table.columns}
    bounded = "estimate" in names and set(BOUNDS) <= set(table.columns)
    told = labels.in_words(table)
    found: dict[str, pd.Series] = {}
    for name, title in names.items():
        if bounded and name in BOUNDS:
            continue
        is_share = name in percent
        texts = [_cell(value, is_share, digits) for value in told[name]]
        if name == "estimate" and bounded:
            low, high = ([_cell(value, is_share, digits) for value in told[bound]] for bound in BOUNDS)
            texts = [
                text if NOT_KNOWN in (text, a) else f"{text} ({a} to {b})"
                for text, a, b in zip(texts, low, high, strict=True)
            ]
        unit = " (%)" if is_share and "%" not in title else ""
        found[title.replace("_", " ") + unit] = pd.Series(texts, dtype=object)
    return pd.DataFrame(found)


def _cell(value: object, is_share: bool, digits: int) -> str:
    if value is None or value is pd.NA or value != value:
        return NOT_KNOWN
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        plain = getattr(value, "item", None)
        return _cell(plain(), is_share, digits) if plain is not None and not isinstance(value, str) else str(value)
    if is_share:
        return f"{100 * value:z.1f}"
    return f"{value:z.{digits}f}" if isinstance(value, float) else labels.thousands(value)
