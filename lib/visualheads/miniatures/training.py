"""Training a miniature's language model on text, then the multimodal model: adapter alignment and visual tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from visualheads.miniatures import batches, dialogues, fitting, questions
from visualheads.miniatures import language as words
from visualheads.miniatures.architectures import build_multimodal, build_processor, build_text, miniature, text_shape
from visualheads.miniatures.dialogues import Pair
from visualheads.miniatures.fitting import Group, Progress, Report, Schedule
from visualheads.miniatures.language import LOOKTWICE
from visualheads.miniatures.pictures import BOXED, Picture, picture, prepared
from visualheads.miniatures.text_lists import Listing, text_list

MOST_FILLERS = 55  # with nine objects, as many list places as a picture has image tokens
FEWEST_FILLERS = 2
FULL_LENGTH_FROM = 0.6  # the share of text training after which lists have their full length
TOGETHER = 0.7  # share of lists, after the restart, that tell all of a place at once
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

TOWER = Schedule(steps=13000, batch=32, rate=1e-3, report_every=250, restarts=(5000,))
TEXT = Schedule(steps=4000, batch=64, rate=2e-3, restarts=(3000,))
ALIGNMENT = Schedule(steps=400, batch=32, rate=3e-3, warm_up=50, report_every=100, moments=(0,))
TUNING = Schedule(
    steps=7000, batch=32, rate=1e-3, warm_up=50, moments=(0, 50, 150, 400, 800, 1600, 2800, 5000), restarts=(4000,)
)
TILED_TUNING = replace(TUNING, steps=3200, restarts=(2000,))  # 1.6: a step costs more, and all weights learn


@dataclass(frozen=True)
class Plan:
    """The schedules of all stages."""

    tower: Schedule = TOWER
    text: Schedule = TEXT
    alignment: Schedule = ALIGNMENT
    tuning: Schedule = TUNING
    tiled_tuning: Schedule = TILED_TUNING

    def tuning_of(self, recipe: str) -> Schedule:
        """The schedule of a recipe's visual tuning; no picture is seen twice, as in LLaVA's single epoch."""
        return self.tiled_tuning if recipe == "1.6" else self.tuning

    def smoke(self) -> Plan:
        """A one-minute version: every stage runs, nothing is learned."""

        def short(schedule: Schedule) -> Schedule:
            return replace(
                schedule,
                steps=4,
                batch=4,
                warm_up=2,
                report_every=4,
                tested=8,
                moments=schedule.moments and (0,),
                restarts=schedule.restarts and (2,),
            )

        return Plan(*(short(getattr(self, stage.name)) for stage in fields(self)))


def drawn(rng: Any, shares: Mapping[str, float]) -> str:
    """A task by its share."""
    return rng.choices(list(shares), list(shares.values()))[0]


def hardness(schedule: Schedule, step: int) -> tuple[float, int, float]:
    """Of text training at a step: the share of its first cycle that is done, how many fillers a list has at most, and
    the share of lists that tell all of a place at once."""
    done = min(1.0, step / (schedule.restarts or (schedule.steps,))[0])
    fillers = int(min(MOST_FILLERS, FEWEST_FILLERS + MOST_FILLERS * done / FULL_LENGTH_FROM))
    return done, fillers, TOGETHER if schedule.restarts and step >= schedule.restarts[0] else 0.0


def train_text(
    name: str, schedule: Schedule, folder: Path, device: str, report: Report | None = None
) -> tuple[Any, Progress]:
    """A text-only language model that lists and counts objects told in words, among more and more filler words.

    First it only lists and tallies, later it is asked whole questions; after the restart most lists tell all of a
    place at once, as the patches of a picture will.
    """
    shape = text_shape(name)
    torch.manual_seed(shape.seed)
    model: Any = build_text(shape)
    model.to(device)
    fillers, together = FEWEST_FILLERS, 0.0

    def loss_of(step: int) -> torch.Tensor:
        nonlocal fillers, together
        done, fillers, together = hardness(schedule, step)
        rng = batches.generator(shape.seed, "text", step)
        plain = done < QUESTIONS_FROM
        task = drawn(rng, FIRST_SHARES if plain else SHARES)
        pairs = (batches.text_pair(rng, fillers, task, DIALOGUE, plain, together) for _ in range(schedule.batch))
        ids, labels = (each.to(device) for each in batches.pad(pairs))
        return model(inputs_embeds=words.embedded(model.get_input_embeddings(), ids), labels=labels).loss

    def measure() -> dict[str, float]:
        return text_accuracy(model, shape.seed, device, schedule.tested, fillers, together)

    progress = fitting.fit(name, model, [fitting.group(model)], loss_of, schedule, folder, measure, report)
    return model, progress


def probes(rng: Any, known: Listing) -> list[tuple[str, Pair]]:
    """What is measured on one list or picture: a question in free form or, under the name `letters`, with options."""
    asked = questions.ask(rng, known)
    text = asked.text
    if asked.options and rng.random() < dialogues.LETTERS.get(asked.kind, dialogues.OTHER_LETTERS):
        options = questions.offered(rng, asked)
        letter = "ABCD"[options.index(asked.answer)]
        text = dialogues.with_options(text, options) + f"\n{words.LETTERS_HINT}"
        return [("letters", dialogues.exchange(text, letter, first=True))]
    if known.marked and asked.kind in LOOKTWICE:
        text += " " + words.RECTANGLE_HINT
    return [(asked.kind, dialogues.exchange(f"{text} {words.FREE_HINT}", asked.answer, first=True))]


def text_accuracy(
    model: Any, seed: int, device: str, lists: int, fillers: int, together: float = 0.0
) -> dict[str, float]:
    """Share of right answers on fresh lists with at most `fillers` filler words: questions by kind, and tallies."""
    asked = text_test(seed, lists, fillers, together)
    ids, labels = batches.pad(pair for _, pair in asked)
    told = words.embedded(model.get_input_embeddings(), ids.to(device))
    found = model(inputs_embeds=told).logits.argmax(-1).cpu()
    return told_right([kind for kind, _ in asked], ids, labels, found)


def text_test(seed: int, lists: int, fillers: int, together: float) -> list[tuple[str, Pair]]:
    """What is asked about fresh lists, the same ones whenever it is measured, by kind."""
    rng = batches.generator(seed, "text-test", 0)
    asked: list[tuple[str, Pair]] = []
    for _ in range(lists):
        listed, known = text_list(rng, fillers, together=together)
        for kind, told in (*probes(rng, known), ("tally", dialogues.tally(rng, known))):
            asked.append((kind, batches.behind(listed, told)))
    return asked


def told_right(kinds: list[str], ids: torch.Tensor, labels: torch.Tensor, found: torch.Tensor) -> dict[str, float]:
    """Share of supervised tokens, end tokens aside, that were foretold, by kind."""
    records: list[tuple[str, bool]] = []
    for row, kind in enumerate(kinds):
        told = (labels[row] != dialogues.IGNORED).nonzero()[:-1, 0]
        records += [(kind, bool(found[row, place - 1] == ids[row, place])) for place in told]
    return fitting.mean_by(records)


def trained_parts(model: Any, recipe: str) -> tuple[list[Group], list[Group]]:
    """What the two stages train: the adapter (with 1.6's newline), then also the language model and 1.6's tower."""
    adapter = fitting.group(model.model.multi_modal_projector, name="adapter")
    language = fitting.group(model.model.language_model, model.lm_head, name="language model")
    if recipe != "1.6":
        return [adapter], [adapter, language]
    adapter = replace(adapter, parameters=(*adapter.parameters, model.model.image_newline))
    tower = fitting.group(model.model.vision_tower, factor=TOWER_FACTOR, name="tower")
    return [adapter], [adapter, language, tower]


def trainable(model: Any, recipe: str) -> list[str]:
    """Names of the parts whose parameters visual tuning trains."""
    return [part.name for part in trained_parts(model, recipe)[1]]


def tune(
    name: str, text: Any, tower: Any, plan: Plan, folder: Path, device: str, report: Report | None = None
) -> tuple[Any, dict[str, Progress]]:
    """The two stages of a recipe: the adapter alone on captions, then also the language model and, for 1.6, tower."""
    chosen = miniature(name)
    torch.manual_seed(chosen.seed)
    model: Any = build_multimodal(name, text, tower)
    model.to(device)
    processor = build_processor(chosen.recipe)
    adapter, everything = trained_parts(model, chosen.recipe)

    def loss_for(stage: str, schedule: Schedule, shares: Mapping[str, float]):
        def loss_of(step: int) -> torch.Tensor:
            rng = batches.generator(chosen.seed, stage, step)
            late = schedule.restarts and step >= schedule.restarts[0]
            task, boxed = drawn(rng, LATE_SHARES if late else shares), LATE_BOXED if late else BOXED
            batch = batches.picture_batch(rng, schedule.batch, task, processor, DIALOGUE, boxed, chosen.recipe == "vip")
            losses = (
                share * model(**{key: value.to(device) for key, value in part.items()}, use_cache=False).loss
                for part, share in batches.by_length(batch)
            )
            return torch.stack(list(losses)).sum()

        return loss_of

    tuning = plan.tuning_of(chosen.recipe)

    def measure() -> dict[str, float]:
        return picture_accuracy(model, processor, chosen.seed, device, tuning.tested)

    stages: dict[str, Progress] = {}
    for stage, schedule, shares, parts in (
        ("alignment", plan.alignment, ALIGNMENT_SHARES, adapter),
        ("tuning", tuning, TUNING_SHARES, everything),
    ):
        loss_of = loss_for(stage, schedule, shares)
        stages[stage] = fitting.fit(f"{name}-{stage}", model, parts, loss_of, schedule, folder, measure, report)
    return model, stages


def picture_accuracy(model: Any, processor: Any, seed: int, device: str, pictures: int) -> dict[str, float]:
    """Share of right answers on fresh pictures, by kind of question (a quick look while training)."""
    image = words.vocabulary()[words.IMAGE]
    found: list[tuple[str, bool]] = []
    for shown, asked in picture_test(seed, pictures):
        inputs, counts = prepared(processor, [each.image for each in shown])
        pairs = [batches.behind([image] * count, told) for count, (_, told) in zip(counts, asked, strict=True)]
        ids, labels = batches.pad(pairs)
        inputs = {key: value.to(device) for key, value in inputs.items()}
        guessed = model(**inputs, input_ids=ids.to(device), use_cache=False).logits.argmax(-1).cpu()
        for row, (kind, _) in enumerate(asked):
            place = int((labels[row] != dialogues.IGNORED).nonzero()[0, 0])
            found.append((kind, bool(guessed[row, place - 1] == ids[row, place])))
    return fitting.mean_by(found)


def picture_test(seed: int, pictures: int) -> Iterator[tuple[list[Picture], list[tuple[str, Pair]]]]:
    """Fresh pictures, the same ones whenever it is measured, and what is asked about each, by kind; in batches."""
    rng = batches.generator(seed, "picture-test", 0)
    for start in range(0, pictures, TEST_BATCH):
        shown = [picture(rng) for _ in range(min(TEST_BATCH, pictures - start))]
        yield shown, [probes(rng, each.listing)[0] for each in shown]
