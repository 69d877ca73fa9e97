"""`visualheads train NAME`: all stages in order, each resumable, ending in ordinary checkpoint folders with cards.

Stages that shipped folders already hold are not trained again; moments of training are traced.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from visualheads.cards import cards
from visualheads.errors import CheckpointError
from visualheads.miniatures import evaluation, training
from visualheads.miniatures.architectures import MINIATURES, build_empty, build_processor, miniature, text_shape
from visualheads.miniatures.card import model_card, rendered
from visualheads.miniatures.fitting import Progress, Report, Schedule, save_atomically
from visualheads.miniatures.language import build_tokenizer
from visualheads.miniatures.tower import TOWER_SEED, build_tower_with_head, train_tower
from visualheads.miniatures.training import TrainingPlan
from visualheads.models import loading
from visualheads.store import upkeep
from visualheads.tasks import task
from visualheads.tracing import trace

TEXT_CARD = Path(__file__).with_name("text_card.md")
TRAINING_RECORD = "training.json"
WEIGHTS = "model.safetensors"
MOMENTS = "moments.zarr.zip"
SAMPLES = 48  # questions per condition that every moment is asked
CONDITIONS = ("plain-object", "visual-general")
DERIVED = ("image_log_odds", "region_lift", "effective_patches", "spatial_entropy")
"""Measures that are left out of what ships: functions of those that are kept, or of little use over training."""
BITS = 8
"""Mantissa bits kept: within 0.2 % of each number."""
ROWS = ("first_generated",)
"""Attention rows that are kept: those that pages and claims read (two would take twice the room)."""


def train(
    name: str,
    target: str | Path = "data/miniatures",
    work: str | Path = "data/training",
    smoke: bool = False,
    device: str = "cpu",
    report: Report | None = None,
) -> Path:
    """Train a miniature from nothing, or from where a killed run stopped; return its folder.

    Parameters
    ----------
    name : str
        The miniature's.
    target : path
        Receives the multimodal model and, beside it, the text-only one. A tower and a text-only model that are there,
        trained by the same schedules, are not trained again.
    work : path
        Holds stage checkpoints and snapshots; all miniatures share the tower and the text-only models there.
    smoke : bool
        Run every stage for a few steps (for tests): nothing is learned, nothing is scored.
    device : str
    report : Report, optional
        Called at every report of a stage.

    Raises
    ------
    UnknownModelError
        For a name without a recipe.
    CheckpointError
        For a work folder of other schedules.
    """
    recipe = miniature(name)
    plan = TrainingPlan().smoke() if smoke else TrainingPlan()
    work, target = Path(work), Path(target)
    reuse_tower(target, work, plan.tower)
    tower, tower_progress = train_tower(plan.tower, work, TOWER_SEED, device, report)
    reuse_text(recipe.text, target / recipe.text, work, plan.text)
    text, text_progress = training.train_text(recipe.text, plan.text, work, device, report)
    save_text(recipe.text, text, target / recipe.text, plan.text, text_progress)
    model, stages = training.tune(name, text, tower, plan, work, device, report)
    folder = target / name
    save_checkpoint(model, build_processor(recipe.recipe), folder)
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
                "answers": training.measured_answers(recipe, stage, schedule),
                "seconds": done.seconds,
                **asdict(schedule),
            }
            for (stage, done), schedule in zip(progress.items(), schedules, strict=True)
        },
    }
    if not smoke:
        record["asked"] = training.kind_shares(recipe, plan.text, schedules[-1])
        record |= evaluation.evaluate(folder, device=device)
        (folder / "MODEL_CARD.md").write_text(model_card(recipe, model.config, record))
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def schedules_of(name: str, plan: TrainingPlan) -> tuple[Schedule, ...]:
    """Return the schedules of a miniature's stages: tower, text-only model, alignment, tuning."""
    return plan.tower, plan.text, plan.alignment, plan.tuning_of(miniature(name).recipe)


def is_trained(name: str, target: Path) -> bool:
    """Tell whether `target` holds this miniature, trained by the present schedules and scored on all benchmarks."""
    path = target / name / TRAINING_RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stages = list(record.get("stages", {}).values())
    wanted = schedules_of(name, TrainingPlan())
    same = len(stages) == len(wanted) and all(
        stage.get(key) == getattr(schedule, key)
        for stage, schedule in zip(stages, wanted, strict=True)
        for key in ("steps", "batch", "rate", "warm_up")
    )
    return same and "benchmarks" in record and (target / name / WEIGHTS).exists()


def save_checkpoint(model: Any, words: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: config, half-precision safetensors, and the processor or tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them for their owner alone
    words.save_pretrained(folder)


def save_text(name: str, model: Any, folder: Path, schedule: Schedule, progress: Progress) -> None:
    """Write the text-only model as a folder of its own, with its tokenizer and the record of its training."""
    save_checkpoint(model, build_tokenizer(), folder)
    told = rendered(TEXT_CARD, shape=text_shape(name), kind=type(model).__name__)
    (folder / "MODEL_CARD.md").write_text(told)
    record = {"model": name, "schedule": asdict(schedule), "curve": progress.curve, "seconds": progress.seconds}
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")


def reuse_text(name: str, folder: Path, work: Path, schedule: Schedule) -> None:
    """Make a finished stage `work/<name>.pt` of a text-only model that is there as a folder (half precision).

    Nothing happens where `work` has the stage, or the folder is missing or of another schedule.
    """
    path, record = work / f"{name}.pt", _record(folder)
    if path.exists() or record.get("schedule") != _as_json(schedule):
        return
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _keep(path, model.state_dict(), schedule, record)


def reuse_tower(shipped: Path, work: Path, schedule: Schedule) -> None:
    """Make a finished stage `work/tower.pt` of the tower in a shipped miniature that kept it frozen (half precision).

    Nothing happens where `work` has the stage, or `shipped` no such miniature with a tower of this schedule. The head
    that the tower was trained with is in no miniature: it is an untrained one, which a finished stage never asks.
    """
    path = work / "tower.pt"
    if path.exists():
        return
    for name in (name for name, entry in MINIATURES.items() if entry.recipe != "1.6"):
        stage = _record(shipped / name).get("stages", {}).get("tower", {})
        if stage and {key: stage.get(key) for key in asdict(schedule)} == _as_json(schedule):
            both = build_tower_with_head()
            both[0].load_state_dict(_tower_of(shipped / name / WEIGHTS))
            _keep(path, both.state_dict(), schedule, stage)
            return


def _tower_of(weights: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    prefix = "vision_tower."
    with safe_open(weights, "pt") as kept:
        names = [name for name in kept.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(prefix): kept.get_tensor(name).float() for name in names}


def _record(folder: Path) -> dict[str, Any]:
    """How the model in a folder was trained; empty without weights."""
    path = folder / TRAINING_RECORD
    there = path.is_file() and (folder / WEIGHTS).is_file()
    return json.loads(path.read_text(encoding="utf-8")) if there else {}


def _as_json(schedule: Schedule) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(schedule)))


def _keep(path: Path, state: dict[str, torch.Tensor], schedule: Schedule, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"model": state, "step": schedule.steps, "schedule": json.dumps(_as_json(schedule))}
    save_atomically(kept | {"curve": json.dumps(record["curve"]), "seconds": record["seconds"]}, path)


def load_moment(name: str, path: Path) -> Any:
    """Load the multimodal model as it was at a snapshot."""
    model = build_empty(name)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def moments(name: str, work: Path, folder: Path) -> Iterator[tuple[str, int, Any]]:
    """Load the moments of a training one after the other.

    Yields
    ------
    stage : str
        `adapter` before the adapter's alignment, `aligned` after it, `tuning` while tuning, `final`.
    step : int
        Steps of visual tuning; −2 before alignment, so that the order along `training_step` is that of time.
    model
        The network as it was then.

    Raises
    ------
    CheckpointError
        Where training left no snapshots.
    """
    from transformers import AutoModelForImageTextToText

    before = work / f"{name}-alignment-0.pt"
    tuning = {int(path.stem.rsplit("-", 1)[1]): path for path in work.glob(f"{name}-tuning-*.pt")}
    if not before.is_file() or not tuning:
        raise CheckpointError(f"{work} holds no snapshots of {name}; train it first (visualheads train {name}).")
    yield "adapter", -2, load_moment(name, before)
    for step, path in sorted(tuning.items()):
        yield "aligned" if step == 0 else "tuning", step, load_moment(name, path)
    steps = json.loads((folder / TRAINING_RECORD).read_text())["stages"]["tuning"]["steps"]
    yield "final", int(steps), AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")


def trace_moments(name: str, folder: Path, work: Path, n: int = SAMPLES) -> Path:
    """Trace every moment on the same `n` questions per condition and write `folder/moments.zarr.zip`.

    The dataset has one entry along `model` a moment, named `<name>@<stage>-<step>`, with `training_step`. Raises as
    `moments`.
    """
    benchmark = task("looktwice")
    samples = [s for condition in CONDITIONS for s in benchmark.samples(condition=condition, format="free", n=n)]
    processor, card = build_processor(miniature(name).recipe), cards().get(name)
    traced = []
    for stage, step, module in moments(name, work, folder):
        model = loading.wrap(module, processor, name=f"{name}@{stage}-{max(step, 0)}", card=card)
        ds = trace.trace(model, samples, query=ROWS, max_new_tokens=2, progress=False)
        traced.append(ds.assign_coords(training_step=("model", [step])))
    joined: xr.Dataset = xr.concat(traced, dim="model", join="exact")  # pyright: ignore[reportAssignmentType]
    return upkeep.pack(joined.drop_vars(DERIVED), folder / MOMENTS, BITS)
