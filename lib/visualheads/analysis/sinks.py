"""Tables of sink tokens: activations, shares, concentrations with and without them, what removing them does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.analysis.subset import BOUNDS, bounds_of
from visualheads.heads.losses import CHANGED, EXCESS, with_bounds

MASSIVE, BY_ATTENTION = "massive activations", "background that draws most attention"
"""What stands for sink tokens: those of sink dimensions or, in models without, what heads look at beside objects."""
VARIANTS = {
    "concentration": "with all tokens",
    "concentration_no_sink": "without the marked tokens",
    "concentration_random": "without random background",
}
OUTLIER_COLUMNS = ("model", "part", "layer", "dimension", "measure", "value")
HEAD_COLUMNS = ("model", "layer", "head", "name", "stage", "sink_share", *VARIANTS)
REMOVAL_COLUMNS = (
    "model", "mode", "tokens", "heads", "measure", *BOUNDS, "samples", *EXCESS, "positions",
)  # fmt: skip
SINKS = "sinks"
TOKENS = {
    SINKS: "the marked tokens",
    "random": "random image tokens",
    "background": "random background",
}
OUTLIERS = {"both": "both on one token", "outlier": "strength", "ratio": "times the median"}
"""Variable → name of the criterion, in units of its threshold; a sink dimension exceeds both on one token."""


def outlier_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Highest activations of the strongest dimensions at every layer's input, in units of what a sink must reach.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sinks by model, as of `studies.sinks.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model, part of the prompt, layer, dimension of the residual stream and criterion. Columns: model,
        part ("image tokens", "text tokens"), layer, dimension, measure (the criterion in words, a value of OUTLIERS),
        value (1 is the threshold).
    """
    rows = []
    for model, ds in found.items():
        one = ds.isel(model=0)
        for name, measure in OUTLIERS.items():
            values = one[name].transpose("part", "state", "outlier_dimension").values
            for (part, state, place), value in np.ndenumerate(values):
                rows.append(
                    {"model": model, "part": str(one["part"].values[part]), "layer": state,
                     "dimension": int(one["outlier_dimension"].values[place]), "measure": measure,
                     "value": float(value)}
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(OUTLIER_COLUMNS))


def dimension_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """How many sink dimensions each model has, and how near the strongest dimensions come to being one.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sinks by model, as of `studies.sinks.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model. Columns: model, dimensions (number of sink dimensions), names (which), and for each criterion
        (a value of OUTLIERS) its highest value on these prompts, in units of what a sink must reach.
    """
    rows = []
    for model, ds in found.items():
        known = [name for name in str(ds["sink_dimensions"].values[0]).replace(",", " ").split() if name]
        highest = {words: float(ds[name].max()) for name, words in OUTLIERS.items()}
        rows.append({"model": model, "dimensions": len(known), "names": ", ".join(known), **highest})
    return pd.DataFrame(rows, columns=["model", "dimensions", "names", *OUTLIERS.values()])


def head_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Share of each head's image weight on the marked tokens, and its concentration with and without them.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sinks by model, as of `studies.sinks.studied`.

    Returns
    -------
    pandas.DataFrame
        One row per model and head. Columns: model, layer, head, name, stage, sink_share, concentration,
        concentration_no_sink, concentration_random: means over samples in [0, 1], NaN samples left out, in the last
        prompt token's row.
    """
    parts = []
    for model, ds in found.items():
        parts.append(head_tables.head_table(ds, ("sink_share", *VARIANTS)).assign(model=model)[list(HEAD_COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(HEAD_COLUMNS))


def removal_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """What is lost without tokens: accuracy and margin, paired over pictures.

    Parameters
    ----------
    found : mapping of str to xarray.Dataset
        Sweeps without tokens by model, as of `studies.sinks.studied`; those without samples, in which no token is a
        sink, are left out.

    Returns
    -------
    pandas.DataFrame
        One row per model, mode, kind of tokens (random draws are averaged per sample), set of heads and measure.
        Columns: model, mode, tokens, heads, measure, estimate, lower, upper (mean loss with its 95 % interval, a share
        for accuracy (`losses.changes`), logits for margin), samples, excess, excess_lower, excess_upper (how
        much more the marked tokens cost than these, paired; NaN for the marked ones), positions (where in the prompt
        heads were changed).
    """
    rows = []
    for model, ds in found.items():
        if "correct" not in ds or not ds.sizes["sample"]:
            continue
        one = ds.isel(model=0)
        kinds = np.array([str(name).split()[0] for name in one["tokens"].values])
        sets = list(zip(one["order"].values.astype(str), one["count"].values.tolist(), strict=True))
        for measure, (changed, clean) in CHANGED.items():
            lost = (one[clean] - one[changed]).assign_coords(image_id=one["image_id"])
            for kind, words in TOKENS.items():
                own = lost.isel(tokens=np.flatnonzero(kinds == kind)).mean("tokens")
                told = with_bounds(own, measure)
                more = with_bounds(lost.isel(tokens=kinds.tolist().index(SINKS)) - own, measure).where(kind != SINKS)
                for mode in one["mode"].values.tolist():
                    for place, (order, count) in enumerate(sets):
                        heads = "all heads" if order == "all" else f"the {count} most concentrated"
                        at, beyond = (bounds_of(part.isel(set=place).sel(mode=mode)) for part in (told, more))
                        rows.append({
                            "model": model, "mode": str(mode), "tokens": words, "heads": heads, "measure": measure,
                            **at, "samples": one.sizes["sample"], "positions": str(one["positions"].values),
                            **dict(zip(EXCESS, beyond.values(), strict=True)),
                        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(REMOVAL_COLUMNS))
