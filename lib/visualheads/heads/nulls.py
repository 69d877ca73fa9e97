"""Counting visual heads: which heads lie above a null, and a mixture fitted beside it (pure numpy and xarray)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from visualheads.errors import HeadError, ParameterError, checked_number, got
from visualheads.heads.bootstrap import picture_sums
from visualheads.heads.ranking import HEAD_DIMS, rankings, real_samples, sample_scores, samples_with_control

FDR = 0.05
PROMPT_KEYS = ("task", "question_id", "condition", "format")
"""Coordinates by which a sample finds its counterpart among the white pictures; without a question_id, its own id."""

EM_STEPS = 500
EM_TOLERANCE = 1e-9


def above_null(
    ds: xr.Dataset,
    *,
    white: xr.Dataset | None = None,
    untrained: xr.Dataset | None = None,
    fdr: float = FDR,
    query: str | None = None,
) -> xr.Dataset:
    """Return which heads look at pictures more than a null does, as variables (model, layer, head).

    `above_null` is bool, `p_value` in [0, 1], `excess` the smaller mean difference from the controls, in nats.

    A head is above null when its `image_log_odds` exceeds that of each control given, at a false discovery rate
    `fdr` (Benjamini–Hochberg over the heads of a model; ours):

    white      the same prompts with white pictures: the same head, paired by prompt; if not given, the samples of
               `ds` whose control is "white", where there are any
    untrained  an untrained network of the same shape on the same samples, under the model's name where `ds` holds
               several; its heads keep their order from picture to picture without having learned anything, so the
               reference is its strongest head, prompt by prompt: the one of largest mean over all prompts

    The test is a one-sided t test over pictures; with two controls the larger p counts (both have to be exceeded).
    Heads without a value are NaN and not above. Raises
    ParameterError where no control is given, or one shares no prompt with `ds`, asks a prompt twice, has another shape,
    or lacks a model.
    """
    checked_number("fdr", fdr, 0, 1)
    values = sample_scores(ds, "image_log_odds", query=query)
    if untrained is not None:
        rankings(untrained)  # refuses what is no Dataset
    if white is None and "control" in ds.coords and (np.atleast_1d(ds.coords["control"].values) == "white").any():
        white = samples_with_control(ds, ("white",))
    references: list[xr.DataArray] = []
    if white is not None:
        references.append(_same_prompts(values, _log_odds(white, query), "white"))
    if untrained is not None:
        fresh = _same_models(values, _log_odds(real_samples(untrained), query))
        references.append(_same_prompts(values, _strongest(fresh), "untrained"))
    if not references:
        raise ParameterError(
            got(
                "controls",
                None,
                "white=…, untrained=…, or samples with control 'white' in the dataset",
                "trace task.samples(control='white'), or an untrained model, and pass the result",
            )
        )
    tests = [_t_test(values, reference) for reference in references]
    excess = np.min([mean for mean, _ in tests], axis=0)
    p_value = np.max([p for _, p in tests], axis=0)
    chosen = np.zeros(p_value.shape, dtype=bool)
    for model, p_model in enumerate(p_value):
        finite = np.isfinite(p_model)
        if finite.any():
            chosen[model][finite] = stats.false_discovery_control(p_model[finite], method="bh") <= fdr
    template = values.isel(sample=0, drop=True)
    return xr.Dataset(
        {
            "above_null": template.copy(data=chosen),
            "p_value": template.copy(data=p_value),
            "excess": template.copy(data=excess),
        },
        attrs={"fdr": fdr},
    )


@dataclass(frozen=True)
class Mixture:
    """Two normal components: [0] the lower, [1] the upper. Where `bic_gain` > 0 two fit better than one."""

    share: tuple[float, float]
    mean: tuple[float, float]
    deviation: tuple[float, float]
    bic_gain: float

    def upper_probability(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return, per value, the probability [0, 1] that it is of the upper component; NaN stays NaN."""
        lower, upper = (
            np.log(share) + stats.norm.logpdf(values, mean, deviation)
            for share, mean, deviation in zip(self.share, self.mean, self.deviation, strict=True)
        )
        return expit(upper - lower)


def fit_mixture(values: NDArray[np.floating] | xr.DataArray) -> Mixture:
    """Fit a mixture of two normal components to the heads' mean log-odds (ours; `sklearn.mixture.GaussianMixture`).

    Starts from the lower and upper half, so that it is deterministic; a component's deviation is kept above 1 % of
    the whole's. NaN values are left out. Raises HeadError for fewer than four values or equal ones.
    """
    from sklearn.mixture import GaussianMixture  # takes a second to import

    x = np.asarray(values, dtype=np.float64).ravel()
    x = np.sort(x[np.isfinite(x)])
    spread = float(x.std()) if len(x) else 0.0
    if len(x) < 4 or spread == 0:
        raise HeadError(
            got("values for a mixture", f"{len(x)} values, deviation {spread:g}", "at least 4 different ones")
        )
    least = (0.01 * spread) ** 2
    halves = np.array_split(x, [len(x) // 2])
    start = {
        "weights_init": [0.5, 0.5],
        "means_init": [[half.mean()] for half in halves],
        "precisions_init": [[[1 / max(half.var(), least)]] for half in halves],
    }
    settings = {"reg_covar": least, "tol": EM_TOLERANCE, "max_iter": EM_STEPS}
    two = GaussianMixture(2, **settings, **start).fit(x[:, None])
    one = GaussianMixture(1, **settings).fit(x[:, None])
    low, high = np.argsort(two.means_[:, 0])
    share, mean, deviation = two.weights_, two.means_[:, 0], np.sqrt(two.covariances_[:, 0, 0])
    return Mixture(
        (float(share[low]), float(share[high])),
        (float(mean[low]), float(mean[high])),
        (float(deviation[low]), float(deviation[high])),
        float(one.bic(x[:, None]) - two.bic(x[:, None])),
    )


def strongest_head(values: NDArray[np.floating]) -> int:
    """Place of the head of largest mean among values (head, sample), NaN left out; 0 where there is no value."""
    there = np.isfinite(values)
    sums, counts = np.where(there, values, 0).sum(axis=1), there.sum(axis=1)
    return int(np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0).argmax())


def _strongest(fresh: xr.DataArray) -> xr.DataArray:
    """(model, sample): the values of each model's strongest head."""
    flat = fresh.transpose(*HEAD_DIMS, "sample").values.reshape(fresh.sizes["model"], -1, fresh.sizes["sample"])
    one = fresh.isel(layer=0, head=0, drop=True).transpose("model", "sample")
    return one.copy(data=np.stack([model[strongest_head(model)] for model in flat]))


def _log_odds(ds: xr.Dataset, query: str | None) -> xr.DataArray:
    return sample_scores(ds, "image_log_odds", query=query)


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

    Raises ParameterError for a model without a control and for another shape.
    """
    names = values["model"].values.astype(str)
    known = control["model"].values.astype(str).tolist()
    if len(names) == 1 and len(known) == 1:
        chosen = control.assign_coords(model=names)
    elif set(names) <= set(known):
        chosen = control.isel(model=[known.index(name) for name in names])
    else:
        raise ParameterError(got("models of control 'untrained'", known, f"the models of the dataset: {list(names)}"))
    for model, name in enumerate(names):
        own, fresh = (_heads_of(one.isel(model=model)) for one in (values, chosen))
        if own != fresh:
            raise ParameterError(
                got(f"control 'untrained' of {name!r}", fresh, f"layers and heads of the model: {own}")
            )
    return chosen


def _heads_of(values: xr.DataArray) -> tuple[int, int]:
    """(layers, heads) that have any value: datasets of several models are padded to the largest."""
    there = values.notnull().any("sample").transpose("layer", "head").values
    return int(there.any(axis=1).sum()), int(there.any(axis=0).sum())


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
    if "head" in control.dims and control.shape[:3] != values.shape[:3]:
        raise ParameterError(got(f"control {name!r}", control.shape[:3], f"(model, layer, head) = {values.shape[:3]}"))
    matched = control.transpose(..., "sample").values[..., found].astype(np.float64)
    matched[..., found < 0] = np.nan
    if "head" not in control.dims:  # one limit for all heads of a model
        matched = matched[:, None, None, :]
    return xr.DataArray(matched, dims=(*HEAD_DIMS, "sample"))


def _t_test(values: xr.DataArray, reference: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean difference per head over picture means, and its one-sided p; NaN below two pictures."""
    difference = values.copy(data=values.values.astype(np.float64) - reference.values)
    sums = picture_sums(difference)
    pictures = np.divide(sums.sums, sums.counts, out=np.full_like(sums.sums, np.nan), where=sums.counts > 0)
    there = np.isfinite(pictures)
    n = there.sum(axis=1)
    enough = n >= 2
    mean = np.divide(np.where(there, pictures, 0).sum(axis=1), n, out=np.full(len(n), np.nan), where=enough)
    squares = np.where(there, (np.where(there, pictures, 0) - np.nan_to_num(mean)[:, None]) ** 2, 0).sum(axis=1)
    error = np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1))
    # Without any spread the test is decided by the sign alone.
    t = np.divide(mean, error, out=np.where(mean > 0, np.inf, -np.inf), where=error > 0)
    p = np.where(enough, stats.t.sf(t, np.maximum(n - 1, 1)), np.nan)
    shape = values.shape[:3]
    return mean.reshape(shape), p.reshape(shape)
