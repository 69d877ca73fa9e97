"""What the miniatures' training records tell, as tables: stages, scores over all items, what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from visualheads.analysis.lineage import RECORD, training_record
from visualheads.cards import cards, data_folder

Records = Mapping[str, Mapping[str, Any]]
SCORES = (
    "model", "task", "kind", "estimate", "lower", "upper", "n", "chance", "white", "question_only", "above_chance",
)  # fmt: skip


def training_records() -> dict[str, dict[str, Any]]:
    """The records of all miniatures that were trained, in the catalogue's order, then by name."""
    place = {name: index for index, name in enumerate(cards())}
    names = [path.parent.name for path in (data_folder() / "miniatures").glob(f"*/{RECORD}")]
    names.sort(key=lambda name: (place.get(name, len(place)), name))
    found = {name: training_record(name) for name in names}
    return {name: record for name, record in found.items() if record.get("stages")}


def stage_table(records: Records) -> pd.DataFrame:
    """One row per miniature and stage: model, stage, steps, batch, minutes, shared (an earlier row has the same run).

    All miniatures share a tower, those of one language model that, and a short tuning its parent's alignment.
    """
    rows, known = [], set()
    for name, record in records.items():
        text, parent = record.get("text_model", ""), record.get("parent") or name
        for stage, told in record["stages"].items():
            run = {"tower": ("tower",), text: (text,), "alignment": ("alignment", parent)}.get(stage, (stage, name))
            rows.append({
                "model": name, "stage": "language model" if stage == text else stage, "steps": told["steps"],
                "batch": told["batch"], "minutes": told["seconds"] / 60, "shared": run in known,
            })  # fmt: skip
            known.add(run)
    return pd.DataFrame(rows, columns=["model", "stage", "steps", "batch", "minutes", "shared"])


def score_table(records: Records) -> pd.DataFrame:
    """Scores over all shipped items: one row per miniature and benchmark, and one per kind of question where told.

    kind : "" for the whole benchmark. estimate, lower, upper : share right with its 95 % interval.
    chance, white, question_only : random answers of the right form, the same model with white pictures, and the best
    answerer that sees only the question; NaN where not measured. above_chance : clearly above chance and that answerer.
    """
    rows = []
    for name, record in records.items():
        for task, whole in record.get("benchmarks", {}).items():
            kinds = whole.get("kinds", {})
            rows += [
                _scored(name, task, kind, told)
                for kind, told in {"": whole, **(kinds if len(kinds) > 1 else {})}.items()
                if "seen" in told
            ]
    return pd.DataFrame(rows, columns=list(SCORES))


def target_table(records: Records) -> pd.DataFrame:
    """What was asked of each miniature: model, what, wanted, found, reached, why."""
    rows = [
        {"model": name, "why": "", **entry} for name, record in records.items() for entry in record.get("targets", ())
    ]
    return pd.DataFrame(rows, columns=["model", "what", "wanted", "found", "reached", "why"])


def _scored(model: str, task: str, kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    seen = told["seen"]
    return {
        "model": model, "task": task, "kind": kind, "estimate": seen["accuracy"], "lower": seen["low"],
        "upper": seen["high"], "n": int(seen["n"]), "chance": told.get("chance", float("nan")),
        "white": told.get("blind", {}).get("accuracy", float("nan")),
        "question_only": told.get("question_only", {}).get("accuracy", float("nan")),
        "above_chance": bool(told.get("above_chance")),
    }  # fmt: skip
