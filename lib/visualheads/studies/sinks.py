"""The experiments of the page on sinks, on one model: what sink tokens hold, and what they are for.

A sink token is told by massive activations where the model has sink dimensions (Kang et al., ICLR 2025). Models that
have none can still have tokens that draw attention without showing anything. There the nearest thing is looked at: in
every picture the background patches that draw most attention, 5 % of all patches (ours). They are chosen by the mean
over all heads, in the first generated token's row and from the background alone, and judged in the last prompt token's
row; measures are kept of both. They bound nothing: a patch that all heads favour is left out where it meets an object,
and so is one that only a few heads favour. Which of the two a result is about stands in its `definition`.

`visualheads.studies.full_protocol` runs the experiments large, a build of the book small (`REDUCED`),
unless a large run is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.effects import MAIN_TASK
from visualheads.analysis.sinks import BY_ATTENTION, MASSIVE
from visualheads.analysis.steering import targets
from visualheads.heads.ranking import rank
from visualheads.interventions import head_sets
from visualheads.interventions.modes import AFTER_IMAGE
from visualheads.interventions.sweeps import samples_only, sweep
from visualheads.models.attention_call import OUTLIER_RATIO, find_sink_dimensions, sink_threshold, sink_tokens
from visualheads.store.schema import text
from visualheads.studies import ablation
from visualheads.tasks import task as benchmark
from visualheads.tracing.measures import TokenSets, measure
from visualheads.tracing.trace import trace

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

SHARE = 0.05
"""Share of the patches that are looked at in models without sink dimensions."""
FINDING, JUDGING = "first_generated", "last_prompt"
"""Rows in which attention sinks are found and judged: not the same numbers. Measures are kept of both."""
SEARCHED = 16
"""Samples on whose pictures sink dimensions are sought."""
CHUNK = 8
"""Samples whose whole attention rows are in memory at a time."""
EXAMPLES = 3
DIMENSIONS = 5
"""Strongest dimensions of the residual stream whose activations are kept, layer by layer."""
PARTS = ("image tokens", "text tokens")


def find(model: VisionLanguageModel, samples: Sequence[Sample], progress: Any = False, seed: int = 0) -> xr.Dataset:
    """Sink tokens of each sample, and what the heads do with them.

    drawn                   (model, sample, token) attention that an image token draws, averaged over all heads, as a
                            multiple of an even share; NaN beyond the sample's tokens
    sink, background        (model, sample, token) bool: which are sinks; which are patches that meet no labelled object
    sink_share, concentration, concentration_no_sink   (model, query, layer, head, sample) as in `measures.measure`
    concentration_random    … without as many random background patches that are no sinks instead
    outlier, ratio          (model, part, state, outlier_dimension) highest |RMSNorm(h)| as a multiple of τ, and highest
                            multiple of the token's median magnitude in units of 20; each over all tokens by itself,
                            so that the two may be of different tokens
    both                    … highest that one and the same token reaches of both: the lesser of its two
    drawn_map, sink_map     (model, grid_row, grid_column) means over the pictures; example_* of the first pictures
    `definition` and `sink_dimensions` (model) tell what counted as a sink; dimensions are sought on these prompts, with
    their pictures, besides on a text.
    """
    starts = range(0, len(samples), CHUNK)
    dimensions = sought(model, samples[:SEARCHED])
    chunks = [_chunk(model, samples[start : start + CHUNK], dimensions, progress, (seed, start)) for start in starts]
    width = max(ds.sizes["token"] for ds, _ in chunks)
    settings: Any = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
    padded = [ds.pad(token=(0, width - ds.sizes["token"]), constant_values=_fills(ds)) for ds, _ in chunks]
    whole: xr.Dataset = xr.concat(padded, "sample", **settings)
    states = np.max([found for _, found in chunks], axis=0)
    definition = MASSIVE if dimensions else BY_ATTENTION
    return (
        whole.assign(_activations(states))
        .assign(_maps(model, samples, whole))
        .assign_coords(
            part=text(PARTS),
            definition=("model", text([definition])),
            sink_dimensions=("model", text([", ".join(map(str, dimensions))])),
            outlier_dimension=_strongest(states),
        )
    )


def others(sinks: NDArray[np.bool_], allowed: NDArray[np.bool_], draw: int, picture: int) -> NDArray[np.intp]:
    """As many random tokens as there are sinks, from those allowed that are none, as far as there are enough.

    Every draw on every picture (its place among the questions) has random numbers of its own.
    """
    pool = np.flatnonzero(allowed & ~sinks)
    return np.sort(np.random.default_rng((draw, picture)).permutation(pool)[: int(sinks.sum())])


def sought(model: VisionLanguageModel, samples: Sequence[Sample]) -> tuple[int, ...]:
    """The model's sink dimensions, and those that its image tokens show on these prompts; strongest first."""
    hidden = [_hidden(model, sample) for sample in samples]
    shown = [states[len(states) // 2 :, torch.from_numpy(image)].flatten(0, 1) for states, image in hidden]
    return tuple(dict.fromkeys([*model.sink_dimensions, *find_sink_dimensions(torch.cat(shown))]))


def _chunk(
    model: VisionLanguageModel, samples: Sequence[Sample], dimensions: Sequence[int], progress: Any,
    draw: tuple[int, int],
) -> tuple[xr.Dataset, NDArray[np.float32]]:  # fmt: skip
    """Some samples: their dataset, and the highest activations (quantity, part, state, dimension). `draw`: the seed
    of the random tokens, and the first sample's place among all."""
    seed, first = draw
    rows = (FINDING, JUDGING)
    ds = trace(model, samples, query=rows, keep=("attention",), progress=progress)
    attention = ds["attention"].isel(model=0).transpose("sample", "query", "layer", "head", "key").values
    image = ds["is_image"].isel(model=0).values.astype(bool)
    layers, heads, _ = model.shape
    width = int(image.sum(axis=1).max())
    tokens = {name: np.zeros((1, len(samples), width), bool) for name in ("sink", "background", "patch")}
    drawn = np.full((1, len(samples), width), np.nan, np.float32)
    names = ("sink_share", "concentration", "concentration_no_sink", "concentration_random")
    told = {name: np.full((1, len(rows), layers, heads, len(samples)), np.nan, np.float32) for name in names}
    states = []
    for index, sample in enumerate(samples):
        places = np.flatnonzero(image[index])
        there = slice(0, len(places))
        token_map = model.token_map(sample.open().size)
        patch = token_map.is_patch
        background = patch & ~np.any([token_map.in_box(box) for box in _objects(sample)] or [~patch], axis=0)
        highest, massive = _residual(model, sample, dimensions)
        states.append(highest)
        shares = _drawn(attention[index, 0][..., places], patch)
        sinks = massive if dimensions else _most_drawing(shares, background, patch)
        drawn[0, index, there] = shares
        for name, marks in (("sink", sinks), ("background", background), ("patch", patch)):
            tokens[name][0, index, there] = marks
        instead = np.zeros_like(sinks)
        instead[others(sinks, background, seed, first + index)] = True
        for row in range(len(rows)):
            for name, values in _measured(attention[index, row], places, patch, sinks, instead).items():
                told[name][0, row, :, :, index] = values
    token_dims, head_dims = ("model", "sample", "token"), ("model", "query", "layer", "head", "sample")
    kept = {name: ds[name] for name in ("query", "layer", "head", "depth_stage")}
    bare = samples_only(ds).assign_coords(kept)
    return bare.assign(
        {
            "drawn": (token_dims, drawn),
            **{name: (token_dims, values) for name, values in tokens.items()},
            **{name: (head_dims, values) for name, values in told.items()},
        }
    ), np.max(states, axis=0)


def _objects(sample: Sample) -> list[Any]:
    """All labelled boxes, else what the sample asks about."""
    return [box for found in (sample.boxes or {}).values() for box in found] or targets(sample)


def _drawn(rows: NDArray[np.floating], patch: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over heads of each token's share of the attention on patches, times the number of patches; 0 elsewhere."""
    own = np.where(patch, rows, 0.0)
    total = own.sum(axis=-1, keepdims=True)
    shares = np.divide(own, total, out=np.zeros_like(own), where=total > 0)
    return (shares.mean(axis=(0, 1)) * patch.sum()).astype(np.float32)


def _most_drawing(
    shares: NDArray[np.floating], background: NDArray[np.bool_], patch: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    count = max(1, round(SHARE * int(patch.sum())))
    order = np.argsort(-np.where(background, shares, -np.inf), kind="stable")[:count]
    marks = np.zeros_like(background)
    marks[order] = True
    return marks & background


def _measured(
    rows: NDArray[np.floating], places: NDArray[np.intp], patch: NDArray[np.bool_], sinks: NDArray[np.bool_],
    others: NDArray[np.bool_],
) -> dict[str, NDArray[np.floating]]:  # fmt: skip
    """Measures (layer, head) of one sample's rows (layer, head, key) with these sinks, and without `others` instead."""
    seen = np.isfinite(rows[0, 0])
    attention = torch.from_numpy(rows[..., seen]).unsqueeze(2)
    shape = (rows.shape[0], int(seen.sum()))

    def marks(chosen: NDArray[np.bool_]) -> torch.Tensor:
        made = torch.zeros(shape, dtype=torch.bool)
        made[:, places[chosen]] = True
        return made

    every = np.ones_like(patch)
    base = {"image": marks(every), "patch": marks(patch), "region": marks(~every), "visible": marks(every) | True}
    with_sinks = measure(attention, TokenSets(**base, sink=marks(sinks)))
    instead = measure(attention, TokenSets(**base, sink=marks(others)))["concentration_no_sink"]
    kept_measures = {name: with_sinks[name] for name in ("sink_share", "concentration", "concentration_no_sink")}
    return {name: values[..., 0].numpy() for name, values in {**kept_measures, "concentration_random": instead}.items()}


def _hidden(model: VisionLanguageModel, sample: Sample) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Inputs of the layers (state, token, dimension) on one prompt, and which tokens are image tokens."""
    encoding = model.encode([sample])
    image = (encoding["input_ids"][0] == model.image_token_id).numpy()
    with torch.no_grad():
        inputs = dict(encoding.to(model.device, dtype=model.dtype))
        states = model.module(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[:-1]
    return torch.stack([state[0].float().cpu() for state in states]), image


def _residual(
    model: VisionLanguageModel, sample: Sample, dimensions: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Highest activations (quantity, part, state, dimension) of one prompt, and which image tokens are massive in a
    sink dimension at the input of any layer."""
    hidden, image = _hidden(model, sample)
    size = hidden.abs()
    normed = (size / hidden.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)).numpy()
    median = size.median(-1, keepdim=True).values.clamp_min(1e-12).numpy()
    told = np.stack([normed / sink_threshold(hidden.shape[-1]), size.numpy() / median / OUTLIER_RATIO])
    told = np.concatenate([told, told.min(axis=0, keepdims=True)])
    highest = np.stack([told[:, :, where].max(axis=2) for where in (image, ~image)], axis=1)
    massive = np.zeros(int(image.sum()), bool)
    if dimensions:
        shown = hidden[:, torch.from_numpy(image)]
        massive = sink_tokens(shown, dimensions, torch.ones(shown.shape[:2], dtype=torch.bool)).any(0).numpy()
    return highest.astype(np.float32), massive


def _strongest(states: NDArray[np.floating]) -> NDArray[np.intp]:
    """The dimensions of which one and the same token reaches most of both thresholds, at any layer's input."""
    return np.argsort(-states[-1].max(axis=(0, 1)), kind="stable")[:DIMENSIONS]


def _activations(states: NDArray[np.float32]) -> dict[str, Any]:
    dims = ("model", "part", "state", "outlier_dimension")
    chosen = states[..., _strongest(states)]
    return {name: (dims, values[None]) for name, values in zip(("outlier", "ratio", "both"), chosen, strict=True)}


def _maps(model: VisionLanguageModel, samples: Sequence[Sample], ds: xr.Dataset) -> dict[str, Any]:
    """Means over the pictures whose grid is the first one's, and the first pictures' own maps."""
    found: dict[str, list[NDArray[np.floating]]] = {"drawn": [], "sink": []}
    for index, sample in enumerate(samples):
        token_map = model.token_map(sample.open().size)
        for name, maps in found.items():
            values = ds[name].isel(model=0, sample=index).values[: len(token_map)].astype(float)
            maps.append(token_map.to_map(values))
    cells = ("model", "grid_row", "grid_column")
    told: dict[str, Any] = {}
    for name, maps in found.items():
        alike = np.stack([one for one in maps if one.shape == maps[0].shape])
        told[f"{name}_map"] = (cells, alike.mean(axis=0)[None].astype(np.float32))
        told[f"example_{name}"] = (("model", "example", *cells[1:]), alike[None, :EXAMPLES].astype(np.float32))
    return told


def _fills(ds: xr.Dataset) -> dict[str, Any]:
    return {str(name): False if ds[name].dtype == bool else np.nan for name in ds.data_vars}


SINKS, REMOVAL = "sinks", "sink-removal"
STORES = (SINKS, REMOVAL)
"""Names and kinds of the stores that these experiments leave."""
CONDITION = "plain-object"
MODES = ("sink_removal", "sink_redistribution")
RANDOM, BACKGROUND = "random", "background"
"""Controls: as many other image tokens, and as many that show no object."""
STRONGEST = 0.1
"""Share of the heads that count as the most concentrated."""


@dataclass(frozen=True)
class Size:
    """How much is run: questions, and random sets of tokens against which removing sinks is held."""

    questions: int = 16
    seeds: int = 3
    positions: str = AFTER_IMAGE


REDUCED = Size()
FULL = Size(questions=64, seeds=5)


def run(
    model: VisionLanguageModel, asked: Sequence[Sample], traces: xr.Dataset, size: Size = FULL, progress: Any = False
) -> dict[str, xr.Dataset]:
    """Both experiments on one model: datasets by the name of their store, each with `model` of length 1.

    asked    questions about boxes (condition `CONDITION`), of which `size.questions` are used
    traces   of this model alone on other pictures: there the most concentrated heads are chosen
    """
    few = list(asked)[: size.questions]
    found = find(model, few, progress=progress)
    return {SINKS: found, REMOVAL: removal(model, few, found, traces, size, progress)}


def removal(
    model: VisionLanguageModel, samples: Sequence[Sample], found: xr.Dataset, traces: xr.Dataset, size: Size,
    progress: Any = False,
) -> xr.Dataset:  # fmt: skip
    """What hiding or redistributing sinks does: dims (model, mode, tokens, set, sample), samples that have a sink.

    tokens   "sinks", "random 0", …, "background 0", …: as many others in every sample
    set      all heads, and the most concentrated tenth (chosen in `traces`)
    Empty along `sample` where no sample has a sink.
    """
    marks = found["sink"].isel(model=0).transpose("sample", "token").values.astype(bool)
    able = [index for index in range(len(samples)) if marks[index].any()]
    sets = _sets(traces)
    if not able:
        return samples_only(found).isel(sample=[]).assign_coords(sets.coords)
    asked = [samples[index] for index in able]
    patches = found["patch"].isel(model=0).transpose("sample", "token").values.astype(bool)
    behind = found["background"].isel(model=0).transpose("sample", "token").values.astype(bool)
    groups: dict[str, dict[str, list[int]]] = {
        SINKS: {samples[index].id: np.flatnonzero(marks[index]).tolist() for index in able}
    }
    for name, allowed in ((RANDOM, patches), (BACKGROUND, behind)):
        for draw in range(size.seeds):
            groups[f"{name} {draw}"] = {
                samples[index].id: others(marks[index], allowed[index], draw, index).tolist() for index in able
            }
    runs = [
        [sweep(model, asked, sets, mode, size.positions, tokens=one, progress=progress) for one in groups.values()]
        for mode in MODES
    ]
    first, order, dims = runs[0][0], ("model", "set", "sample"), ("model", "mode", "tokens", "set", "sample")
    changed = {
        name: (dims, np.moveaxis(np.array([[ds[name].transpose(*order).values for ds in row] for row in runs]), 2, 0))
        for name in ("correct", "margin", "kl")
    }
    clean = first[["clean_correct", "clean_margin"]].drop_vars("mode").assign_coords(_of_sets(first))
    labels = {"mode": text(MODES), "tokens": text(list(groups))}
    return clean.assign(changed).assign_coords(labels)


def studied(
    names: Sequence[str], results: str | Path, traces: xr.Dataset, size: Size = REDUCED, small: bool = False
) -> dict[str, dict[str, xr.Dataset]]:
    """`studies.studied` of these experiments: store name → model → dataset."""
    makers: dict[str, ablation.Maker] = {
        SINKS: lambda model, asked, _traces, _size, _made: find(model, asked),
        REMOVAL: lambda model, asked, traces, size, made: removal(model, asked, made[SINKS], traces, size),
    }
    asked = list(benchmark(MAIN_TASK).samples(condition=CONDITION, format="free", n=size.questions))
    return ablation.studied(makers, names, results, traces, asked, size, small)


def _of_sets(swept: xr.Dataset) -> dict[str, Any]:
    """What the labels of the sets are."""
    return {str(name): array for name, array in swept.coords.items() if array.dims == ("set",)}


def _sets(traces: xr.Dataset) -> xr.DataArray:
    """All heads, and the most concentrated tenth."""
    scores = rank(traces, "concentration").isel(model=0).transpose("layer", "head")
    finite = np.isfinite(scores.values)
    count = max(1, round(STRONGEST * int(finite.sum())))
    [top] = head_sets.protocol_sets({"concentration": scores}, [count], ("all",), 0, bottom=False).values
    return head_sets.as_array(
        [
            head_sets.HeadSet(finite, "", "all", "all"),
            head_sets.HeadSet(top.astype(bool), "concentration", "all", "top"),
        ]
    )
