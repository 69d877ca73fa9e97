"""What a sweep of head sets costs beside a naive loop that batches alike, on the network of `visualheads.book.cost`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from visualheads.book.cost import QUESTION, Shape, build, in_fresh_process
from visualheads.errors import ParameterError, got

if TYPE_CHECKING:
    import pandas as pd

CASES = {"after_image": ("after_image", 0.0), "late, all": ("all", 2 / 3)}
"""What is measured: positions, and from which share of the layers on heads are chosen."""
NAIVE_BATCHES = (1, 2)
"""Sets that the naive loop runs together; the fastest counts."""
HEADS = 10


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
    import pandas as pd

    if min(sets, naive_sets, runs) < 1 or naive_sets > sets:
        raise ParameterError(got("sets, naive_sets, runs", (sets, naive_sets, runs), "1 or more, naive_sets ≤ sets"))
    told = in_fresh_process([list(shape), sets, naive_sets, runs], "visualheads.book.cost_sweeps", "measured")
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
    import numpy as np
    import torch
    from PIL import Image

    from visualheads.interventions.sweeps import sweep
    from visualheads.models.loading import wrap
    from visualheads.tasks.sample import Sample

    torch.set_num_threads(1)
    shape = Shape(*sizes)
    module, processor = build("llava", shape)
    model = wrap(module, processor, name="cost", validate=False)
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
            times["sweep"].append(_timed(swept) / sets)
            for batch in NAIVE_BATCHES:
                spent = _timed(lambda b=batch, g=few, p=positions: _naive(model, asked[0], g, b, p != "all"))
                times["naive"][batch].append(spent / naive_sets)
        seconds[case] = times
    return {"tokens": tokens, "seconds": seconds}


def _random_sets(shape: Shape, n: int, lowest: int) -> dict[str, list[tuple[int, int]]]:
    import numpy as np

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


def _timed(run: Any) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
