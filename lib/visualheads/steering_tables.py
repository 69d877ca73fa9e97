"""Tables of what steering, boosting and grounding do, with intervals over pictures. Numpy and xarray."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.bootstrap import bootstrap, bootstrap_difference

BOUNDS = ("estimate", "lower", "upper")
STEER_COLUMNS = (
    "model", "condition", "bias", "order", "count", "what", "measure", *BOUNDS, "clean", "excess", "excess_lower",
    "excess_upper", "sets", "samples",
)  # fmt: skip
BOOST_COLUMNS = ("model", "bias", "order", "count", "what", "measure", *BOUNDS, "samples")
GROUND_COLUMNS = ("model", "ranking", "rule", "heads", "measure", *BOUNDS, "samples")
BASELINE_COLUMNS = ("model", "measure", "what", "estimate")
MEASURES = ("accuracy", "margin")
RANDOM = "random"
BASELINES = {"chance": ("hit", "a random patch"), "centre_hit": ("hit", "middle"), "whole_iou": ("iou", "whole")}
"""Variable → measure that it is a baseline of, and what it is called."""


def steer_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """How far answers move to the object steered to: one row per model, situation, bias, kind of heads and measure.

    estimate, lower, upper   mean change against the unchanged model, paired bootstrap over pictures: "accuracy", the
                             share of answers that name the object steered to; "margin", its margin in logits
    excess, …                for top heads: how much more than the mean of their matched random sets
    clean                    the unchanged model's own share (accuracy), or margin
    Random sets of several seeds are averaged per sample.
    """
    rows = []
    for model, ds in found.items():
        for condition in dict.fromkeys(ds["condition"].values.astype(str)):
            part = ds.isel(model=0, sample=np.flatnonzero(ds["condition"].values.astype(str) == condition))
            for bias in part["bias"].values.tolist():
                for row in _by_kind(part.sel(bias=bias)):
                    rows.append({"model": model, "condition": condition, "bias": float(bias), **row})
    return pd.DataFrame(rows, columns=list(STEER_COLUMNS))


def boost_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Accuracy and margin over the strength of boosting: one row per model, kind of heads, strength (0: unchanged)."""
    rows = []
    for model, ds in found.items():
        one = ds.isel(model=0)
        for (order, count), index in _kinds(one).items():
            for measure, (name, clean) in _MEASURED.items():
                values = one[name].isel(set=index).mean("set")
                zero = one[clean].expand_dims(bias=[0.0])
                told = bootstrap(xr.concat([zero, values], "bias", coords="minimal", compat="override").sortby("bias"))
                for place, bias in enumerate(told["bias"].values.tolist()):
                    rows.append(
                        {"model": model, "bias": float(bias), "order": order, "count": count,
                         "what": _what(order, count), "measure": measure, **_bounds(told.isel(bias=place)),
                         "samples": one.sizes["sample"]}
                    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(BOOST_COLUMNS))


def ground_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Pointing game ("hit") and overlap ("iou") over the number of heads; random rankings are averaged per sample."""
    rows = []
    for model, ds in found.items():
        one = ds.isel(model=0)
        names = [str(name) for name in one["ranking"].values]
        groups = {name: [name] for name in names if not name.startswith(RANDOM)}
        groups[RANDOM] = [name for name in names if name.startswith(RANDOM)]
        for measure in ("hit", "iou"):
            for label, members in groups.items():
                if not members:
                    continue
                told = bootstrap(one[measure].sel(ranking=members).mean("ranking"))
                for rule in told["rule"].values.tolist():
                    for used in told["heads_used"].values.tolist():
                        at = told.sel(rule=rule, heads_used=used)
                        rows.append(
                            {"model": model, "ranking": label, "rule": rule, "heads": int(used), "measure": measure,
                             **_bounds(at), "samples": one.sizes["sample"]}
                        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUND_COLUMNS))


def baseline_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """What needs no head: a random patch, the picture's middle, a box around the whole picture."""
    rows = [
        {"model": model, "measure": measure, "what": what, "estimate": float(ds[name].mean())}
        for model, ds in found.items()
        for name, (measure, what) in BASELINES.items()
    ]
    return pd.DataFrame(rows, columns=list(BASELINE_COLUMNS))


_MEASURED = {"accuracy": ("correct", "clean_correct"), "margin": ("margin", "clean_margin")}


def _by_kind(part: xr.Dataset) -> list[dict[str, object]]:
    rows = []
    kinds = _kinds(part)
    for measure, (name, clean) in _MEASURED.items():
        change = part[name] - part[clean]
        change = change.assign_coords(image_id=part["image_id"])
        for (order, count), index in kinds.items():
            own = change.isel(set=index).mean("set")
            row = {
                "order": order, "count": count, "what": _what(order, count), "measure": measure,
                **_bounds(bootstrap(own)), "clean": float(part[clean].mean()), "sets": len(index),
                "samples": part.sizes["sample"],
            }  # fmt: skip
            row |= dict.fromkeys(("excess", "excess_lower", "excess_upper"), float("nan"))
            if order == "top" and (RANDOM, count) in kinds:
                told = bootstrap_difference(own, change.isel(set=kinds[RANDOM, count]).mean("set"))
                bounds = _bounds(told)
                row |= {"excess": bounds["estimate"], "excess_lower": bounds["lower"], "excess_upper": bounds["upper"]}
            rows.append(row)
    return rows


def _kinds(ds: xr.Dataset) -> dict[tuple[str, int], list[int]]:
    """Sets by (order, count): fewest heads first, top before random."""
    kinds: dict[tuple[str, int], list[int]] = {}
    pairs = zip(ds["order"].values.astype(str), ds["count"].values.tolist(), strict=True)
    for index, (order, count) in enumerate(pairs):
        kinds.setdefault((order, int(count)), []).append(index)
    return dict(sorted(kinds.items(), key=lambda item: (item[0][1], item[0][0] == RANDOM)))


def _what(order: str, count: int) -> str:
    return f"all {count}" if order == "all" else f"{order} {count}"


def _bounds(told: xr.DataArray) -> dict[str, float]:
    return {name: float(told.sel(bound=name)) for name in BOUNDS}
