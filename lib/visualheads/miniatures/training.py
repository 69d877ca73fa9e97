"""Training a miniature's language model on text, then the multimodal model: adapter alignment and visual tuning.

What training asks, by kind of question, is not kept meanwhile: every question is drawn from a seed, so it is counted by
drawing again (`measured_answers`, `kind_shares`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from visualheads.miniatures import dialogues, fitting, language, questions
from visualheads.miniatures.architectures import (
    Miniature,
    build_multimodal,
    build_processor,
    build_text,
    miniature,
    text_shape,
)
from visualheads.miniatures.dialogues import Pair
from visualheads.miniatures.fitting import Group, Progress, Report, Schedule, step_random
from visualheads.miniatures.language import LOOKTWICE
from visualheads.miniatures.listings import BOXED, Listing, Picture, draw_picture, image_inputs, text_list
from visualheads.miniatures.tower import tower_counts

MOST_FILLERS = 55  # with nine objects, as many list places as a picture has image tokens
FEWEST_FILLERS = 2
FULL_LENGTH_FROM = 0.6  # the share of text training after which lists have their full length
JOINED = 0.7  # share of lists, after the restart, in which all words of a place share one id
# A batch holds one kind of text, because lengths differ: its share while counting is learned, and after.
FIRST_SHARES = {"tally": 0.8, "caption": 0.2}
SHARES = {"count": 0.3, "caption": 0.08, "colours": 0.12, "questions": 0.5}
QUESTIONS_FROM = 0.15  # the share of text training after which whole questions are asked
DIALOGUE = 84  # tokens of several questions on one list or picture: six or so without options, three with
ALIGNMENT_SHARES = {"caption": 0.6, "colours": 0.4}
TUNING_SHARES = {"questions": 0.6, "count": 0.2, "caption": 0.05, "colours": 0.08, "places": 0.07}
# After the tuning's restart, mostly questions about pictures with boxes: to count what is marked takes two steps.
LATE_SHARES, LATE_BOXED = {"questions": 0.82, "count": 0.18}, 0.9
TOWER_FACTOR = 0.1  # 1.6 trains its tower too, more slowly than the rest, as LLaVA-1.6 does
TEST_BATCH = 64
DRAWN = 12_000  # questions drawn to count kinds: a share of 3 % is known to within 0.3 points

TOWER = Schedule(steps=13000, batch=32, rate=1e-3, report_every=250, restarts=(5000,))
TEXT = Schedule(steps=4000, batch=64, rate=2e-3, restarts=(3000,))
ALIGNMENT = Schedule(steps=400, batch=32, rate=3e-3, warm_up=50, report_every=100, moments=(0,))
TUNING = Schedule(
    steps=7000, batch=32, rate=1e-3, warm_up=50, moments=(0, 50, 150, 400, 800, 1600, 2800, 5000), restarts=(4000,)
)
TILED_TUNING = replace(TUNING, steps=3200, restarts=(2000,))  # 1.6: a step costs more, and all weights learn


@dataclass(frozen=True)
class TrainingPlan:
    """The schedules of all stages."""

    tower: Schedule = TOWER
    text: Schedule = TEXT
    alignment: Schedule = ALIGNMENT
    tuning: Schedule = TUNING
    tiled_tuning: Schedule = TILED_TUNING

    def tuning_of(self, recipe: str) -> Schedule:
        """Return the schedule of a recipe's visual tuning; no picture is seen twice, as in LLaVA's single epoch."""
        return self.tiled_tuning if recipe == "1.6" else self.tuning

    def smoke(self) -> TrainingPlan:
        """Return a version of some seconds: every stage runs, nothing is learned."""
        brief = {"steps": 4, "batch": 4, "warm_up": 2, "report_every": 4, "tested": 8}
        stages = [getattr(self, stage.name) for stage in fields(self)]
        return TrainingPlan(
            *(replace(one, **brief, moments=one.moments and (0,), restarts=one.restarts and (2,)) for one in stages)
        )


def draw_task(rng: random.Random, shares: Mapping[str, float]) -> str:
    """Draw a task by its share."""
    return rng.choices(list(shares), list(shares.values()))[0]


def hardness(schedule: Schedule, step: int) -> tuple[float, int, float]:
    """Tell how hard text training is at a step.

    Returns
    -------
    done : float
        Share of its first cycle that is done.
    fillers : int
        The most filler words of a list.
    joined : float
        Share of lists in which all words of a place share one id.
    """
    done = min(1.0, step / (schedule.restarts or (schedule.steps,))[0])
    fillers = int(min(MOST_FILLERS, FEWEST_FILLERS + MOST_FILLERS * done / FULL_LENGTH_FROM))
    return done, fillers, JOINED if schedule.restarts and step >= schedule.restarts[0] else 0.0


def train_text(
    name: str, schedule: Schedule, folder: Path, device: str, report: Report | None = None
) -> tuple[Any, Progress]:
    """Train a text-only language model to list and count objects named among more and more filler words.

    First it only lists and tallies, later it is asked whole questions; after the restart all words of a place share
    one id in most lists, as a patch of a picture shows everything at once. Arguments as `train.train` has them.
    """
    shape = text_shape(name)
    torch.manual_seed(shape.seed)
    model: Any = build_text(shape)
    model.to(device)
    fillers, joined = FEWEST_FILLERS, 0.0

    def loss_of(step: int) -> torch.Tensor:
        nonlocal fillers, joined
        done, fillers, joined = hardness(schedule, step)
        rng = step_random(shape.seed, "text", step)
        plain = done < QUESTIONS_FROM
        task = draw_task(rng, FIRST_SHARES if plain else SHARES)
        pairs = (dialogues.text_pair(rng, fillers, task, DIALOGUE, plain, joined) for _ in range(schedule.batch))
        ids, labels = (each.to(device) for each in dialogues.pad(pairs))
        return model(inputs_embeds=language.embed(model.get_input_embeddings(), ids), labels=labels).loss

    def measure() -> dict[str, float]:
        return text_accuracy(model, shape.seed, device, schedule.tested, fillers, joined)

    progress = fitting.fit(name, model, [fitting.group(model)], loss_of, schedule, folder, measure, report)
    return model, progress


def probe(rng: random.Random, listing: Listing) -> tuple[str, Pair]:
    """Draw what is measured on one list or picture: a kind and a question in free form, or `letters` and options."""
    question = questions.ask(rng, listing)
    text = question.text
    if question.options and rng.random() < dialogues.LETTERS.get(question.kind, dialogues.OTHER_LETTERS):
        options = questions.offered(rng, question)
        letter = "ABCD"[options.index(question.answer)]
        text = dialogues.with_options(text, options) + f"\n{language.LETTERS_HINT}"
        return "letters", dialogues.exchange(text, letter, first=True)
    if listing.marked and question.kind in LOOKTWICE:
        text += " " + language.RECTANGLE_HINT
    return question.kind, dialogues.exchange(f"{text} {language.FREE_HINT}", question.answer, first=True)


def text_accuracy(
    model: Any, seed: int, device: str, lists: int, fillers: int, joined: float = 0.0
) -> dict[str, float]:
    """Return the share of supervised tokens, end tokens aside, that are foretold on fresh lists, by kind of question.

    Arguments as `text_test` has them.
    """
    test = text_test(seed, lists, fillers, joined)
    ids, labels = dialogues.pad(pair for _, pair in test)
    embeddings = language.embed(model.get_input_embeddings(), ids.to(device))
    found = model(inputs_embeds=embeddings).logits.argmax(-1).cpu()
    records: list[tuple[str, bool]] = []
    for row, (kind, _) in enumerate(test):
        supervised = (labels[row] != dialogues.IGNORED).nonzero()[:-1, 0]
        records += [(kind, bool(found[row, place - 1] == ids[row, place])) for place in supervised]
    return fitting.share_by_name(records)


def text_test(seed: int, lists: int, fillers: int, joined: float) -> list[tuple[str, Pair]]:
    """Draw what is asked about fresh lists, the same ones whenever it is measured, by kind.

    `fillers` and `joined` are as in `listings.text_list`.
    """
    rng = step_random(seed, "text-test", 0)
    test: list[tuple[str, Pair]] = []
    for _ in range(lists):
        listed, listing = text_list(rng, fillers, joined=joined)
        for kind, said in (probe(rng, listing), ("tally", dialogues.tally(rng, listing))):
            test.append((kind, dialogues.behind(listed, said)))
    return test


def trained_parts(model: Any, recipe: str) -> tuple[list[Group], list[Group]]:
    """Return what the two stages train: the adapter (with 1.6's newline), then also the language model, 1.6's tower."""
    adapter = fitting.group(model.model.multi_modal_projector, name="adapter")
    text = fitting.group(model.model.language_model, model.lm_head, name="language model")
    if recipe != "1.6":
        return [adapter], [adapter, text]
    adapter = replace(adapter, parameters=(*adapter.parameters, model.model.image_newline))
    tower = fitting.group(model.model.vision_tower, factor=TOWER_FACTOR, name="tower")
    return [adapter], [adapter, text, tower]


def trainable(model: Any, recipe: str) -> list[str]:
    """Name the parts whose parameters visual tuning trains."""
    return [part.name for part in trained_parts(model, recipe)[1]]


def tune(
    name: str, text: Any, tower: Any, plan: TrainingPlan, folder: Path, device: str, report: Report | None = None
) -> tuple[Any, dict[str, Progress]]:
    """Train the two stages of a recipe: the adapter alone on captions, then also the language model and 1.6's tower.

    Parameters
    ----------
    name : str
        The miniature's.
    text, tower
        The trained language model and vision tower that it starts from.
    plan, folder, device, report
        Schedules, folder of unfinished stages, device and what is called at every report, as `train.train` has them.

    Returns
    -------
    model
    stages : dict of str to Progress
        What was done in `alignment` and in `tuning`.
    """
    chosen = miniature(name)
    torch.manual_seed(chosen.seed)
    model: Any = build_multimodal(name, text, tower)
    model.to(device)
    processor = build_processor(chosen.recipe)
    adapter, everything = trained_parts(model, chosen.recipe)

    def loss_of(stage: str, schedule: Schedule, shares: Mapping[str, float], step: int) -> torch.Tensor:
        rng = step_random(chosen.seed, stage, step)
        late = schedule.restarts and step >= schedule.restarts[0]
        task, boxed = draw_task(rng, LATE_SHARES if late else shares), LATE_BOXED if late else BOXED
        colourful = chosen.recipe == "vip"
        batch = dialogues.picture_batch(rng, schedule.batch, task, processor, DIALOGUE, boxed, colourful)
        losses = (
            share * model(**{key: value.to(device) for key, value in part.items()}, use_cache=False).loss
            for part, share in dialogues.by_length(batch)
        )
        return torch.stack(list(losses)).sum()

    tuning = plan.tuning_of(chosen.recipe)

    def measure() -> dict[str, float]:
        return picture_accuracy(model, processor, chosen.seed, device, tuning.tested)

    stages: dict[str, Progress] = {}
    for stage, schedule, shares, parts in (
        ("alignment", plan.alignment, ALIGNMENT_SHARES, adapter),
        ("tuning", tuning, TUNING_SHARES, everything),
    ):
        loss = partial(loss_of, stage, schedule, shares)
        stages[stage] = fitting.fit(f"{name}-{stage}", model, parts, loss, schedule, folder, measure, report)
    return model, stages


def picture_accuracy(model: Any, processor: Any, seed: int, device: str, pictures: int) -> dict[str, float]:
    """Return the share of right answers on fresh pictures, by kind of question (a quick look while training)."""
    image = language.vocabulary()[language.IMAGE]
    found: list[tuple[str, bool]] = []
    for shown, test in picture_test(seed, pictures):
        inputs, counts = image_inputs(processor, [picture.image for picture in shown])
        pairs = [dialogues.behind([image] * count, said) for count, (_, said) in zip(counts, test, strict=True)]
        ids, labels = dialogues.pad(pairs)
        inputs = {key: value.to(device) for key, value in inputs.items()}
        guessed = model(**inputs, input_ids=ids.to(device), use_cache=False).logits.argmax(-1).cpu()
        for row, (kind, _) in enumerate(test):
            place = int((labels[row] != dialogues.IGNORED).nonzero()[0, 0])
            found.append((kind, bool(guessed[row, place - 1] == ids[row, place])))
    return fitting.share_by_name(found)


def picture_test(seed: int, pictures: int) -> Iterator[tuple[list[Picture], list[tuple[str, Pair]]]]:
    """Draw fresh pictures, the same ones whenever it is measured, and what is asked about each, by kind; in batches."""
    rng = step_random(seed, "picture-test", 0)
    for start in range(0, pictures, TEST_BATCH):
        shown = [draw_picture(rng) for _ in range(min(TEST_BATCH, pictures - start))]
        yield shown, [probe(rng, picture.listing) for picture in shown]


def measured_answers(recipe: Miniature, stage: str, schedule: Schedule) -> dict[str, int]:
    """Count over how many answers each figure of a stage's curve is, at its end.

    The tower's precision, whose number is that of what it finds, is left out; of a language model's answers every
    supervised word counts, the end of an answer aside.
    """
    if stage == "tower":
        return tower_counts(schedule.tested)
    found: Counter[str] = Counter()
    if stage in ("alignment", "tuning"):
        for _, test in picture_test(recipe.seed, schedule.tested):
            found.update(kind for kind, _ in test)
    else:
        _, fillers, joined = hardness(schedule, schedule.steps - 1)
        for kind, (_, labels) in text_test(text_shape(recipe.text).seed, schedule.tested, fillers, joined):
            found[kind] += sum(label != dialogues.IGNORED for label in labels) - 1
    return dict(sorted(found.items()))


def kind_shares(recipe: Miniature, text: Schedule, tuning: Schedule) -> dict[str, dict[str, float]]:
    """Return the shares of the kinds among training's questions, kinds that are never asked included.

    Returns
    -------
    dict
        text: of lists at their full length, as many of them with joined words as there are steps after the restart.
        tuning: of pictures, as many of them with a drawn box as in the whole stage.
    """
    rng = step_random(recipe.seed, "kinds", 0)
    late = [(text.steps - first) / text.steps for first in text.restarts[:1]]
    lists = [text_list(rng, MOST_FILLERS, joined=JOINED * sum(late))[1] for _ in range(DRAWN)]
    boxed = boxed_share(tuning)
    pictures = [draw_picture(rng, boxed).listing for _ in range(DRAWN)]
    return {"text": _shares_of_kinds(rng, lists), "tuning": _shares_of_kinds(rng, pictures)}


def boxed_share(tuning: Schedule) -> float:
    """Return the share of the pictures of visual tuning's questions that have a drawn box."""
    first = tuning.restarts[0] if tuning.restarts else tuning.steps
    early = first * TUNING_SHARES["questions"]
    late = (tuning.steps - first) * LATE_SHARES["questions"]
    return (early * BOXED + late * LATE_BOXED) / (early + late)


def _shares_of_kinds(rng: random.Random, listings: list[Listing]) -> dict[str, float]:
    found = Counter(questions.ask(rng, listing).kind for listing in listings)
    return {kind: found[kind] / len(listings) for kind in questions.WEIGHTS}
