"""The full protocol of every model that has a page, side by side: `visualheads full`, `make book FULL=1`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from visualheads.book.catalogue import FULL_RESULTS, shipped
from visualheads.book.pool import side_by_side
from visualheads.book.run import Report, one_thread, silent
from visualheads.book.traces import taught
from visualheads.errors import ParameterError, StoreError, VisualHeadsError, got
from visualheads.models.smol import base_weights

JOINED = "smol-1.5"
"""The model on a real language model, which runs `joined_protocol`."""
WORK = "protocol"
"""Below the folder of full results: what is unfinished, to be gone on with."""


def full_models() -> list[str]:
    """The miniatures with a page of their own, and the model on a real language model where its base weights are."""
    ready = [JOINED] if base_weights.is_prepared(base_weights.base_folder()) else []
    return [*ready, *(card.name for card in shipped() if card.paper_name)]


def run_full(
    root: str | Path, models: Sequence[str] | None = None, workers: int | None = None, force: bool = False,
    report: Report = silent,
) -> list[str]:  # fmt: skip
    """Run the full protocol of these miniatures (all) unless it is shipped already; return what failed, in words.

    A single one reports every step. Raises ParameterError for a model that is not there.
    """
    from visualheads.studies import joined_protocol
    from visualheads.studies.full_protocol import is_current

    def holds(name: str) -> bool:
        try:
            return is_current(name, joined_protocol.PARTS) if name == JOINED else is_current(name)
        except StoreError:  # running it tells what is damaged, and stops no other
            return False

    known = full_models()
    wrong = [name for name in models or () if name not in known]
    if wrong:
        raise ParameterError(got("model", wrong[0], known, "train it, or prepare its base weights, first"))
    asked = list(models or known)
    todo = [name for name in asked if force or not holds(name)]
    for name in asked:
        if name not in todo:
            report(f"{name}: the full protocol is up to date")
    if not todo:
        return []
    work = str(Path(root).resolve() / FULL_RESULTS / WORK)
    if len(todo) == 1:
        error = run_one(todo[0], work, force, report)
        return [error] if error else []
    failed: list[str] = []
    with one_thread():
        for name, error, why in side_by_side(partial(run_one, work=work, force=force), todo, workers):
            failed += [error or f"full protocol of {name}: {why}"] if error or why else []
            report(f"{name}: the full protocol {'failed' if error or why else 'is done'}")
    return failed


def run_one(model: str, work: str, force: bool = False, report: Report = silent) -> str:
    """Run one model's in this process; return what went wrong, in words (errors with fields do not travel)."""
    import torch

    from visualheads.models.loading import load
    from visualheads.studies import joined_protocol as joined
    from visualheads.studies.full_protocol import run_protocol

    torch.set_num_threads(1)
    own: dict[str, Any] = {"parts": joined.PARTS, **joined.SIZES} if model == JOINED else {}
    try:
        run_protocol(load(model, device="cpu"), joined.TASKS if own else taught(model), work, report, force, **own)
    except VisualHeadsError as error:
        return f"full protocol of {model}: {error}"
    return ""
