"""What single heads do, guessed and fitted: a gradient screen, and a linear model of many heads changed together.

The exact effect of every head alone comes from a sweep of `protocol.single_heads` (`effects.head_effects`). The screen
costs one pass forth and back per sample and guesses the same effect for all heads; the linear attribution fits how much
each head adds when many are changed at once (after Kim et al., 2025), and says on held-out subsets how well that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from visualheads.errors import ParameterError, got
from visualheads.heads.effects import LOSSES, losses
from visualheads.interventions.engine.editor import Editor, Pairs
from visualheads.interventions.engine.text_model import EMBEDS, arrive, check_alone, forward, new_cache
from visualheads.interventions.modes import AFTER_IMAGE, ALL, Intervention, check_possible, image_sees_question
from visualheads.interventions.reference import as_reference
from visualheads.models.progress import Wish, progress_bar
from visualheads.tracing.settings import coordinates_of, settings_of

if TYPE_CHECKING:
    from visualheads.interventions.reference import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties tried, relative to the number of fitted subsets."""
FOLDS = 5
FEWEST_SUBSETS = 20


def gradient_screen(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    mode: str = "zero",
    positions: str = ALL,
    reference: Reference | Sequence[Sample] | None = None,
    *,
    bias: float | None = None,
    progress: Wish = "auto",
) -> xr.Dataset:
    """First-order guess of what the margin loses when each head alone is changed: `screen_margin`.

    Dims (model, layer, head, sample), in logits, positive where the head is of use; the counterpart of `effect_margin`
    from `effects.head_effects`: rank or compare both by name. The guess is −gradient · (changed − clean output), summed
    over positions (attribution patching); it misses what is not linear. Arguments as in `ablate`. NaN for samples
    without a margin. Raises what `ablate` raises.
    """
    settings = settings_of(model, samples, "first_generated", (), None, None, 1)
    intervention = Intervention(mode, positions, bias, as_reference(model, reference))
    check_possible(model, intervention)
    layers, heads, _ = model.shape
    values = np.full((1, layers, heads, len(samples)), np.nan, np.float32)
    with progress_bar(f"screen {model.name}", len(samples), progress) as advance:
        for index, sample in enumerate(samples):
            right, wrong = settings.margins.sides(sample)
            if right:
                values[0, ..., index] = _screened(model, sample, intervention, right, wrong)
            advance(1)
    coords = coordinates_of(model, samples, settings, single=True)
    coords = coords.assign_coords({name: ("model", [getattr(intervention, name)]) for name in ("mode", "positions")})
    ds = coords.assign(screen_margin=(("model", "layer", "head", "sample"), values))
    ds["screen_margin"].attrs.update(long_name="guessed loss of margin without the head", units="logits")
    return ds


def linear_attribution(sweep: xr.Dataset, of: str = "margin", seed: int = 0) -> xr.Dataset:
    """Fit the loss with a set as a sum over its heads, from a sweep of `protocol.random_subsets`.

    attribution   (model, layer, head, sample): each head's share, in the unit of the loss; its mean over samples is the
                  fit to the mean loss, and it is a ranking for `rank` and `agreement`. NaN for heads in no set
    r2            (model) share of the variance of the mean loss between sets that fits to other sets explain, ≤ 1:
                  every set is held out once, a fifth of them at a time; where it is poor, heads do not simply add up,
                  or noise is large, and the ranking says little
    r2_fit        (model) the same of the fit to all sets, which saw them
    ridge, sets   (model) the penalty, chosen by five-fold cross-validation within what is fitted; the number of sets

    `of` is "accuracy", "margin" or "kl". The order of the sets does not matter. Raises ParameterError for fewer than 20
    sets or an unknown measure. Source: Kim et al., 2025 (multi-head attribution); penalty and held-out sets are ours.
    """
    if of not in LOSSES:
        raise ParameterError(got("of", of, LOSSES))
    sweep = sweep.sortby("set")  # which are held out together must not depend on what a sweep was joined with
    lost = losses(sweep)[LOSSES[of]].transpose("model", "set", "sample").values.astype(float)
    marks = sweep["heads"].transpose("model", "set", "layer", "head").values.astype(bool)
    found = [_fitted(own, values, seed) for own, values in zip(marks, lost, strict=True)]
    bare = sweep.drop_vars([name for name in sweep.variables if "set" in sweep[name].dims])
    bare = bare.drop_vars(list(bare.data_vars))
    shares = np.stack([fit.shares for fit in found]).astype(np.float32)
    told = {name: ("model", [getattr(fit, name) for fit in found]) for name in ("r2", "r2_fit", "ridge", "sets")}
    ds = bare.assign({"attribution": (("model", "layer", "head", "sample"), shares), **told})
    ds["attribution"].attrs.update(long_name=f"share in the loss of {of}", units="logits" if of == "margin" else "1")
    return ds


def attributed(sweep: xr.Dataset | None, of: str = "margin") -> xr.Dataset | None:
    """`linear_attribution` from the random subsets in a sweep of many kinds of sets, of the models that have enough.

    None where none has. Samples are those on which all its subsets were tried.
    """
    if sweep is None or "order" not in sweep.coords:
        return None
    subsets = sweep.isel(set=np.flatnonzero(sweep["order"].values.astype(str) == "subset"))
    parts = []
    for name in subsets["model"].values:
        one = subsets.sel(model=[name])
        asked = one.isel(sample=np.flatnonzero(one["kl"].isel(model=0).notnull().any("set").values))
        if (asked["heads"].any(["layer", "head"]) & asked["kl"].notnull().any("sample")).sum() >= FEWEST_SUBSETS:
            parts.append(linear_attribution(asked, of))
    if not parts:
        return None
    found = xr.concat(
        list[xr.Dataset](parts), "model", data_vars="all", coords="minimal", compat="override", join="outer"
    )
    # what is known of each sample, also of those that only later models were asked
    labels = sweep.sel(sample=found["sample"].values).coords
    return found.assign_coords({name: labels[name] for name in labels if labels[name].dims == ("sample",)})


@dataclass(frozen=True)
class _Fit:
    shares: NDArray[np.float64]
    r2: float
    r2_fit: float
    ridge: float
    sets: int


def _fitted(marks: NDArray[np.bool_], lost: NDArray[np.float64], seed: int) -> _Fit:
    """One model: marks (set, layer, head), lost (set, sample)."""
    here = marks.any(axis=(1, 2)) & np.isfinite(lost).any(axis=1)
    samples = np.isfinite(lost[here]).all(axis=0)
    chosen, values = marks[here].reshape(int(here.sum()), -1).astype(float), lost[here][:, samples]
    if len(chosen) < FEWEST_SUBSETS or not samples.any():
        raise ParameterError(
            got(
                "random subsets", len(chosen), f"at least {FEWEST_SUBSETS} with losses", "sweep protocol.random_subsets"
            )
        )
    order = np.random.default_rng(seed).permutation(len(chosen))
    chosen, values = chosen[order], values[order]
    mean = values.mean(axis=1)
    guessed = np.empty(len(mean))
    for fold in range(FOLDS):
        out = np.arange(len(mean)) % FOLDS == fold
        shares, level = _ridge(chosen[~out], mean[~out, None], _penalty(chosen[~out], mean[~out]))
        guessed[out] = (chosen[out] @ shares + level)[:, 0]
    ridge = _penalty(chosen, mean)
    shares, level = _ridge(chosen, values, ridge)  # linear in the losses: one solution for every sample at once
    whole = np.full((marks.shape[1] * marks.shape[2], lost.shape[1]), np.nan)
    whole[:, samples] = shares
    whole[~chosen.any(axis=0)] = np.nan
    fit = _r2(mean, (chosen @ shares + level).mean(axis=1))
    return _Fit(whole.reshape(*marks.shape[1:], -1), _r2(mean, guessed), fit, ridge, len(chosen))


def _penalty(chosen: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
    """The penalty of RIDGES that predicts held-out sets best."""
    return min(RIDGES, key=lambda penalty: _validation_error(chosen, mean, penalty))


def _ridge(
    chosen: NDArray[np.float64], values: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (head, column) and intercept (column) of columns of values on membership."""
    middle, level = chosen.mean(axis=0), values.mean(axis=0)
    centred = chosen - middle
    gram = centred.T @ centred + penalty * len(chosen) * 0.01 * np.eye(chosen.shape[1])
    shares = np.linalg.solve(gram, centred.T @ (values - level))
    return shares, level - middle @ shares


def _validation_error(chosen: NDArray[np.float64], mean: NDArray[np.float64], penalty: float) -> float:
    error = 0.0
    for fold in range(FOLDS):
        out = np.arange(len(chosen)) % FOLDS == fold
        shares, level = _ridge(chosen[~out], mean[~out, None], penalty)
        error += float(((chosen[out] @ shares + level)[:, 0] - mean[out]).__pow__(2).sum())
    return error


def _r2(values: NDArray[np.float64], guessed: NDArray[np.float64]) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - guessed) ** 2).sum()) / spread if spread > 0 else float("nan")


@dataclass
class _Screen:
    """Keeps what the output projections are given, and by how much each head's part would change; changes nothing."""

    editor: Editor
    inputs: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    @property
    def reads_attention(self) -> bool:
        return self.editor.reads_attention

    def touches(self, layer: int) -> bool:
        return self.editor.touches(layer)

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        with torch.no_grad():
            _, queries, _ = inputs.shape
            heads = self.editor.heads.shape[2]
            row, head = self.editor.heads[:, layer].nonzero(as_tuple=True)
            pairs = Pairs(row.to(inputs.device), head.to(inputs.device), self.editor.first)
            change = torch.zeros(1, queries, heads, inputs.shape[2] // heads, device=inputs.device)
            before = inputs.view(change.shape)[pairs.row, pairs.first :, pairs.head].float()
            after = self.editor.outputs(layer, pairs, call, start, queries)
            change[pairs.row, pairs.first :, pairs.head] = after.to(before.dtype) - before
        self.inputs.append(inputs)
        self.changes.append(change)
        return inputs


def _screened(
    model: VisionLanguageModel, sample: Sample, intervention: Intervention, right: list[int], wrong: list[int]
) -> NDArray[np.float32]:
    """(layer, head) guessed losses of margin of one sample."""
    layers, heads, _ = model.shape
    encoding = model.encode([sample])
    door = arrive(model, encoding)
    check_alone(model, encoding, door)
    after = intervention.positions == AFTER_IMAGE
    if after and model.adapter.bidirectional and door.image_sees_question():
        raise image_sees_question(model)
    sinks = None
    if intervention.operation.sinks:
        with torch.no_grad():
            sinks = forward(model, door.kwargs, new_cache(model), sinks=True).sinks
    everything = torch.ones(1, layers, heads, dtype=torch.bool)
    screen = _Screen(Editor(intervention, everything, door.image, sinks=sinks, first=door.after_image if after else 0))
    kwargs = {**door.kwargs, EMBEDS: door.kwargs[EMBEDS].detach().requires_grad_()}
    with torch.enable_grad():
        logits = forward(model, kwargs, new_cache(model), screen).logits[0].float()
        margin = logits[right].max() - logits[wrong].max()
        gradients = torch.autograd.grad(margin, screen.inputs)
    moved = [
        (gradient.view(change.shape).float() * change).sum((0, 1, 3)).cpu()
        for gradient, change in zip(gradients, screen.changes, strict=True)
    ]
    return -torch.stack(moved).numpy()
