"""A model's heads beside those of a network of the same shape with random weights."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import xarray as xr

from visualheads.analysis.benchmarks import head_means
from visualheads.charts.comparison import placeholder
from visualheads.charts.display import finished, rows
from visualheads.charts.heads import title_of
from visualheads.heads.ranking import real_samples

MEASURES = ("image_weight", "concentration")
TRAINED, UNTRAINED = "trained", "untrained"


def against_untrained(ds: xr.Dataset, control: xr.Dataset | None) -> Any:
    """Heads from the strongest to the weakest, of a model and of the untrained network, one panel per measure.

    ds, control: traces of one model each; without a control a placeholder.
    """
    if control is None:
        return placeholder("No untrained network was traced.")
    panels, told = [], []
    for measure in MEASURES:
        records = []
        for name, one in ((TRAINED, ds), (UNTRAINED, control)):
            values = head_means(real_samples(one), measure)
            ordered = np.sort(values[np.isfinite(values)])[::-1]
            records += [{"heads": name, "place": i + 1, "value": float(v)} for i, v in enumerate(ordered)]
            if len(ordered):
                told.append(f"{name}, {title_of(measure)} {ordered[-1]:.2f} to {ordered[0]:.2f}")
        panels.append(
            alt.Chart(rows(records), width=250, height=210)
            .mark_line(point=alt.OverlayMarkDef(size=14))
            .encode(
                x=alt.X("place:Q", title="heads, strongest first", scale=alt.Scale(nice=False)),
                y=alt.Y("value:Q", title=title_of(measure), scale=alt.Scale(domainMin=0)),
                color=alt.Color(
                    "heads:N", title=None, legend=alt.Legend(orient="top"),
                    scale=alt.Scale(domain=[TRAINED, UNTRAINED], range=["#4c78a8", "#8a8a8a"]),
                ),
                tooltip=["heads:N", "place:Q", alt.Tooltip("value:Q", format=".3f")],
            )
        )  # fmt: skip
    words = f"Heads sorted by image weight and by concentration, trained and untrained: {'; '.join(told)}."
    return finished(alt.hconcat(*panels), words)
