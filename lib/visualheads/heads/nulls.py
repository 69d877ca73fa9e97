"""Counting visual heads: which heads lie above a null (pure numpy and xarray)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.errors import ParameterError, checked, got
from visualheads.heads.bootstrap import picture_sums
from visualheads.heads.ranking import HEAD_DIMS, rankings, real_samples, sample_scores, samples_with_control
from visualheads.heads.selection import shapes_of

FDR = 0.05
PROMPT_KEYS = ("task", "question_id", "condition", "format")
"""Coordinates by which a sample finds its counterpart among the white pictures; without a question_id, its own id."""

MEASURE = "image_log_odds_no_sink"
"""Log-odds that are compared with a null."""
QUANTILE = 0.95
"""Of untrained heads, which a head has to exceed."""


@checked
def above_null(
    ds: xr.Dataset,
    *,
    white: xr.Dataset | None = None,
    untrained: xr.Dataset | None = None,
    fdr: float = FDR,
    query: str | None = None,
    measure: str = MEASURE,
) -> xr.Dataset:
    """Return which heads look at pictures more than a null does.

    A head is above null when its log-odds of image tokens exceed those of every control given, at a false discovery
    rate `fdr` (Benjamini–Hochberg over the heads of a model, of the larger p; ours).

    Parameters
    ----------
    ds
        Traced samples (model, layer, head, sample).
    white
        The same prompts with white pictures: the same head is compared with itself, paired by prompt, by a one-sided t
        test over pictures. If not given, the samples of `ds` whose control is "white", where there are any.
    untrained
        Untrained networks of the same shape, under the model's name where `ds` holds several. With the dimension
        `draw` for several seeds (20 or more are advisable; a few prompts do, and they may be others) their heads are
        pooled: a head's p is the share of untrained heads whose mean is as large. Every second draw calibrates, the
        others tell what share of untrained heads passes. An even look over all keys is no null, since many
        untrained heads exceed it. Without that dimension, one network, which leaves none to report.
    fdr
        False discovery rate, in (0, 1).
    query
        Attention row, where the dataset holds several.
    measure
        The log-odds that are compared.

    Returns
    -------
    xarray.Dataset
        With the dimensions model, layer and head:

        above_null : bool
        p_value : in [0, 1]; p_white and p_untrained, for controls given
        excess : the smaller mean difference, in nats: from white pictures, and from the untrained heads' 95 % quantile

        and, with untrained networks, per model: untrained_limit, that quantile; untrained_pass_rate, the share of the
        heads of draws that did not calibrate above it (about 5 % where the null holds); untrained_draws.
        Heads without a value are NaN and not above.

    Raises
    ------
    ParameterError
        Where no control is given, or one shares no prompt with `ds`, asks a prompt twice, has another shape, or lacks a
        model.
    """
    values = sample_scores(ds, measure, query=query)
    if untrained is not None:
        rankings(untrained)  # refuses what is no Dataset
    if white is None and "control" in ds.coords and (np.atleast_1d(ds.coords["control"].values) == "white").any():
        white = samples_with_control(ds, ("white",))
    template = values.isel(sample=0, drop=True)
    told = xr.Dataset()
    excesses: list[NDArray[np.float64]] = []
    if white is not None:
        control = _same_prompts(values, sample_scores(white, measure, query=query), "white")
        excess, p = _t_test(values, control)
        told["p_white"] = template.copy(data=p)
        excesses.append(excess)
    if untrained is not None:
        draws = untrained if "draw" in untrained.dims else untrained.expand_dims("draw")
        means = real_samples(draws[[name for name in draws.data_vars if name == measure]]).mean("sample", dtype=float)
        fresh = _same_models(values, sample_scores(means.rename(draw="sample"), measure, query=query))
        _check_shapes(values, fresh)  # all draws have the same
        found = _pooled(_means(values), np.moveaxis(fresh.values, -1, 0))
        told["p_untrained"] = template.copy(data=found.pop("p_untrained"))
        told = told.assign({name: ("model", numbers) for name, numbers in found.items()})
        excesses.append(_means(values) - told["untrained_limit"].values[:, None, None])
    if not excesses:
        allowed = "white=…, untrained=…, or samples with control 'white' in the dataset"
        fix = "trace task.samples(control='white'), or untrained networks, and pass the result"
        raise ParameterError(got("controls", None, allowed, fix))
    p_value = np.max([told[name].values for name in ("p_white", "p_untrained") if name in told], axis=0)
    chosen = np.zeros(p_value.shape, dtype=bool)
    for model, p_model in enumerate(p_value):
        finite = np.isfinite(p_model)
        if finite.any():
            chosen[model][finite] = stats.false_discovery_control(p_model[finite], method="bh") <= fdr
    heads = {"above_null": chosen, "p_value": p_value, "excess": np.min(excesses, axis=0)}
    found = {name: template.copy(data=data) for name, data in heads.items()}
    return xr.Dataset({**found, **told.data_vars}, attrs={"fdr": fdr, "measure": measure})


def prompt_keys(samples: xr.DataArray | xr.Dataset) -> list[tuple[str, ...]]:
    """What tells each sample's prompt from the others': PROMPT_KEYS, the sample's id where it has no question_id."""
    ids = samples["sample"].values.astype(str)
    columns = {
        name: np.broadcast_to(samples.coords[name].values, len(ids)).astype(str)
        for name in PROMPT_KEYS
        if name in samples.coords
    }
    columns["question_id"] = np.where(columns.get("question_id", ids) == "", ids, columns.get("question_id", ids))
    return list(zip(*columns.values(), strict=True))


def _same_models(values: xr.DataArray, control: xr.DataArray) -> xr.DataArray:
    """Return the control of each model of `values`: the one that goes by its name, or the only one for a single model.

    Raises ParameterError for a model without a control.
    """
    names = values["model"].values.astype(str)
    known = control["model"].values.astype(str).tolist()
    if len(names) == 1 and len(known) == 1:
        chosen = control.assign_coords(model=names)
    elif set(names) <= set(known):
        chosen = control.isel(model=[known.index(name) for name in names])
    else:
        raise ParameterError(got("models of control 'untrained'", known, f"the models of the dataset: {list(names)}"))
    padded = {dim: values[dim] for dim in ("layer", "head") if dim in chosen.coords and dim in values.coords}
    return chosen.reindex(padded)  # other models may be larger


def _check_shapes(values: xr.DataArray, control: xr.DataArray) -> None:
    """Raise ParameterError for a model whose control has another shape."""
    fresh = shapes_of(control)
    for name, own in shapes_of(values).items():
        if own != fresh[name]:
            raise ParameterError(
                got(f"control 'untrained' of {name!r}", fresh[name], f"layers and heads of the model: {own}")
            )


def _same_prompts(values: xr.DataArray, control: xr.DataArray, name: str) -> xr.DataArray:
    """Return the control's values in the order of `values`' samples, NaN where it lacks the prompt."""
    keys = prompt_keys(control)
    index = {key: position for position, key in enumerate(keys)}
    if len(index) < len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ParameterError(
            got(f"prompts of control {name!r}", f"{repeated} more than once", "each prompt once, to pair samples by")
        )
    found = np.array([index.get(key, -1) for key in prompt_keys(values)])
    if (found < 0).all():
        raise ParameterError(got(f"control {name!r}", "no prompt of the dataset", "the same prompts as in the dataset"))
    if control.shape[:3] != values.shape[:3]:
        raise ParameterError(got(f"control {name!r}", control.shape[:3], f"(model, layer, head) = {values.shape[:3]}"))
    matched = control.variable.transpose(..., "sample").values[..., found].astype(np.float64)
    matched[..., found < 0] = np.nan
    return xr.DataArray(matched, dims=(*HEAD_DIMS, "sample"))


def _means(values: xr.DataArray) -> NDArray[np.float64]:
    """Means over the samples that have a value (model, layer, head); NaN without any."""
    return values.astype(np.float64).mean("sample").values


def _pooled(means: NDArray[np.float64], untrained: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    """p of heads' means (model, layer, head) among untrained heads' (draw, model, layer, head), and the null."""
    calibrating, reported = untrained[::2], untrained[1::2]
    p = np.full(means.shape, np.nan)
    limit, passed = np.full(len(means), np.nan), np.full(len(means), np.nan)
    for model, own in enumerate(means):
        null = np.sort(calibrating[:, model][np.isfinite(calibrating[:, model])])
        if len(null):
            as_large = len(null) - np.searchsorted(null, own)
            p[model] = np.where(np.isfinite(own), (1 + as_large) / (1 + len(null)), np.nan)
            limit[model] = np.quantile(null, QUANTILE)
            others = reported[:, model][np.isfinite(reported[:, model])]
            passed[model] = (others > limit[model]).mean() if len(others) else np.nan
    draws = np.full(len(means), len(untrained))
    return {"p_untrained": p, "untrained_limit": limit, "untrained_pass_rate": passed, "untrained_draws": draws}


def _t_test(values: xr.DataArray, reference: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean difference per head over picture means, and its one-sided p; NaN below two pictures."""
    difference = values.copy(data=values.values.astype(np.float64) - reference.values)
    sums = picture_sums(difference)
    pictures = np.divide(sums.sums, sums.counts, out=np.full_like(sums.sums, np.nan), where=sums.counts > 0)
    there = np.isfinite(pictures)
    n = there.sum(axis=1)
    mean = np.divide(np.where(there, pictures, 0).sum(axis=1), n, out=np.full(len(n), np.nan), where=n >= 2)
    varied = (np.nanmax(pictures, axis=1, initial=-np.inf) > np.nanmin(pictures, axis=1, initial=np.inf)) & (n >= 2)
    # Without any spread the test is decided by the sign alone.
    p = np.where(n >= 2, np.where(mean > 0, 0.0, 1.0), np.nan)
    p[varied] = stats.ttest_1samp(pictures[varied], 0, axis=1, nan_policy="omit", alternative="greater").pvalue
    shape = values.shape[:3]
    return mean.reshape(shape), p.reshape(shape)
