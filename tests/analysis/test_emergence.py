"""Tables of training records: shared stages count once, kinds stand beside their benchmark."""

from __future__ import annotations

import math

import pytest

from visualheads.analysis import emergence, models

STAGE = {"steps": 9, "batch": 4, "seconds": 3600.0}
WHOLE = {"text_model": "t", "stages": {name: STAGE for name in ("tower", "t", "alignment", "tuning")}}
SCORE = {"accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 40}


def test_a_short_tuning_shares_all_but_its_tuning() -> None:
    table = emergence.stage_table({"mini-a": WHOLE, "mini-a-quarter": {**WHOLE, "parent": "mini-a"}})
    assert table["stage"].tolist() == ["tower", "language model", "alignment", "tuning"] * 2
    assert table["shared"].tolist() == [False] * 4 + [True] * 3 + [False]
    assert table.loc[~table["shared"], "minutes"].sum() == 300


def test_kinds_are_told_where_there_are_several() -> None:
    kinds = {"colour": {"seen": SCORE, "chance": 0.25, "above_chance": False}, "which": {"seen": SCORE}}
    seedbench = {"seen": SCORE, "chance": 0.25, "blind": {"accuracy": 0.3}, "above_chance": True, "kinds": kinds}
    one = {"seen": SCORE, "kinds": {"exists": {"seen": SCORE}}}
    table = emergence.score_table({"m": {"benchmarks": {"seedbench": seedbench, "pope": one}}})
    assert list(zip(table["task"], table["kind"], strict=True)) == [
        ("seedbench", ""), ("seedbench", "colour"), ("seedbench", "which"), ("pope", ""),
    ]  # fmt: skip
    first = table.iloc[0]
    assert (first["estimate"], first["white"], first["above_chance"]) == (0.8, 0.3, True)
    assert math.isnan(first["question_only"]) and not table.loc[1, "above_chance"]


def test_shipped_moments_are_read_in_the_row_that_they_keep() -> None:
    moments = {name: ds for name, ds in list(models.moments().items())[:1]}
    table = emergence.moment_table(moments)
    assert table["rho"].iloc[-1] == pytest.approx(1) and len(table) > 2
