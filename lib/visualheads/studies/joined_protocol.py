"""What pages and claims need of a model on a real language model, small: its traces besides the parts about causes.

Readers need no base weights: what is here is shipped. The model is asked the scenes that it learned to see.
"""

from __future__ import annotations

from functools import partial

import xarray as xr
from numcodecs import BitRound

from visualheads.analysis.effects import MAIN_TASK
from visualheads.heads.selection import select
from visualheads.studies import ablation, shipped, sinks
from visualheads.studies.full_protocol import (
    CONDITION,
    LATE_TOKENS,
    NULL_N,
    Made,
    Part,
    Setting,
    late_heads,
    single_head_effects,
)
from visualheads.studies.stored_model import LOOK
from visualheads.tracing import trace
from visualheads.tracing.forward import LAST_PROMPT, QUERIES

TASKS = (MAIN_TASK, "pope", "seedbench")
SIZES = {"n": 24, "most": 96, "single": 12}
"""Of `run_protocol`: what two cores do in an hour."""
DRAWS = 20
"""Untrained adapters."""
SEEN = {
    "image_weight": QUERIES,
    **dict.fromkeys((
        "region_weight", "concentration", "image_log_odds_no_sink", "focus_nats", "top_share",
        "spatial_entropy", "region_lift",
    ), (LAST_PROMPT,)),
}  # fmt: skip
"""Measures that are shipped of the main benchmark, and of which rows."""
FEW = {name: (LAST_PROMPT,) for name in ("image_weight", "region_weight", "concentration")}
"""… of other benchmarks and formats; of white pictures the log odds alone."""
ODDS = {"image_log_odds_no_sink": (LAST_PROMPT,)}
ANSWERS = ("prediction", "correct", "margin", "n_image_tokens")
LOOKING = 5
"""Heads whose maps are shipped of one question."""
BITS = 3
"""Mantissa bits of what every head has of every prompt: 6 % of a number that only means are taken of."""
STORES = (MAIN_TASK, f"{MAIN_TASK}-letters", f"{MAIN_TASK}-white", *TASKS[1:])


def traces(setting: Setting) -> Made:
    """Traces of every benchmark, and of white pictures, as the book makes them of miniatures."""
    main, n = setting.benchmark(MAIN_TASK), setting.n
    asked = {
        MAIN_TASK: (MAIN_TASK, main.samples(format="free", n=n), SEEN),
        f"{MAIN_TASK}-letters": (MAIN_TASK, main.samples(format="letters", n=n), FEW),
        f"{MAIN_TASK}-white": (MAIN_TASK, main.samples(CONDITION, "free", "white", n=n), ODDS),
        **{name: (name, setting.benchmark(name).samples(n=n), FEW) for name in TASKS[1:]},
    }
    found: dict[str, tuple[xr.Dataset, str, tuple[str, ...]]] = {}
    for store, (task, samples, kept) in asked.items():
        setting.report(f"{setting.model.name}: tracing {len(samples)} questions of {store}")
        ds = trace.trace(
            setting.model, samples, QUERIES, ("mean_map",) if kept is SEEN else (), max_new_tokens=LATE_TOKENS,
            task_files=setting.benchmark(task).files_hash(), progress=setting.progress,
        )  # fmt: skip
        found[store] = (_reduced(ds, kept), "trace", (task,))
    return found


def _reduced(ds: xr.Dataset, kept: dict[str, tuple[str, ...]]) -> xr.Dataset:
    """These measures in these rows, rounded to BITS, and one mean map of the row that gives the answer."""
    codec, told = BitRound(keepbits=BITS), ds[list(ANSWERS)]
    for name, rows in kept.items():
        values = ds[name].where(ds["query"].isin(rows))
        told[name] = values.copy(data=codec.decode(codec.encode(values.values)).reshape(values.shape))
    if "mean_map" in ds:
        counts = ds["mean_map_count"]
        mean = (ds["mean_map"] * counts).sum("map_condition") / counts.sum("map_condition")
        told["mean_map"] = mean.where(ds["query"] == LAST_PROMPT)
    return told.assign_attrs(ds.attrs)


def untrained_heads(setting: Setting) -> Made:
    """Heads of the language model with untrained adapters: the null of counting visual heads."""
    samples = setting.benchmark(MAIN_TASK).samples(format="free", n=NULL_N)
    found = ablation.untrained_draws(setting.model, samples, DRAWS, setting.progress)
    return {shipped.NULL: (found, shipped.NULL, (MAIN_TASK,))}


def one_question(setting: Setting) -> Made:
    """One question with the maps of the heads that put most on asked regions."""
    seen = shipped.opened(setting.model.name, MAIN_TASK)
    traces = setting.traces if seen is None else seen
    marks = select(traces, "region_weight", LOOKING, query=LAST_PROMPT).isel(model=0)
    found = trace.trace(
        setting.model, setting.judged[:1], LAST_PROMPT, ("maps",), heads=marks, max_new_tokens=LATE_TOKENS,
        task_files=setting.benchmark(MAIN_TASK).files_hash(), progress=setting.progress,
    )  # fmt: skip
    kept = [*ANSWERS, "image_weight", "maps"]
    return {LOOK: (found[kept], LOOK, (MAIN_TASK,))}


def sink_tokens(setting: Setting) -> Made:
    """Sink tokens, and concentration without them."""
    found = sinks.find(setting.model, setting.judged, setting.progress)
    kept = found[["sink_share", "concentration", "concentration_no_sink"]]
    return {sinks.SINKS: (kept, sinks.SINKS, (MAIN_TASK,))}


PARTS: dict[str, Part] = {
    "traces": Part(STORES, traces),
    "one question": Part((LOOK,), one_question),
    "untrained heads": Part((shipped.NULL,), untrained_heads),
    "sink tokens": Part((sinks.SINKS,), sink_tokens),
    "late heads": Part(("late-uniform_released", "late-mean"), partial(late_heads, curves=False)),
    "effects of single heads": Part((ablation.EFFECTS,), single_head_effects),
}
"""In the order in which they run."""
