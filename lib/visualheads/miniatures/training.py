"""Training a miniature: vision tower, text-only language model, adapter alignment, visual instruction tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from visualheads.miniatures import batches, fitting, turns, words
from visualheads.miniatures.architectures import (
    build_multimodal,
    build_text,
    build_tower,
    miniature,
    text_shape,
)
from visualheads.miniatures.fitting import Progress, Schedule
from visualheads.miniatures.world import CLASSES

Report = Callable[[str, int, int, dict[str, Any]], None]
MOST_FILLERS = 55  # with nine objects, as many list places as a picture has image tokens
FEWEST_FILLERS = 2
FULL_LENGTH_FROM = 0.6  # the share of text training after which lists have their full length
# A batch holds one kind of text, because lengths differ: its share while counting is learned, and after.
FIRST_SHARES = {"tally": 0.8, "caption": 0.2, "questions": 0.0}
SHARES = {"tally": 0.3, "caption": 0.2, "questions": 0.5}
QUESTIONS_FROM = 0.15  # the share of text training after which whole questions are asked
TUNING_TASKS = ("questions", "tally", "questions", "caption")
TEST_BATCH = 64
TOWER_WEIGHTS = (0.2, 0.3)  # loss weight of background and of an object's other patches; classes weigh 1


TOWER = Schedule(steps=4000, batch=32, rate=1e-3, report_every=250)
TEXT = Schedule(steps=2400, batch=64, rate=2e-3)
ALIGNMENT = Schedule(steps=400, batch=32, rate=3e-3, warm_up=50, report_every=100, moments=(0,))
TUNING = Schedule(steps=2000, batch=32, rate=1e-3, warm_up=50, moments=(0, 50, 150, 400, 800, 1400))
POINTING = Schedule(steps=2000, batch=32, rate=1e-3, warm_up=50, moments=(0,))


@dataclass(frozen=True)
class Plan:
    """The schedules of all stages."""

    tower: Schedule = TOWER
    text: Schedule = TEXT
    alignment: Schedule = ALIGNMENT
    tuning: Schedule = TUNING
    pointing: Schedule = POINTING

    def smoke(self) -> Plan:
        """A one-minute version: every stage runs, nothing is learned."""

        def short(schedule: Schedule) -> Schedule:
            return replace(
                schedule, steps=4, batch=4, warm_up=2, report_every=4, tested=8, moments=schedule.moments and (0,)
            )

        return Plan(*(short(getattr(self, stage.name)) for stage in fields(self)))


def train_tower(plan: Plan, folder: Path, seed: int, device: str, report: Report | None = None):
    """A CLIP vision tower that tells, patch by patch, whose centre it shows and whether the drawn box holds it."""
    torch.manual_seed(seed)
    tower: Any = build_tower()
    tower.to(device)
    head = nn.Linear(tower.config.hidden_size, 2 + len(CLASSES) + 1).to(device)
    both = nn.ModuleList([tower, head])
    weight = torch.ones(2 + len(CLASSES), device=device)
    weight[batches.BACKGROUND], weight[batches.PART] = TOWER_WEIGHTS

    def outputs(pixels):
        return head(tower(pixels.to(device)).last_hidden_state[:, 1:])

    def loss_of(step: int):
        pixels, kinds, boxed = batches.tower_batch(batches.generator(seed, "tower", step), plan.tower.batch)
        out = outputs(pixels)
        seen = F.cross_entropy(out[..., :-1].flatten(0, 1), kinds.to(device).flatten(), weight=weight)
        return seen + 0.5 * F.binary_cross_entropy_with_logits(out[..., -1], boxed.to(device))

    def measure() -> dict[str, float]:
        pixels, kinds, boxed = batches.tower_batch(batches.generator(seed, "tower-test", 0), plan.tower.tested)
        out = outputs(pixels).cpu()
        found, objects = out[..., :-1].argmax(-1), kinds > batches.PART
        hit = (found == kinds) & objects
        return {
            "recall": float(hit.sum() / objects.sum()),
            "precision": float(hit.sum() / (found > batches.PART).sum().clamp(min=1)),
            "box_accuracy": float(((out[..., -1] > 0) == (boxed > 0.5))[objects].float().mean()),
        }

    progress = fitting.fit("tower", both, [both], loss_of, plan.tower, folder, measure, report)
    return tower, progress


def train_text(name: str, plan: Plan, folder: Path, seed: int, device: str, report: Report | None = None):
    """A text-only language model that lists and counts objects told in words, among more and more filler words.

    First it only lists and tallies, later it is asked whole questions.
    """
    torch.manual_seed(seed)
    model: Any = build_text(text_shape(name))
    model.to(device)
    fillers = FEWEST_FILLERS

    def loss_of(step: int):
        nonlocal fillers
        done = step / plan.text.steps
        fillers = int(min(MOST_FILLERS, FEWEST_FILLERS + MOST_FILLERS * done / FULL_LENGTH_FROM))
        rng = batches.generator(seed, name, step)
        shares = FIRST_SHARES if done < QUESTIONS_FROM else SHARES
        task = rng.choices(list(shares), list(shares.values()))[0]
        ids, labels = batches.pad(batches.text_pair(rng, fillers, task, 5) for _ in range(plan.text.batch))
        return model(input_ids=ids.to(device), labels=labels.to(device)).loss

    def measure() -> dict[str, float]:
        return text_accuracy(model, seed, device, plan.text.tested, fillers)

    progress = fitting.fit(name, model, [model], loss_of, plan.text, folder, measure, report)
    return model, {name: progress}


def text_accuracy(model: nn.Module, seed: int, device: str, lists: int, fillers: int) -> dict[str, float]:
    """Share of right answers on fresh lists with at most `fillers` filler words: questions by kind, and tallies."""
    rng = batches.generator(seed, "text-test", 0)
    records, pairs, kinds = [], [], []
    for _ in range(lists):
        listed, listing = turns.text_list(rng, fillers)
        kind, question, answer = turns.ask(rng, listing)
        if listing.marked:
            question += " " + words.RECTANGLE_HINT
        head = [*turns.opening(), *listed]
        asked = turns.exchange(f"{question} {words.FREE_HINT}", answer, first=True)
        for name, (more, labels) in ((kind, asked), ("tally", turns.tally(rng, listing))):
            pairs.append((head + more, [turns.IGNORED] * len(head) + labels))
            kinds.append(name)
    ids, labels = batches.pad(pairs)
    found = model(input_ids=ids.to(device)).logits.argmax(-1).cpu()
    for row, kind in enumerate(kinds):
        told = (labels[row] != turns.IGNORED).nonzero()[:-1, 0]  # without the end token
        records += [(kind, bool(found[row, place - 1] == ids[row, place])) for place in told]
    return fitting.mean_by(records)


def tune(name: str, text, tower, plan: Plan, folder: Path, device: str, report: Report | None = None):
    """The stages of the LLaVA-1.5 recipe: the adapter alone on captions, then adapter and language model.

    The latter are tuned in two rounds, the second with captions and questions that tell what the drawn box holds.
    """
    recipe = miniature(name)
    torch.manual_seed(recipe.seed)
    model: Any = build_multimodal(name, text, tower)
    model.to(device)
    adapter, language = model.model.multi_modal_projector, [model.model.language_model, model.lm_head]

    def loss_for(stage: str, schedule: Schedule, tasks: tuple[str, ...]):
        def loss_of(step: int):
            rng = batches.generator(recipe.seed, f"{name}/{stage}", step)
            pixels, ids, labels = batches.picture_batch(
                rng, schedule.batch, tasks[step % len(tasks)], pointing=stage == "pointing"
            )
            return model(pixel_values=pixels.to(device), input_ids=ids.to(device), labels=labels.to(device)).loss

        return loss_of

    def measure() -> dict[str, float]:
        return picture_accuracy(model, recipe.seed, device, plan.tuning.tested)

    stages: dict[str, Progress] = {}
    for stage, schedule, tasks, trained in (
        ("alignment", plan.alignment, ("caption",), [adapter]),
        ("tuning", plan.tuning, TUNING_TASKS, [adapter, *language]),
        ("pointing", plan.pointing, TUNING_TASKS, [adapter, *language]),
    ):
        loss_of = loss_for(stage, schedule, tasks)
        stages[stage] = fitting.fit(f"{name}-{stage}", model, trained, loss_of, schedule, folder, measure, report)
    return model, stages


def picture_accuracy(model: nn.Module, seed: int, device: str, pictures: int) -> dict[str, float]:
    """Share of right free-form answers on fresh pictures, by kind of question (a quick look while training)."""
    rng = batches.generator(seed, "picture-test", 0)
    records: list[tuple[str, bool]] = []
    for start in range(0, pictures, TEST_BATCH):
        pixels, pairs, kinds, answers = [], [], [], []
        for _ in range(min(TEST_BATCH, pictures - start)):
            image, scene, target = batches.picture(rng, boxed=rng.random() < 0.5)
            items = tuple(item.name for item in scene.objects)
            listing = turns.Listing(items, None if target is None else items[target])
            kind, question, answer = turns.ask(rng, listing)
            if listing.marked:
                question += " " + words.RECTANGLE_HINT
            told = turns.exchange(f"{question} {words.FREE_HINT}", answer, first=True)
            head = [*turns.opening(), *[words.vocabulary()[words.IMAGE]] * batches.GRID**2]
            pairs.append((head + told[0], [turns.IGNORED] * len(head) + told[1]))
            pixels.append(torch.from_numpy(batches.as_pixels(image)))
            kinds.append(kind)
            answers.append(words.encode(answer)[0])
        ids, labels = batches.pad(pairs)
        logits = model(pixel_values=torch.stack(pixels).to(device), input_ids=ids.to(device)).logits.cpu()
        for row, kind in enumerate(kinds):
            position = int((labels[row] != turns.IGNORED).nonzero()[0, 0]) - 1
            records.append((kind, bool(logits[row, position].argmax() == answers[row])))
    return fitting.mean_by(records)


def write_curves(stages: dict[str, Progress], path: Path) -> None:
    """All stages' curves as one JSON file."""
    path.write_text(json.dumps({name: {"curve": p.curve, "seconds": p.seconds} for name, p in stages.items()}))
