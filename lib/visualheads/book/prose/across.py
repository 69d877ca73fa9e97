"""Text for the page that compares models on benchmarks, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from visualheads.analysis.benchmarks import CIRCULAR, FEWEST_ANSWERS, STATISTICS
from visualheads.book.prose.training import CHAPTER, items
from visualheads.book.prose.words import agreeing, between, code, counted, escaped, listed, missing, percent, table
from visualheads.charts.labels import ANSWER_FORMATS, benchmark, thousands
from visualheads.heads.patterns import ALIKE, DIFFERENT, FORMATS
from visualheads.heads.permutation import FEWEST_MODELS, MOST_EXACT, N_DRAWN, least_p
from visualheads.heads.ranking import head_count

ALPHA = 0.05
Shapes = Mapping[str, tuple[int, int]]


def benchmark_scores(scores: pd.DataFrame) -> str:
    """Every model's score per benchmark as a table, with interval, number of prompts and chance."""
    if scores.empty:
        return "The answers of these samples are unknown, so nothing is scored."
    groups = list(dict.fromkeys(scores["group"]))
    lines = []
    for name, rows in scores.groupby("model", sort=False):
        cells = {
            r.group: f"{100 * r.estimate:.0f} ({between(100 * r.lower, 100 * r.upper, 0)})" for r in rows.itertuples()
        }
        lines.append((code(str(name)), *[cells.get(group, "–") for group in groups]))
    told = table(("model", *[f"{escaped(benchmark(group))}, %" for group in groups]), lines)
    known = scores.dropna(subset=["chance"])
    above, n = int((known["lower"] > known["chance"]).sum()), len(known)
    absent = [escaped(benchmark(group)) for group in dict.fromkeys(scores.loc[scores["chance"].isna(), "group"])]
    asides = ["on MMBench, guessing all rounds right, each by itself"] if CIRCULAR in set(known["group"]) else []
    asides += [f"not known for {listed(absent)}"] if absent else []
    rest = f" ({'; '.join(asides)})" if asides else ""
    return (
        f"{told}\n\nShare of right answers with 95 % intervals over pictures, none nearer to 0 or 100 % than what "
        "so many pictures may hide (exact binomial bound); MMBench counts a question where every round is right. "
        f"{sampled(scores)} {above} of {counted(n, 'score')} with a known chance level "
        f"{agreeing(above, 'lies', 'lie')} above it with the whole interval; chance is the most frequent answer's "
        f"share, or one of as many choices as each question offers{rest}."
    )


def sampled(scores: pd.DataFrame) -> str:
    """How many prompts each score is from, and of how many where the training record tells of all."""
    parts, some = [], False
    for group, rows in scores.groupby("group", sort=False):
        few, many = int(rows["n"].min()), int(rows["n"].max())
        told = thousands(few) if few == many else f"{thousands(few)} to {thousands(many)}"
        all_of = max((items(str(model)).get(str(group), 0) for model in rows["model"]), default=0)
        if all_of > many:
            told, some = f"{told} of {thousands(all_of)}", True
        parts.append(f"{told} {'questions' if group == CIRCULAR else 'prompts'} of {escaped(benchmark(str(group)))}")
    text = f"Asked of each model: {listed(parts)}."
    if some:
        text += f" Where that is a sample, scores over all items stand in the chapter *{CHAPTER}*."
    return text


def figure_one(statistics: pd.DataFrame, scores: pd.DataFrame, shapes: Shapes) -> str:
    """Where the points lie, whether models and benchmarks with more weight have more concentration, who scores best.

    shapes: (layers, heads) of each model, from `survey.shapes`.
    """
    weight = statistics["image_weight"]
    text = (
        f"Mean image weight over all heads runs from {percent(float(weight.min()))} to {percent(float(weight.max()))}, "
        f"mean concentration from {statistics['concentration'].min():.2f} to {statistics['concentration'].max():.2f}."
    )
    grid = statistics.pivot_table(index="model", columns="task", values="image_weight").dropna(axis="columns")
    if min(grid.shape) > 1:
        models, tasks = grid.mean(axis="columns"), grid.mean()
        text += (
            f" Over the {counted(len(tasks), 'benchmark')} that all were asked, models' mean image weights lie within "
            f"{100 * (models.max() - models.min()):.0f} points of each other, benchmarks' within "
            f"{100 * (tasks.max() - tasks.min()):.0f}."
        )
    return f"{text}{_best(statistics, scores)} A click on a point shows which heads make it. {visual_share(shapes)}"


def _best(statistics: pd.DataFrame, scores: pd.DataFrame) -> str:
    joined = statistics.merge(scores, left_on=["model", "task"], right_on=["model", "group"], how="left")
    if not joined["estimate"].notna().any():
        return ""
    best = joined[np.isclose(joined["estimate"], joined["estimate"].max())]
    who = [
        f"{listed([code(model) for model in part['model']])} on {escaped(benchmark(str(task)))}"
        for task, part in best.groupby("task", sort=False)
    ]
    low, high = best["top_concentration"].min(), best["top_concentration"].max()
    focus = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else between(low, high)
    return (
        f" The best score, {percent(float(best['estimate'].iloc[0]))}, is that of {listed(who)}; the visual heads "
        f"there have a mean concentration of {focus}."
    )


def visual_share(shapes: Shapes) -> str:
    """How many heads of each model count as its visual heads."""
    of: dict[tuple[int, int], list[str]] = {}
    for name, (layers, heads) in shapes.items():
        of.setdefault((head_count(layers * heads), layers * heads), []).append(code(name))
    told = [f"{count} of {n}" + (f" in {listed(names)}" if len(of) > 1 else "") for (count, n), names in of.items()]
    return (
        "*Visual heads* are as many heads as detection takes, by image weight on that benchmark: "
        f"the share of 100 of 1 024, here {listed(told)}."
    )


def right_wrong(differences: pd.DataFrame, measure: str = "concentration") -> str:
    """Whether visual heads are more concentrated when the answer is right (claim 3, within a model)."""
    rows = differences.dropna(subset=["difference"]) if len(differences) else differences
    left_out = _left_out(differences)
    if rows.empty:
        return f"No model gave enough right and wrong answers to one kind of question in one condition.{left_out}"
    up, down = rows[rows["lower"] > 0], rows[rows["upper"] < 0]
    lines = [
        (code(row["model"]), escaped(benchmark(row["task"])), row["right"], row["wrong"], row["kinds"] or "unknown",
         f"{row['difference']:+z.4f} ({between(row['lower'], row['upper'], 4)})")
        for row in rows.to_dict("records")
    ]  # fmt: skip
    told = table(("model", "benchmark", "right", "wrong", "kinds", "right − wrong (95 % interval)"), lines)
    return (
        f"{told}\n\nIn {len(up)} of {counted(len(rows), 'combination')} of model and benchmark the visual heads' "
        f"{measure} is clearly higher when the answer is right (whole interval above 0), in {len(down)} clearly lower; "
        f"by chance alone about {ALPHA * len(rows):.1f} of {counted(len(rows), 'interval')} would lie off 0, half of "
        f"them on each side. The mean difference is {rows['difference'].mean():+z.3f}. Right and wrong answers are "
        f"compared within the same condition and format{_kinds(rows)}.{left_out}"
    )


def _kinds(rows: pd.DataFrame) -> str:
    """Within which kinds of question answers are compared, and where that is unknown."""
    unknown = dict.fromkeys(rows.loc[rows["kinds"] == 0, "task"])
    names = listed([escaped(benchmark(task)) for task in unknown])
    if len(unknown) == rows["task"].nunique():
        return "; kinds of question are not known here, so that a difference may be one of easy and hard kinds"
    text = (
        " and to the same kind of question, as the benchmark's files tell it (LookTwice-QA: the right count; POPE: yes "
        "or no), so that easy conditions, formats and kinds make no difference by themselves"
    )
    return text + (f"; on {names} kinds are not known, and a difference may be one of kinds" if unknown else "")


def _left_out(differences: pd.DataFrame) -> str:
    """The combinations without a difference, and why."""
    absent = differences[differences["difference"].isna()] if len(differences) else differences
    if absent.empty:
        return ""
    few = {"wrong": absent["wrong"] < FEWEST_ANSWERS, "right": absent["right"] < FEWEST_ANSWERS}
    reasons = {
        "had no wrong answer": absent["wrong"] == 0,
        "had no right answer": absent["right"] == 0,
        "had too few wrong answers": few["wrong"] & (absent["wrong"] > 0),
        "had too few right answers": few["right"] & (absent["right"] > 0),
        "had too few of both for one kind of question in one condition": ~few["wrong"] & ~few["right"],
    }
    told = [f"{int(which.sum())} {reason}" for reason, which in reasons.items() if which.any()]
    return (
        f" Left out {agreeing(len(absent), 'is', 'are')} {counted(len(absent), 'combination')}: {listed(told)} "
        f"(at least {FEWEST_ANSWERS} right and {FEWEST_ANSWERS} wrong ones are needed, ours; with fewer, the interval "
        "would be that of a few pictures)."
    )


def task_profiles(pairs: pd.DataFrame, identified: pd.DataFrame) -> str:
    """Whether benchmarks have head profiles of their own (claim 14): `task_pairs` and `nearest_task_pattern`."""
    tasks = pairs[pairs["kind"] != FORMATS]
    if tasks.empty:
        return missing("the profiles of tasks need a model that was traced on two benchmarks in one answer format")
    parts = []
    for form, rows in tasks.groupby("kind", sort=False):
        differ, alike = int((rows["verdict"] == DIFFERENT).sum()), int((rows["verdict"] == ALIKE).sum())
        open_ = len(rows) - differ - alike
        parts.append(
            f"*{ANSWER_FORMATS.get(str(form), str(form)).capitalize()}*: of {counted(len(rows), 'pair')} of benchmarks "
            f"within a model {differ} {agreeing(differ, 'has', 'have')} profiles that differ by more than halves of "
            f"one benchmark do, {alike} {agreeing(alike, 'is', 'are')} alike"
            + (f" and {open_} undecided" if open_ else "")
            + f"; the mean shortfall is {rows['shortfall'].mean():.3f}{_told(identified, str(form))}."
        )
    yardstick = pairs[pairs["kind"] == FORMATS]
    if len(yardstick):
        names = listed(list(dict.fromkeys(escaped(benchmark(name.split(", ")[0])) for name in yardstick["group"])))
        spread = between(yardstick["shortfall"].min(), yardstick["shortfall"].max())
        parts.append(
            f"The yardstick: on {names} alone, profiles with letters and in free form fall short of each other by "
            f"{yardstick['shortfall'].mean():.3f} ({spread} over models). So much the form of the answer makes by "
            "itself, and benchmarks in free form differ in it too: POPE is answered with yes or no, LookTwice-QA with "
            "a number."
        )
    return " ".join(parts)


def _told(identified: pd.DataFrame, form: str) -> str:
    """How often a benchmark is told from half of the pictures, among those asked in one format."""
    own = identified[identified["format"] == form]
    if own.empty:
        return ""
    return (
        "; from the head pattern of one half of the pictures the benchmark is told rightly in "
        f"{percent(float(own['right'].mean()))} of cases, where chance is {percent(float(own['chance'].mean()))}"
    )


def statistics(found: pd.DataFrame, errors: pd.DataFrame) -> str:
    """Which head statistics go with scores over models, and whether they predict those of another LLM (claim 6)."""
    models, tried = (int(found["models"].max()), len(found)) if len(found) else (0, 1)
    tasks = int(found["tasks"].max()) if len(found) else 2
    corrected = ALPHA / tried
    limits = (
        "n language models have n! orders: p is 1/n! at least, with one benchmark 2/n!, since the reversed order goes "
        f"as far; 5 % takes {_models_for(ALPHA, tasks)} of them (with one benchmark {_models_for(ALPHA, 1)}), and "
        f"{100 * corrected:.2g} %, the level that stands against {counted(tried, 'statistic')} tried, "
        f"{_models_for(corrected, tasks)}; of more than {thousands(MOST_EXACT)} orders {thousands(N_DRAWN)} are drawn"
    )
    if models < FEWEST_MODELS:
        return missing(
            f"head statistics against scores need at least {FEWEST_MODELS} language models, and there "
            f"{agreeing(models, 'is', 'are')} {models}. The test permutes whole language models; {limits}"
        )
    by_name = errors.set_index("statistic") if len(errors) else errors
    lines = []
    for row in found.itertuples():
        gain = f"{by_name.loc[row.statistic, 'gain']:+z.2f}" if len(errors) and row.statistic in by_name.index else "–"
        enough = row.models >= FEWEST_MODELS
        p = f"{row.p_value:.3f}" if np.isfinite(row.p_value) else "–"
        rho = f"{row.rho:+z.2f}" if enough and np.isfinite(row.rho) else "–"
        lines.append((STATISTICS.get(str(row.statistic), row.statistic), rho, p, row.models, row.tasks, gain))
    told = table(("head statistic", "ρ with the score", "p", "language models", "benchmarks", "gain"), lines)
    single = f", on one benchmark {least_p(models, 1):.2g}" if tasks > 1 and (found["tasks"] == 1).any() else ""
    text = (
        "\n\nρ is Spearman's correlation over language models (means over the models tuned from each) within a "
        f"benchmark, averaged over benchmarks; p comes from permuting them ({limits}). With "
        f"{models} of them p is {least_p(models, tasks):.2g} at least{single}. "
        "*Gain* is the share of squared error that the statistic saves when a model's score is predicted from models "
        "of *other* language models, against guessing their mean; below 0 the heads mislead."
    )
    if not len(errors):
        text += " Leaving one language model out needs three models of others."
    return told + text


def _models_for(level: float, tasks: int) -> int:
    """How many language models a permutation test needs to fall below a level."""
    return next(n for n in range(FEWEST_MODELS, 20) if least_p(n, tasks) < level)


def visual_heads(found: pd.DataFrame, alone: pd.DataFrame | None = None) -> str:
    """Claims 1, 2 and 11 model by model, as a table; `alone`: the same against white pictures alone."""
    if found.empty:
        return missing("the table needs a model traced on LookTwice-QA")
    against_white = {} if alone is None or alone.empty else alone.set_index("model")["above"].to_dict()
    lines = []
    for row in found.to_dict("records"):
        above = (
            f"{row['above']:.0f} of {row['heads']} ({row['nulls']})" if np.isfinite(row["above"]) else "no null traced"
        )
        white = against_white.get(row["model"], float("nan"))
        where = ", ".join(
            f"{row[stage]} {stage} ({percent(row[f'layers_{stage}'])})" for stage in ("early", "middle", "late")
        )
        rho = f"{row['rho']:.2f} ({between(row['rho_lower'], row['rho_upper'])}); within layers {row['rho_within']:.2f}"
        lines.append((code(row["model"]), f"{white:.0f}" if np.isfinite(white) else "–", above, where, rho))
    header = (
        "model",
        "heads above white pictures",
        "heads above every null (which)",
        "strongest tenth (share of all heads in that stage)",
        "weight with concentration, ρ",
    )
    return table(header, lines)
