"""Training: first the adapter alone, then adapter and LoRA. Resumable at any step."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.packing import Packed, answer_logits, pack, prefix_ids
from visualheads.miniatures.smol.pictures import as_pixels, as_saved, draw_box
from visualheads.miniatures.smol.questions import Question
from visualheads.miniatures.smol.scenes import draw_scene, render
from visualheads.miniatures.smol.sprites import SpriteSheet
from visualheads.models.smol.architecture import IMAGE_TOKEN, IMAGE_TOKENS
from visualheads.models.smol.joined_model import ADAPTER, LORA
from visualheads.models.smol.lora import lora_layers, lora_state
from visualheads.models.smol.projector import Projector

Row = tuple[Sequence[int], Sequence[Question]]
WEIGHTS = {"list": 0.5, "tally": 0.5}
"""Weight of an answer token in the loss, by kind of question; 1 elsewhere."""
BETAS = (0.9, 0.98)
WARM_UP = 40
"""Steps over which the rate rises, at the start and after a restart without the optimiser's state."""
ANNEAL_FLOOR = 0.05


@dataclass(frozen=True)
class Mix:
    """What one batch asks.

    pictures    scenes shown as pictures, half of them with a drawn box
    texts       scenes told in words
    letters     share of pictures with a question whose answer is a letter
    asked       most questions on one picture beside its list
    """

    pictures: int
    texts: int = 0
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
    "smol-frozen": Stage("smol-frozen", False, 2e-3, 0.0, Mix(pictures=4, letters=0.0, asked=4)),
    "smol-1.5": Stage("smol-1.5", True, 5e-4, 1e-3, Mix(pictures=4, texts=1, letters=0.4, asked=9)),
}


@dataclass
class Learner:
    """The model while it learns: frozen parts in their own precision, learned parts in float32."""

    tokenizer: Any
    language_model: nn.Module
    tower: nn.Module
    adapter: Projector
    sheet: SpriteSheet

    def learned(self) -> dict[str, Tensor]:
        """All learned tensors and the adapter's statistics, by the names they are saved under."""
        adapter = {f"{ADAPTER}{name}": value.detach() for name, value in self.adapter.state_dict().items()}
        lora = {f"{LORA}{name}": value for name, value in lora_state(self.language_model).items()}
        return {**adapter, **lora}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take learned tensors; LoRA matrices that `weights` lacks keep their initial values."""
        projector = {name[len(ADAPTER) :]: value for name, value in weights.items() if name.startswith(ADAPTER)}
        self.adapter.load_state_dict(projector)
        with torch.no_grad():
            for name, layer in lora_layers(self.language_model):
                for part in ("down", "up"):
                    if f"{LORA}{name}.{part}" in weights:
                        getattr(layer, part).copy_(weights[f"{LORA}{name}.{part}"])

    def features(self, pictures: Sequence[Any]) -> Tensor:
        """Features of rendered pictures, one row of tokens each."""
        pixels = torch.stack([as_pixels(picture) for picture in pictures])
        with torch.no_grad():
            return self.tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)

    def inputs(self, batch: Packed, features: Tensor | None, pictures: int) -> Tensor:
        """Language-model inputs: word embeddings, with adapted features in the first rows' image tokens."""
        embedded = self.language_model.get_input_embeddings()(batch.ids)
        if features is None:
            return embedded
        image = (batch.ids == self.image_token) & (torch.arange(len(batch.ids))[:, None] < pictures)
        return embedded.masked_scatter(image[..., None], self.adapter(features).to(embedded.dtype))

    @property
    def image_token(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def scores(self, batch: Packed, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (float32) and targets of all answer tokens of a batch, in row order."""
        return answer_logits(self.language_model.model, self.language_model.lm_head, batch, inputs)


def training_rows(learner: Learner, rng: random.Random, mix: Mix) -> tuple[list[Row], list[Any]]:
    """Draw scenes and questions: rows with a picture first, then those in words; and the pictures."""
    before = prefix_ids(learner.tokenizer, IMAGE_TOKENS)
    rows: list[Row] = []
    drawn: list[Any] = []
    for _ in range(mix.pictures):
        scene = draw_scene(rng)
        picture = render(scene, learner.sheet)
        if rng.random() < 0.5:
            marked = rng.choice(scene.objects)
            picture = draw_box(picture, marked.box)
            asked = questions.of_marked_picture(rng, scene, marked, mix.letters)
        else:
            asked = questions.of_plain_picture(rng, scene, mix.letters)
        first, *others = asked
        rows.append((before, [first, *rng.sample(others, min(mix.asked, len(others)))]))
        drawn.append(as_saved(picture, rng.randint(65, 95)))
    for _ in range(mix.texts):
        scene = draw_scene(rng)
        told = prefix_ids(learner.tokenizer, 0, questions.told_in_words(scene))
        rows.append((told, questions.of_text(rng, scene)))
    return rows, drawn


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
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Train one stage up to step `until`, going on from what `folder` holds.

    Parameters
    ----------
    learner : Learner
        Model with LoRA layers already added if the stage has them, and weights of the stage before loaded.
    stage : Stage
        Settings.
    folder : Path
        Holds `<stage>.safetensors` (learned weights in bfloat16), `<stage>.json` (step and log) and, not for version
        control, `state/` (weights and optimiser in float32) and `moments/`.
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
        Returns figures for the log.
    report : callable, optional
        Takes a line about progress.
    """
    keep = Keeper(folder, stage.name)
    optimiser = optimiser_of(learner, stage)
    step, log, started = keep.resume(learner, optimiser)
    kept, saved, clock = set(moments), time.monotonic(), time.monotonic()
    losses: list[float] = []
    rights: list[float] = []
    while step < until:
        factor = rate_factor(step, started, until - anneal, until)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        loss, right = train_step(learner, stage, optimiser, random.Random(f"{stage.name}/{step}"))
        losses.append(loss)
        rights.append(right)
        step += 1
        if step % 20 == 0:
            seconds = (time.monotonic() - clock) / len(losses)
            entry = {"step": step, "loss": mean(losses), "right": mean(rights), "seconds": round(seconds, 2)}
            log.append(entry)
            report(json.dumps(entry))
            losses, rights, clock = [], [], time.monotonic()
        if evaluate is not None and step % evaluate_every == 0:
            log.append({"step": step, **evaluate(learner)})
            report(json.dumps(log[-1]))
            clock = time.monotonic()
        if step in kept:
            keep.moment(learner, step)
        if step == until or time.monotonic() - saved > save_every:
            keep.save(learner, optimiser, step, log)
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


class Keeper:
    """Files of one stage; each is written beside its place and moved there."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage
        self.state = folder / "state" / f"{stage}.safetensors"
        self.weights = folder / f"{stage}.safetensors"
        self.log = folder / f"{stage}.json"
        for path in (self.state.parent, folder / "moments"):
            path.mkdir(parents=True, exist_ok=True)

    def resume(self, learner: Learner, optimiser: torch.optim.AdamW) -> tuple[int, list[dict[str, Any]], int]:
        """Load the newest state; returns the step, the log, and the step from which the rate rises."""
        log = json.loads(self.log.read_text(encoding="utf-8")) if self.log.is_file() else {"step": 0, "log": []}
        if self.state.is_file():
            state = load_file(self.state)
            step = int(state.pop("step"))
            if step >= log["step"]:
                learner.load({k: v for k, v in state.items() if not k.startswith("moments.")})
                self._load_moments(optimiser, state, step)
                return step, [entry for entry in log["log"] if entry["step"] <= step], -WARM_UP
        if self.weights.is_file():
            learner.load({name: value.float() for name, value in load_file(self.weights).items()})
        return log["step"], log["log"], log["step"]

    def _load_moments(self, optimiser: torch.optim.AdamW, state: Mapping[str, Tensor], step: int) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": state[f"moments.{index}.first"],
                "exp_avg_sq": state[f"moments.{index}.second"],
            }

    def save(self, learner: Learner, optimiser: torch.optim.AdamW, step: int, log: Sequence[Mapping[str, Any]]) -> None:
        learned = learner.learned()
        state = {**learned, "step": torch.tensor(step)}
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            state[f"moments.{index}.first"] = optimiser.state[parameter]["exp_avg"]
            state[f"moments.{index}.second"] = optimiser.state[parameter]["exp_avg_sq"]
        write_tensors(self.state, state)
        write_tensors(self.weights, shortened(learned))
        lines = ",\n".join(json.dumps(entry) for entry in log)
        partial = self.log.with_suffix(".partial")
        partial.write_text(f'{{"step": {step}, "log": [\n{lines}\n]}}\n', encoding="utf-8")
        os.replace(partial, self.log)

    def moment(self, learner: Learner, step: int) -> None:
        path = self.folder / "moments" / f"{self.stage}-{step:06d}.safetensors"
        write_tensors(path, shortened(learner.learned()))


def shortened(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Learned tensors as they are kept: weights in bfloat16, statistics of features in float32."""
    exact = {ADAPTER + name for name in ("mean", "deviation", "scale")}
    return {name: value if name in exact else value.bfloat16() for name, value in learned.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial)
    os.replace(partial, path)
