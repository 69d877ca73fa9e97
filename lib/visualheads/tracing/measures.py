"""From attention rows to measures: what one head does with the picture in one sample.

Pure torch. Every definition is that of the method chapter, whose symbols are used here: A the attention row, I the
image tokens, J the patch tokens among them, R the patches that meet the asked box, N the number of visible keys,
and p = A / Σ_J A on J. Statistics are float32 whatever the rows' dtype. A mean over samples is the mean of these
per-sample values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from visualheads.errors import ParameterError, got
from visualheads.store.variables import HEAD_VARIABLES

DEFINITIONS_VERSION = "1"
"""Part of a store's identity: raised whenever a definition below changes its numbers."""

MEASURES = tuple(variable.name for variable in HEAD_VARIABLES)

LEAST_MASS = 1e-6
"""Below this weight on the patches (or on the image) shares and entropies of it are rounding noise, and NaN."""

LEAST_SIDE = 1e-6
"""w and 1 − w are kept above this before the logit, so that one saturated sample cannot make a head's mean infinite."""


EIGHT_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)
"""Neighbours within one map of a stack, none between maps: the whole stack is labelled in one call."""
FLAT_MAP = 1e-6
"""A map whose excess over its mean is below this share of its mass is constant up to rounding."""


@dataclass(frozen=True)
class TokenSets:
    """Which keys of each prompt are what; one row per sample of a (left- or right-padded) batch.

    `image` is I, `patch` is J ⊆ I, `region` is R ⊆ J (all False: no box asked), `visible` the keys the query can
    see (never padding; with a sliding window only those inside it). `sink` marks sink tokens in this layer, None
    where the model has no sink dimensions. `row` and `column` place patch tokens on the whole-picture grid; −1 for
    every other key (text, newline, patches of other tiles). Image tokens that are not visible count in no set.
    Queries that see different keys are measured in separate calls.
    """

    image: Bool[Tensor, "batch key"]
    patch: Bool[Tensor, "batch key"]
    region: Bool[Tensor, "batch key"]
    visible: Bool[Tensor, "batch key"]
    row: Int[Tensor, "batch key"] | None = None
    column: Int[Tensor, "batch key"] | None = None
    sink: Bool[Tensor, "batch key"] | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        for name in ("image", "patch", "region", "visible", "sink", "row", "column"):
            told, kind = getattr(self, name), "an integer" if name in ("row", "column") else "a bool"
            if told is not None and (told.shape != shape or (kind == "a bool" and told.dtype != torch.bool)):
                found = f"{told.dtype} {tuple(told.shape)}"
                raise ParameterError(got(f"TokenSets.{name}", found, f"{kind} tensor of shape {tuple(shape)}"))


def measure(
    rows: Float[Tensor, "batch head query key"], sets: TokenSets, grid: tuple[int, int] | None = None
) -> dict[str, Float[Tensor, "batch head query"]]:
    """Return every measure for every row, as float32 tensors of shape (batch, head, query).

    The formulas stand in the book's chapter *Method*, section “Measures”.

    `rows` are post-softmax attention rows (sum 1 over the visible keys). `grid` is the shape (rows, columns) of the
    whole-picture grid – the largest in the batch where pictures differ – and is needed for `spatial_entropy` only:
    without it, or without `sets.row` and `sets.column`, that measure is NaN.

    ======================  ===================  ==========  ===========================================================
    measure                 range                source      NaN where
    ======================  ===================  ==========  ===========================================================
    image_weight            [0, 1]               code        never
    region_weight           [0, 1]               code        R is empty (no box, or the box was cropped away)
    concentration           [0, 1]               ours        Σ_J A < 1e-6, or fewer than two patches
    focus_nats              [0, ln |J|]          ours        Σ_J A < 1e-6
    effective_patches       [1, |J|]             ours        Σ_J A < 1e-6
    image_log_odds          real                 ours        no image token visible, or nothing else visible
    image_log_odds_no_sink  real                 ours        likewise without the first key and sinks; or < 1e-6
    top_share               [1/|J|, 1]           ours        Σ_J A < 1e-6
    region_lift             [0, |J|/|R|]         ours        R is empty, or Σ_J A < 1e-6
    top_patch_hit           0 or 1               literature  R is empty, or Σ_J A < 1e-6; ties go to the first patch
    newline_weight          [0, 1]               ours        never (0 where there are no newline or separator tokens)
    sink_share              [0, 1]               literature  no sink dimensions (`sink` is None), or w < 1e-6
    concentration_no_sink   [0, 1]               ours        as concentration, on J without sinks; or `sink` is None
    spatial_entropy         [0, ln(|J|/4 + …)]   literature  no grid, Σ A < 1e-6 on it, or a constant map on it
    ======================  ===================  ==========  ===========================================================

    Raises ParameterError where shapes disagree.
    """
    if rows.ndim != 4 or rows.shape[0] != sets.image.shape[0] or rows.shape[3] != sets.image.shape[1]:
        allowed = f"(batch, head, query, key) with batch, key = {tuple(sets.image.shape)}, as in the token sets"
        raise ParameterError(got("attention rows", tuple(rows.shape), allowed))
    batch, head, query, _ = rows.shape
    flat = rows.to(torch.float32).flatten(1, 2)

    image = sets.image & sets.visible
    patch = sets.patch & image
    region = sets.region & patch
    no_sink = sets.visible & ~_first(sets.visible)
    sink = torch.zeros_like(image)
    if sets.sink is not None:
        sink, no_sink = image & sets.sink, no_sink & ~sets.sink
    kinds = [image, patch, region, image & ~patch, sink, patch & ~sink, sets.visible & ~image]
    kinds += [image & no_sink, no_sink & ~image]
    masks = torch.stack(kinds, dim=-1).to(torch.float32)
    counts = masks.sum(dim=1)[:, None, :]
    sums = torch.bmm(flat, masks)
    w, on_patches, r, newline, on_sinks, off_sinks, other, free, free_other = sums.unbind(-1)
    n_image, n_patch, n_region, _, _, n_off_sinks, n_other, n_free, n_free_other = counts.unbind(-1)

    # Σ A ln A over two patch sets gives both entropies without ever forming p.
    a_ln_a = torch.bmm(torch.special.xlogy(flat, flat), masks[..., [1, 5]])
    entropy = _entropy(on_patches, a_ln_a[..., 0])
    entropy_no_sink = _entropy(off_sinks, a_ln_a[..., 1])
    uniform_entropy = torch.log(n_patch)

    strongest, top_patch = flat.masked_fill(~patch[:, None, :], -1.0).max(dim=-1)
    hit = region.gather(1, top_patch).to(torch.float32)
    asked = n_region > 0
    enough = on_patches >= LEAST_MASS

    measures = {
        "image_weight": w.clamp(0, 1),
        "region_weight": _where(asked, r.clamp(0, 1)),
        "concentration": _where(n_patch > 1, (1 - entropy / uniform_entropy).clamp(0, 1)),
        "focus_nats": (uniform_entropy - entropy).clamp_min(0),
        "effective_patches": torch.minimum(entropy.exp().clamp_min(1), n_patch),
        "image_log_odds": image_log_odds(w, other, n_image, n_image + n_other),
        "image_log_odds_no_sink": _where(
            free + free_other >= LEAST_MASS, image_log_odds(free, free_other, n_free, n_free + n_free_other)
        ),
        "top_share": _where(enough, (strongest / on_patches).clamp(0, 1)),
        "region_lift": _where(asked & enough, (r / on_patches) * (n_patch / n_region)),
        "top_patch_hit": _where(asked & enough, hit),
        "newline_weight": newline.clamp(0, 1),
        "sink_share": _where(w >= LEAST_MASS, (on_sinks / w).clamp(0, 1)),
        "concentration_no_sink": _where(n_off_sinks > 1, (1 - entropy_no_sink / torch.log(n_off_sinks)).clamp(0, 1)),
    }
    if sets.sink is None:
        for name in ("sink_share", "concentration_no_sink"):
            measures[name] = torch.full_like(w, float("nan"))
    measures = {name: values.reshape(batch, head, query) for name, values in measures.items()}
    measures["spatial_entropy"] = _spatial_entropy(rows, sets, patch, grid)
    return {name: measures[name] for name in MEASURES}


def image_log_odds(
    image_weight: Float[Tensor, "*any"], other_weight: Float[Tensor, "*any"], n_image: Tensor, n_visible: Tensor
) -> Float[Tensor, "*any"]:
    """Return logit(w) − logit(|I|/N): 0 for a head that looks everywhere alike, in nats (ours).

    `other_weight` is 1 − w, summed over the other visible keys: near w = 1 the difference would be rounding noise.
    Both are kept above 1e-6. NaN where no image token is visible, or nothing else is.
    """
    share = n_image.to(torch.float32) / n_visible.to(torch.float32)
    logit = torch.log(image_weight.clamp_min(LEAST_SIDE)) - torch.log(other_weight.clamp_min(LEAST_SIDE))
    return _where((share > 0) & (share < 1), logit - torch.logit(share))


def whole_picture_maps(
    rows: Float[Tensor, "batch head query key"], sets: TokenSets, grid: tuple[int, int]
) -> Float[Tensor, "batch head query row column"]:
    """Return the rows laid out on the whole-picture grid (tile 0), NaN where a sample has no visible patch there.

    `grid` is (rows, columns). Raises ParameterError where the sets have no grid positions or one lies outside `grid`.
    """
    if sets.row is None or sets.column is None:
        raise ParameterError(got("TokenSets.row, TokenSets.column", None, "grid positions of the patch tokens"))
    n_rows, n_columns = grid
    placed = sets.patch & sets.visible & (sets.row >= 0) & (sets.column >= 0)
    if bool(((sets.row >= n_rows) | (sets.column >= n_columns))[placed].any()):
        raise ParameterError(got("grid", grid, "a shape that holds every patch position of the token sets"))
    batch, head, query, _ = rows.shape
    # Keys off the grid go to one cell beyond it, which is cut away: one scatter, no loop over samples.
    cell = torch.where(placed, sets.row * n_columns + sets.column, n_rows * n_columns)
    maps = torch.full((batch, head, query, n_rows * n_columns + 1), float("nan"), device=rows.device)
    maps.scatter_(3, cell[:, None, None, :].expand(batch, head, query, -1), rows.to(torch.float32))
    return maps[..., :-1].unflatten(3, (n_rows, n_columns))


def spatial_entropy(maps: Float[Tensor, "*any row column"]) -> Float[Tensor, "*any"]:
    """Return the entropy, in nats, over the 8-connected components of ReLU(A − mean A) (Kang et al., CVPR 2025).

    0 where all excess attention lies in one patch of neighbours; high where it is scattered. A component's
    probability is its share of the excess Σ ReLU(A − mean A); the mean is over the map's cells that hold a token
    (NaN cells hold none). On tiled models the map is the whole picture's (ours). NaN where a map holds no attention
    (Σ A < 1e-6) or is constant. Computed on the CPU.
    """
    entropy = component_entropy(maps.detach().to("cpu", torch.float32).numpy(), least_mass=LEAST_MASS)
    return torch.from_numpy(entropy).to(maps.device)


def _first(visible: Bool[Tensor, "batch key"]) -> Bool[Tensor, "batch key"]:
    """The first visible key of every sample, which draws attention in many language models whatever it says."""
    return visible & (visible.cumsum(dim=-1) == 1)


def _spatial_entropy(
    rows: Float[Tensor, "batch head query key"],
    sets: TokenSets,
    patch: Bool[Tensor, "batch key"],
    grid: tuple[int, int] | None,
) -> Float[Tensor, "batch head query"]:
    if grid is None or sets.row is None or sets.column is None or not bool(patch.any()):
        return torch.full(rows.shape[:3], float("nan"), device=rows.device)
    return spatial_entropy(whole_picture_maps(rows, sets, grid))


def _entropy(mass: Tensor, a_ln_a: Tensor) -> Tensor:
    """Entropy of A / mass from Σ A and Σ A ln A: ln Σ A − Σ A ln A / Σ A. NaN below LEAST_MASS."""
    return _where(mass >= LEAST_MASS, (torch.log(mass) - a_ln_a / mass).clamp_min(0))


def _where(condition: Tensor, values: Tensor) -> Tensor:
    return torch.where(condition, values, torch.full_like(values, float("nan")))


def component_entropy(maps: NDArray[np.float32], least_mass: float) -> NDArray[np.float32]:
    """Return, for maps of shape (…, row, column), the entropy in nats over 8-connected components of ReLU(A − mean A).

    Cells that are NaN hold no token: they count neither for the mean nor for a component. NaN where a map's mass is
    below `least_mass` or where the map is constant.
    """
    n_rows, n_columns = maps.shape[-2:]
    stack = maps.reshape(-1, n_rows, n_columns).astype(np.float64)
    n_maps = len(stack)
    there = np.isfinite(stack)
    stack = np.where(there, stack, 0.0)
    mass = stack.sum(axis=(1, 2))
    cells = np.maximum(there.sum(axis=(1, 2)), 1)
    excess = np.where(there, np.maximum(stack - (mass / cells)[:, None, None], 0.0), 0.0)
    # Rounding leaves an excess of some 1e-9 on constant maps; scattered as it is, it would pass for high entropy.
    excess[excess.sum(axis=(1, 2)) <= FLAT_MAP * mass] = 0.0
    total = excess.sum(axis=(1, 2))

    labels, n_components = ndimage.label(excess > 0, structure=EIGHT_NEIGHBOURS)  # pyright: ignore[reportGeneralTypeIssues]
    flat_labels = labels.ravel()
    component_mass = np.bincount(flat_labels, weights=excess.ravel(), minlength=n_components + 1)[1:]
    owner = np.zeros(n_components + 1, dtype=np.int64)
    owner[flat_labels.astype(np.int64)] = np.repeat(np.arange(n_maps), n_rows * n_columns)
    owner = owner[1:]
    share = component_mass / total[owner]
    terms = np.where(share > 0, -share * np.log(np.where(share > 0, share, 1.0)), 0.0)
    entropy = np.bincount(owner, weights=terms, minlength=n_maps)
    # bincount of nothing forgets its weights' type, so NaN is put in by where.
    entropy = np.where((total > 0) & (mass >= least_mass), np.maximum(entropy, 0.0), np.nan)
    return entropy.astype(np.float32).reshape(maps.shape[:-2])


def resampled(maps: Float[Tensor, "*lead row column"], grid: tuple[int, int]) -> Float[Tensor, "*lead row2 column2"]:
    """Maps on another grid, their mass kept."""
    rows, columns = (_shares(old, new) for old, new in zip(maps.shape[-2:], grid, strict=True))
    return rows @ maps @ columns.mT


def _shares(old: int, new: int) -> Float[Tensor, "new old"]:
    """Share of each old cell that falls into each new one, along an axis; columns sum to 1."""
    edges_old = torch.linspace(0, 1, old + 1)
    edges_new = torch.linspace(0, 1, new + 1)
    low = torch.maximum(edges_old[None, :-1], edges_new[:-1, None])
    high = torch.minimum(edges_old[None, 1:], edges_new[1:, None])
    return (high - low).clamp_min(0) * old
