"""Stages that shipped folders already hold, made stages of training again: what is kept once is not trained twice.

`visualheads train NAME`: all stages in order, each resumable, ending in ordinary checkpoint folders with cards.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from visualheads.miniatures import asked, evaluation, tower, training
from visualheads.miniatures import tower as towers
from visualheads.miniatures.architectures import MINIATURES, build_empty, build_processor, miniature, text_shape
from visualheads.miniatures.card import model_card
from visualheads.miniatures.fitting import Progress, Report, Schedule, save_atomically
from visualheads.miniatures.language import build_tokenizer
from visualheads.miniatures.training import Plan

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
            taught = tower.build_taught()
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


def train(
    name: str,
    target: str | Path = "data/miniatures",
    work: str | Path = "data/training",
    smoke: bool = False,
    device: str = "cpu",
    report: Report | None = None,
    plan: Plan | None = None,
) -> Path:
    """Train the miniature `name` from nothing, or from where a killed run stopped; returns its folder.

    `work` holds stage checkpoints and snapshots: the tower and the text-only models there are shared by all miniatures.
    A tower and a text-only model that `target` has, trained by this plan, are not trained again (`taking`).
    `target` receives the multimodal model and, beside it, the text-only one. `smoke=True` runs every stage for a few
    steps (for tests): nothing is learned, nothing is scored. Raises UnknownModelError for a name without a recipe,
    CheckpointError for a work folder of other schedules.
    """
    recipe = miniature(name)
    plan = plan or Plan()
    plan = plan.smoke() if smoke else plan
    work, target = Path(work), Path(target)
    take_tower(target, work, plan.tower)
    tower, tower_progress = towers.train_tower(plan.tower, work, towers.TOWER_SEED, device, report)
    take_text(recipe.text, target / recipe.text, work, plan.text)
    text, text_progress = training.train_text(recipe.text, plan.text, work, device, report)
    save_text(recipe.text, text, target / recipe.text, plan.text, text_progress)
    model, stages = training.tune(name, text, tower, plan, work, device, report)
    folder = target / name
    save_checkpoint(name, model, folder)
    schedules = schedules_of(name, plan)
    progress = {"tower": tower_progress, recipe.text: text_progress, **stages}
    record = {
        "model": name,
        "text_model": recipe.text,
        "recipe": recipe.recipe,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": recipe.seed,
        "trainable": training.trainable(model, recipe.recipe),
        "stages": {
            stage: {
                "curve": done.curve,
                "answers": asked.measured(recipe, stage, schedule),
                "seconds": done.seconds,
                **asdict(schedule),
            }
            for (stage, done), schedule in zip(progress.items(), schedules, strict=True)
        },
    }
    if not smoke:
        record["asked"] = asked.shares(recipe, plan.text, schedules[-1])
        record |= evaluation.evaluate(folder, device=device)
        (folder / "MODEL_CARD.md").write_text(model_card(recipe, model.config, record))
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def schedules_of(name: str, plan: Plan) -> tuple[Schedule, ...]:
    """The schedules of a miniature's stages: tower, text-only model, alignment, tuning."""
    return plan.tower, plan.text, plan.alignment, plan.tuning_of(miniature(name).recipe)


def is_trained(name: str, target: Path, plan: Plan | None = None) -> bool:
    """Whether `target` holds this miniature, trained by these schedules and scored on all benchmarks."""
    path = target / name / TRAINING_RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told = list(record.get("stages", {}).values())
    wanted = schedules_of(name, plan or Plan())
    same = len(told) == len(wanted) and all(
        stage.get(key) == getattr(schedule, key)
        for stage, schedule in zip(told, wanted, strict=True)
        for key in ("steps", "batch", "rate", "warm_up")
    )
    return same and "benchmarks" in record and (target / name / WEIGHTS).exists()


def save_checkpoint(name: str, model: Any, folder: Path) -> None:
    """An ordinary Hugging Face folder: config, half-precision safetensors, processor, chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_half(model, folder)
    build_processor(miniature(name).recipe).save_pretrained(folder)


def _save_half(model: Any, folder: Path) -> None:
    copy.deepcopy(model).half().save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them for their owner alone


def save_text(name: str, model: Any, folder: Path, schedule: Schedule, progress: Progress) -> None:
    """The text-only model as a folder of its own, with its tokenizer and the record of its training."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_half(model, folder)
    build_tokenizer().save_pretrained(folder)
    shape = text_shape(name)
    (folder / "MODEL_CARD.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\nA text-only language model "
        f"({type(model).__name__}, {shape.layers} layers × {shape.heads} heads, "
        f"{shape.key_value_heads} key-value heads; seed {shape.seed}) that lists and counts objects told in words "
        "and answers questions about them. "
        "It has never seen a picture; multimodal miniatures grow from it.\n"
    )
    record = {"model": name, "schedule": asdict(schedule), "curve": progress.curve, "seconds": progress.seconds}
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")


def moment_files(name: str, work: Path) -> list[tuple[str, int, Path]]:
    """Snapshots kept while training: (stage, step, file), in the order of training."""
    found = []
    for stage in ("alignment", "tuning"):
        paths = work.glob(f"{name}-{stage}-*.pt")
        found += sorted((stage, int(path.stem.rsplit("-", 1)[1]), path) for path in paths)
    return found


def untrained(name: str) -> Any:
    """The miniature's network with fresh weights, of the miniature's seed: the control without any training."""
    torch.manual_seed(miniature(name).seed)
    return build_empty(name).eval()


def load_moment(name: str, path: Path) -> Any:
    """The multimodal model as it was at a snapshot."""
    model = build_empty(name)
    state = torch.load(path, weights_only=True)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval()


def state_hash(state: dict[str, torch.Tensor]) -> str:
    """A short hash of weights, to tell that two runs of one seed agree."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
