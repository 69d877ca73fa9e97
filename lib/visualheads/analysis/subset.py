"""The one selector: samples of a dataset by model and labels, without controls; and what a dataset names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from visualheads.errors import ParameterError, got
from visualheads.heads.ranking import are_real

TOKENS = "n_image_tokens"
"""Above 0 where a model saw a sample: several models in one dataset need not have been asked the same."""


def subset(ds: xr.Dataset, *, model: str | None = None, trim: bool = False, **labels: str) -> xr.Dataset:
    """The samples with these labels, as they are: `subset(ds, model="1.5-7B", task="pope", format="free")`.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces, dims (model, layer, head, sample, …).
    model : str, optional
        Only this model, and the samples it saw; the dimension `model` stays, of length 1. By default all models that
        saw any of the samples.
    trim : bool
        Only the layers and heads that the model has; else those that it lacks stay, NaN.
    **labels : str
        Values of coordinates along `sample`, such as task, condition, format.

    Returns
    -------
    xarray.Dataset
        Without white pictures and other controls. Empty along `sample` where the model saw none such.

    Raises
    ------
    ParameterError
        There is no such model, or no sample of any model has the label.
    """
    own = ds
    if model is not None:
        known = models_of(ds)
        if model not in known:
            raise ParameterError(got("model", model, known, "name one of the dataset's models"))
        own = ds.isel(model=slice(known.index(model), known.index(model) + 1))
    real = are_real(ds)
    chosen = real.copy()  # samples are chosen once: every choice copies what is kept
    for name, value in labels.items():
        values = np.broadcast_to(own[name].values, real.shape).astype(str)
        if model is None and value not in values[real]:
            raise ParameterError(got(name, value, dict.fromkeys(values[real].tolist())))
        chosen &= values == value
    if model is not None and TOKENS in own:
        chosen &= np.asarray(own[TOKENS].isel(model=0).astype(float) > 0)
    own = own.isel(sample=np.flatnonzero(chosen))
    if model is None and TOKENS in own:
        own = own.isel(model=np.flatnonzero(np.asarray((own[TOKENS].astype(float) > 0).any("sample"))))
    return _trimmed(own) if trim and ds.sizes["model"] > 1 else own


def only_model(ds: xr.Dataset, model: str | None = None) -> str:
    """The model that is meant: the one that is named, or the only one there is.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`.
    model : str, optional
        A name; it is returned as it is, whether the dataset has it or not.

    Returns
    -------
    str
        The model's name.

    Raises
    ------
    ParameterError
        None is named, and the dataset has several or none.
    """
    names = models_of(ds)
    if model is None and len(names) != 1:
        raise ParameterError(got("model", model, names, "name one of the dataset's models"))
    return names[0] if model is None else model


def models_of(ds: xr.Dataset) -> list[str]:
    """The models of a dataset, in its order.

    Parameters
    ----------
    ds : xarray.Dataset
        Any dataset with the coordinate `model`, with or without a dimension.

    Returns
    -------
    list of str
        Their names.
    """
    return [str(name) for name in np.atleast_1d(ds["model"].values)]


BOUNDS = ("estimate", "lower", "upper")


def bounds_of(values: xr.DataArray) -> dict[str, float]:
    """An interval along `bound` as part of a table's row.

    Parameters
    ----------
    values : xarray.DataArray
        One estimate with its interval, dims (bound); in any unit.

    Returns
    -------
    dict of str to float
        The keys estimate, lower and upper, in the unit of the values; NaN stays NaN.
    """
    return {name: float(values.sel(bound=name)) for name in BOUNDS}


def tasks_of(ds: xr.Dataset) -> list[str]:
    """The benchmarks of the dataset's samples, in order of first appearance.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with the coordinate `task` along `sample`; controls count only where there is nothing else.

    Returns
    -------
    list of str
        Their names, such as "looktwice".
    """
    real = are_real(ds)
    return list(dict.fromkeys(np.broadcast_to(ds["task"].values, real.shape).astype(str)[real].tolist()))


def asked_parts(ds: xr.Dataset) -> Iterator[tuple[str, str, xr.Dataset]]:
    """Every model with every benchmark that it was asked, and its samples.

    Parameters
    ----------
    ds : xarray.Dataset
        Traces with a coordinate `task`, of one or several models.

    Returns
    -------
    iterator of (str, str, xarray.Dataset)
        Model, benchmark, and the result of `subset` for them; pairs without a sample are left out.
    """
    for name in models_of(ds):
        for task in tasks_of(ds):
            part = subset(ds, model=name, task=task)
            if part.sizes["sample"]:
                yield name, task, part


def _trimmed(own: xr.Dataset) -> xr.Dataset:
    weight = own["image_weight"].isel(model=0).notnull()
    there = weight.any([dim for dim in weight.dims if dim not in ("layer", "head")]).load()
    return own.isel(layer=np.flatnonzero(there.any("head")), head=np.flatnonzero(there.any("layer")))
