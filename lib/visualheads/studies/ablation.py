"""Experiments of pages: the full protocol's shipped stores where they hold, else a reduced protocol.

Reduced means few questions, few rankings, few random controls; it is kept beside the traces. Where a full store is
shown, a part of it is computed again and compared, so that a page never tells another machine's story unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from visualheads.analysis import models
from visualheads.analysis.effects import MAIN_TASK
from visualheads.analysis.subset import subset
from visualheads.errors import IdentityMismatch, SampleError, StoreError
from visualheads.heads import losses
from visualheads.heads.ranking import rank, real_samples
from visualheads.interventions import head_sets
from visualheads.interventions.editor import as_reference, visual_difference
from visualheads.interventions.modes import ALL, LAST_PROMPT
from visualheads.interventions.sweeps import sweep, sweep_path, sweep_to_store
from visualheads.models.devices import CPU, aside, free
from visualheads.models.loading import load, untrained
from visualheads.paths import slug_of
from visualheads.store.read import read_attrs
from visualheads.store.upkeep import kept
from visualheads.store.variables import QUERIES
from visualheads.studies import shipped
from visualheads.tasks import task as benchmark
from visualheads.tracing.trace import trace

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

RANKINGS = ("image_weight", "region_weight")
STAGES = ("late", "all")
MODE, POSITIONS = "zero", "all"
COMPARED_SAMPLES, COMPARED_SETS = 32, 8
"""Of a full store, computed again whenever it is shown."""
SWEEP = "sweep-"
TOLERANCE = {"margin": 0.05, "kl": 0.02, "correct": 0.02}
"""How far the repeated computation may lie off, in logits, nats, and the share of answers that change: other processors
round otherwise, which turns the odd tie. The rounding of what is shipped (ROUNDING) is allowed for besides."""
ROUNDING = 2.0 ** -(shipped.BITS + 1)
"""How far a shipped number may lie off by its rounding, as a share of it: half a step of its last bit."""


@dataclass(frozen=True)
class Repeated:
    """A part of a full store computed again: how many samples, and the largest difference of a margin."""

    samples: int
    margin: float


@dataclass(frozen=True, eq=False)
class Removed:
    """What an ablation page shows.

    sweeps     by mode and positions ("zero, all")
    traces     of the main benchmark, for the scores of the heads
    pictures   on how many (other) pictures the heads were chosen
    repeated   the comparison with a full store; None where the protocol was reduced
    why        why no full store is shown
    """

    sweeps: dict[str, xr.Dataset]
    traces: xr.Dataset
    pictures: int
    repeated: Repeated | None = None
    why: str = ""


def removed(
    model: VisionLanguageModel, results: str | Path, task: str = MAIN_TASK, condition: str = "plain-object",
    n: int = 16, seed: int = 0, modes: Sequence[str] = (MODE,), rankings: Sequence[str] = RANKINGS,
    stages: Sequence[str] = STAGES, controls: int = 3, bottom: bool = False, full: bool = True,
) -> Removed:  # fmt: skip
    """The full protocol's stores of this model, partly computed again; where there are none that hold, the reduced one.

    Without modes nothing is removed. full=False, or another benchmark than the main one: the reduced protocol, whatever
    is there. The other arguments are the reduced protocol's. Raises StoreError where a full store is not what this
    machine computes.
    """
    traces = subset(models.traced(results, [model.name]), task=task)
    if not modes:
        return Removed({}, traces, 0, why="no mode was asked for")
    stores = shipped.full_stores(model.name) if full and task == MAIN_TASK else {}
    kept = [name for name, path in stores.items() if str(read_attrs(path).get("kind")).startswith(SWEEP)]
    sweeps = {_words(ds): ds for name in kept if (ds := shipped.opened(model.name, name)) is not None}
    main = f"{MODE}, {POSITIONS}"
    if main in sweeps:
        sweeps = {main: sweeps.pop(main), **sweeps}
        pictures = int(sweeps[main]["chosen_pictures"].values[0])
        return Removed(sweeps, traces, pictures, repeat(model, sweeps[main]))
    asked = list(benchmark(task).samples(condition=condition or None, format="free", n=n, seed=seed))
    chosen = other_pictures(traces, asked)
    sets = sets_of(chosen, rankings, stages, controls, bottom)
    files = benchmark(task).files_hash()
    swept = {f"{mode}, {POSITIONS}": run(model, asked, sets, results, task, mode, task_files=files) for mode in modes}
    return Removed(swept, traces, len(set(chosen["image_id"].values.tolist())), why=_why_reduced(model.name, full))


def repeat(
    model: VisionLanguageModel, store: xr.Dataset, n: int = COMPARED_SAMPLES, n_sets: int = COMPARED_SETS
) -> Repeated:
    """Compute random sets of a full store again, on its first questions, and compare.

    Raises StoreError where they differ by more than TOLERANCE: then the store is not of this code and these weights.
    """
    whole = np.flatnonzero(store["kl"].isel(model=0).notnull().all("set").values)[:n]
    drawn = np.random.default_rng(0).choice(store.sizes["set"], min(n_sets, store.sizes["set"]), replace=False)
    sets = np.sort(drawn)
    told = store.isel(model=0, sample=whole, set=sets)
    known = {sample.id: sample for sample in benchmark(MAIN_TASK).samples(format="free")}
    samples = [known[name] for name in told["sample"].values.tolist()]
    marks = told["heads"].transpose("set", "layer", "head").astype(bool)
    mode, positions = (str(store[name].values[0]) for name in ("mode", "positions"))
    again = sweep(model, samples, marks, mode, positions, progress=False).isel(model=0)
    apart: dict[str, float] = {}
    for name, allowed in TOLERANCE.items():
        kept = told[name].transpose("set", "sample").values
        difference = np.abs(again[name].values - kept)
        if name == "correct":
            apart[name] = float(np.nanmean(difference))
        else:
            apart[name] = float(np.nanmax(np.maximum(difference - np.abs(kept) * ROUNDING, 0)))
        if not apart[name] <= allowed:
            raise StoreError(
                f"the full store of {model.name} is not what this machine computes: {name} differs by "
                f"{apart[name]:.3g} (allowed: {allowed}); {_to_agree(model)}."
            )
    return Repeated(len(samples), apart["margin"])


def other_pictures(traces: xr.Dataset, samples: Sequence[Sample]) -> xr.Dataset:
    """The traced samples of other pictures than these: heads are chosen there and judged here.

    Samples with a control (white pictures) are left out. Raises SampleError where nothing is left.
    """
    own = real_samples(traces)
    judged = {sample.image_id for sample in samples}
    chosen = np.array([picture not in judged for picture in own["image_id"].values.astype(str)])
    if not chosen.any():
        raise SampleError("every traced picture is also judged; trace more questions, or remove heads on fewer.")
    return own.isel(sample=np.flatnonzero(chosen))


def sets_of(
    traces: xr.Dataset, rankings: Sequence[str] = RANKINGS, stages: Sequence[str] = STAGES, seeds: int = 3,
    bottom: bool = False,
) -> xr.DataArray:  # fmt: skip
    """The head sets of one model: top heads with random others of their layers, and every head alone.

    traces   of one model; rankings without any finite score there are left out. Arguments as `protocol_sets`.
    """
    scores = {name: rank(traces, name).isel(model=0) for name in rankings}
    known = {name: values for name, values in scores.items() if bool(np.isfinite(values).any())}
    made = head_sets.protocol_sets(known, stages=stages, seeds=seeds, bottom=bottom)
    alone = head_sets.single_heads(traces.sizes["layer"], traces.sizes["head"])
    return head_sets.together([made, alone])


def run(
    model: VisionLanguageModel, samples: Sequence[Sample], sets: xr.DataArray, results: str | Path, task: str,
    mode: str = MODE, positions: str = POSITIONS, task_files: str = "", progress: Any = False,
    reference: Sequence[Sample] | None = None,
) -> xr.Dataset:  # fmt: skip
    """Remove these sets on these samples and keep the sweep beside the traces; what is done already is not repeated.

    A store of another run (other weights, questions or sets) is set aside and made anew: these are the book's own.
    """
    path = sweep_path(results, slug_of(model.name), task, mode, positions)
    path.parent.mkdir(parents=True, exist_ok=True)

    asked = (model, samples, sets, path, mode, positions, reference)
    swept = partial(sweep_to_store, *asked, task_files=task_files, progress=progress)
    try:
        return swept().load()
    except IdentityMismatch:
        return swept(fresh=True).load()


def _to_agree(model: VisionLanguageModel) -> str:
    """What to do about a full store that differs: making it again helps only where it is computed as it was made."""
    if (model.device, model.dtype) == (CPU, torch.float32):
        return f"make it again with `visualheads full {model.name} --force`"
    return "load the model with device='cpu' and dtype='float32': so it was made"


def _words(ds: xr.Dataset) -> str:
    return f"{ds['mode'].values[0]}, {ds['positions'].values[0]}"


def _why_reduced(model: str, full: bool) -> str:
    if not full:
        return "it was asked for"
    paths = shipped.all_stores(shipped.path_of(model, "").parent)
    outdated = [why for path in paths if (why := shipped.why_outdated(path))]
    return f"the shipped full stores were {outdated[0]}" if outdated else "no full stores of this model are shipped"


Maker = Callable[["VisionLanguageModel", "Sequence[Sample]", xr.Dataset, Any, Mapping[str, xr.Dataset]], xr.Dataset]
"""(model, questions, traces in which heads are chosen, size, what the makers before gave) → dataset."""


def studied(
    makers: Mapping[str, Maker], names: Sequence[str], results: str | Path, traces: xr.Dataset,
    asked: Sequence[Sample], size: Any, small: bool = False,
) -> dict[str, dict[str, xr.Dataset]]:  # fmt: skip
    """The experiments of several models: store name → model → dataset; the shipped large run where it holds.

    makers   by the name of their store, in the order in which they run
    names    miniatures whose checkpoints are there
    traces   of all of them (`survey.traced`): heads are chosen there, on other pictures than those asked about
    size     a dataclass: how much is run
    small    run the small size even where a large run is shipped
    A small run is kept beside the traces and used again while weights, files and size are the same.
    """
    told: dict[str, dict[str, xr.Dataset]] = {store: {} for store in makers}
    for name in names:
        for store, ds in _of_model(makers, name, results, traces, asked, size, small).items():
            told[store][name] = ds
    return told


def _of_model(
    makers: Mapping[str, Maker], name: str, results: str | Path, traces: xr.Dataset, asked: Sequence[Sample],
    size: Any, small: bool,
) -> dict[str, xr.Dataset]:  # fmt: skip
    whole = {store: None if small else shipped.opened(name, store) for store in makers}
    if all(ds is not None for ds in whole.values()):
        return {store: ds for store, ds in whole.items() if ds is not None}
    chosen_on = other_pictures(subset(traces, model=name, task=MAIN_TASK, trim=True), asked)
    loaded, made = cache(load), dict[str, xr.Dataset]()  # not loaded where nothing is to be made
    for store, maker in makers.items():
        path = Path(results) / slug_of(name) / f"{MAIN_TASK}-{store}.zarr"
        identity = {**shipped.identity_of(name, [MAIN_TASK], store), "size": asdict(size)}
        made[store] = kept(path, store, identity, lambda maker=maker: maker(loaded(name), asked, chosen_on, size, made))
    return made


EFFECTS = "effects"
"""Name and kind of the store."""
KINDS = {"whole": ("mean", ALL), "looking": ("edge_knockout", LAST_PROMPT)}
"""Effect → mode and positions."""
EFFECT_MEASURES = ("margin", "kl")
DRAWS = 40
"""Untrained networks: half of them calibrate the null, half tell how many of their heads pass it."""
NULL_MEASURES = ("image_log_odds", "image_log_odds_no_sink")


def head_effects(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    reference: Reference | Sequence[Sample],
    folder: str | Path | None = None,
    progress: Any = False,
) -> xr.Dataset:
    """Measure the whole effect and the looking effect of every head of a model, and how far pictures move its output.

    Parameters
    ----------
    model
        Whose heads are removed one by one.
    samples
        Prompts on which the effects are measured.
    reference
        Samples of other pictures, or their means, for the mean ablation.
    folder
        Where the sweeps are kept while they run, so that a killed run goes on; None: in memory only.
    progress
        As in `sweep`.

    Returns
    -------
    xarray.Dataset
        Variables (model, layer, head, sample), each a ranking for `rank` and `agreement` by its name:

        whole_margin, whole_kl : margin lost, and KL divergence, when the head's output is its mean over the reference
            set at every position
        looking_margin, looking_kl : the same when only its image keys are hidden from the last prompt token
        vhd : see `visual_difference`

        Only the answer's first token is read.
    """
    layers, heads, _ = model.shape
    sets, means = head_sets.single_heads(layers, heads), as_reference(model, reference)
    found = visual_difference(model, samples, progress=progress)
    for effect, (mode, positions) in KINDS.items():
        given = (mode, positions, means if mode == "mean" else None)
        settings: dict[str, Any] = {"max_new_tokens": 1, "progress": progress}
        if folder is None:
            swept = sweep(model, samples, sets, *given, **settings)
        else:
            path = sweep_path(folder, slug_of(model.name), EFFECTS, mode, positions)
            swept = sweep_to_store(model, samples, sets, path, *given, **settings)
        single = losses.head_effects(swept.load())
        for measure in EFFECT_MEASURES:
            lost = single[f"effect_{measure}"]
            found[f"{effect}_{measure}"] = (lost.dims, lost.values, lost.attrs)
    return found


def untrained_draws(
    model: VisionLanguageModel, samples: Sequence[Sample], draws: int = DRAWS, progress: Any = False
) -> xr.Dataset:
    """Trace untrained networks of a model's shape: the null of `heads.nulls.above_null`.

    Parameters
    ----------
    model
        Whose shape they have; of a model on a real language model only the adapter is drawn anew.
    samples
        A few prompts, each asked of every network.
    draws
        Networks, of as many seeds.

    Returns
    -------
    xarray.Dataset
        NULL_MEASURES (draw, model, layer, head, query, sample), both attention rows; `sample` holds the prompts' mean.
    """
    parts = []
    own = model.card is not None and model.card.joined  # there only an adapter is drawn beside the model
    with nullcontext(model.device) if own else aside(model.module) as device:
        for seed in range(draws):
            ds = trace(untrained(model, seed, device), samples, query=QUERIES, max_new_tokens=2, progress=progress)
            parts.append(ds[list(NULL_MEASURES)].drop_vars("provenance", errors="ignore"))
            free()  # the device has to hold one network at a time
    ds: xr.Dataset = xr.concat(
        list[xr.Dataset](parts), "draw", data_vars="all", coords="minimal", compat="override", join="override"
    )
    mean = ds.mean("sample").expand_dims(sample=[f"mean of {len(samples)} prompts"], axis=-1)  # all that a null reads
    return mean.assign_coords(draw=np.arange(draws), model=[model.name])
