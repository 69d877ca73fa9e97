"""`visualheads train NAME`: all stages in order, each resumable, ending in ordinary checkpoint folders with cards."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from visualheads.errors import CheckpointError
from visualheads.miniatures import evaluation, training
from visualheads.miniatures.architectures import (
    build_multimodal,
    build_processor,
    build_text,
    build_tower,
    miniature,
    text_shape,
)
from visualheads.miniatures.card import model_card
from visualheads.miniatures.training import Plan, Report
from visualheads.miniatures.words import build_tokenizer

TRAINING_RECORD = "training.json"


def train(
    name: str,
    target: str | Path = "data/miniatures",
    work: str | Path = "data/training",
    smoke: bool = False,
    device: str = "cpu",
    report: Report | None = None,
) -> Path:
    """Train the miniature `name` from nothing, or from where a killed run stopped; returns its folder.

    `work` holds stage checkpoints and snapshots, `target` receives the multimodal model and, beside it, the text-only
    one. `smoke=True` runs every stage for a few steps (for tests): nothing is learned, nothing is scored.
    Raises UnknownModelError for a name without a recipe.
    """
    recipe = miniature(name)
    plan = Plan().smoke() if smoke else Plan()
    work, target = Path(work), Path(target)
    check_plan(plan, work)
    tower, tower_progress = training.train_tower(plan, work, recipe.seed, device, report)
    seed = text_shape(recipe.text).seed
    text, text_stages = training.train_text(recipe.text, plan, work, seed, device, report)
    save_text(recipe.text, text, target / recipe.text)
    model, stages = training.tune(name, text, tower, plan, work, device, report)
    folder = target / name
    save_checkpoint(name, model, folder)
    progress = {"tower": tower_progress, **text_stages, **stages}
    schedules = dict(zip(progress, (getattr(plan, part.name) for part in fields(plan)), strict=True))
    record = {
        "model": name,
        "text_model": recipe.text,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": recipe.seed,
        "stages": {
            stage: {"curve": p.curve, "seconds": p.seconds, **asdict(schedules[stage])} for stage, p in progress.items()
        },
    }
    if not smoke:
        record |= evaluation.evaluate(folder)
        (folder / "MODEL_CARD.md").write_text(model_card(recipe, model.config, record))
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def check_plan(plan: Plan, work: Path) -> None:
    """Refuse to resume checkpoints of other schedules; note this plan's for the next run."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "plan.json"
    told = json.dumps(asdict(plan), indent=1)
    if path.exists() and path.read_text() != told:
        raise CheckpointError(f"{work} holds checkpoints of another training plan; use an empty folder or remove it.")
    path.write_text(told)


def save_checkpoint(name: str, model: Any, folder: Path) -> None:
    """An ordinary Hugging Face folder: config, half-precision safetensors, processor, chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(folder)
    build_processor(name).save_pretrained(folder)


def save_text(name: str, model: Any, folder: Path) -> None:
    """The text-only model as a folder of its own, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    shape = text_shape(name)
    (folder / "MODEL_CARD.md").write_text(
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\nA text-only language model "
        f"({type(model).__name__}, {shape.layers} layers × {shape.heads} heads, "
        f"{shape.key_value_heads} key-value heads) that lists and counts objects told in words. "
        "It has never seen a picture; multimodal miniatures grow from it.\n"
    )


def moment_files(name: str, work: Path) -> list[tuple[str, int, Path]]:
    """Snapshots kept while training: (stage, step, file), in the order of training."""
    found = []
    for stage in ("alignment", "tuning", "pointing"):
        paths = work.glob(f"{name}-{stage}-*.pt")
        found += sorted((stage, int(path.stem.rsplit("-", 1)[1]), path) for path in paths)
    return found


def load_moment(name: str, path: Path) -> Any:
    """The multimodal model as it was at a snapshot."""
    recipe = miniature(name)
    model = build_multimodal(name, build_text(text_shape(recipe.text)), build_tower())
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
