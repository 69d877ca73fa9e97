"""Tables of what is lost without heads, and of how observational rankings agree with that. Numpy and xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.agreement import agreement
from visualheads.bootstrap import bootstrap
from visualheads.effects import LOSSES, losses
from visualheads.rankings import SCORES, rank

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
LOSS_COLUMNS = ("mode", "measure", "ranking", "stage", "order", "count", "estimate", "lower", "upper", "sets")
AGREEMENT_COLUMNS = (
    "model", "ranking", "spearman", "lower", "upper", "within", "ceiling", "overlap", "overlap_lower", "overlap_upper",
    "chance", "top",
)  # fmt: skip


def loss_table(sweeps: Mapping[str, xr.Dataset], of: Sequence[str] = tuple(LOSSES)) -> pd.DataFrame:
    """What is lost by mode, measure, ranking, stage, order and number of heads: one row each, of a single model.

    estimate, lower, upper   mean loss with its 95 % interval, paired bootstrap over pictures: a share for accuracy,
                             logits for margin, nats for KL; positive where the removed heads were of use
    sets                     head sets behind the row: random controls of several seeds are averaged per sample
    `sweeps` maps modes to sweeps of `protocol.protocol_sets`; sets of another kind (single heads) are left out.
    """
    rows = []
    for mode, sweep in sweeps.items():
        values = losses(sweep).isel(model=0)
        labels = pd.DataFrame(
            {name: sweep[name].values for name in ("ranking", "stage", "order", "count")},
            index=range(sweep.sizes["set"]),
        )
        chosen = labels[labels["order"].isin(ORDERS)]
        for (ranking, stage, order, count), part in chosen.groupby(["ranking", "stage", "order", "count"], sort=False):
            for measure in of:
                told = bootstrap(values[LOSSES[measure]].isel(set=part.index.to_numpy()).mean("set"))
                bounds = {name: float(told.sel(bound=name)) for name in ("estimate", "lower", "upper")}
                rows.append({
                    "mode": mode, "measure": measure, "ranking": ranking, "stage": stage, "order": order,
                    "count": int(count), **bounds, "sets": len(part),  # pyright: ignore[reportArgumentType]
                })  # fmt: skip
    return pd.DataFrame(rows, columns=list(LOSS_COLUMNS))


def usable(ds: xr.Dataset) -> list[str]:
    """The observational rankings that a dataset has what they need for."""
    found = [name for name in SCORES if all(need in ds for need in ("image_weight", *NEEDS.get(name, ())))]
    if "query" in ds.coords and "last_prompt" not in np.atleast_1d(ds["query"].values).astype(str):
        found = [name for name in found if name != "gaze"]
    return found


def head_table(traces: xr.Dataset, effects: xr.Dataset, model: str) -> pd.DataFrame:
    """One row per head of a model: model, layer, head, name, stage, effect (`EFFECT`, mean), and every ranking's score.

    Heads without an effect are left out; rankings that a model has no value for are NaN.
    """
    own = traces.sel(model=[model])
    effect = effects.sel(model=model)[EFFECT].mean("sample").transpose("layer", "head")
    scores = {name: rank(own, name).isel(model=0).transpose("layer", "head").values for name in usable(own)}
    stages = own["depth_stage"].isel(model=0).values.astype(str)
    rows = [
        {
            "model": model, "layer": layer, "head": head, "name": f"L{layer}H{head}", "stage": stages[layer],
            "effect": float(effect.values[layer, head]),
            **{name: float(values[layer, head]) for name, values in scores.items()},
        }
        for layer, head in np.argwhere(np.isfinite(effect.values)).tolist()
    ]  # fmt: skip
    columns = ["model", "layer", "head", "name", "stage", "effect", *scores]
    return pd.DataFrame(rows, columns=columns)


def head_tables(traces: xr.Dataset, effects: xr.Dataset | None) -> pd.DataFrame:
    """`head_table` of every model that has both, one below the other; empty where there is none."""
    parts = [head_table(traces, effects, name) for name in _both(traces, effects)] if effects is not None else []
    columns = ["model", "layer", "head", "name", "stage", "effect", *usable(traces)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def ranking_agreement(traces: xr.Dataset, effects: xr.Dataset | None) -> pd.DataFrame:
    """How well each observational ranking finds the heads that matter: one row per model and ranking.

    spearman, lower, upper   rank correlation over heads with the effects; interval over the pictures of the traces
    within                   the same after removing layer means, so that depth alone makes no agreement
    ceiling                  √(reliability of the ranking · reliability of the effects): the most that noise allows
    overlap, overlap_*       share of the `top` best heads that both name; chance: that of two unrelated rankings
    Empty where no model has effects. Rankings without a finite correlation are left out.
    """
    rows = []
    for name in _both(traces, effects):
        assert effects is not None
        own = effects.sel(model=[name])
        reliability = float(agreement(own, by=[EFFECT])["reliability"].isel(model=0, ranking=0))
        part = traces.sel(model=[name])
        extra = {EFFECT: own[EFFECT].mean("sample")}
        told = agreement(part, by=usable(part), extra=extra).isel(model=0)
        for ranking in usable(part):
            pair = {"ranking": ranking, "other": EFFECT}
            observed = float(told["spearman"].sel(pair))
            if not np.isfinite(observed):
                continue
            room = float(told["reliability"].sel(ranking=ranking)) * reliability
            bounds, shared = told["spearman_interval"].sel(pair), told["top_k_overlap_interval"].sel(pair)
            rows.append(
                {
                    "model": name, "ranking": ranking, "spearman": observed,
                    "lower": float(bounds.sel(bound="lower")), "upper": float(bounds.sel(bound="upper")),
                    "within": float(told["spearman_within_layer"].sel(pair)),
                    "ceiling": float(np.sqrt(np.clip(room, 0, 1))) if np.isfinite(room) else float("nan"),
                    "overlap": float(told["top_k_overlap"].sel(pair)),
                    "overlap_lower": float(shared.sel(bound="lower")),
                    "overlap_upper": float(shared.sel(bound="upper")),
                    "chance": float(told["chance"]), "top": int(told["k"]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def _both(traces: xr.Dataset, effects: xr.Dataset | None) -> list[str]:
    if effects is None or EFFECT not in effects:
        return []
    there = {str(name) for name in np.atleast_1d(effects["model"].values)}
    return [str(name) for name in np.atleast_1d(traces["model"].values) if str(name) in there]
