"""Start a stage of training, or go on where it stopped: build the model, take the stage before, train."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from visualheads.cards import data_folder
from visualheads.errors import CheckpointError
from visualheads.miniatures.smol.packing import Learner, as_saved, draw_box, pack, right_answers
from visualheads.miniatures.smol.scenes import Placed, Scene, draw_scene, render, use_sheet
from visualheads.miniatures.smol.sprites import CLASSES, COLOURS, read_sheet
from visualheads.miniatures.smol.training import STAGES, Mix, mean, train, training_rows
from visualheads.models.smol.architecture import FEATURES, GRID, SIDE, Projector, lite2_config
from visualheads.models.smol.base_weights import LANGUAGE, TOWER, check_prepared
from visualheads.models.smol.joined_model import add_lora

MOMENTS = (25, 100, 200, 400, 800, 1500, 2500, 4000)
"""Steps whose weights are kept, for traces of the heads in the course of training."""
FIRST_STAGE = "smol-frozen"
STATISTICS = 16
"""Pictures from which features are standardised."""


QUICK_SCENES, QUICK_BATCH = 40, 8


def build_learner(base: Path, data: Path) -> Learner:
    """Join the converted base weights and a fresh projector; language model in bfloat16, tower in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, EfficientNetModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base / LANGUAGE)
    language_model: Any = AutoModelForCausalLM.from_pretrained(
        base / LANGUAGE, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    tower: Any = EfficientNetModel(lite2_config(SIDE))
    tower.load_state_dict(load_file(base / TOWER))
    tower.eval()
    for part in (language_model, tower):
        part.requires_grad_(False)
    sheet = read_sheet(data)
    use_sheet(sheet)
    learner = Learner(tokenizer, language_model, tower, Projector(FEATURES, language_model.config.hidden_size), sheet)
    _, pictures = training_rows(learner, random.Random("statistics"), Mix(STATISTICS))
    scale = language_model.get_input_embeddings().weight.float().std().item()
    learner.adapter.standardise(learner.features(pictures), scale)
    return learner


def start(
    name: str,
    until: int,
    anneal: int,
    *,
    folder: Path | None = None,
    report: Callable[[str], None],
) -> None:
    """Train one stage up to a step, going on from what the folder holds.

    Parameters
    ----------
    name : str
        One of `STAGES`.
    until : int
        Step at which training ends.
    anneal : int
        Number of last steps over which the learning rate goes down.
    folder : Path, optional
        Where weights and log are kept; data/smol by default.
    report : callable
        Takes a line about progress.

    Raises
    ------
    CheckpointError
        If base weights, or the stage before, are missing.
    """
    data = data_folder() / "smol"
    folder = folder or data
    stage = STAGES[name]
    before = folder / f"{FIRST_STAGE}.safetensors"
    if stage.lora and not before.is_file():
        raise CheckpointError(f"{name} grows from {FIRST_STAGE}, and {before} is missing; train {FIRST_STAGE} first.")
    learner = build_learner(check_prepared(), data)
    if stage.lora:
        learner.load({name: value.float() for name, value in load_file(before).items()})
        add_lora(learner.language_model)
    elif not (folder / f"{name}.safetensors").is_file():
        report(f"localised: {localise(learner, report)}")
    train(learner, stage, folder, until=until, anneal=anneal, moments=MOMENTS, evaluate=exact_answers, report=report)


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
    """Train the adapter's first layer to tell what lies under each token, before the first stage.

    The tower's features tell what a whole picture shows. That a token should tell what lies under it would take
    thousands of pictures to learn through a frozen language model; a linear head that is thrown away teaches it in
    minutes. The second layer, whose outputs the language model reads, is left to the stages.

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


def exact_answers(learner: Learner, scenes: int = QUICK_SCENES) -> dict[str, float]:
    """Return the share of exactly answered questions of each kind on fresh scenes that training never draws."""
    rng = random.Random("held-out")
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(-(-scenes // QUICK_BATCH)):
        rows, pictures = training_rows(learner, rng, Mix(QUICK_BATCH))
        batch = pack(learner.tokenizer, rows, learner.tokenizer.pad_token_id)
        with torch.no_grad():
            features = learner.features(pictures)
            logits, targets = learner.scores(batch, learner.inputs(batch, features, len(pictures)))
        for (_, asked), answered in zip(rows, right_answers(batch, logits), strict=True):
            for question, hit in zip(asked, answered, strict=True):
                kind = question.kind if question.kind != "exists" else f"exists-{question.answer}"
                right[kind].append(float(hit))
        right["token"].extend((logits.argmax(-1) == targets).float().tolist())
    return {kind: mean(values) for kind, values in sorted(right.items())}
