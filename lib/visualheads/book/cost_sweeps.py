"""What a sweep of head sets costs beside a naive loop that batches alike, and what a look costs."""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visualheads.book.cost import ANSWER_TOKENS, KINDS, QUESTION, Shape, in_fresh_process, random_model, timed
from visualheads.errors import ParameterError, got
from visualheads.paths import browser_program

CASES = {"after_image": ("after_image", 0.0), "late, all": ("all", 2 / 3)}
"""What is measured: positions, and from which share of the layers on heads are chosen."""
NAIVE_BATCHES = (1, 2)
"""Sets that the naive loop runs together; the fastest counts."""
HEADS = 10
PATIENCE = 120
"""Seconds that a browser may take to show a page."""
TELL_VIEW = (
    "const page = document.querySelector('[data-explorer]');"
    "new MutationObserver(() => page.dataset.shown && console.log(`shown after ${page.dataset.shown} ms`))"
    ".observe(page, { attributes: true });"
)
LOOK_SHAPE = Shape(32, 32, 128)
"""As many heads as a 7B language model has."""


def measure_sweeps(
    shape: Shape | tuple[int, int, int] = Shape(),  # noqa: B008  (immutable)
    sets: int = 40,
    naive_sets: int = 2,
    runs: int = 3,
) -> pd.DataFrame:
    """Measure `vh.sweep` and a naive loop in a fresh process: alternating runs, one thread, one picture, mode "zero".

    sets        random sets of HEADS heads that the sweep is given; what is shared pays off with their number
    naive_sets  of them the naive loop runs, which asks the whole model again for each: nothing is shared, so that a
                few tell its cost; they are run in every batch of NAIVE_BATCHES

    Returns one row per case (index `method`: "after_image", or "late, all" for sets in the last third of the layers):
    tokens (of the prompt), sweep_seconds and naive_seconds (CPU seconds per set, medians), ratio (median of the
    ratios of runs side by side), batch (sets that the naive loop ran together, the fastest), tried (the batches that
    were), sets, naive_sets, runs.
    """
    if min(sets, naive_sets, runs) < 1 or naive_sets > sets:
        raise ParameterError(got("sets, naive_sets, runs", (sets, naive_sets, runs), "1 or more, naive_sets ≤ sets"))
    told = in_fresh_process(measured, shape, sets, naive_sets, runs)
    rows = []
    for case, seconds in told["seconds"].items():
        naive = {int(batch): values for batch, values in seconds["naive"].items()}
        batch = min(naive, key=lambda one: statistics.median(naive[one]))
        pairs = list(zip(naive[batch], seconds["sweep"], strict=True))
        rows.append({
            "method": case, "tokens": told["tokens"], "sweep_seconds": statistics.median(seconds["sweep"]),
            "naive_seconds": statistics.median(naive[batch]), "ratio": statistics.median(n / s for n, s in pairs),
            "batch": batch, "tried": sorted(naive), "sets": sets, "naive_sets": naive_sets, "runs": runs,
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("method")


def measured(sizes: Sequence[int], sets: int, naive_sets: int, runs: int) -> dict[str, Any]:
    """In the fresh process: CPU seconds per set, sweep and naive loops in turn."""
    from PIL import Image

    from visualheads.interventions.sweeps import sweep
    from visualheads.tasks.sample import Sample

    shape = Shape(*sizes)
    model = random_model("llava", shape)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8))
    asked = [Sample("s0", picture, QUESTION, "two")]
    tokens = model.encode(asked)["input_ids"].shape[1]
    seconds: dict[str, Any] = {}
    for case, (positions, lowest) in CASES.items():
        chosen = _random_sets(shape, sets, int(lowest * shape.layers))
        few = dict(list(chosen.items())[:naive_sets])

        def swept(given: dict[str, Any] = chosen, where: str = positions) -> None:
            sweep(model, asked, given, "zero", where, max_new_tokens=1, progress=False)

        swept(few)  # warms up
        _naive(model, asked[0], dict(list(few.items())[:1]), 1, positions != "all")
        times: dict[str, Any] = {"sweep": [], "naive": {batch: [] for batch in NAIVE_BATCHES}}
        for _ in range(runs):
            times["sweep"].append(timed(swept) / sets)
            for batch in NAIVE_BATCHES:
                spent = timed(lambda b=batch, g=few, p=positions: _naive(model, asked[0], g, b, p != "all"))
                times["naive"][batch].append(spent / naive_sets)
        seconds[case] = times
    return {"tokens": tokens, "seconds": seconds}


def _random_sets(shape: Shape, n: int, lowest: int) -> dict[str, list[tuple[int, int]]]:
    rng = np.random.default_rng(0)
    places = [(layer, head) for layer in range(lowest, shape.layers) for head in range(shape.heads)]
    return {str(i): [places[j] for j in rng.permutation(len(places))[:HEADS]] for i in range(n)}


def _naive(model: Any, sample: Any, sets: dict[str, list[tuple[int, int]]], batch: int, after: bool) -> None:
    """A trace of the whole prompt, picture included, per batch of sets, whose heads' outputs are set to zero."""
    import torch

    layers, heads, _ = model.shape
    chosen = list(sets.values())
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        encoding = model.encode([sample] * len(part))
        marks = torch.zeros(len(part), layers, heads, dtype=torch.bool)
        for row, pairs in enumerate(part):
            for layer, head in pairs:
                marks[row, layer, head] = True
        image = (encoding["input_ids"][0] == model.image_token_id).nonzero()
        first = int(image.max()) + 1 if after else 0
        with torch.no_grad(), model.lm.trace(**dict(encoding), logits_to_keep=1):
            for index, layer in enumerate(model.layers):
                changed = layer.self_attn.o_proj.input.clone()
                parts = changed.view(*changed.shape[:2], heads, -1)
                row, head = marks[:, index].nonzero(as_tuple=True)
                parts[row, first:, head] = 0
                layer.self_attn.o_proj.input = changed


def measure_looks(model: str = "mini-1.5-7B", shape: Shape | tuple[int, int, int] = LOOK_SHAPE) -> pd.DataFrame:
    """Measure `vh.look` in a fresh process, one thread: a shipped model, and random networks of many heads.

    Parameters
    ----------
    model
        A shipped model, with the effects of its heads as by default; its seconds include loading it.
    shape
        Of the random networks, one for each of KINDS, without effects.

    Returns
    -------
    pd.DataFrame
        One row per model (index `method`): heads, tokens (image tokens), queries (rows of attention in the page, by
        default 24 or what 10 MB hold), cpu_seconds, megabytes (of the page), and view_seconds: from opening the file
        to the first view in a browser that starts with it, NaN without Chromium.
    """
    return pd.DataFrame(in_fresh_process(_looks, model, shape)).set_index("method")


def _looks(name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """In the fresh process: a row of `measure_looks` for the shipped model and each kind of random network."""
    import torch
    from PIL import Image

    from visualheads.explorer import look
    from visualheads.models.loading import load
    from visualheads.tasks import task
    from visualheads.tasks.sample import Sample

    torch.set_num_threads(1)
    random = Sample("random", Image.new("RGB", (672, 672), (90, 90, 90)), QUESTION, "two")
    shipped = next(iter(task("looktwice").samples(n=1)))
    told = []
    for kind in ("", *KINDS):
        model = random_model(kind, Shape(*sizes), f"random {kind}") if kind else None
        start = time.process_time()
        if model is not None:
            seen = look(model, random, effects="none", max_new_tokens=ANSWER_TOKENS, progress=False)
        else:
            seen = look(load(name), shipped, progress=False)
        spent = time.process_time() - start
        page = seen.page()
        one = seen.looks[0]
        told.append(
            {
                "method": one.model["name"],
                "heads": one.model["layers"] * one.model["heads"],
                "tokens": int(one.image.sum()),
                "queries": len(one.rows),
                "cpu_seconds": spent,
                "megabytes": len(page.encode()) / 1e6,
                "view_seconds": first_view(page),
            }
        )
    return told


def first_view(page: str) -> float:
    """Seconds from opening an explorer's page, a file, to its first view in Chromium; NaN where there is none."""
    browser = browser_program()
    if browser is None:
        return float("nan")
    # the browser's helpers may still write to its profile when it ends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "look.html"
        file.write_text(page.replace("</body>", f"<script>{TELL_VIEW}</script></body>"), encoding="utf-8")
        flags = (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
        )
        command = [browser, *flags, f"--user-data-dir={folder}/profile", file.as_uri()]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as opened:
            late = threading.Timer(PATIENCE, opened.kill)
            late.start()
            try:
                found = (re.search(r"shown after (\d+) ms", line) for line in opened.stderr or ())
                return next((int(one[1]) / 1000 for one in found if one), float("nan"))
            finally:
                late.cancel()
                opened.terminate()
