"""Sentences with numbers: a Jinja template in the notebook, shown as Markdown in JupyterLab and in the book.

    say("{{ above }} of {{ heads | count('head') }} look more; ρ = {{ row | interval }}", above=3, heads=24, row=row)

Values are escaped, so that text out of a data set or a model stays text.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
from jinja2 import StrictUndefined, meta
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from visualheads.charts import display as labels
from visualheads.errors import ParameterError

SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|$~^&:-])")
NOT_KNOWN = "–"


def say(template: str, **values: Any) -> None:
    """Display a paragraph whose numbers are filled in; nothing where the template leaves nothing.

    Parameters
    ----------
    template : str
        Markdown with Jinja expressions; see `render` for the filters.
    **values : Any
        What the expressions name.

    Raises
    ------
    ParameterError
        The template names a value that is not given, or is no template.
    """
    from IPython.display import Markdown, display

    if told := render(template, **values).strip():
        display(Markdown(told))


OTHER_ROW = """{% for same, told in kinds if told %}{% if not same %}**{% endif %}Read one token later, in the
[row of the answer](rows.ipynb),{% for row in told %} {% if not row.what.startswith("how ") %}the {% endif %}
{{ row.what }} is {{ row.after | figure(row.what) }}{% if row.page != "removals" %} instead of
{{ row.before | figure(row.what) }}{% endif %}{% if loop.revindex == 2 %} and{% elif not loop.last %},{% endif %}
{%- endfor %}: {% if same %}the conclusion is the same.{% else %}another conclusion would follow.**{% endif %}
{% endfor %}"""


def say_rows(table: pd.DataFrame) -> None:
    """Display what the answer's row would say of a chapter's figures, first of those of which it says something else.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.rows.both_rows`; of an empty one nothing is displayed.
    """
    say(OTHER_ROW, kinds=[(same, table[table["same"] == same].to_dict("records")) for same in (False, True)])


def render(template: str, **values: Any) -> str:
    """Fill a template of Markdown.

    Parameters
    ----------
    template : str
        Jinja template; run in a sandbox. Its filters are the functions of this module: `count(thing)`, `num(digits)`,
        `percent(digits)`, `points(digits)`, `interval(digits, scale)`, `code`, `names`, `label(kind)`,
        `filled(values)`, `figure(what)`.
    **values : Any
        Numbers, text (escaped), rows of tables, mappings.

    Returns
    -------
    str
        Markdown. Whole numbers have thin groups, other numbers two digits, what is not a number a dash.

    Raises
    ------
    ParameterError
        The template names a value that is not given, or is no template.
    """
    try:
        return str(_ENVIRONMENT.from_string(template).render(values)).strip()
    except TemplateError as error:
        raise ParameterError(
            f"the sentence {template[:60]!r} cannot be filled: {error}; fix: give every value it names."
        ) from error


def filled(templates: Sequence[str], values: Mapping[str, Any]) -> Markup:
    """A filter: those of several sentences whose values are all known, filled.

    Parameters
    ----------
    templates : sequence of str
        Templates, as for `render`.
    values : mapping of str to Any
        What they name; a number that is NaN or infinite counts as unknown.

    Returns
    -------
    Markup
        The sentences, one after the other; empty where none is known.
    """
    known = {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
    told = [text for text in templates if meta.find_undeclared_variables(_ENVIRONMENT.parse(text)) <= set(known)]
    return Markup(" ".join(render(text, **known) for text in told))


def _escaped(text: object) -> Markup:
    """Foreign text with everything that Markdown or HTML would read made harmless, on one line."""
    shown = SPECIAL.sub(lambda match: f"&#{ord(match[1])};", str(text))
    return Markup(" ".join(shown.split()))


def code(text: object) -> Markup:
    """A filter: a name in the type of code, whatever it holds.

    Parameters
    ----------
    text : object
        The name.

    Returns
    -------
    Markup
        HTML on one line.
    """
    return Markup(f"<code>{_escaped(text)}</code>")


def num(value: float, digits: int = 2) -> Markup:
    """A filter: a number with fixed decimals, such as `0.42` or `−0.42`.

    Parameters
    ----------
    value : float
        The number.
    digits : int
        Decimals.

    Returns
    -------
    Markup
        The number, without a minus before a zero; a dash for None, NaN and infinity.
    """
    if value is None or not math.isfinite(value):
        return Markup(NOT_KNOWN)
    return Markup(f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}"))


def percent(value: float, digits: int | None = None) -> Markup:
    """A filter: a share as percent, such as `83 %`.

    Parameters
    ----------
    value : float
        The share; 1 is 100 %.
    digits : int, optional
        Decimals. By default one below ten percent, else none.

    Returns
    -------
    Markup
        The number with its sign; a dash for None, NaN and infinity.
    """
    known = value is not None and math.isfinite(value)
    digits = (0 if known and abs(value) >= 0.0995 else 1) if digits is None else digits
    return Markup(f"{num(100 * value, digits)} %" if known else NOT_KNOWN)


def points(value: float, digits: int = 1) -> Markup:
    """A filter: a share as percentage points, without the word, such as `8.8`.

    Parameters
    ----------
    value : float
        The share, or a difference of shares; 1 is 100 points.
    digits : int
        Decimals.

    Returns
    -------
    Markup
        The number; a dash for NaN and infinity.
    """
    return num(100 * value, digits)


def _figure(value: float, what: str) -> Markup:
    """A filter: a number of `analysis.rows`; shares as percent, small numbers with a third decimal."""
    return percent(value) if what.startswith("share") else num(value, 2 if abs(value) >= 0.1 else 3)


def interval(row: Mapping[str, float] | Sequence[float], digits: int = 2, scale: float = 1.0) -> Markup:
    """A filter: an estimate with its interval, such as `0.67 (0.61 to 0.74)`.

    Parameters
    ----------
    row : mapping of str to float, or sequence of float
        A row with estimate, lower and upper, or three numbers in this order.
    digits : int
        Decimals.
    scale : float
        Factor of all three, such as 100 for percent.

    Returns
    -------
    Markup
        The estimate alone where the lower bound is not a number.
    """
    names = ("estimate", "lower", "upper")
    three = [row[name] for name in names] if hasattr(row, "keys") else list(row)  # pyright: ignore
    estimate, lower, upper = (num(scale * float(value), digits) for value in three)
    return estimate if lower == NOT_KNOWN else Markup(f"{estimate} ({lower} to {upper})")


def count(number: int, thing: str) -> Markup:
    """A filter: a number of things, such as `1 head`, `3 heads` or `1 024 heads`.

    Parameters
    ----------
    number : int
        How many.
    thing : str
        The word for one; of several it gets an s.

    Returns
    -------
    Markup
        Number and word.
    """
    return Markup(f"{labels.thousands(int(number))} {_escaped(thing)}{'' if int(number) == 1 else 's'}")


def names(values: Sequence[object], joint: str = "and") -> Markup:
    """A filter: a list in words, such as `L1H6, L4H1 and L1H1`.

    Parameters
    ----------
    values : sequence of object
        Names or numbers.
    joint : str
        The word before the last one.

    Returns
    -------
    Markup
        The list; "none" where it is empty.
    """
    told = [_plain(value) for value in values]
    return Markup(told[0] if len(told) == 1 else f"{', '.join(told[:-1])} {joint} {told[-1]}" if told else "none")


def label(name: str, kind: str = "task") -> Markup:
    """A filter: the words for an identifier of a table, such as `LookTwice-QA` for `looktwice`.

    Parameters
    ----------
    name : str
        The identifier.
    kind : str
        Its column: format, task, group, other, ranking, mode or moment.

    Returns
    -------
    Markup
        The words; the identifier itself where it has none.
    """
    return _escaped(labels.OF_COLUMN[kind](str(name)))


def _plain(value: Any) -> Markup:
    """What an expression without a filter shows."""
    if isinstance(value, Markup):
        return value
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, bool) or value is None:
        return _escaped(value)
    if isinstance(value, int):
        return Markup(labels.thousands(value))
    return num(value) if isinstance(value, float) else _escaped(value)


_ENVIRONMENT = ImmutableSandboxedEnvironment(autoescape=True, undefined=StrictUndefined, finalize=_plain)
_ENVIRONMENT.filters |= {
    "code": code, "count": count, "figure": _figure, "filled": filled, "interval": interval, "label": label,
    "names": names, "num": num, "percent": percent, "points": points,
}  # fmt: skip


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
    table : pandas.DataFrame
        Any labelled table.
    columns : sequence of str, or mapping of str to str
        The columns to show, in this order; a mapping also renames them. By default all of them.
    percent : sequence of str
        Columns of shares, shown as percent (with their bounds, where `estimate` is one).
    digits : int
        Decimals of numbers that are no percent.
    head : int, optional
        Only so many rows; how many were left out is told.
    """
    from IPython.display import display

    shown = _prepared(table, columns, percent, digits)
    rows = shown if head is None else shown.head(head)
    html = rows.to_html(index=False, border=0, na_rep=NOT_KNOWN, escape=True)
    more = f"<p>… {len(shown) - len(rows)} more rows.</p>" if len(rows) < len(shown) else ""
    display(
        {"text/html": f'<div class="table-scroll">{html}</div>{more}', "text/plain": rows.to_string(index=False)},
        raw=True,
    )


def download_table(table: pd.DataFrame, name: str, words: str = "") -> None:
    """Display a link that saves the whole table, unrounded, as a CSV file.

    The file is inside the page, so that it works offline: for tables of up to some thousand rows.

    Parameters
    ----------
    table : pandas.DataFrame
        The table.
    name : str
        Name of the file.
    words : str
        Text of the link; by default the name and the number of rows.
    """
    from IPython.display import display

    content = table.to_csv(index=False)
    uri = f"data:text/csv;base64,{base64.b64encode(content.encode()).decode()}"
    told = escape(words or f"{name} ({len(table)} rows)")
    link = f'<p><a download="{escape(name)}" href="{uri}">{told}</a></p>'
    display({"text/html": link, "text/plain": f"{name}: {len(table)} rows"}, raw=True)


def _prepared(
    table: pd.DataFrame, columns: Sequence[str] | Mapping[str, str], percent: Sequence[str], digits: int
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
