"""What tracing costs beside other ways to get attention."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from visualheads.charts.display import AnyChart, finished, rows

NAMES = {"plain": "plain generation", "trace": "trace with all measures and store", "eager": "eager, output_attentions"}
PANELS = (("seconds", "processor seconds"), ("memory", "memory above the loaded model, MB"))


def cost_bars(measured: Sequence[pd.DataFrame]) -> AnyChart:
    """Time and memory per method and prompt length, from tables of `visualheads.book.cost.measure_cost`."""
    records = [
        {
            "method": NAMES.get(str(method), str(method)),
            "tokens": int(row["tokens"]),
            "seconds": float(row["cpu_seconds"]),
            "memory": float(row["memory_mb"]),
        }
        for table in measured
        for method, row in table.iterrows()
    ]
    order = list(dict.fromkeys(record["method"] for record in records))
    data = rows(records)
    charts = [
        alt.Chart(data, width=200, height=alt.Step(16))
        .mark_bar()
        .encode(
            y=alt.Y("tokens:O", title=None if index else "tokens in the prompt"),
            yOffset=alt.YOffset("method:N", sort=order),
            x=alt.X(f"{field}:Q", title=words, axis=alt.Axis(tickCount=5)),
            color=alt.Color("method:N", sort=order, title=None, legend=alt.Legend(orient="top", columns=1)),
            tooltip=[
                "method:N",
                "tokens:O",
                alt.Tooltip("seconds:Q", format=".2f"),
                alt.Tooltip("memory:Q", format=".0f", title="MB"),
            ],
        )
        for index, (field, words) in enumerate(PANELS)
    ]
    told = "; ".join(
        f"{r['method']} at {r['tokens']} tokens: {r['seconds']:.2f} s, {r['memory']:.0f} MB" for r in records
    )
    return finished(alt.hconcat(*charts), f"Cost of ways to read attention. {told}.")


SWEEPS = {"after_image": "after the image", "late, all": "all positions, late layers"}


def sweep_bars(measured: pd.DataFrame) -> AnyChart:
    """Seconds per head set of `vh.sweep` and of a naive loop, from `visualheads.book.cost.measure_sweeps`."""
    records = [
        {"case": SWEEPS.get(str(case), str(case)), "way": way, "seconds": float(row[column]), "times": row["ratio"]}
        for case, row in measured.iterrows()
        for way, column in (("vh.sweep", "sweep_seconds"), ("naive loop", "naive_seconds"))
    ]
    chart = (
        alt.Chart(rows(records), width=360, height=alt.Step(16))
        .mark_bar()
        .encode(
            y=alt.Y("case:N", title=None, sort=None, axis=alt.Axis(labelLimit=200)),
            yOffset=alt.YOffset("way:N", sort=["vh.sweep", "naive loop"]),
            x=alt.X("seconds:Q", title="processor seconds per set of heads"),
            color=alt.Color(
                "way:N", sort=["vh.sweep", "naive loop"], title=None, legend=alt.Legend(orient="top", columns=2)
            ),
            tooltip=["case:N", "way:N", alt.Tooltip("seconds:Q", format=".3f")],
        )
    )
    told = "; ".join(f"{r['case']}, {r['way']}: {r['seconds']:.3f} s" for r in records)
    return finished(chart, f"Cost of one set of heads on one question. {told}.")
