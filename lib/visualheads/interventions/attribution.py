"""What single heads do without removing each: a gradient screen, a linear model of many heads, outputs without picture.

The exact effect of every head alone comes from a sweep of `head_sets.single_heads` (`effects.head_effects`). The screen
costs one pass forth and back per sample and guesses the same effect for all heads; the linear attribution fits how much
each head adds when many are changed at once (after Kim et al., 2025), and says on held-out subsets how well that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visualheads.errors import ParameterError, got
from visualheads.heads.losses import LOSSES, losses
from visualheads.interventions.editor import Editor
from visualheads.interventions.engine import first_changed
from visualheads.interventions.modes import Intervention, check_possible
from visualheads.interventions.reference import as_reference
from visualheads.interventions.text_model import EMBEDS, check_alone, forward, language_model_inputs, new_cache
from visualheads.models.progress import Wish, progress_bar
from visualheads.tracing.settings import coordinates_of, settings_of

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
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
    positions: str = "",
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


def visual_difference(model: VisionLanguageModel, samples: Sequence[Sample], *, progress: Wish = "auto") -> xr.Dataset:
    """How far each head's output moves with the picture (vision-aware head divergence): the ranking `vhd`.

    Parameters
    ----------
    model
        Whose heads are looked at.
    samples
        Prompts, each run with its picture and with a white one of the same size.

    Returns
    -------
    xarray.Dataset
        vhd (model, layer, head, sample): Euclidean distance between the head's two outputs, as given to the output
        projection, at the last prompt token; in the unit of the model's activations, 0 for a head that the picture does
        not reach.

    References
    ----------
    arXiv 2412.13949, where the picture is left out; a white one keeps every position in its place (ours).
    """
    settings = settings_of(model, samples, "last_prompt", (), None, None, 1)
    layers, heads, _ = model.shape
    values = np.full((1, layers, heads, len(samples)), np.nan, np.float32)
    with torch.no_grad(), progress_bar(f"vhd {model.name}", len(samples), progress) as advance:
        for index, sample in enumerate(samples):
            blank = replace(sample, image=Image.new("RGB", sample.open().size, "white"))
            seen, unseen = (_last_outputs(model, one) for one in (sample, blank))
            values[0, ..., index] = (seen - unseen).norm(dim=-1).numpy()
            advance(1)
    ds = coordinates_of(model, samples, settings, single=True)
    ds = ds.assign(vhd=(("model", "layer", "head", "sample"), values))
    ds["vhd"].attrs.update(long_name="change of the head's output with the picture", units="activation")
    return ds


def linear_attribution(sweep: xr.Dataset, of: str = "margin", seed: int = 0) -> xr.Dataset:
    """Fit the loss with a set as a sum over its heads, from a sweep of `head_sets.random_subsets`.

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
    shares = np.stack([shares for shares, _ in found]).astype(np.float32)
    told = {name: ("model", [fit[name] for _, fit in found]) for name in ("r2", "r2_fit", "ridge", "sets")}
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


def _fitted(
    marks: NDArray[np.bool_], lost: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """One model's shares (layer, head, sample), and how well they fit; marks (set, layer, head), lost (set, sample)."""
    from sklearn.linear_model import Ridge, RidgeCV  # takes a second to import
    from sklearn.metrics import r2_score
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    here = marks.any(axis=(1, 2)) & np.isfinite(lost).any(axis=1)
    samples = np.isfinite(lost[here]).all(axis=0)
    chosen, values = marks[here].reshape(int(here.sum()), -1).astype(float), lost[here][:, samples]
    n = len(chosen)
    if n < FEWEST_SUBSETS or not samples.any():
        raise ParameterError(
            got("random subsets", n, f"at least {FEWEST_SUBSETS} with losses", "sweep head_sets.random_subsets")
        )
    order = np.random.default_rng(seed).permutation(n)
    chosen, values = chosen[order], values[order]
    mean = values.mean(axis=1)
    searched = RidgeCV([0.01 * n * penalty for penalty in RIDGES], cv=FOLDS, scoring="neg_mean_squared_error")
    guessed = cross_val_predict(searched, chosen, mean, cv=PredefinedSplit(np.arange(n) % FOLDS))
    searched.fit(chosen, mean)
    # linear in the losses: one solution for every sample at once
    every = Ridge(alpha=searched.alpha_).fit(chosen, values)
    shares = np.full((marks.shape[1] * marks.shape[2], lost.shape[1]), np.nan)
    shares[:, samples] = np.reshape(every.coef_, (values.shape[1], -1)).T
    shares[~chosen.any(axis=0)] = np.nan
    fits = {"r2": guessed, "r2_fit": searched.predict(chosen)}
    told = {name: r2_score(mean, fit) if np.ptp(mean) > 0 else np.nan for name, fit in fits.items()}
    told |= {"ridge": searched.alpha_ / (0.01 * n), "sets": n}
    return shares.reshape(*marks.shape[1:], -1), {name: float(value) for name, value in told.items()}


@dataclass
class _Outputs:
    """Keeps what each head gives to the output projection at the last position; changes nothing."""

    heads: int
    parts: list[Tensor] = field(default_factory=list)
    reads_attention: bool = False

    def touches(self, layer: int) -> bool:
        return layer >= 0

    def edited(self, layer: int, inputs: Tensor, call: Any, start: int) -> Tensor:
        del layer, call, start  # the protocol's
        self.parts.append(inputs[0, -1].float().cpu().view(self.heads, -1))
        return inputs


def _last_outputs(model: VisionLanguageModel, sample: Sample) -> Tensor:
    """Every head's output (layer, head, feature) at the last prompt token."""
    prompts = language_model_inputs(model, model.encode([sample]))
    outputs = _Outputs(model.shape.heads)
    forward(model, prompts.kwargs, new_cache(model), outputs)
    return torch.stack(outputs.parts)


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
            chosen = self.editor.chosen(layer, queries, call, start, inputs.device)
            change = torch.zeros(1, queries, heads, inputs.shape[2] // heads, device=inputs.device)
            before = inputs.view(change.shape)[chosen.row, chosen.first :, chosen.head].float()
            after = self.editor.intervention.operation.change(chosen)
            change[chosen.row, chosen.first :, chosen.head] = after.to(before.dtype) - before
        self.inputs.append(inputs)
        self.changes.append(change)
        return inputs


def _screened(
    model: VisionLanguageModel, sample: Sample, intervention: Intervention, right: list[int], wrong: list[int]
) -> NDArray[np.float32]:
    """(layer, head) guessed losses of margin of one sample."""
    layers, heads, _ = model.shape
    encoding = model.encode([sample])
    prompts = language_model_inputs(model, encoding)
    check_alone(model, encoding, prompts)
    first = first_changed(model, prompts, intervention.positions)
    marked = prompts.image.expand(layers, *prompts.image.shape)
    if intervention.operation.tokens == "sinks":
        with torch.no_grad():
            sinks = forward(model, prompts.kwargs, new_cache(model), sinks=True).sinks
        assert sinks is not None
        marked = sinks.to(prompts.image.device) & prompts.image
    everything = torch.ones(1, layers, heads, dtype=torch.bool)
    screen = _Screen(Editor(intervention, everything, prompts.image, marked, first))
    kwargs = {**prompts.kwargs, EMBEDS: prompts.kwargs[EMBEDS].detach().requires_grad_()}
    with torch.enable_grad():
        logits = forward(model, kwargs, new_cache(model), screen).logits[0].float()
        margin = logits[right].max() - logits[wrong].max()
        gradients = torch.autograd.grad(margin, screen.inputs)
    moved = [
        (gradient.view(change.shape).float() * change).sum((0, 1, 3)).cpu()
        for gradient, change in zip(gradients, screen.changes, strict=True)
    ]
    return -torch.stack(moved).numpy()
