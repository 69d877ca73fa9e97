"""A training run and its files: it can be killed at any step and goes on from what was saved last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from visualheads.miniatures.smol.learner import Learner
from visualheads.models.smol import ADAPTER

DECAY = 0.99
"""How much of the averaged weights each step keeps; less in the first steps."""
AVERAGE, OPTIMISER = "average.", "optimiser."


@dataclass
class Run:
    """A learner with its optimiser, how far it is, and its averaged weights.

    step        steps done
    started     the step from which the learning rate rose
    log         figures reported so far
    average     exponential average of the learned tensors: what is evaluated and kept
    """

    learner: Learner
    optimiser: torch.optim.AdamW
    step: int = 0
    started: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser changes, in its order."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def update_average(self) -> None:
        """Take the present weights into the average."""
        learned = self.learner.learned()
        if not self.average:
            self.average = {name: value.clone() for name, value in learned.items()}
        done = self.step - self.started
        share = 1 - min(DECAY, (1 + done) / (10 + done))
        for name, value in learned.items():
            self.average[name].lerp_(value, share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the learner for a while."""
        present = {name: value.clone() for name, value in self.learner.learned().items()}
        self.learner.load(self.average)
        try:
            yield
        finally:
            self.learner.load(present)


class RunFiles:
    """Files of one stage, each written beside its place and moved there.

    `<stage>.safetensors` holds the averaged weights in bfloat16 and `<stage>.json` step and log: enough to go on, with
    a fresh optimiser. `state/` (present weights and optimiser in float32) and `moments/` stay out of version control.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage
        self.state = folder / "state" / f"{stage}.safetensors"
        self.weights = folder / f"{stage}.safetensors"
        self.log = folder / f"{stage}.json"
        for path in (self.state.parent, folder / "moments"):
            path.mkdir(parents=True, exist_ok=True)

    def resume(self, run: Run) -> None:
        """Load the newest state into a run; what was not saved yet is computed again."""
        told = json.loads(self.log.read_text(encoding="utf-8")) if self.log.is_file() else {"step": 0, "log": []}
        run.log = told["log"]
        if self.state.is_file():
            state = load_file(self.state)
            run.step, run.started = int(state["step"]), int(state["started"])
            if run.step >= told["step"]:
                run.learner.load({k: v for k, v in state.items() if not k.startswith((AVERAGE, OPTIMISER))})
                run.average = {k[len(AVERAGE) :]: v for k, v in state.items() if k.startswith(AVERAGE)}
                for index, parameter in enumerate(run.parameters):
                    run.optimiser.state[parameter] = {
                        "step": torch.tensor(float(run.step - run.started)),
                        "exp_avg": state[f"{OPTIMISER}{index}.first"],
                        "exp_avg_sq": state[f"{OPTIMISER}{index}.second"],
                    }
                return
        run.step = run.started = told["step"]
        if self.weights.is_file():
            run.learner.load({name: value.float() for name, value in load_file(self.weights).items()})

    def save(self, run: Run) -> None:
        """Write state, weights and log."""
        state = {**run.learner.learned(), "step": torch.tensor(run.step), "started": torch.tensor(run.started)}
        state.update({AVERAGE + name: value for name, value in run.average.items()})
        for index, parameter in enumerate(run.parameters):
            state[f"{OPTIMISER}{index}.first"] = run.optimiser.state[parameter]["exp_avg"]
            state[f"{OPTIMISER}{index}.second"] = run.optimiser.state[parameter]["exp_avg_sq"]
        write_tensors(self.state, state)
        write_tensors(self.weights, shortened(run.average))
        lines = ",\n".join(json.dumps(entry) for entry in run.log)
        partial = self.log.with_suffix(".partial")
        partial.write_text(f'{{"step": {run.step}, "log": [\n{lines}\n]}}\n', encoding="utf-8")
        os.replace(partial, self.log)

    def save_moment(self, run: Run) -> None:
        """Keep the averaged weights of this step."""
        write_tensors(self.folder / "moments" / f"{self.stage}-{run.step:06d}.safetensors", shortened(run.average))


def shortened(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return learned tensors as they are kept: weights in bfloat16, statistics of features in float32."""
    exact = {ADAPTER + name for name in ("mean", "deviation", "scale")}
    return {name: value if name in exact else value.bfloat16() for name, value in learned.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial)
    os.replace(partial, path)
