"""The figures that chapters' statements rest on, read in two attention rows.

The last prompt token's row decides, since it produces the answer; that of the answer's first token comes after it. A
statement *turns* where its figure lies on another side of what it is held against: zero, a margin, a share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis import benchmarks, emergence, lineage, models, three_moments
from visualheads.analysis.claims.looking import TENTH, in_early_and_middle_layers
from visualheads.analysis.claims.rules import MAIN_TASK, Choice, Evidence, has
from visualheads.analysis.rankings_vs_effects import in_format
from visualheads.analysis.subset import models_of, subset
from visualheads.heads import patterns, permutation
from visualheads.heads.agreement import spearman
from visualheads.heads.nulls import MEASURE
from visualheads.heads.ranking import ROW, head_count, rank, top_heads
from visualheads.tasks.registry import with_kinds

BEFORE, AFTER = ROW, "first_generated"
COLUMNS = ("page", "what", "before", "after", "turns", "same")
PARTLY, LARGELY = 0.3, 0.6
"""Sizes of a correlation that count as another finding: none below the first, a strong one from the second."""
SURPLUS = "share of the heads above the null in early and middle layers, beyond that of all heads"
LESS_ALIKE = "how much less head patterns with and without the {} agree than two halves of one (attention on the {})"
BENCHMARKS_APART = "how much less head patterns of two benchmarks agree than two halves of one"
TURNS = {
    "share of models with heads above the null": (1.0,),  # chapters say it of every model
    "share of heads above the null": (0.05,),  # that many untrained heads pass
    SURPLUS: (TENTH,),
    **{LESS_ALIKE.format(thing, by): (patterns.MARGIN,) for thing in ("box", "name") for by in ("picture", "region")},
    BENCHMARKS_APART: (patterns.MARGIN,),
    "share of the removed heads that this row would choose too": (0.5,),
    "correlation of weight with the whole effect": (-LARGELY, -PARTLY, PARTLY, LARGELY),
    "correlation of weight with the looking effect": (-LARGELY, -PARTLY, PARTLY, LARGELY),
}
"""What figures are held against, where it is not zero."""
Figures = dict[str, float]


def both_rows(evidence: Evidence, pages: Sequence[str] = ()) -> pd.DataFrame:
    """Read chapters' figures in both rows: one row per figure that has a number in both.

    Parameters
    ----------
    evidence
        As the claims are judged by (`studies.evidence.gather`); a chapter can give its traces alone.
    pages
        Only these of PAGES; all by default.

    Returns
    -------
    pandas.DataFrame
        Columns: page, what (the figure in words), before and after (means over models, in the last prompt token's row
        and in the answer's), turns (what they are held against, in words), same (whether both lie on one side of it).
        Empty where a row was not traced.
    """
    rows = []
    there = [] if evidence.traces is None or "query" not in evidence.traces.dims else evidence.traces["query"].values
    if not {BEFORE, AFTER} <= set(there):
        return pd.DataFrame(columns=list(COLUMNS))
    decided, later = (_in_row(evidence, row) for row in (BEFORE, AFTER))
    for page in pages or PAGES:
        before, after = (PAGES[page](one, decided) for one in (decided, later))
        for what, value in before.items():
            both = [value, after.get(what, float("nan"))]
            if np.isfinite(both).all():
                turns = TURNS.get(what, (0.0,))
                sides = np.digitize(both, turns)
                told = ", ".join(f"{turn:g}".replace("-", "\N{MINUS SIGN}") for turn in turns)
                rows.append((page, what, *both, told, bool(sides[0] == sides[1])))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _in_row(evidence: Evidence, row: str) -> Evidence:
    """The evidence as if this row alone had been traced: whatever is asked of it reads that row."""

    def read(ds: xr.Dataset | None) -> xr.Dataset | None:
        return ds if ds is None or "query" not in ds.dims else ds.sel(query=row, drop=True)

    sinks = {name: read(ds) for name, ds in evidence.sinks.items()}
    return replace(
        evidence, traces=read(evidence.traces), null=read(evidence.null), sinks=sinks, moments=read(evidence.moments)
    )


def _traces(evidence: Evidence) -> xr.Dataset:
    assert evidence.traces is not None  # `both_rows` asks
    return evidence.traces


def _main(evidence: Evidence) -> dict[str, xr.Dataset]:
    """Every model's questions of the main benchmark."""
    found = {name: subset(_traces(evidence), model=name, task=MAIN_TASK) for name in models_of(_traces(evidence))}
    return {name: own for name, own in found.items() if own.sizes["sample"]}


def _letters(evidence: Evidence) -> xr.Dataset:
    return _traces(evidence).isel(sample=np.flatnonzero(_traces(evidence)["format"].values.astype(str) == "letters"))


def _chance(evidence: Evidence, _decided: Evidence) -> Figures:
    if not has(_traces(evidence), MEASURE):
        return {}
    known = _traces(evidence)[MEASURE].notnull().any(["model", "layer", "head"])
    if not known.any():
        return {}
    asked = _traces(evidence).isel(sample=np.flatnonzero(known))
    seen = models.visual_heads(asked, fresh=evidence.null).dropna(subset=["above"])
    return {
        "share of models with heads above the null": float((seen["above"] > 0).mean()),
        "share of heads above the null": float((seen["above"] / seen["heads"]).mean()),
    }


def _visual_heads(evidence: Evidence, _decided: Evidence) -> Figures:
    surplus = []
    for own in _main(evidence).values():
        weight = benchmarks.head_means(own, "image_weight")
        known = np.isfinite(weight)
        top = top_heads(weight.reshape(-1, 1), head_count(int(known.sum()), 0.1))[:, 0].reshape(weight.shape)
        front = own["depth_stage"].isel(model=0).values.astype(str) != "late"
        surplus.append(top[front].sum() / top.sum() - known[front].sum() / known.sum())
    parts = in_early_and_middle_layers(evidence, Choice()).parts  # of claim 2; none without controls
    return {
        "share of the strongest tenth in early and middle layers, beyond that of all heads": _mean(surplus),
        SURPLUS: parts[0].estimate if parts else float("nan"),
    }


def _benchmarks(evidence: Evidence, _decided: Evidence) -> Figures:
    related = [
        _spearman(*(benchmarks.head_means(own, name) for name in ("image_weight", "concentration")))
        for own in _main(evidence).values()
    ]
    told = benchmarks.right_wrong(with_kinds(_traces(evidence)), "concentration", n_boot=2)
    gain = float("nan")
    if has(_traces(evidence), "image_log_odds", "focus_nats", "region_weight"):
        names = lineage.one_kind(models_of(_traces(evidence)))
        statistics = benchmarks.scored_statistics(_traces(evidence).sel(model=names))
        llm = lineage.language_models(_traces(evidence))
        found = permutation.errors(permutation.leave_one_llm_out(statistics, ["top_image_weight"], llm))
        gain = float(found["gain"].iloc[0]) if len(found) else gain
    return {
        "correlation of weight and concentration over heads": _mean(related),
        "concentration of visual heads, right minus wrong answers": _mean(told["difference"]),
        "share of the error in predicting scores that the visual heads' weight saves": gain,
    }


def _conditions(evidence: Evidence, _decided: Evidence) -> Figures:
    asked = _letters(evidence)
    asked = asked.isel(sample=np.flatnonzero(asked["task"].values.astype(str) == MAIN_TASK))
    found: Figures = {}
    for measure, by in (("image_weight", "picture"), ("region_weight", "region")):
        if asked.sizes["sample"] and measure in asked:
            told = patterns.group_agreement(asked, "condition", measure, n_boot=2)
            pairs = patterns.pairs(told, benchmarks.CONDITION_PAIRS).groupby("kind")["shortfall"].mean()
            for kind, thing in zip(benchmarks.CONDITION_PAIRS, ("box", "name"), strict=True):
                found[LESS_ALIKE.format(thing, by)] = float(pairs.get(kind, np.nan))
    return found


def _removals(evidence: Evidence, decided: Evidence) -> Figures:
    """Heads are removed by the last prompt row: how many of them the other row would have named."""
    first, here = ({name: _late(own) for name, own in _main(one).items()} for one in (decided, evidence))
    shared = [(top & here[name]).sum() / top.sum() for name, top in first.items() if top.any()]
    return {"share of the removed heads that this row would choose too": _mean(shared)}


def _late(own: xr.Dataset) -> np.ndarray:
    """The late heads of the released share that are detected most often, among the late ones."""
    late = own["depth_stage"].isel(model=0).values.astype(str) == "late"
    scores = rank(own, "detection").isel(model=0).transpose("layer", "head").values
    return top_heads(scores[late].reshape(-1, 1), head_count(int(np.isfinite(scores).sum())))[:, 0]


def _families(evidence: Evidence, _decided: Evidence) -> Figures:
    asked = _traces(evidence).isel(sample=np.flatnonzero(_traces(evidence)["task"].values.astype(str) == MAIN_TASK))
    kin = lineage.kin_difference(lineage.relations(asked), asked)
    return {"correlation of pairs of one language model minus that of others": kin["difference"] if kin else np.nan}


def _tasks(evidence: Evidence, _decided: Evidence) -> Figures:
    asked = _letters(evidence)
    if not asked.sizes["sample"]:
        return {}
    pairs = patterns.pairs(patterns.group_agreement(asked, "task", n_boot=2))
    nearest = patterns.nearest_pattern(asked)
    return {
        BENCHMARKS_APART: _mean(pairs["shortfall"]),
        "share of patterns whose benchmark is recognised, beyond chance": _mean(nearest["right"] - nearest["chance"]),
    }


def _rankings(evidence: Evidence, _decided: Evidence) -> Figures:
    found: Figures = {}
    for effect in ("whole", "looking"):
        if evidence.effects is not None and has(evidence.effects, f"{effect}_margin"):
            related = []
            for name, own in _main(evidence).items():
                if name in models_of(evidence.effects):
                    weight = rank(in_format(own), "image_weight").isel(model=0)
                    lost = evidence.effects[f"{effect}_margin"].sel(model=name).mean("sample")
                    lost = lost.reindex(layer=weight["layer"], head=weight["head"])
                    related.append(_spearman(*(one.transpose("layer", "head").values for one in (weight, lost))))
            found[f"correlation of weight with the {effect} effect"] = _mean(related)
    return found


def _emergence(evidence: Evidence, _decided: Evidence) -> Figures:
    related = []
    for name, own in _main(evidence).items():
        lists = evidence.text.get(evidence.grown_from.get(name, ""))
        if lists is not None and "region_weight" in own:
            heads = emergence.all_head_pairs(own, {"own": lists}, {name: "own"})
            related.append(_spearman(heads["text"].to_numpy(dtype=float), heads["picture"].to_numpy(dtype=float)))
    return {"correlation of reading asked words and looking at asked objects": _mean(related)}


def _sinks(evidence: Evidence, _decided: Evidence) -> Figures:
    """Beyond what is lost without as many other tokens: the marked ones are few."""
    names = ("concentration_random", "concentration_no_sink")
    lost = [float((ds[names[0]] - ds[names[1]]).mean()) for ds in evidence.sinks.values() if {*names} <= set(ds)]
    return {"concentration that goes with the marked tokens": _mean(lost)}


def _three_moments(evidence: Evidence, _decided: Evidence) -> Figures:
    """The lower ends of the intervals that the chapter's answers lie by, heads chosen in the row itself."""
    if evidence.moments is None:
        return {}
    told = three_moments.before_they_saw(evidence.moments, three_moments.TUNED).set_index("moment")["lower"]
    names = (three_moments.TEXT, three_moments.FROZEN, three_moments.TUNED)
    return {f"looking of chosen heads beyond others, at least: {name}": float(told[name]) for name in names}


PAGES: dict[str, Callable[[Evidence, Evidence], Figures]] = {
    "chance": _chance,
    "visual_heads": _visual_heads,
    "benchmarks": _benchmarks,
    "conditions": _conditions,
    "removals": _removals,
    "families": _families,
    "tasks": _tasks,
    "rankings": _rankings,
    "emergence": _emergence,
    "sinks": _sinks,
    "three_moments": _three_moments,
}
"""Chapters by their page, and what reads their figures of evidence of one row, beside that of the row that decides."""


def _mean(values: Sequence[float] | pd.Series) -> float:
    there = np.asarray(values, dtype=float)
    return float(there[np.isfinite(there)].mean()) if np.isfinite(there).any() else float("nan")


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    heads = np.isfinite(one) & np.isfinite(other)
    return float(spearman(np.stack([one[heads], other[heads]]))[0, 1]) if heads.sum() > 2 else float("nan")
