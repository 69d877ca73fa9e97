"""What sweeps say: what is lost with each set, against the clean run and matched random heads. Pure xarray."""

from __future__ import annotations

import numpy as np
import xarray as xr

from visualheads.errors import HeadError, ParameterError, got
from visualheads.heads.bootstrap import LEVEL, N_BOOT, bootstrap
from visualheads.heads.proportions import changes

LOSSES = {"accuracy": "loss_correct", "margin": "loss_margin", "kl": "kl"}
"""Measure → variable of `losses`."""


def losses(sweep: xr.Dataset) -> xr.Dataset:
    """What each sample loses (…, set, sample): loss_correct and loss_margin = clean − changed, kl as it is.

    Positive: the changed heads were of use. NaN where there is no answer to judge by.
    """
    return xr.Dataset(
        {
            "loss_correct": sweep["clean_correct"] - sweep["correct"],
            "loss_margin": sweep["clean_margin"] - sweep["margin"],
            "kl": sweep["kl"],
        }
    )


def loss(
    sweep: xr.Dataset, of: str = "accuracy", n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> xr.DataArray:
    """Mean loss of each set (…, set, bound), paired bootstrap over pictures; `of` is "accuracy", "margin" or "kl".

    Bounds of accuracy are widened where few answers changed, as in `proportions.changes`.
    """
    return _bounded(_loss(sweep, of), of, n_boot, level, seed).rename(f"loss of {of}")


def excess_loss(
    sweep: xr.Dataset, of: str = "accuracy", n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> xr.DataArray:
    """How much more the top sets lose than the mean of their matched random controls: (…, set, bound).

    `set` holds the sets of order "top" that have controls (same ranking, stage and count), with their coordinates.
    Paired over pictures, bounds as of `loss`. Positive: these heads matter more than heads of the
    same layers. Raises ParameterError for sweeps without matched controls.
    """
    values = _loss(sweep, of)
    for name in ("ranking", "stage", "order", "count"):
        if name not in values.coords:
            raise ParameterError(got("sets", list(values.coords), f"a coordinate {name!r}", "use protocol_sets"))
    orders = values["order"].values
    parts = []
    for place in np.flatnonzero(orders == "top"):
        same = orders == "random"
        for name in ("ranking", "stage", "count"):
            same &= values[name].values == values[name].values[place]
        if same.any():
            top, random = values.isel(set=place), values.isel(set=np.flatnonzero(same)).mean("set")
            beyond = top.copy(data=top.values - random.transpose(*top.dims).values)
            parts.append(_bounded(beyond, of, n_boot, level, seed))
    if not parts:
        raise ParameterError("no top set has matched random controls; make the sets with protocol_sets(seeds=5).")
    return xr.concat(parts, "set", coords="different", compat="equals").rename(f"excess loss of {of}")


def head_effects(sweep: xr.Dataset) -> xr.Dataset:
    """Effects of single heads from a sweep of `single_heads`: variables (model, layer, head, sample).

    effect_margin, effect_correct: what is lost without the head; effect_kl. Each is a ranking for `rank` and
    `agreement` by its name, with intervals and reliability. NaN for heads that were not tried. Raises HeadError where
    no set holds exactly one head.
    """
    marks = sweep["heads"].transpose("model", "set", "layer", "head").values.astype(bool)
    lost = losses(sweep).transpose("model", "set", "sample")
    counts = marks.sum(axis=(2, 3))
    if not (counts == 1).any():
        raise HeadError("no set of the sweep holds exactly one head; sweep head_sets.single_heads(layers, heads).")
    sizes = (marks.shape[0], marks.shape[2], marks.shape[3], sweep.sizes["sample"])
    names = {"effect_margin": "loss_margin", "effect_correct": "loss_correct", "effect_kl": "kl"}
    values = {name: np.full(sizes, np.nan, np.float32) for name in names}
    for model, place in np.argwhere(counts == 1):
        layer, head = np.argwhere(marks[model, place])[0]
        for name, source in names.items():
            new = lost[source].values[model, place]  # another set of this head alone may not have been tried here
            values[name][model, layer, head] = np.where(np.isfinite(new), new, values[name][model, layer, head])
    bare = sweep.drop_vars([name for name in sweep.variables if "set" in sweep[name].dims])
    dims = ("model", "layer", "head", "sample")
    return bare.drop_vars(list(bare.data_vars)).assign({name: (dims, array) for name, array in values.items()})


def over_depth(effects: xr.DataArray) -> xr.DataArray:
    """Return where over depth the causes lie: the share of all positive effect that each layer's heads have.

    Parameters
    ----------
    effects
        Effects of single heads (model, layer, head), with or without `sample`, whose mean counts.

    Returns
    -------
    xarray.DataArray
        Shares (model, layer) in [0, 1] that sum to 1 for each model; NaN where no head has a positive effect.
    """
    means = effects.mean("sample") if "sample" in effects.dims else effects
    positive = means.clip(min=0).sum("head", min_count=1)  # layers that a smaller model lacks are NaN
    total = positive.sum("layer")
    return (positive / total.where(total > 0)).rename("share of the positive effect")


def _bounded(values: xr.DataArray, of: str, n_boot: int, level: float, seed: int) -> xr.DataArray:
    """Means with bounds (…, bound): answers change seldom, or never, which a bootstrap takes for certain."""
    return (changes if of == "accuracy" else bootstrap)(values, n_boot, level, seed)


def _loss(sweep: xr.Dataset, of: str) -> xr.DataArray:
    if of not in LOSSES:
        raise ParameterError(got("of", of, LOSSES))
    return losses(sweep)[LOSSES[of]].transpose(..., "sample")
