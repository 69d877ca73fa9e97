"""Which head sets a causal test needs: top and bottom by rankings, matched random controls, single heads.

A random control has as many heads in every layer as the top set it controls: the layer's other heads, and some of the
top set's own only where too few others are left. In layers of few heads, draws of several seeds can be alike.
Pure xarray. Every function returns marks, bool (set, layer, head), with coordinates along `set` that say what each set
is: `ranking`, `stage`, `order` ("top", "bottom", "random", "single"), `count` (heads) and `seed` (−1: none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Bool
from numpy.typing import NDArray

from visualheads.errors import HeadError, ParameterError, got
from visualheads.heads.bootstrap import half_weights
from visualheads.heads.ranking import FULL_SIZE, estimates
from visualheads.heads.selection import depth_stage, label, select
from visualheads.store.schema import text
from visualheads.store.variables import STAGES

COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of heads in the causal tests on models of FULL heads; 0 is the clean run, which every sweep holds."""
FULL = 1024
"""Heads of the models whose shares smaller models take over (32 × 32); large ones take COUNTS as they are."""
SEEDS = 5
"""Random controls per set, at least."""

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class HeadSet:
    """One set of heads, and what it is."""

    heads: Bool[NDArray[np.bool_], "layer head"]
    ranking: str = ""
    stage: str = "all"
    order: str = ""
    seed: int = -1

    @property
    def count(self) -> int:
        """Number of heads."""
        return int(self.heads.sum())

    @property
    def name(self) -> str:
        """A label that tells it from every other set of a protocol."""
        parts = [self.ranking, self.stage, self.order, str(self.count)]
        return " ".join([part for part in parts if part] + ([f"#{self.seed}"] if self.seed >= 0 else []))


def scaled_counts(n_heads: int, counts: Sequence[int] = COUNTS) -> list[int]:
    """`counts`, in models below FULL_SIZE heads the same shares of `n_heads`: ascending, at least 1, each once."""
    if n_heads < 1:
        raise ParameterError(got("number of heads", n_heads, "1 or more"))
    if n_heads >= FULL_SIZE:
        return sorted({min(n_heads, count) for count in counts})
    return sorted({min(n_heads, max(1, round(count * n_heads / FULL))) for count in counts})


def protocol_sets(
    rankings: Mapping[str, xr.DataArray],
    counts: Sequence[int] | None = None,
    stages: Sequence[str] = (*STAGES, "all"),
    seeds: int = SEEDS,
    bottom: bool = True,
) -> xr.DataArray:
    """For every ranking, stage and count: the top heads, the bottom ones, and random controls matched per layer.

    rankings   name → scores (layer, head), or (model, layer, head) of a single model; NaN heads are never chosen
    counts     numbers of heads; default `scaled_counts`; those above the heads of a stage are left out
    seeds      random controls per top set; each has as many heads in every layer as the top set it controls, drawn
               from the layer's other heads as far as there are enough (`matched_random`)
    Raises HeadError where nothing can be selected, ParameterError for unknown stages.
    """
    made: list[HeadSet] = []
    for name, scores in rankings.items():
        flat = one_model(scores)
        for stage in stages:
            if stage not in (*STAGES, "all"):
                raise ParameterError(got("stage", stage, [*STAGES, "all"]))
            finite = np.isfinite(flat.values)
            there = finite if stage == "all" else finite[np.array(depth_stage(len(finite))) == stage]
            for count in scaled_counts(int(finite.sum())) if counts is None else counts:
                if count > there.sum():
                    continue
                top = _selected(flat, count, stage, largest=True)
                made.append(HeadSet(top, name, stage, "top"))
                if bottom:
                    made.append(HeadSet(_selected(flat, count, stage, largest=False), name, stage, "bottom"))
                made += [
                    HeadSet(matched_random(top, finite, seed), name, stage, "random", seed) for seed in range(seeds)
                ]
    return as_array(made)


def matched_random(
    heads: Bool[NDArray[np.bool_], "layer head"], allowed: Bool[NDArray[np.bool_], "layer head"] | None = None,
    seed: int = 0,
) -> Bool[NDArray[np.bool_], "layer head"]:  # fmt: skip
    """As many random heads in every layer as in `heads`: all from the layer's other heads while there are enough.

    Where there are too few, all others are drawn, and the rest are random ones of `heads` itself. `allowed`: which
    others may be drawn (default all).
    """
    rng = np.random.default_rng(seed)
    allowed = np.ones_like(heads) if allowed is None else allowed
    drawn = np.zeros_like(heads)
    for layer, count in enumerate(heads.sum(axis=1)):
        others = rng.permutation(np.flatnonzero(allowed[layer] & ~heads[layer]))
        own = rng.permutation(np.flatnonzero(heads[layer]))
        drawn[layer, np.concatenate([others, own])[:count]] = True
    return drawn


def single_heads(layers: int, heads: int) -> xr.DataArray:
    """Every head alone."""
    alone = np.eye(layers * heads, dtype=bool).reshape(-1, layers, heads)
    return as_array([HeadSet(one, label(*divmod(place, heads)), "", "single") for place, one in enumerate(alone)])


def as_array(sets: Sequence[HeadSet]) -> xr.DataArray:
    """Sets as marks (set, layer, head) with their descriptions along `set`. Raises HeadError for none."""
    if not sets:
        raise HeadError("sets: got none; give at least one ranking and a count that its heads allow.")
    names = [one.name for one in sets]
    if len(set(names)) < len(names):
        raise ParameterError("names of sets are not unique; give rankings different names.")

    return xr.DataArray(
        np.stack([one.heads for one in sets]),
        dims=("set", "layer", "head"),
        coords={
            "set": text(names),
            **{name: ("set", text([getattr(one, name) for one in sets])) for name in ("ranking", "stage", "order")},
            **{name: ("set", [getattr(one, name) for one in sets]) for name in ("count", "seed")},
        },
        name="heads",
    )


def together(parts: Sequence[xr.DataArray]) -> xr.DataArray:
    """Head sets (set, layer, head) of one model one after the other."""
    return xr.concat(parts, "set", coords="different", compat="equals")  # pyright: ignore[reportReturnType]


def split_samples(samples: Sequence[Item], seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Two halves of a list of samples by picture: select heads on one, judge them on the other."""
    pictures = [getattr(sample, "image_id", "") or getattr(sample, "id", "") for sample in samples]
    unique = sorted(set(pictures))
    first = {name for name, chosen in zip(unique, half_weights(len(unique), 1, seed)[0], strict=True) if chosen}
    return (
        [sample for sample, picture in zip(samples, pictures, strict=True) if picture in first],
        [sample for sample, picture in zip(samples, pictures, strict=True) if picture not in first],
    )


def one_model(scores: xr.DataArray) -> xr.DataArray:
    """The scores (layer, head) of a ranking of one model, without its interval. Raises ParameterError for several."""
    scores = estimates(scores)
    if "model" in scores.dims:
        if scores.sizes["model"] != 1:
            raise ParameterError(got("models in a ranking", scores.sizes["model"], "1", "make sets model by model"))
        scores = scores.squeeze("model", drop=True)
    return scores.transpose("layer", "head")


def _selected(scores: xr.DataArray, count: int, stage: str, largest: bool) -> NDArray[np.bool_]:
    bare = scores.drop_vars([name for name in scores.coords if name not in ("layer", "head")])
    chosen = select(bare, k=int(count), largest=largest, stage=stage)  # pyright: ignore[reportArgumentType]
    return chosen.values[0].astype(bool)
