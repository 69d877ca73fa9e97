"""Verdicts of two runs: what is told, and when the comparison fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers.command import run
from visualheads.analysis.claims.baseline import GONE, LABEL, NEW, OUTSIDE, SAME, compare_verdicts, save_verdicts
from visualheads.errors import RecordError

FOUND = {
    "statement": "…", "verdict": "supported", "scope": "1 miniature", "unit": "share", "margin": 0.1, "power": 0.9,
    "estimate": 0.5, "lower": 0.4, "upper": 0.6, "also": {"heads": 12}, "planted": [],
}  # fmt: skip
UNKNOWN = FOUND | {"verdict": "not testable here"} | dict.fromkeys(("estimate", "lower", "upper"), float("nan"))


def written(path: Path, **verdicts: dict[str, Any]) -> Path:
    """Verdicts by number: c8=…"""
    return save_verdicts(pd.DataFrame({int(name[1:]): row for name, row in verdicts.items()}).T, path)


@pytest.mark.parametrize(
    ("change", "told", "code"),
    [
        ({}, SAME, 0),
        ({"estimate": 0.59}, SAME, 0),
        ({"estimate": 0.61}, OUTSIDE, 1),
        ({"estimate": float("nan")}, OUTSIDE, 1),
        ({"verdict": "undecided"}, LABEL, 1),
    ],
)
def test_a_change_is_told_and_fails(tmp_path, capsys, change, told, code):
    old = written(tmp_path / "old.json", c8=FOUND)
    new = written(tmp_path / "new.json", c8=FOUND | change)
    table = compare_verdicts(old, new)
    assert table["change"].to_dict() == {8: told}
    assert run(capsys, "compare", old, new)[0] == code


def test_models_of_another_kind_are_compared_too(tmp_path, capsys):
    one, other = (pd.DataFrame({8: FOUND | told}).T for told in ({}, {"verdict": "undecided", "scope": "1 adapter"}))
    old = save_verdicts(one, tmp_path / "old.json", one.assign(scope="1 adapter"))
    new = save_verdicts(one, tmp_path / "new.json", other)
    told = compare_verdicts(old, new)
    assert told["change"].tolist() == [SAME, LABEL] and told["models"].tolist() == ["1 miniature", "1 adapter"]
    code, shown, _ = run(capsys, "compare", old, new)
    assert code == 1 and "1 adapter" in shown


def test_a_new_claim_passes_and_a_lost_one_fails(tmp_path, capsys):
    one = written(tmp_path / "one.json", c2=FOUND)
    two = written(tmp_path / "two.json", c2=FOUND, c10=UNKNOWN)
    assert compare_verdicts(one, two)["change"].to_dict() == {2: SAME, 10: NEW}
    assert compare_verdicts(two, one)["change"].to_dict() == {2: SAME, 10: GONE}
    assert run(capsys, "compare", one, two)[0] == 0
    code, shown, _ = run(capsys, "compare", two, one)
    assert code == 1 and "| 10 |" in shown


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "claims": {}}', '{"format": 1, "claims": []}', "{"])
def test_a_file_without_verdicts_is_refused(tmp_path, capsys, text):
    good, bad = written(tmp_path / "good.json", c1=FOUND), tmp_path / "bad.json"
    bad.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=r"bad\.json"):
        compare_verdicts(good, bad)
    assert run(capsys, "compare", good, tmp_path / "none.json")[0] == 2


def test_numbers_in_the_file_are_what_was_found(tmp_path):
    record = json.loads(written(tmp_path / "v.json", c3=FOUND).read_text())["claims"]["3"]
    assert record == FOUND
