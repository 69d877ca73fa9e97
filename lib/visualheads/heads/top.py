"""The best heads of a ranking as a table, labelled as papers write them: L5H1."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from visualheads.errors import ParameterError, checked, checked_whole, got
from visualheads.heads.ranking import rank

COLUMNS = {"estimate": "score", "lower": "low", "upper": "high"}


def label(layer: int, head: int) -> str:
    """A head's label: L5H1 is head 1 of layer 5, both counted from 0."""
    return f"L{layer}H{head}"


@checked
def top(
    ds: xr.Dataset, by: str = "detection", n: int = 20, *, query: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """Return the best heads of a ranking, best first.

    Parameters
    ----------
    ds : xarray.Dataset
        A traced dataset.
    by : str
        The ranking, as in `rank`.
    n : int
        How many heads, of each model.
    query : str, optional
        The attention row, as in `rank`.
    model : str, optional
        Only this model; by default all.

    Returns
    -------
    pandas.DataFrame
        Indexed by label (L5H1), with columns model, layer, head, score, and low and high: the 95 % bootstrap interval
        over pictures. Heads without a score are left out.

    Raises
    ------
    ParameterError
        For an unknown ranking or model, or fewer than one head.
    """
    n = checked_whole("n", n)
    scores = rank(ds, by, interval=True, query=query)
    names = [str(name) for name in scores["model"].values]
    if model is not None and model not in names:
        raise ParameterError(got("model", model, names))
    bare = scores.drop_vars([name for name in scores.coords if name not in scores.dims])
    tables = []
    for place, name in enumerate(names):
        if model in (None, name):
            frame = bare.isel(model=place, drop=True).to_series().unstack("bound").rename(columns=COLUMNS).dropna()
            frame = frame.sort_values("score", ascending=False, kind="stable").head(n).reset_index()
            frame.insert(0, "model", name)
            tables.append(frame)
    table = pd.concat(tables, ignore_index=True)
    table.index = pd.Index([label(*pair) for pair in zip(table["layer"], table["head"], strict=True)], name="label")
    table.columns.name = None
    return table[["model", "layer", "head", *COLUMNS.values()]]
