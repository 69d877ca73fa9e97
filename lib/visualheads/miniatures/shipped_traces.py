"""Traces of short extra tunings, shipped instead of their weights: packed, beside the record of their training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visualheads.analysis import models as survey
from visualheads.cards import cards
from visualheads.miniatures.architectures import build_processor, miniature
from visualheads.miniatures.train import TRACES, weights_folder
from visualheads.models import loading
from visualheads.store import pack
from visualheads.tasks import task
from visualheads.tracing import trace

__all__ = ["TRACES", "trace_short"]

QUERY = "first_generated"
BITS = 8
"""Mantissa bits kept: within 0.2 % of each number."""


def trace_short(name: str, folder: Path, work: Path, questions: Mapping[str, int]) -> list[Path]:
    """Trace the short tuning `name`, whose weights lie in `work`, into `folder/traces/<benchmark>.zarr.zip`.

    questions   benchmarks and how many of their questions per condition: those that other models are asked in the book
    They are recorded as the same questions, so that results join sample by sample.
    Only what pages compare is kept: answers, and the measures of `survey.MEASURES` for the first generated token.
    """
    from transformers import AutoModelForImageTextToText

    entry = miniature(name)
    weights = weights_folder(name, folder.parent, work)
    module: Any = AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32)
    model = loading.wrap(module, build_processor(entry.recipe), name=name, card=cards().get(entry.parent))
    written = []
    for benchmark, n in questions.items():
        asked = task(benchmark)
        formats = asked.formats if benchmark == "looktwice" else asked.formats[:1]
        samples = [sample for form in formats for sample in asked.samples(format=form, n=n)]
        ds = trace.trace(model, samples, query=(QUERY,), progress=False, task_files=asked.files_hash())
        kept = ds[[*survey.MEASURES, *survey.ANSWERS]]
        written.append(pack.pack(kept, folder / TRACES / f"{benchmark}.zarr.zip", BITS))
    return written
