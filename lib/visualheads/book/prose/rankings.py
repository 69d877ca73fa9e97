"""Text for the page that holds rankings against effects, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.effects import EFFECT, Lists
from visualheads.book.prose.causes import NEEDS_EFFECTS, number_or_dash
from visualheads.book.prose.comparison import in_miniature
from visualheads.book.prose.words import agreeing, between, code, counted, escaped, listed, missing, percent, table
from visualheads.charts import labels

SINK_FREE = "sink_free"


def rankings(
    found: pd.DataFrame, reduced: Sequence[str] = (), traces: xr.Dataset | None = None,
    effects: xr.Dataset | None = None, other_row: pd.DataFrame | None = None,
) -> str:  # fmt: skip
    """Which rankings find the heads that matter, as a table of means over models (claim 8).

    reduced     models whose effects come from the reduced protocol: told, but no part of means and counts, where
                there are others
    traces      what the rankings were made from; effects: what they are held against
    other_row   the same table, of rankings read from the other attention row
    """
    if found.empty:
        return missing(NEEDS_EFFECTS)
    whole = found[~found["model"].isin(reduced)]
    whole = found if whole.empty else whole
    lines = []
    means = whole.groupby("ranking", sort=False).mean(numeric_only=True).sort_values("spearman", ascending=False)
    for name, row in means.iterrows():
        lines.append((
            ranking_name(name), f"{row['spearman']:+z.2f} ({between(row['lower'], row['upper'])})",
            f"{row['within']:+z.2f}", number_or_dash(row["ceiling"]), percent(row["overlap"]), percent(row["chance"]),
        ))  # fmt: skip
    best = whole.loc[whole.groupby("model", sort=False)["spearman"].idxmax()]
    who = listed([f"{ranking_name(row.ranking)} in {code(row.model)}" for row in best.itertuples()])
    header = ("ranking", "ρ with the effect", "within layers", "ceiling", "top heads shared", "chance")
    text = (
        table(header, lines)
        + f"\n\nMeans over {counted(whole['model'].nunique(), 'model')}; intervals are over the pictures of traces and "
        "effects, and averaged. They are of the correlation that so many pictures give on average; without their noise "
        "it would be farther from 0, as far as the *ceiling* tells: the correlation that the noise of ranking and "
        "effects leaves room for; "
        f"*top heads shared* compares the best {listed([str(int(k)) for k in sorted(set(whole['top']))])} heads of "
        "both; heads that are tied there count by lot, on average. "
        f"{_measured(traces, effects)}The best ranking is {who}."
    )
    up, down = (int((sign * whole["spearman"] > whole["unrelated"]).sum()) for sign in (1, -1))
    limits = " to ".join(sorted({f"±{value:.2f}" for value in (whole["unrelated"].min(), whole["unrelated"].max())}))
    text += (
        f" Of {counted(len(whole), 'correlation')}, {up} {agreeing(up, 'lies', 'lie')} above and {down} below what "
        f"95 % of unrelated rankings of as many heads reach ({limits}); by chance one in "
        f"twenty does.{_tied(whole)}{_without_sinks(found, traces)} {in_miniature(list(found['model'].unique()))}"
    ).rstrip()
    if other_row is not None and not other_row.empty:
        text += f"\n\n{_in_other_row(whole, other_row)}"
    if reduced:
        text += (
            f"\n\n**Reduced protocol** in {listed([code(name) for name in reduced])}: few questions, so the ceiling is "
            "low, and no verdict on claim 8 comes from there."
        )
        text += " The means leave it out." if len(whole) < len(found) else ""
    return text


def by_model(found: pd.DataFrame) -> str:
    """Every correlation of the page's first figure, as a table."""
    if found.empty:
        return ""
    lines = [
        (
            code(row.model), ranking_name(row.ranking), f"{row.spearman:+z.2f} ({between(row.lower, row.upper)})",
            f"{row.within:+z.2f}", number_or_dash(row.ceiling), f"±{row.unrelated:.2f}",
            f"{percent(row.overlap)} of {row.top}", f"{row.placed} of {row.heads}",
        )
        for row in found.itertuples()
    ]  # fmt: skip
    header = (
        "model", "ranking", "ρ with the effect", "within layers", "ceiling", "95 % of unrelated ones",
        "top heads shared", "heads with a place of their own",
    )  # fmt: skip
    return table(header, lines)


def _measured(traces: xr.Dataset | None, effects: xr.Dataset | None) -> str:
    """Of what rows, questions and pictures scores and effects are."""
    text = (
        "Scores are of the attention row of the first generated token (gaze: of the last prompt token), means over all "
        "conditions that were asked in free form; effects are of the questions that the ablation pages ask. "
    )
    if traces is None or effects is None:
        return text
    removed = effects[EFFECT].notnull().any([dim for dim in effects[EFFECT].dims if dim != "sample"]).values
    shown = set(traces["image_id"].values.astype(str).tolist())
    judged = set(effects["image_id"].values.astype(str)[removed].tolist())
    return (
        f"{text}Of {len(judged)} pictures with effects {len(judged & shown)} are among the {len(shown)} of the scores, "
        "though intervals draw both as if none were: what a picture does to both counts as agreement. "
    )


def _tied(found: pd.DataFrame) -> str:
    """Which rankings place few heads, so that the others are tied."""
    few = found[found["placed"] < found["top"]]
    told = [
        f"*{ranking_name(name)}* gives a place of their own to "
        + listed([f"{row.placed} of {row.heads} heads in {code(row.model)}" for row in part.itertuples()])
        for name, part in few.groupby("ranking", sort=False)
    ]
    return (
        f" {'; '.join(told)}: the others are tied, and sets of its top heads that are removed or draw boxes are filled "
        "up with them from the first layer on."
        if told
        else ""
    )


def _in_other_row(found: pd.DataFrame, other: pd.DataFrame) -> str:
    """What the same measures give in the row that the answer's first token comes from."""
    told = []
    for name, part in other[other["model"].isin(found["model"])].groupby("ranking", sort=False):
        here = found[found["ranking"] == name]["spearman"].mean()
        told.append(f"*{ranking_name(name)}* {part['spearman'].mean():+z.2f} (here {here:+z.2f})")
    return (
        "The answer's first token, whose margin is the effect, is read off the last prompt token. In the attention row "
        f"of that token the mean ρ is: {listed(told)}."
    )


def sizes(found: pd.DataFrame) -> str:
    """What rankings share with the effects at every size of the top sets, from `overlaps.overlap_by_size`."""
    if found.empty:
        return missing(NEEDS_EFFECTS)
    names = list(dict.fromkeys(found.sort_values(["chance", "k"])["size"]))
    means = found.pivot_table(index="ranking", columns="size", values="overlap", sort=False)[names]
    means = means.loc[means.mean(axis="columns").sort_values(ascending=False, kind="stable").index]
    luck = found.groupby("size")[["chance", "limit"]].mean()
    lines = [(ranking_name(name), *map(_percent, means.loc[name])) for name in means.index]
    lines.append(("*unrelated rankings, on average*", *map(_percent, luck.loc[names, "chance"])))
    lines.append(("*95 % of unrelated rankings, at most*", *map(_percent, luck.loc[names, "limit"])))
    beyond = found[found["overlap"] > found["limit"] + 1e-9]
    told = []
    for size in names:
        many, part = int((found["size"] == size).sum()), beyond[beyond["size"] == size]
        counts = part["ranking"].value_counts(sort=False)
        who = listed([f"{ranking_name(name)} in {counted(int(n), 'model')}" for name, n in counts.items()])
        told.append(f"{len(part)} of {many} at {size}" + (f" ({who})" if who else ""))
    spans = {size: _span(found.loc[found["size"] == size, "k"]) for size in names}
    heads = listed([size if size == span else f"{size} ({span})" for size, span in spans.items()])
    return (
        table(("ranking", *names), lines)
        + f"\n\nShare of the best heads in common with the heads whose removal costs most, mean over "
        f"{counted(found['model'].nunique(), 'model')}, by size of both sets: {heads}. Beyond what 95 % of unrelated "
        f"rankings share: {'; '.join(told)}. With so many comparisons some lie beyond by chance, one in twenty at "
        "most, and small sets share whole heads or none. These are point estimates; the figure before has intervals."
    )


def _without_sinks(found: pd.DataFrame, traces: xr.Dataset | None) -> str:
    """Why the ranking without sinks is absent, where it is."""
    if traces is None or found.empty or SINK_FREE in set(found["ranking"]):
        return ""
    unknown = "sink_share" not in traces or not bool(np.isfinite(traces["sink_share"]).any())
    why = "no sink dimension was found in these models, so no token counts as a sink" if unknown else "it has no values"
    return f" The ranking *{ranking_name(SINK_FREE)}* is absent: {why} (chapter *Sinks*)."


def published_lists(lists: Lists, folder: str) -> str:
    """Which published head lists were joined, and how to add some."""
    told = [f"{code(name)} ({code(model)})" for model, own in lists.items() for name in own]
    if told:
        return f"Joined from {code(folder)}: {listed(told)}. Heads that a list does not name are left out of its row."
    return (
        f"No published head lists are in {code(folder)}. A list of one of these models – ours, SparseMM's, "
        "Retrieval_Head's or gaze-heads' layout – put into a folder there with the model's name joins the table and "
        "the figures."
    )


def _percent(value: float) -> str:
    return "–" if value != value else percent(value)


def _span(numbers: pd.Series) -> str:
    """`3 heads`, `3 to 5 heads`."""
    low, high = int(numbers.min()), int(numbers.max())
    return counted(high, "head") if low == high else f"{low} to {high} heads"


def mode_name(name: object) -> str:
    """A mode and its positions, for prose."""
    return escaped(labels.mode(str(name)))


def ranking_name(name: object) -> str:
    """A ranking, for prose."""
    return escaped(labels.ranking(str(name)))


def benchmark_name(name: object) -> str:
    """A benchmark, for prose."""
    return escaped(labels.benchmark(str(name)))
