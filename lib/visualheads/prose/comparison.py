"""Text for the comparisons of conditions and benchmarks, from the tables that their figures are drawn of."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.alike import ALIKE, DIFFERENT, MARGIN
from visualheads.comparison import STATISTICS, tasks_of
from visualheads.prediction import FEWEST_MODELS
from visualheads.prose.words import between, code, counted, escaped, listed, percent, table

MINIATURE = "mini-"


def compared(ds: xr.Dataset) -> str:
    """Which models and benchmarks a page compares, and what kind of evidence that is."""
    names = [str(name) for name in np.atleast_1d(ds["model"].values)]
    text = f"Compared here: {counted(len(names), 'model')} ({listed([code(name) for name in names])}) on "
    text += f"{listed([code(task) for task in tasks_of(ds)])}."
    if all(name.startswith(MINIATURE) for name in names):
        text += (
            " All of them are miniatures: what is found holds **in miniature** and is no evidence about large models."
        )
    return text


def sources(ds: xr.Dataset, results: str = "data/results") -> str:
    """The stores that a page was made from: their place, the weights and the definitions, one line per model."""
    lines = []
    for index, name in enumerate(np.atleast_1d(ds["model"].values).astype(str)):
        one = ds.isel(model=index)
        seen = one["n_image_tokens"].astype(float).values > 0
        tasks = list(dict.fromkeys(one["task"].values.astype(str)[seen].tolist()))
        told = json.loads(str(one["provenance"].item())).get("identity", {})
        weights = told.get("weights", "")
        hashes = sorted(set(weights.values())) if isinstance(weights, dict) else [str(weights)]
        shown = listed([code(value.rpartition(":")[2][:12]) for value in hashes if value]) or "–"
        stores = listed([code(task) for task in tasks])
        lines.append((code(name), stores, f"{int(seen.sum())}", shown, escaped(str(told.get("definitions", "–")))))
    return (
        table(("model", "stores", "samples", "weights", "definitions"), lines)
        + f"\n\nA store is `{results}/<model>/<benchmark>.zarr` (with white pictures: `…-white.zarr`; untrained "
        "networks: `…-untrained.zarr`). Every number of this page is computed from these when the page runs."
    )


def missing(needed: str, there: bool) -> str:
    """A sentence that says plainly what a page cannot show yet; nothing where it can."""
    return "" if there else f"```{{note}}\nNot shown yet: {needed}.\n```"


def condition_kinds(pairs: pd.DataFrame) -> str:
    """What drawing the box and naming the object do to head patterns, from a table of pairs with model and kind."""
    if pairs.empty:
        return "No model was traced in two of these conditions."
    parts = []
    for kind, rows in pairs.groupby("kind", sort=False):
        counts = rows["verdict"].value_counts()
        worst = rows.loc[rows["shortfall"].idxmax()]
        alike, different = int(counts.get(ALIKE, 0)), int(counts.get(DIFFERENT, 0))
        parts.append(
            f"For **{kind}** ({counted(len(rows), 'pair')}), {alike} are alike, {different} differ and "
            f"{len(rows) - alike - different} are undecided; the mean shortfall is {rows['shortfall'].mean():.3f}, "
            f"the largest {worst['shortfall']:.3f} "
            f"({worst['group']} against {worst['other']} in {worst['model']}; 95 % interval "
            f"{between(worst['lower'], worst['upper'], 3)})."
        )
    return " ".join(parts) + (
        " *Shortfall* is how far a pair's rank correlation stays below what two halves of the same condition "
        "reach; a pair "
        f"is *alike* where its whole interval lies below {MARGIN:g} (a margin fixed beforehand, ours), *different* "
        "where it "
        "lies above 0 and not below the margin. The paper says: the box changes nothing, the name does (claim 4)."
    )


def benchmark_scores(scores: pd.DataFrame) -> str:
    """Every model's score per benchmark as a table, with interval and chance."""
    if scores.empty:
        return "The answers of these samples are unknown, so nothing is scored."
    groups = list(dict.fromkeys(scores["group"]))
    lines = []
    for name, rows in scores.groupby("model", sort=False):
        cells = {
            r.group: f"{100 * r.estimate:.0f} ({between(100 * r.lower, 100 * r.upper, 0)})" for r in rows.itertuples()
        }
        lines.append((code(str(name)), *[cells.get(group, "–") for group in groups]))
    told = table(("model", *[f"{escaped(group)} %" for group in groups]), lines)
    known = scores.dropna(subset=["chance"])
    above, n = int((known["lower"] > known["chance"]).sum()), len(known)
    return (
        f"{told}\n\nShare of right answers with 95 % intervals over pictures; MMBench counts a question where "
        "every round is "
        f"right. {above} of {n} scores with a known chance level lie above it with their whole interval; chance is "
        "the most "
        "frequent answer's share, or one letter of those offered."
    )


def figure_one(statistics: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Where the points lie, and whether models and benchmarks with more weight have more concentration."""
    by_task = statistics.groupby("task", sort=False)["image_weight"].mean()
    by_model = statistics.groupby("model", sort=False)["image_weight"].mean()
    text = (
        f"Mean image weight over all heads runs from {percent(float(statistics['image_weight'].min()))} to "
        f"{percent(float(statistics['image_weight'].max()))}, mean concentration from "
        f"{statistics['concentration'].min():.2f} to {statistics['concentration'].max():.2f}."
    )
    if len(by_task) > 1 and len(by_model) > 1:
        text += (
            f" Between models it varies by {by_model.max() - by_model.min():.2f}, between benchmarks by "
            f"{by_task.max() - by_task.min():.2f}."
        )
    joined = statistics.merge(scores, left_on=["model", "task"], right_on=["model", "group"], how="left")
    best = joined.loc[joined["estimate"].idxmax()] if joined["estimate"].notna().any() else None
    if best is not None:
        text += (
            f" The best score, {percent(float(best['estimate']))}, is that of {escaped(best['model'])} on "
            f"{best['task']}, "
            f"whose visual heads have a mean concentration of {best['top_concentration']:.2f}."
        )
    return text + " A click on a point shows which heads make it."


def right_wrong(differences: pd.DataFrame, measure: str = "concentration") -> str:
    """Whether visual heads are more concentrated when the answer is right (claim 3, within a model)."""
    rows = differences.dropna(subset=["difference"]) if len(differences) else differences
    if rows.empty:
        return "No model gave both right and wrong answers in one condition."
    up, down = rows[rows["lower"] > 0], rows[rows["upper"] < 0]
    return (
        f"In {len(up)} of {len(rows)} combinations of model and benchmark the visual heads' {measure} is clearly "
        "higher "
        f"when the answer is right (whole interval above 0), in {len(down)} clearly lower; the mean difference is "
        f"{rows['difference'].mean():+z.3f}. Right and wrong answers are compared within the same condition and "
        "format, so "
        "that an easy condition makes no difference by itself; with many intervals about one in twenty lies off 0 "
        "by chance."
    )


def task_profiles(pairs: pd.DataFrame, identified: pd.DataFrame) -> str:
    """Whether benchmarks have head profiles of their own (claim 14)."""
    if pairs.empty:
        return missing("the profiles of tasks need a model that was traced on at least two benchmarks", False)
    counts = pairs["verdict"].value_counts()
    text = (
        f"Of {counted(len(pairs), 'pair')} of benchmarks within a model {int(counts.get(DIFFERENT, 0))} have "
        "profiles that "
        f"differ by more than halves of one benchmark do, {int(counts.get(ALIKE, 0))} are alike; the mean shortfall is "
        f"{pairs['shortfall'].mean():.3f}."
    )
    if len(identified):
        right, chance = identified["right"].mean(), identified["chance"].mean()
        text += (
            " From the head pattern of one half of the pictures the benchmark is told rightly in "
            f"{percent(float(right))} of "
            f"cases, where chance is {percent(float(chance))}."
        )
    return text


def statistics(found: pd.DataFrame, errors: pd.DataFrame) -> str:
    """Which head statistics go with scores over models, and whether they predict those of another LLM (claim 6)."""
    models = int(found["models"].max()) if len(found) else 0
    if models < 3:
        return missing("head statistics against scores need at least three models", False)
    by_name = errors.set_index("statistic") if len(errors) else errors
    lines = []
    for row in found.itertuples():
        gain = f"{by_name.loc[row.statistic, 'gain']:+z.2f}" if len(errors) and row.statistic in by_name.index else "–"
        p = f"{row.p_value:.3f}" if np.isfinite(row.p_value) else "–"
        rho = f"{row.rho:+z.2f}" if np.isfinite(row.rho) else "–"
        lines.append((STATISTICS.get(str(row.statistic), row.statistic), rho, p, row.models, row.tasks, gain))
    told = table(("head statistic", "ρ with the score", "p", "models", "benchmarks", "gain"), lines)
    text = (
        "\n\nρ is Spearman's correlation over models within a benchmark, averaged over benchmarks; p comes from "
        "permuting "
        f"whole models ({len(found)} statistics were tried: p below {0.05 / max(1, len(found)):.3f} stands against "
        "that). "
        "*Gain* is the share of squared error that the statistic saves when a model's score is predicted from "
        "models of "
        "*other* language models, against guessing their mean; below 0 the heads mislead."
    )
    if models < FEWEST_MODELS:
        text += f" With {models} models no permutation test can reach 5 %; it needs {FEWEST_MODELS}."
    if not len(errors):
        text += " Leaving one language model out needs three models of others."
    return told + text


def visual_heads(found: pd.DataFrame) -> str:
    """Claims 1, 2 and 11 model by model, as a table."""
    if found.empty:
        return missing("the table needs a model traced on LookTwice-QA", False)
    lines = []
    for row in found.to_dict("records"):
        above = (
            f"{row['above']:.0f} of {row['heads']} ({row['nulls']})" if np.isfinite(row["above"]) else "no null traced"
        )
        where = ", ".join(
            f"{row[stage]} {stage} ({percent(row[f'layers_{stage}'])})" for stage in ("early", "middle", "late")
        )
        rho = f"{row['rho']:.2f} ({between(row['rho_lower'], row['rho_upper'])}); within layers {row['rho_within']:.2f}"
        lines.append((code(row["model"]), above, where, rho))
    header = (
        "model",
        "heads above null (which)",
        "strongest tenth (share of all heads in that stage)",
        "weight with concentration, ρ",
    )
    return table(header, lines)


def named(values: Mapping[str, str]) -> str:
    """Names and what they mean, as a list."""
    return "\n".join(f"* `{name}`: {words}" for name, words in values.items())
