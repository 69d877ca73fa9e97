"""One seeded, resumable training loop for every stage."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a stage: linear warm-up, then a cosine to zero."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 100
    report_every: int = 200
    tested: int = 256
    moments: tuple[int, ...] = ()

    def rate_at(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


@dataclass
class Progress:
    """What a stage has done so far: the curve (one record a report) and the seconds it took."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def save_atomically(content: Any, path: Path) -> None:
    """Write beside the target, then rename: a killed run never leaves half a checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def fit(
    name: str,
    model: nn.Module,
    trained: Iterable[nn.Module],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    folder: Path,
    measure: Callable[[], dict[str, float]] | None = None,
    on_progress: Callable[[str, int, int, dict[str, Any]], None] | None = None,
) -> Progress:
    """Train the parameters of `trained` inside `model`; resumes from `folder/<name>.pt` and returns at once when done.

    `loss_of(step)` must be a pure function of the step and the weights. At each of `schedule.moments` the whole
    model's state is kept as `folder/<name>-<step>.pt` in half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    parameters = [p for module in trained for p in module.parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    progress, start = Progress(), 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        progress, start = Progress(json.loads(kept["curve"]), kept["seconds"]), kept["step"]
    began = time.monotonic() - progress.seconds
    losses: list[float] = []

    def keep(step: int) -> None:
        progress.seconds = time.monotonic() - began
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
        save_atomically(state | {"curve": json.dumps(progress.curve), "seconds": progress.seconds}, path)

    for step in range(start, schedule.steps):
        if step in schedule.moments:
            keep_moment(model, folder / f"{name}-{step}.pt")
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
        done = step + 1
        if done % schedule.report_every == 0 or done == schedule.steps:
            record = {"step": done, "loss": sum(losses) / len(losses), "seconds": time.monotonic() - began}
            if measure:
                record |= evaluated(model, measure)
            losses.clear()
            progress.curve.append(record)
            if on_progress:
                on_progress(name, done, schedule.steps, record)
        if done % CHECKPOINT_EVERY == 0 or done == schedule.steps:
            keep(done)
    return progress


def evaluated(model: nn.Module, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run a measurement in evaluation mode without gradients."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        result = measure()
    model.train(was_training)
    return result


def keep_moment(model: nn.Module, path: Path) -> None:
    """A snapshot of the weights in half precision."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_atomically(state, path)


def mean_by(records: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Share of true values per name."""
    names = sorted({name for name, _ in records})
    return {name: sum(v for n, v in records if n == name) / sum(n == name for n, _ in records) for name in names}
