"""Stages that shipped folders already hold, made stages of training again: what is kept once is not trained twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from visualheads.miniatures import towers
from visualheads.miniatures.architectures import MINIATURES
from visualheads.miniatures.fitting import Schedule, save_atomically

TRAINING_RECORD = "training.json"
WEIGHTS = "model.safetensors"


def take_text(name: str, folder: Path, work: Path, schedule: Schedule) -> None:
    """Make `work/<name>.pt`, a finished stage, of a text-only model that is there as a folder (half precision).

    Nothing happens where `work` has the stage, or the folder is missing or of another schedule.
    """
    path, record = work / f"{name}.pt", _record(folder)
    if path.exists() or record.get("schedule") != _told(schedule):
        return
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _keep(path, model.state_dict(), schedule, record)


def take_tower(shipped: Path, work: Path, schedule: Schedule) -> None:
    """Make `work/tower.pt`, a finished stage, of the tower in a shipped miniature that kept it frozen (half precision).

    Nothing happens where `work` has the stage, or `shipped` no such miniature with a tower of this schedule. The head
    that the tower was taught with is in no miniature: it is an untrained one, which a finished stage never asks.
    """
    path = work / "tower.pt"
    if path.exists():
        return
    for name in (name for name, entry in MINIATURES.items() if entry.recipe != "1.6"):
        told = _record(shipped / name).get("stages", {}).get("tower", {})
        if told and {key: told.get(key) for key in asdict(schedule)} == _told(schedule):
            taught = towers.build_taught()
            taught[0].load_state_dict(_tower_of(shipped / name / WEIGHTS))
            _keep(path, taught.state_dict(), schedule, told)
            return


def _tower_of(weights: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    prefix = "vision_tower."
    with safe_open(weights, "pt") as kept:
        names = [name for name in kept.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(prefix): kept.get_tensor(name).float() for name in names}


def _record(folder: Path) -> dict[str, Any]:
    """How the model in a folder was trained; empty without weights."""
    known = folder / TRAINING_RECORD
    there = known.is_file() and (folder / WEIGHTS).is_file()
    return json.loads(known.read_text(encoding="utf-8")) if there else {}


def _told(schedule: Schedule) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(schedule)))


def _keep(path: Path, state: dict[str, torch.Tensor], schedule: Schedule, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"model": state, "step": schedule.steps, "schedule": json.dumps(_told(schedule))}
    save_atomically(kept | {"curve": json.dumps(record["curve"]), "seconds": record["seconds"]}, path)
