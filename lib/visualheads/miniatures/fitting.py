"""One seeded, resumable training loop for every stage.

Warm restarts: Loshchilov and Hutter, “SGDR: Stochastic Gradient Descent with Warm Restarts”, 2017.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visualheads.errors import CheckpointError

CHECKPOINT_EVERY = 100
Report = Callable[[str, int, int, dict[str, Any]], None]
"""Called at every report of a stage with its name, the steps done and to do, and the record of the curve."""


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a stage: linear warm-up, then a cosine to zero, again after each restart.

    Parameters
    ----------
    steps : int
        Optimiser steps in all.
    batch : int
        Scenes or lists in a step.
    rate : float
        The highest learning rate.
    warm_up : int
        Steps of the warm-up.
    report_every : int
        Steps between two records of the curve.
    tested : int
        Fresh scenes or lists that every record measures.
    moments : tuple of int
        Steps before which the weights are kept in half precision.
    restarts : tuple of int
        Steps before which the rates begin anew and the optimiser forgets its moments, so that a finished stage can be
        lengthened by one more cycle.
    """

    steps: int
    batch: int
    rate: float
    warm_up: int = 100
    report_every: int = 200
    tested: int = 256
    moments: tuple[int, ...] = ()
    restarts: tuple[int, ...] = ()

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        bounds = (0, *self.restarts, self.steps)
        start = max(bound for bound in bounds[:-1] if bound <= step)
        done, length = step - start, bounds[bounds.index(start) + 1] - start
        return self.rate * min(1.0, (done + 1) / self.warm_up) * (0.5 + 0.5 * math.cos(math.pi * done / length))


@dataclass
class Progress:
    """What a stage has done so far: the curve, one record a report, and the seconds it took."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Group:
    """Parameters that train together: `factor` scales the stage's learning rate for them, `name` is the part's."""

    parameters: tuple[nn.Parameter, ...]
    factor: float = 1.0
    name: str = ""


def step_random(seed: int, stage: str, step: int) -> random.Random:
    """Return the random source of one training step, so that every batch is a function of seed, stage and step."""
    return random.Random(f"{seed}/{stage}/{step}")


def group(*modules: nn.Module, factor: float = 1.0, name: str = "") -> Group:
    """Gather all parameters of some modules."""
    return Group(tuple(parameter for module in modules for parameter in module.parameters()), factor, name)


def save_atomically(content: Any, path: Path) -> None:
    """Write a checkpoint beside its target, then rename it: a killed run never leaves half of one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def fit(
    name: str,
    model: nn.Module,
    trained: Sequence[Group],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    folder: Path,
    measure: Callable[[], dict[str, float]] | None = None,
    on_progress: Report | None = None,
) -> Progress:
    """Train some parameters of a model; goes on where a killed run stopped, and returns at once when all is done.

    Parameters
    ----------
    name : str
        The stage's; its checkpoint is `folder/<name>.pt`, its moments `folder/<name>-<step>.pt`.
    model : torch.nn.Module
        All whose weights are kept; only those in `trained` learn.
    trained : sequence of Group
    loss_of : callable
        Step → loss; a pure function of the step and the weights.
    schedule : Schedule
    folder : pathlib.Path
    measure : callable, optional
        Called at every report in evaluation mode; its figures join the curve.
    on_progress : Report, optional

    Raises
    ------
    CheckpointError
        Where the kept stage is of another schedule or shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    parameters = [parameter for part in trained for parameter in part.parameters]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = fresh_optimiser(trained, schedule)
    progress, start = Progress(), 0
    if path.exists():
        kept = resumable(path, schedule)
        restore(model, optimiser, kept, path)
        progress, start = Progress(json.loads(kept["curve"]), kept["seconds"]), kept["step"]
    began = time.monotonic() - progress.seconds
    losses: list[float] = []

    def keep(step: int) -> None:
        progress.seconds = time.monotonic() - began
        state: dict[str, Any] = {"model": model.state_dict(), "step": step}
        if step < schedule.steps:  # a finished stage is only read: it needs no moments of its weights
            state["optimiser"] = optimiser.state_dict()
        state["schedule"] = json.dumps(asdict(schedule))
        save_atomically(state | {"curve": json.dumps(progress.curve), "seconds": progress.seconds}, path)

    for step in range(start, schedule.steps):
        if step in schedule.moments:
            keep_moment(model, folder / f"{name}-{step}.pt")
        if step in schedule.restarts:
            optimiser = fresh_optimiser(trained, schedule)
        for part in optimiser.param_groups:
            part["lr"] = schedule.rate_at(step) * part["factor"]
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


def fresh_optimiser(trained: Sequence[Group], schedule: Schedule) -> torch.optim.Optimizer:
    """Return AdamW over the groups, without moments."""
    groups = [{"params": list(part.parameters), "factor": part.factor} for part in trained]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def resumable(path: Path, schedule: Schedule) -> dict[str, Any]:
    """Read a kept stage of this schedule, or one finished at one of its restarts; reports and tests may differ.

    Raises
    ------
    CheckpointError
        Where it is of another schedule.
    """
    kept = torch.load(path, weights_only=True, map_location="cpu")
    planned = {"restarts": []} | json.loads(kept.get("schedule", "{}"))
    lasting = ("steps", "restarts", "batch", "rate", "warm_up")
    before = [planned.get(key) for key in lasting]
    cycles = [(restart, schedule.restarts[:number]) for number, restart in enumerate(schedule.restarts)]
    allowed = [[steps, list(restarts)] for steps, restarts in (*cycles, (schedule.steps, schedule.restarts))]
    now = [*allowed[-1], *(getattr(schedule, key) for key in lasting[2:])]
    if before[:2] not in allowed or before[2:] != now[2:]:
        raise CheckpointError(
            f"{path} holds another training plan ({', '.join(lasting)}: {before}, now {now}); "
            "use an empty folder or remove it."
        )
    return kept


def restore(model: nn.Module, optimiser: torch.optim.Optimizer, kept: dict[str, Any], path: Path) -> None:
    """Load the kept weights and, of an unfinished stage, the optimiser.

    Raises
    ------
    CheckpointError
        Where the network's shape has changed.
    """
    try:
        model.load_state_dict(kept["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds a network of another shape; use an empty folder or remove it.") from error
    if "optimiser" not in kept:
        return
    factors = [part["factor"] for part in optimiser.param_groups]
    optimiser.load_state_dict(kept["optimiser"])
    for part, factor in zip(optimiser.param_groups, factors, strict=True):
        part["factor"] = factor


def evaluated(model: nn.Module, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run a measurement in evaluation mode without gradients."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        result = measure()
    model.train(was_training)
    return result


def keep_moment(model: nn.Module, path: Path) -> None:
    """Keep a snapshot of the weights in half precision."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_atomically(state, path)


def share_by_name(records: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Return the share of true values of every name."""
    names = sorted({name for name, _ in records})
    return {name: sum(v for n, v in records if n == name) / sum(n == name for n, _ in records) for name in names}
