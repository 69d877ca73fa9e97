"""Tables of what is lost without heads, and of heads' scores beside their effects. Numpy and xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.subset import models_of
from visualheads.errors import HeadError
from visualheads.heads.losses import EXCESS, LOSSES, excess_loss, head_effects, losses, over_depth, with_bounds
from visualheads.heads.ranking import SCORES, rank, real_samples
from visualheads.heads.selection import label
from visualheads.store.variables import STAGES

MAIN_TASK = "looktwice"
"""The benchmark on which heads are removed; of the others the full protocol asks about single heads only."""
EFFECT = "effect_margin"
"""The effect that rankings are compared with: what the margin of the right answer loses without the head."""
NEEDS: dict[str, tuple[str, ...]] = {
    "region_weight": ("region_weight",),
    "concentration": ("concentration",),
    "weight_concentration": ("concentration",),
    "gaze": ("region_weight",),
    "localization": ("spatial_entropy",),
    "sink_free": ("sink_share",),
}
"""Variables that rankings read besides image_weight."""
ORDERS = ("top", "random", "bottom")
LOSS_COLUMNS = (
    "model", "mode", "measure", "ranking", "stage", "order", "count", "estimate", "lower", "upper", "sets", "samples",
)  # fmt: skip

Lists = Mapping[str, Mapping[str, xr.DataArray]]
"""Published head lists: model → name → scores (layer, head), NaN where a head is not listed."""


def loss_table(sweeps: Mapping[str, xr.Dataset], of: Sequence[str] = tuple(LOSSES)) -> pd.DataFrame:
    """What is lost without heads, by model, mode, measure, ranking, stage, order and number of heads.

    Parameters
    ----------
    sweeps : mapping of str to xarray.Dataset
        Sweeps of `head_sets.protocol_sets` by mode. Sets of another kind (single heads) are left out, and so are those
        that a model did not run.
    of : sequence of str
        Measures of loss: accuracy, margin or kl.

    Returns
    -------
    pandas.DataFrame
        One row per combination. Columns, besides these labels: estimate, lower, upper, the mean loss with its 95 %
        interval, paired bootstrap over pictures, as a share for accuracy (`losses.changes`), in logits for margin and
        nats for KL, positive where the removed heads were of use; sets, the head sets behind the row (random controls
        of several seeds are averaged per sample); samples, those on which any of them was tried.
    """
    parts = []
    for mode, sweep in sweeps.items():
        own = sweep.isel(set=np.flatnonzero(np.isin(sweep["order"].values.astype(str), ORDERS)))
        for name in own["model"].values.astype(str):
            parts.append(_losses_of(own.sel(model=name), name, mode, of))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(LOSS_COLUMNS))


def losses_by_benchmark(sweeps: Mapping[str, xr.Dataset], of: Sequence[str] = tuple(LOSSES)) -> pd.DataFrame:
    """What is lost without heads on every benchmark by itself.

    Parameters
    ----------
    sweeps : mapping of str to xarray.Dataset
        Sweeps by mode, as in `loss_table`.
    of : sequence of str
        Measures of loss: accuracy, margin or kl.

    Returns
    -------
    pandas.DataFrame
        The rows of `loss_table` of every benchmark, with the column `task`.
    """
    parts = []
    for task in dict.fromkeys(name for sweep in sweeps.values() for name in sweep["task"].values.astype(str)):
        own = {mode: ds.isel(sample=ds["task"].values.astype(str) == task) for mode, ds in sweeps.items()}
        parts.append(loss_table({mode: ds for mode, ds in own.items() if ds.sizes["sample"]}, of).assign(task=task))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*LOSS_COLUMNS, "task"])


def released_share(table: pd.DataFrame, ranking: str = "image_weight") -> pd.DataFrame:
    """The rows with the largest number of heads of every model, mode, measure and stage, by one ranking.

    The protocol's counts end at the released share of the heads (9.8 %).

    Parameters
    ----------
    table : pandas.DataFrame
        A result of `loss_table`.
    ranking : str
        The ranking that chose the heads.

    Returns
    -------
    pandas.DataFrame
        Rows of the table, in its order, of the stages "late" and "all".
    """
    own = table[(table["ranking"] == ranking) & table["stage"].isin(["late", "all"])]
    if own.empty:
        return own
    largest = own.groupby(["model", "mode", "measure", "stage"])["count"].transform("max")
    return own[own["count"] == largest].reset_index(drop=True)


def beyond_random(sweeps: Mapping[str, xr.Dataset], table: pd.DataFrame) -> pd.DataFrame:
    """What the top sets lose beyond their random controls.

    Parameters
    ----------
    sweeps : mapping of str to xarray.Dataset
        Sweeps by mode.
    table : pandas.DataFrame
        The result of `loss_table` on these sweeps.

    Returns
    -------
    pandas.DataFrame
        The table with the columns excess, excess_lower and excess_upper: the mean difference to the mean of the
        controls with its 95 % interval, paired bootstrap over pictures (`losses.excess_loss`), in the unit of the
        measure. NaN in rows of other orders, and of top sets without random controls.
    """
    told = np.full((len(table), len(EXCESS)), np.nan)
    for place, row in enumerate(table.to_dict("records")):
        if row["order"] != "top":
            continue
        sweep = sweeps[str(row["mode"])]
        wanted = np.isin(sweep["order"].values.astype(str), ORDERS[:2])
        for name in ("ranking", "stage", "count"):
            wanted &= sweep[name].values == row[name]
        own = sweep.isel(set=np.flatnonzero(wanted)).sel(model=[row["model"]])
        own = own.isel(set=np.flatnonzero(own["kl"].notnull().any(["model", "sample"])))
        if "random" in own["order"].values:
            found = excess_loss(own, str(row["measure"]))
            told[place] = found.sel(bound=["estimate", "lower", "upper"]).values.reshape(-1)
    return table.assign(**{name: told[:, place] for place, name in enumerate(EXCESS)})


def over_models(table: pd.DataFrame) -> pd.DataFrame:
    """Means of a table of losses over its models, by mode, stage and order.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `loss_table`, one per model, mode, stage and order, of models that answer the same questions: leave
        those of the reduced protocol out.

    Returns
    -------
    pandas.DataFrame
        Columns: mode, stage, order, estimate, lower, upper (each averaged, in the table's unit), models (how many).
    """
    if table.empty:
        return table
    means = {name: (name, "mean") for name in ("estimate", "lower", "upper")}
    return table.groupby(["mode", "stage", "order"], sort=False).agg(**means, models=("model", "nunique")).reset_index()


def usable(ds: xr.Dataset) -> list[str]:
    """The observational rankings that a dataset has what they need for.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces.

    Returns
    -------
    list of str
        Names of SCORES, in its order; without `gaze` where the row last_prompt was not traced.
    """
    found = [name for name in SCORES if all(need in ds for need in ("image_weight", *NEEDS.get(name, ())))]
    if "query" in ds.coords and "last_prompt" not in np.atleast_1d(ds["query"].values).astype(str):
        found = [name for name in found if name != "gaze"]
    return found


def effects_of(sweep: xr.Dataset | None, task: str = MAIN_TASK, form: str = "free") -> xr.Dataset | None:
    """Effects of single heads on one benchmark asked in one format.

    Parameters
    ----------
    sweep : xarray.Dataset, optional
        A sweep of `head_sets.single_heads`, with coordinates `task` and `format` along `sample`.
    task : str
        The benchmark.
    form : str
        The answer format.

    Returns
    -------
    xarray.Dataset or None
        `losses.head_effects` (model, layer, head, sample) of the models that have any; NaN for heads that were not
        tried. None without a sweep, or where no head was removed alone there.
    """
    if sweep is None:
        return None
    own = real_samples(sweep)
    asked = (own["task"].values.astype(str) == task) & (own["format"].values.astype(str) == form)
    if not asked.any():
        return None
    try:
        found = head_effects(own.isel(sample=np.flatnonzero(asked)))
    except HeadError:  # a sweep of larger sets alone
        return None
    seen = np.asarray(found["effect_kl"].notnull().any(["layer", "head", "sample"]))
    return found.isel(model=np.flatnonzero(seen)) if seen.any() else None


def _head_table(traces: xr.Dataset, effects: xr.Dataset, model: str) -> pd.DataFrame:
    """One row per head of a model: model, layer, head, name, stage, effect (`EFFECT`, mean), every ranking's score."""
    own = traces.sel(model=[model])
    effect = effects.sel(model=model)[EFFECT].mean("sample").transpose("layer", "head").values
    layer, head = np.nonzero(np.isfinite(effect))
    scores = {name: rank(own, name).isel(model=0).transpose("layer", "head").values for name in usable(own)}
    names = list(map(label, layer.tolist(), head.tolist()))
    stage = own["depth_stage"].isel(model=0).values.astype(str)[layer]
    told = {name: values[layer, head] for name, values in {"effect": effect, **scores}.items()}
    return pd.DataFrame({"model": model, "layer": layer, "head": head, "name": names, "stage": stage, **told})


def depth_table(*effects: xr.Dataset | None) -> pd.DataFrame:
    """Return where over depth the effects of single heads lie.

    Parameters
    ----------
    *effects : xarray.Dataset, optional
        Effects of single heads, whole_margin and looking_margin (model, layer, head, sample); several datasets where
        models of different kinds lie apart.

    Returns
    -------
    pandas.DataFrame
        Columns: effect ("whole" or "looking"), model, layer, share (in [0, 1]; sums to 1 over the layers of a model),
        depth (0 the first layer, 1 the last), stage (the third that the layer lies in: early, middle, late). Layers
        that a model lacks are left out; empty without effects.
    """
    parts = [
        over_depth(ds[f"{kind}_margin"]).to_dataframe("share")["share"].dropna().reset_index().assign(effect=kind)
        for kind in ("whole", "looking")
        for ds in effects
        if ds is not None
    ]
    if not parts:
        return pd.DataFrame(columns=["model", "layer", "share", "effect", "depth", "stage"])
    table = pd.concat(parts, ignore_index=True)
    last = table.groupby("model")["layer"].transform("max")
    thirds = (3 * table["layer"] // (last + 1)).map(dict(enumerate(STAGES)))
    return table.assign(depth=table["layer"] / last.clip(lower=1), stage=thirds)


def head_tables(traces: xr.Dataset, effects: xr.Dataset | None) -> pd.DataFrame:
    """Every head's scores beside its effect, of every model that has both.

    Parameters
    ----------
    traces : xarray.Dataset
        Traces (model, layer, head, sample).
    effects : xarray.Dataset, optional
        Effects of single heads (model, layer, head, sample), with `effect_margin`.

    Returns
    -------
    pandas.DataFrame
        One row per head with an effect. Columns: model, layer, head, name, stage, effect (mean loss of the right
        answer's margin without the head, in logits), and a column per ranking that the traces allow (`usable`). NaN
        where a model has no value; empty where no model has both.
    """
    parts = []
    if effects is not None:
        both = [name for name in models_of(traces) if name in models_of(effects)]
        parts = [_head_table(traces, effects, name) for name in both]
    columns = ["model", "layer", "head", "name", "stage", "effect", *usable(traces)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _losses_of(sweep: xr.Dataset, model: str, mode: str, of: Sequence[str]) -> pd.DataFrame:
    values = losses(sweep)
    labels = pd.DataFrame({name: sweep[name].values for name in ("ranking", "stage", "order", "count")})
    tried = np.asarray(sweep["kl"].notnull().any("sample"))
    groups = list(labels[tried].groupby(["ranking", "stage", "order", "count"], sort=False))
    rows = []
    for measure in of if groups else ():
        lost = values[LOSSES[measure]].transpose("set", "sample")
        means = np.stack([lost.isel(set=part.index.to_numpy()).mean("set").values for _, part in groups])
        told = with_bounds(lost.isel(set=0, drop=True).expand_dims(group=len(groups)).copy(data=means), measure)
        bounds = {name: told.sel(bound=name).values for name in ("estimate", "lower", "upper")}
        for place, ((ranking, stage, order, count), part) in enumerate(groups):
            rows.append({
                "model": model, "mode": mode, "measure": measure, "ranking": ranking, "stage": stage, "order": order,
                "count": int(count), **{name: float(found[place]) for name, found in bounds.items()},
                "sets": len(part), "samples": int(np.isfinite(means[place]).sum()),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(LOSS_COLUMNS))
