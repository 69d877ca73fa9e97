"""Sentences and tables of notebooks: numbers in words, foreign text harmless, what is not known a dash."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.cells import displayed
from visualheads.book.text import _prepared, download_table, render, say, say_rows, show_table
from visualheads.errors import ParameterError

ROW = {"estimate": 0.671, "lower": 0.606, "upper": 0.744}


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ n }}", "1\N{NO-BREAK SPACE}024"),
        ("{{ 1 | count('head') }}, {{ 3 | count('head') }}", "1 head, 3 heads"),
        ("{{ 0.834 | percent }} and {{ 0.0834 | percent }}", "83 % and 8.3 %"),
        ("{{ row | interval }}", "0.67 (0.61 to 0.74)"),
        ("{{ row | interval(0, 100) }}", "67 (61 to 74)"),
        ("{{ [1, nan, nan] | interval }}", "1.00"),
        ("{{ ['a', 'b', 'c'] | names }}", "a, b and c"),
        ("{{ -0.0001 | num }}", "0.00"),
        ("{{ nan | percent }} {{ nan }}", "– –"),
        ("{{ 'looktwice' | label }}", "LookTwice&#45;QA"),
        ("{{ x }}", "0.50"),
    ],
)
def test_values_are_told_in_words(template: str, told: str) -> None:
    assert render(template, n=1024, row=ROW, nan=float("nan"), x=np.float64(0.5)) == told


@given(st.text())
def test_foreign_text_holds_no_markup(text: str) -> None:
    for template in ("{{ text }}", "{{ text | code }}", "{{ [text] | names }}"):
        shown = render(template, text=text).replace("<code>", "").replace("</code>", "")
        assert not set("<>`*_[]$|\n") & set(shown)


def test_what_is_not_given_is_refused() -> None:
    with pytest.raises(ParameterError, match="missing"):
        render("{{ missing }}")


def test_templates_reach_nothing_but_their_values() -> None:
    with pytest.raises(ParameterError):
        render("{{ text.__class__.__mro__ }}", text="a")


def test_a_sentence_is_displayed_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    say("**{{ n }}** heads", n=3)
    assert "Markdown" in capsys.readouterr().out


def test_tables_join_bounds_and_round() -> None:
    table = pd.DataFrame([{"task": "pope", **ROW, "n": 1500}, {"task": "pope", **dict.fromkeys(ROW, np.nan), "n": 3}])
    shown = _prepared(table, {"task": "benchmark", "estimate": "right", "n": "n"}, ["estimate"], 2)
    assert shown.to_dict("list") == {
        "benchmark": ["POPE", "POPE"],
        "right (%)": ["67.1 (60.6 to 74.4)", "–"],
        "n": ["1\N{NO-BREAK SPACE}500", "3"],
    }


def test_long_tables_tell_what_they_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = displayed(monkeypatch)
    show_table(pd.DataFrame({"name": ["<b>", "yy", "zz"]}), head=1)
    assert "2 more rows" in shown[0] and "&lt;b&gt;" in shown[0] and "yy" not in shown[0]


def test_a_download_is_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = displayed(monkeypatch)
    download_table(pd.DataFrame({"name": ["a,b", "c"], "value": [0.123456789, np.nan]}), "told.csv")
    (encoded,) = re.findall(
        r'download="told.csv" href="data:text/csv;base64,([^"]+)"', json.loads(shown[0])["text/html"]
    )
    assert base64.b64decode(encoded).decode() == 'name,value\n"a,b",0.123456789\nc,\n'


def test_sentences_with_unknown_numbers_are_left_out() -> None:
    texts, also = ["a {{ x }}.", "b {{ y }}.", "c {{ z }}."], {"x": 1.5, "y": np.nan}
    told = render("{{ texts | filled(also) }}", texts=texts, also=also)
    assert told == "a 1.50."


def test_what_turns_in_the_other_row_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = displayed(monkeypatch)
    rows = [
        ("a", "one", 0.2, 0.01, True),
        ("a", "share two", 0.3, 0.4, False),
        ("removals", "how three", 1.0, 0.6, True),
    ]
    table = pd.DataFrame(rows, columns=["page", "what", "before", "after", "same"])
    say_rows(table)
    [told] = shown
    told = " ".join(told.split())
    places = [
        told.index(words)
        for words in ("the share two is 40 % instead of 30 %", "the one is 0.010", "how three is 0.60:")
    ]
    assert places == sorted(places) and "{" not in told
    say_rows(table[table["same"]])
    assert "two" not in shown[-1]
    say_rows(table.iloc[:0])
    assert len(shown) == 2
