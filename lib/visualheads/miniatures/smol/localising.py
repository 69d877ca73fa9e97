"""Before the first stage: the projector's first layer learns, without a language model, which object lies where.

The tower's features tell what a whole picture shows. That a token should tell what lies under it would take thousands
of pictures to learn through a frozen language model; a linear head that is thrown away teaches it in minutes. The
second layer, whose outputs the language model reads, is left to the stages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from visualheads.miniatures.smol.learner import Learner
from visualheads.miniatures.smol.packing import as_saved, draw_box
from visualheads.miniatures.smol.scenes import Placed, Scene, draw_scene, render
from visualheads.miniatures.smol.sprites import CLASSES, COLOURS
from visualheads.models.smol.architecture import GRID

PICTURES, PASSES, BATCH, TESTED = 3600, 12, 24, 120
RATE = 1e-3
NOTHING = 0
"""Label of a token under which no object (or no centre) lies."""
UNKNOWN = -100
OUTSIDE, INSIDE = 0, 1
KINDS = len(CLASSES) + 1
PARTS = {
    "centre": slice(0, KINDS),
    "cover": slice(KINDS, 2 * KINDS),
    "colour": slice(2 * KINDS, 2 * KINDS + len(COLOURS)),
    "mark": slice(2 * KINDS + len(COLOURS), 2 * KINDS + len(COLOURS) + 2),
}
"""Which of the head's outputs tell which label."""


def labels_of(scene: Scene, marked: Placed | None) -> dict[str, Int[Tensor, " token"]]:
    """Return what lies under each token of a scene whose object `marked`, if any, has a box drawn around it.

    Parameters
    ----------
    scene : Scene
        What the picture shows.
    marked : Placed, optional
        One of its objects.

    Returns
    -------
    dict of str to Tensor
        By name, (token,): `centre`, the class (from 1) of an object whose centre lies there, else 0; `cover`, the class
        of the object over the token's middle; `colour` of that object, `UNKNOWN` without one; `mark`, 1 within the box.
    """
    centre, cover = (torch.full((GRID, GRID), NOTHING) for _ in range(2))
    colour = torch.full((GRID, GRID), UNKNOWN)
    mark = torch.full((GRID, GRID), OUTSIDE)
    across, down = GRID / scene.size[0], GRID / scene.size[1]
    middle = torch.arange(GRID) + 0.5
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        inside = ((middle >= top * down) & (middle < bottom * down))[:, None] & (
            (middle >= left * across) & (middle < right * across)
        )
        number = CLASSES.index(thing.name) + 1
        cover[inside] = number
        if thing.colour:
            colour[inside] = tuple(COLOURS).index(thing.colour)
        if thing is marked:
            mark[inside] = INSIDE
        x, y = thing.centre
        centre[int(y * down), int(x * across)] = number
    labels = {"centre": centre, "cover": cover, "colour": colour, "mark": mark}
    return {name: value.flatten() for name, value in labels.items()}


def localise(learner: Learner, report: Callable[[str], object] = str, pictures: int = PICTURES) -> dict[str, float]:
    """Train the adapter's first layer to tell what lies under each token.

    Parameters
    ----------
    learner : Learner
        Its tower stays as it is; of its adapter, `linear_1` changes.
    report : callable
        Takes lines about progress.
    pictures : int
        Scenes that are drawn.

    Returns
    -------
    dict of str to float
        By label, the share of tokens of fresh scenes under which there is something that is told rightly.
    """
    head = nn.Linear(learner.adapter.linear_1.out_features, PARTS["mark"].stop)
    parameters = [*learner.adapter.linear_1.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.02)
    rng = random.Random("localise")
    features, labels = _draw(learner, rng, pictures, report)
    steps = PASSES * (pictures // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        chosen = rng.sample(range(pictures), BATCH)
        scores = head(learner.adapter.hidden(features[chosen].float()))
        loss = _loss(scores, {name: value[chosen] for name, value in labels.items()})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            report(f"localising: step {step} of {steps}, loss {loss.item():.4f}")
    features, labels = _draw(learner, random.Random("localise, held out"), TESTED, report)
    with torch.no_grad():
        return _told(head(learner.adapter.hidden(features.float())), labels)


def _draw(
    learner: Learner, rng: random.Random, number: int, report: Callable[[str], object]
) -> tuple[Tensor, dict[str, Tensor]]:
    features, labels = [], []
    for start in range(0, number, BATCH):
        shown: list[Any] = []
        for _ in range(min(BATCH, number - start)):
            scene = draw_scene(rng)
            picture, marked = render(scene, learner.sheet), None
            if rng.random() < 0.5:
                marked = rng.choice(scene.objects)
                picture = draw_box(picture, marked.box)
            shown.append(as_saved(picture, rng.randint(65, 95)))
            labels.append(labels_of(scene, marked))
        features.append(learner.features(shown).bfloat16())
        if start % (20 * BATCH) == 0:
            report(f"localising: {start} of {number} pictures")
    return torch.cat(features), {name: torch.stack([one[name] for one in labels]) for name in PARTS}


def _loss(scores: Tensor, labels: dict[str, Tensor]) -> Tensor:
    losses = []
    for name, part in PARTS.items():
        known = labels[name] != UNKNOWN
        if known.any():
            losses.append(functional.cross_entropy(scores[known][:, part], labels[name][known]))
    return torch.stack(losses).sum()


def _told(scores: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    told = {}
    for name, part in PARTS.items():
        known = labels[name] != UNKNOWN if name == "colour" else labels[name] > NOTHING
        told[name] = (scores[..., part].argmax(-1) == labels[name])[known].float().mean().item()
    return told
