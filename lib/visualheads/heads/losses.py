"""What sweeps say: what is lost with each set, against the clean run and matched random heads; and shares of answers.

Shares and their differences have intervals over pictures, where all answers agree too. Pure xarray.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.errors import HeadError, ParameterError, got
from visualheads.heads.bootstrap import LEVEL, N_BOOT, bootstrap, interval, picture_sums, picture_weights

Bound = NDArray[np.float64]


def share_right(correct: xr.DataArray, n_boot: int = N_BOOT) -> dict[str, float]:
    """Mean of answers (sample; 1 right, 0 wrong, NaN unknown) with an interval over pictures: estimate, lower, upper.

    As in `shares`.
    """
    return _told(shares(correct, n_boot))


def shares(values: xr.DataArray, n_boot: int = N_BOOT) -> xr.DataArray:
    """Means over samples of values in [0, 1], NaN left out, with an interval over pictures: (…, bound).

    Where all are right, every draw of pictures is alike, and where nearly all are, nearly: no lower bound is above
    1 − `most_unseen`, no upper one below `most_unseen`.
    """
    bounds = bootstrap(values, n_boot)
    return _with(bounds, *share_bounds(*_both(bounds), most_unseen(_pictures(values))))


def share_gained(first: xr.DataArray, second: xr.DataArray) -> dict[str, float]:
    """Mean of second − first over the samples both answered, paired: estimate, lower, upper, each in [−1, 1]."""
    one, other = xr.align(first, second, join="inner")
    change = one.copy(data=np.asarray(other.values, dtype=float) - np.asarray(one.values, dtype=float))
    return _told(changes(change))


def changes(values: xr.DataArray, n_boot: int = N_BOOT) -> xr.DataArray:
    """Mean changes of answers, or of shares of them, in [−1, 1], with an interval over pictures: (…, bound).

    Few changes, or none, leave a bootstrap too sure: it is widened to `newcombe` where that reaches farther. NaN is
    left out.
    """
    bounds = bootstrap(values, n_boot)
    return _with(bounds, *change_bounds(*_both(bounds), *newcombe(values)))


def mean_change(parts: Sequence[xr.DataArray], n_boot: int = N_BOOT) -> dict[str, float]:
    """Mean over parts (benchmarks, each with the same weight) of mean changes in [−1, 1]: estimate, lower, upper.

    The pictures of each part are drawn anew by themselves; a replicate is the mean of the parts' own means. Bounds are
    wider by what each part may hide, as in `changes`: one part alone has its bounds.
    """
    estimates, replicates, hidden = [], [], np.zeros(2)
    for seed, part in enumerate(parts):
        sums = picture_sums(part)
        n = len(sums.pictures)
        estimates.append(float(sums.means(np.ones((1, n)))[0, 0]))
        replicates.append(sums.means(picture_weights(n, n_boot, seed))[0])
        low, high = interval(replicates[-1])
        least, most = change_bounds(low, high, *newcombe(part))
        hidden += np.array([low - least, most - high]) / len(parts)
    (lower,), (upper,) = interval(np.mean(replicates, axis=0)[None])
    bounds = {"lower": max(-1.0, float(lower - hidden[0])), "upper": min(1.0, float(upper + hidden[1]))}
    return {"estimate": float(np.mean(estimates)), **bounds}


def share_bounds(lower: Bound, upper: Bound, unseen: Bound) -> tuple[Bound, Bound]:
    """Bounds of shares, none nearer to 0 or 1 than `unseen`."""
    return np.minimum(lower, 1 - unseen), np.maximum(upper, unseen)


def change_bounds(lower: Bound, upper: Bound, least: Bound, most: Bound) -> tuple[Bound, Bound]:
    """Bounds of changes that hold `newcombe` too."""
    return np.fmin(lower, least), np.fmax(upper, most)


def newcombe(values: xr.DataArray, level: float = LEVEL) -> tuple[Bound, Bound]:
    """Return the Newcombe interval of mean changes (…, sample), from how many pictures changed each way.

    The share of pictures that went up and the share that went down have exact binomial intervals (`clopper_pearson`),
    each times the mean size of such a change and at least `most_unseen`; in the interval of their difference the
    squares of their widths add.

    Returns
    -------
    tuple of numpy.ndarray
        Lower and upper bounds (…) in [−1, 1].

    References
    ----------
    Newcombe (1998), Statistics in Medicine 17: 873–890, method 10.
    """
    shape, sides = _shape(values), []
    for sign in (1, -1):
        sums = picture_sums((sign * values).clip(min=0))  # NaN stays NaN
        share = sums.means(np.ones((1, len(sums.pictures))))[:, 0].reshape(shape)
        went, n = ((found > 0).sum(axis=1).reshape(shape) for found in (sums.sums, sums.counts))
        size = np.divide(share * n, went, out=np.ones(shape), where=went > 0)
        low, high = clopper_pearson(went, n, level)
        most = np.maximum(size * high, most_unseen(n, level))
        sides.append((share, np.minimum(share, size * low), np.minimum(1, most)))
    (up, up_low, up_high), (down, down_low, down_high) = sides
    least = up - down - np.hypot(up - up_low, down_high - down)
    most = up - down + np.hypot(up_high - up, down - down_low)
    return np.maximum(least, -1), np.minimum(most, 1)


def clopper_pearson(found: NDArray[np.integer], n: NDArray[np.integer], level: float = LEVEL) -> tuple[Bound, Bound]:
    """Return the exact binomial interval of a share of which `found` of `n` were seen; 0 and 1 for none.

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26.
    """
    tail = (1 - level) / 2
    low = np.where(found > 0, stats.beta.ppf(tail, np.maximum(found, 1), n - found + 1), 0.0)
    high = np.where(found < n, stats.beta.ppf(1 - tail, found + 1, np.maximum(n - found, 1)), 1.0)
    return low, high


def most_unseen(n: int | NDArray[np.integer], level: float = LEVEL) -> NDArray[np.float64]:
    """Return the largest probability of something that `n` independent pictures did not show, [0, 1]; 1 for none.

    The upper bound of `clopper_pearson` at 0 of n.
    """
    n = np.asarray(n)
    return np.where(n > 0, clopper_pearson(np.zeros_like(n), n, level)[1], 1.0)


def _pictures(values: xr.DataArray) -> NDArray[np.integer]:
    """How many pictures each value is known of, in the shape of `values` without the samples."""
    return (picture_sums(values).counts > 0).sum(axis=1).reshape(_shape(values))


def _shape(values: xr.DataArray) -> list[int]:
    return [values.sizes[dim] for dim in values.dims if dim != "sample"]


def _both(bounds: xr.DataArray) -> tuple[Bound, Bound]:
    return bounds.sel(bound="lower").values, bounds.sel(bound="upper").values


def _with(bounds: xr.DataArray, lower: Bound, upper: Bound) -> xr.DataArray:
    """The same estimates with other bounds."""
    told = {"lower": lower, "estimate": bounds.sel(bound="estimate").values, "upper": upper}
    return bounds.copy(data=np.stack([told[str(bound)] for bound in bounds["bound"].values], axis=-1))


def _told(bounds: xr.DataArray) -> dict[str, float]:
    return {bound: float(bounds.sel(bound=bound)) for bound in ("estimate", "lower", "upper")}


LOSSES = {"accuracy": "loss_correct", "margin": "loss_margin", "kl": "kl"}
"""Measure → variable of `losses`."""


CHANGED = {"accuracy": ("correct", "clean_correct"), "margin": ("margin", "clean_margin")}
"""Measure → what a changed model gave, and the unchanged one."""
EXCESS = ("excess", "excess_lower", "excess_upper")
"""Columns of tables: how much more is lost than in a control, and its bounds."""


def with_bounds(values: xr.DataArray, measure: str) -> xr.DataArray:
    """Mean changes of a measure with an interval over pictures, (…, bound): `changes` of accuracy, else `bootstrap`.

    Answers change seldom, or never, which a bootstrap takes for certain.
    """
    return changes(values) if measure == "accuracy" else bootstrap(values)


def losses(sweep: xr.Dataset) -> xr.Dataset:
    """What each sample loses (…, set, sample): loss_correct and loss_margin = clean − changed, kl as it is.

    Positive: the changed heads were of use. NaN where there is no answer to judge by.
    """
    lost = {f"loss_{name}": sweep[f"clean_{name}"] - sweep[name] for name in ("correct", "margin")}
    return xr.Dataset({**lost, "kl": sweep["kl"]})


def excess_loss(sweep: xr.Dataset, of: str = "accuracy") -> xr.DataArray:
    """How much more the top sets lose than the mean of their matched random controls: (…, set, bound).

    `set` holds the sets of order "top" that have controls (same ranking, stage and count), with their coordinates.
    Paired over pictures, bounds from a bootstrap over them. Positive: these heads matter more than heads of the
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
            parts.append(with_bounds(beyond, of))
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


def _loss(sweep: xr.Dataset, of: str) -> xr.DataArray:
    if of not in LOSSES:
        raise ParameterError(got("of", of, LOSSES))
    return losses(sweep)[LOSSES[of]].transpose(..., "sample")
