"""Training: first the adapter alone, then adapter and LoRA. A killed run goes on from its files."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.packing import Learner, Packed, as_saved, draw_box, pack, prefix_ids
from visualheads.miniatures.smol.questions import Question
from visualheads.miniatures.smol.scenes import Scene, draw_scene, render
from visualheads.miniatures.smol.sprites import CATEGORY
from visualheads.models.smol.architecture import IMAGE_TOKENS
from visualheads.models.smol.joined_model import ADAPTER, lora_layers

Row = tuple[Sequence[int], Sequence[Question]]
WEIGHTS = {"list": 0.2, "tally": 0.2, "general": 2.0, "object": 2.0, "super": 2.0}
"""Weight of an answer token in the loss, by kind of question; 1 elsewhere. What is shipped was trained with 0.5 for
lists and tallies, and 1 else, up to step 960, and with 1.5 for classes and supercategories up to step 4036."""
NUMBERS, MOST_NUMBERS = (1, 2, 3, 3, 4, 4, 5, 5), (2, 3, 4, 5, 6, 7, 8)
"""Numbers of the class, or of objects of a supercategory in several classes, that a picture is drawn for: large ones,
of which scenes have few, as often as small ones, about. What is shipped was trained with numbers as scenes have them
up to step 3160, and with supercategories of any scene up to step 4036."""
MIXED = 0.35
"""Share of pictures that are drawn for the number of a supercategory that shows several classes."""
BETAS = (0.9, 0.98)
WARM_UP = 40
"""Steps over which the rate rises, at the start and after a restart without the optimiser's state."""
ANNEAL_FLOOR = 0.05
REPORTED = 20
"""Steps between two lines about progress."""


@dataclass(frozen=True)
class Mix:
    """What one batch asks.

    pictures    scenes shown as pictures
    marked      share of them with a drawn box
    texts       scenes told in words: share of steps that have one
    letters     share of pictures with a question whose answer is a letter
    asked       most questions on one picture beside the first number's
    """

    pictures: int
    marked: float = 0.5
    texts: float = 0.0
    letters: float = 1.0
    asked: int = 99


@dataclass(frozen=True)
class Stage:
    """One stage of training: whether the language model adapts (LoRA), peak rates, and what batches ask."""

    name: str
    lora: bool
    adapter_rate: float
    lora_rate: float
    mix: Mix


STAGES = {
    "smol-frozen": Stage("smol-frozen", False, 2e-3, 0.0, Mix(pictures=6, letters=0.0, asked=2)),
    "smol-1.5": Stage("smol-1.5", True, 1e-3, 1e-3, Mix(pictures=4, marked=0.4, texts=0.25, letters=0.3, asked=4)),
}


def training_rows(learner: Learner, rng: random.Random, mix: Mix) -> tuple[list[Row], list[Any]]:
    """Draw scenes and questions: rows with a picture first, then those in words; and the pictures."""
    before = prefix_ids(learner.tokenizer, IMAGE_TOKENS)
    rows: list[Row] = []
    drawn: list[Any] = []
    for _ in range(mix.pictures):
        scene, counted = draw_counted(rng)
        picture = render(scene, learner.sheet)
        if rng.random() < mix.marked:
            marked = rng.choice([thing for thing in scene.objects if counted in (thing.name, CATEGORY[thing.name])])
            picture = draw_box(picture, marked.box)
            asked = questions.of_marked_picture(rng, scene, marked, mix.letters)
        else:
            asked = questions.of_plain_picture(rng, scene, counted, mix.letters)
        listing, number, *others = asked
        others.append(listing)
        rows.append((before, [number, *rng.sample(others, min(mix.asked, len(others)))]))
        drawn.append(as_saved(picture, rng.randint(65, 95)))
    for _ in range(int(mix.texts + rng.random())):
        scene = draw_scene(rng)
        told = prefix_ids(learner.tokenizer, 0, questions.told_in_words(scene))
        rows.append((told, questions.of_text(rng, scene)))
    return rows, drawn


def draw_counted(rng: random.Random) -> tuple[Scene, str]:
    """Draw a scene, and a class or supercategory of it whose number is drawn first."""
    mixed = rng.random() < MIXED
    number = rng.choice(MOST_NUMBERS if mixed else NUMBERS)
    while True:
        scene = draw_scene(rng, motley=mixed)
        several = [CATEGORY[name] for name in scene.names]
        among = [what for what in scene.categories if several.count(what) > 1] if mixed else scene.names
        fitting = [what for what in among if scene.count(what) == number]
        if fitting:
            return scene, rng.choice(fitting)


def answer_weights(batch: Packed, rows: Sequence[Row]) -> Tensor:
    """Weight of every answer token in the loss."""
    return torch.tensor(
        [
            WEIGHTS.get(rows[row][1][number].kind, 1.0)
            for row, numbers in enumerate(batch.question.tolist())
            for number in numbers
            if number >= 0
        ]
    )


def rate_factor(step: int, started: int, anneal_from: int, until: int) -> float:
    """Share of the peak rate: a rise after a start, then constant, then a cosine down from `anneal_from`."""
    rise = min(1.0, (step - started + 1) / WARM_UP)
    if step < anneal_from:
        return rise
    share = (step - anneal_from) / max(1, until - anneal_from)
    return rise * (ANNEAL_FLOOR + (1 - ANNEAL_FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def optimiser_of(learner: Learner, stage: Stage) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": list(learner.adapter.parameters()), "peak": stage.adapter_rate}]
    if stage.lora:
        thin = [p for _, layer in lora_layers(learner.language_model) for p in (layer.down, layer.up)]
        groups.append({"params": thin, "peak": stage.lora_rate})
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, weight_decay=0.01)


def train(
    learner: Learner,
    stage: Stage,
    folder: Path,
    *,
    until: int,
    anneal: int,
    moments: Iterable[int] = (),
    save_every: float = 300.0,
    evaluate_every: int = 200,
    evaluate: Callable[[Learner], Mapping[str, float]] | None = None,
    report: Callable[[str], object] = str,
) -> None:
    """Train one stage up to step `until`, going on from what `folder` holds.

    Parameters
    ----------
    learner : Learner
        Model with LoRA layers already added if the stage has them, and weights of the stage before loaded.
    stage : Stage
        Settings.
    folder : Path
        Where weights and log are kept (see `run_files`).
    until : int
        Step at which training ends.
    anneal : int
        Number of last steps over which the rate goes down.
    moments : iterable of int
        Steps whose weights are kept.
    save_every : float
        Seconds between two savings.
    evaluate_every : int
        Steps between two evaluations.
    evaluate : callable, optional
        Returns figures for the log; what it sees are averaged weights.
    report : callable, optional
        Takes a line about progress.
    """
    run = Run(learner, optimiser_of(learner, stage))
    files = RunFiles(folder, stage.name)
    files.resume(run)
    kept, saved, clock = set(moments), time.monotonic(), time.monotonic()
    recent: list[tuple[float, float]] = []
    while run.step < until:
        factor = rate_factor(run.step, run.started, until - anneal, until)
        for group in run.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        recent.append(train_step(learner, stage, run.optimiser, random.Random(f"{stage.name}/{run.step}")))
        run.step += 1
        run.update_average()
        if run.step % REPORTED == 0:
            loss, right = map(mean, zip(*recent, strict=True))
            seconds = round((time.monotonic() - clock) / len(recent), 2)
            run.log.append({"step": run.step, "loss": loss, "right": right, "seconds": seconds})
            report(json.dumps(run.log[-1]))
            recent, clock = [], time.monotonic()
        if evaluate is not None and run.step % evaluate_every == 0:
            with run.averaged():
                run.log.append({"step": run.step, **evaluate(learner)})
            report(json.dumps(run.log[-1]))
            clock = time.monotonic()
        if run.step in kept:
            files.save_moment(run)
        if run.step == until or time.monotonic() - saved > save_every:
            files.save(run)
            saved = time.monotonic()


def train_step(learner: Learner, stage: Stage, optimiser: torch.optim.AdamW, rng: random.Random) -> tuple[float, float]:
    """One step on fresh scenes; returns the loss and the share of right answer tokens."""
    rows, pictures = training_rows(learner, rng, stage.mix)
    batch = pack(learner.tokenizer, rows, learner.tokenizer.pad_token_id)
    inputs = learner.inputs(batch, learner.features(pictures), len(pictures))
    logits, targets = learner.scores(batch, inputs)
    weights = answer_weights(batch, rows)
    loss = (functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    optimiser.zero_grad()
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return loss.item(), (logits.argmax(-1) == targets).float().mean().item()


def mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


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
