"""How many of the best heads rankings share with the effects, over the number of heads."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from visualheads import titles
from visualheads.charts.causes import NEEDS_EFFECTS
from visualheads.charts.compare import GREY, chosen_model, placeholder
from visualheads.charts.display import finished, rows

WIDTH, HEIGHT = 400, 280
TITLE = "share in common"


def overlap_lines(table: pd.DataFrame, needs: str = NEEDS_EFFECTS) -> Any:
    """Share of the k best heads in common with the effects, one line per ranking; the model is chosen below.

    `table` is a result of `overlaps.overlap_by_size`. Dashed: two unrelated rankings on average; the grey area holds
    95 % of them.
    """
    if table.empty:
        return placeholder(needs)
    models, names = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["ranking"]))
    choice = chosen_model(models)
    told = table.assign(ranking=table["ranking"].map(titles.ranking))
    data = alt.Chart(rows(told.to_dict("records"))).transform_filter("datum.model === chosen_model")
    x = alt.X("k:Q", title="best heads compared", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="d"))
    y = alt.Y("overlap:Q", title=TITLE, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    lucky = data.transform_aggregate(limit="max(limit)", chance="max(chance)", groupby=["k"])
    area = lucky.mark_area(color=GREY, opacity=0.2).encode(x=x, y=alt.Y("limit:Q", title=TITLE))
    chance = lucky.mark_line(color=GREY, strokeDash=[4, 3]).encode(x=x, y=alt.Y("chance:Q", title=TITLE))
    base = data.encode(
        x=x,
        y=y,
        color=alt.Color(
            "ranking:N", sort=[titles.ranking(name) for name in names], title=None,
            scale=alt.Scale(domain=[titles.ranking(name) for name in names]), legend=alt.Legend(orient="right"),
        ),
        tooltip=["ranking:N", "size:N", "k:Q",
                 *[alt.Tooltip(f"{name}:Q", format=".0%") for name in ("overlap", "chance", "limit")]],
    )  # fmt: skip
    layers = alt.layer(area, chance, base.mark_line(strokeWidth=1.5), base.mark_circle(size=55, opacity=1))
    means = table.groupby("size", sort=False)[["overlap", "chance"]].mean()
    words = (
        f"Share of the best heads that {len(names)} rankings have in common with the effects, in {', '.join(models)}, "
        "by size of the sets. On average "
        + "; ".join(f"{size}: {row['overlap']:.0%}, by chance {row['chance']:.0%}" for size, row in means.iterrows())
    )
    return finished(layers.properties(width=WIDTH, height=HEIGHT).add_params(choice), f"{words}.")
