"""Chapters' figures in both attention rows, on planted traces whose rows differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from helpers.planted import HEADS, LAYERS, Planted, always, effects_of, lists_of, pattern, world
from visualheads.analysis import rows, three_moments
from visualheads.analysis.claims.rules import Evidence

SIX = ("plain-general", "plain-object", "plain-super", "visual-general", "visual-object", "visual-super")
LOOKING = np.where(np.arange(HEADS) < 2, 0.8, 0.2) * np.ones((LAYERS, 1))
FRONT = np.repeat([0.9] * 4 + [0.1] * 2, HEADS).reshape(LAYERS, HEADS) + 0.05 * pattern(4)
LATE = np.vstack([np.full((LAYERS - 1, HEADS), 0.1), np.linspace(0.3, 0.9, HEADS)])
DRAWN = np.random.default_rng(5).normal(0, 0.2, (40, 1, LAYERS, HEADS, 2))
NULL = xr.Dataset(
    {"image_log_odds_no_sink": (("draw", "model", "layer", "head", "sample"), DRAWN)},
    {"model": ["m"], "layer": range(LAYERS), "head": range(HEADS), "sample": ["a", "b"]},
)  # fmt: skip


def by_condition(condition: str, _task: str) -> np.ndarray:
    """Another pattern with the box."""
    return pattern(1 + condition.startswith("visual"))


def by_task(_condition: str, task: str) -> np.ndarray:
    return pattern(len(task))


def evidence(before: dict[str, Planted], after: dict[str, Planted], more: Evidence | None = None, **asked) -> Evidence:
    """Traces of which each row has a truth of its own."""
    told = [world(one, **asked).expand_dims(query=[row], axis=-1) for row, one in (
        (rows.BEFORE, before), (rows.AFTER, after))]  # fmt: skip
    for place, ds in enumerate(told):
        fixed = {name: ds[name].isel(query=0, drop=True) for name in ("correct", "n_image_tokens")}
        told[place] = ds.assign(fixed)
    traces = xr.concat(told, "query", data_vars="minimal", coords="minimal", compat="override")
    more = more or Evidence()
    return replace(more, traces=traces)


def one(weight=None, **told) -> dict[str, Planted]:
    values = pattern() if weight is None else weight
    return {"m": Planted(values if callable(values) else always(values), **told)}


def kin(own: bool) -> dict[str, Planted]:
    """Two models of each of two language models, with a pattern of its own or one of every model."""
    return {
        name: Planted(always(pattern(30 + place // 2 if own else 40 + place)), llm=name[0])
        for place, name in enumerate(("A1", "A2", "B1", "B2"))
    }


MARKED = xr.Dataset(
    {
        name: (("model", "query", "layer", "head", "sample"), np.reshape(values, (1, 2, 1, 1, 1)))
        for name, values in {"concentration_random": (0.6, 0.6), "concentration_no_sink": (0.4, 0.7)}.items()
    },
    {"query": [rows.BEFORE, rows.AFTER]},
)  # fmt: skip


def moments() -> xr.Dataset:
    """Heads that look at asked objects before any picture, and in the answer's row none that do."""
    look = np.where(np.arange(HEADS) < 1, 2.0, 0.0) * np.ones((LAYERS, 1))
    noise = np.random.default_rng(7).normal(0, 0.1, (3, 2, LAYERS, HEADS, 12))
    names = [three_moments.TEXT, three_moments.FROZEN, three_moments.TUNED]
    asked = noise + np.array([1.0, 0.0])[:, None, None, None] * look[..., None]
    asked[2, 1] = -noise[0, 1] + look[::-1, ::-1, None]
    dims = ("model", "query", "layer", "head", "sample")
    return xr.Dataset(
        {"asked_lift": (dims, asked), "unasked_lift": (dims, 0 * asked)},
        {"model": names, "query": [rows.BEFORE, rows.AFTER], "image_id": ("sample", [str(n) for n in range(12)])},
    )


WHOLE, LISTS = effects_of(pattern()), lists_of(pattern() / 2, pattern(9))
CASES = [
    ("chance", evidence(one(LOOKING, white=-2.0), one(LOOKING, white=0.5), Evidence(null=NULL)),
     "share of models with heads above the null", 1.0, 0.0),
    ("visual_heads", evidence(one(FRONT), one(1 - FRONT)),
     "share of the strongest tenth in early and middle layers, beyond that of all heads", 1 / 3, -2 / 3),
    ("benchmarks", evidence(one(concentration=pattern()), one(concentration=1 - pattern())),
     "correlation of weight and concentration over heads", 1.0, -1.0),
    ("benchmarks", evidence(one(gain=0.1), one(gain=-0.1), pictures=40),
     "concentration of visual heads, right minus wrong answers", 0.1, -0.1),
    ("conditions", evidence(one(form="letters"), one(by_condition, form="letters"), conditions=SIX),
     rows.LESS_ALIKE.format("box", "picture"), 0.0, None),
    ("removals", evidence(one(LATE), one(LATE[:, ::-1])),
     "share of the removed heads that this row would choose too", 1.0, 0.0),
    ("families", evidence(kin(True), kin(False)), "correlation of pairs of one language model minus that of others",
     None, None),
    ("tasks", evidence(one(form="letters"), one(by_task, form="letters"), tasks=("looktwice", "qbench")),
     rows.BENCHMARKS_APART, 0.0, None),
    ("rankings", evidence(one(), one(pattern(5)), Evidence(effects=WHOLE)),
     "correlation of weight with the whole effect", 1.0, None),
    ("emergence", evidence(one(), one(1 - pattern()), Evidence(text={"t": LISTS}, grown_from={"m": "t"})),
     "correlation of reading asked words and looking at asked objects", 1.0, -1.0),
    ("sinks", evidence(one(), one(), Evidence(sinks={"m": MARKED})),
     "concentration that goes with the marked tokens", 0.2, -0.1),
    ("three_moments", evidence(one(), one(), Evidence(moments=moments())),
     f"looking of chosen heads beyond others, at least: {three_moments.TEXT}", 2.0, None),
]  # fmt: skip


@pytest.mark.parametrize(("page", "found", "what", "before", "after"), CASES)
def test_what_a_row_says_is_told_of_that_row(
    page: str, found: Evidence, what: str, before: float | None, after: float | None
) -> None:
    told = rows.both_rows(found, [page]).set_index("what").loc[what]
    for name, value in (("before", before), ("after", after)):
        assert value is None or told[name] == pytest.approx(value, abs=0.12), name
    assert not told["same"], "it turns where the planted truths lie on different sides"


def test_every_chapter_has_a_case_and_every_turn_a_figure() -> None:
    assert {page for page, *_ in CASES} == set(rows.PAGES)
    text = str([code for reads in rows.PAGES.values() for code in reads.__code__.co_consts])
    assert all(what in text or what == rows.SURPLUS or what[:3] == "how" or "effect" in what for what in rows.TURNS)


def test_what_was_traced_in_one_row_is_left_out() -> None:
    found = evidence(one(), one())
    assert rows.both_rows(found, ["benchmarks"])["same"].all()
    assert rows.both_rows(Evidence(traces=found.traces.isel(query=0)), ["benchmarks"]).empty
    alone = found.traces.assign(concentration=found.traces["concentration"].where(found.traces["query"] == rows.BEFORE))
    assert rows.both_rows(Evidence(traces=alone), ["benchmarks"]).empty
    assert rows.both_rows(Evidence()).empty
