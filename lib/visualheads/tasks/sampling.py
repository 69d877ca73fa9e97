"""Drawing questions of a benchmark and turning them into samples: stratified, paired over conditions, with controls.

Controls: the same question with a picture that cannot, or should not, tell the answer.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from visualheads.errors import BoxError, ImageError, ParameterError, RecordError, listed, shown
from visualheads.tasks.pictures import DrawBox, ShuffleBlocks, Whiten
from visualheads.tasks.records import Question, Reading
from visualheads.tasks.sample import LETTERS, Box, LazyImage, Sample, checked_box, clip_box

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """A malformed record or unusable picture that `skip_bad=True` left out: where it is and what is wrong."""

    where: str
    reason: str
    picture: bool = False


class Samples(list[Sample]):
    """The list of samples that a task gives, with what was skipped and left out on the way.

    skipped   malformed records and unusable pictures (only with skip_bad=True)
    left_out  reason → number of questions that the format cannot ask
    split, seed   as drawn
    """

    def __init__(
        self,
        samples: Iterable[Sample] = (),
        skipped: Sequence[Skipped] = (),
        left_out: Mapping[str, int] | None = None,
        split: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(samples)
        self.skipped, self.left_out, self.split, self.seed = tuple(skipped), dict(left_out or {}), split, seed


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `samples`, checked."""

    conditions: tuple[str, ...]
    format: str
    control: str
    split: str
    seed: int
    skip_bad: bool


class Asker(Protocol):
    """What drawing needs of a benchmark."""

    name: ClassVar[str]
    marked: ClassVar[frozenset[str]]

    def reading(self, split: str) -> Reading: ...
    def picture(self, question: Question) -> LazyImage: ...
    def choices(self, question: Question, condition: str, seed: int) -> tuple[str, ...]: ...
    def asked_in(self, question: Question, format: str) -> Collection[str]: ...
    def unaskable(self, question: Question, format: str) -> str: ...
    def wording(self, question: Question, condition: str, format: str, choices: Sequence[str]) -> str: ...


Pool = dict[bool, list[Question]]
"""Questions, apart by whether they have a box."""


def in_drawing_order(questions: Sequence[Question], seed: int) -> list[Question]:
    """All questions in a seeded order of which every beginning holds the strata in about their shares.

    Within a stratum the order is random; the i-th of its m questions stands at (i + u) / m with one random u per
    question. So a smaller draw is the beginning of a larger one.
    """
    rng = random.Random(seed)
    strata: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        strata[question.stratum].append(question)
    placed: list[tuple[float, Question]] = []
    for _, members in sorted(strata.items()):
        rng.shuffle(members)
        placed += [((place + rng.random()) / len(members), member) for place, member in enumerate(members)]
    return [question for _, question in sorted(placed, key=lambda pair: pair[0])]


def draw_samples(task: Asker, request: SampleRequest, n: int | None) -> Samples:
    """The samples of a request, condition after condition; see `Benchmark.samples`."""
    reading = task.reading(request.split)
    if reading.bad and not request.skip_bad:
        raise _with_count(reading.bad)
    skipped = [Skipped(place_of(error), str(error)) for error in reading.bad]
    left_out = Counter(reading.left_out)
    pool = {boxed: [q for q in reading.questions if (q.box is not None) == boxed] for boxed in (True, False)}
    drawn: list[dict[str, Sample]] = []
    for question in in_drawing_order(reading.questions, seed_of("draw", task.name, request.seed)):
        if len(drawn) == n:
            break
        conditions = [name for name in request.conditions if name in task.asked_in(question, request.format)]
        reason = task.unaskable(question, request.format) if conditions else ""
        if reason:
            left_out[reason] += 1
        if reason or not conditions:
            continue
        try:
            drawn.append(_samples_of(task, request, question, conditions, pool))
        except (ImageError, BoxError) as error:
            if not request.skip_bad:
                raise
            skipped.append(Skipped(f"question {question.question_id}", str(error), picture=True))
    _report(task, request, n, len(drawn), skipped)
    ordered = [samples[name] for name in request.conditions for samples in drawn if name in samples]
    return Samples(ordered, skipped, left_out, request.split, request.seed)


def _samples_of(
    task: Asker, request: SampleRequest, question: Question, conditions: Sequence[str], pool: Pool
) -> dict[str, Sample]:
    source, picture = question, _usable(task.picture(question), request.skip_bad)
    if request.control == "swapped":
        source, picture = _partner(task, request, question, pool)
    where = f"question {question.question_id}"
    size = picture.size()
    box = None if source.box is None else clip_box(checked_box(source.box, where), size, where)
    boxes = source.boxes and {
        name: [clip_box(checked_box(found, where), size, where) for found in every]
        for name, every in source.boxes.items()
    }
    shuffle = seed_of("shuffle", task.name, source.image_id, request.seed)
    samples = {}
    for condition in conditions:
        choices: tuple[str, ...] | None = None
        answers = (question.answer, *question.answers) if question.answer else ("",)
        if request.format == "letters":
            seed = seed_of("choices", task.name, question.question_id, request.seed)
            choices = task.choices(question, condition, seed)
            answers = tuple(LETTERS[choices.index(answer)] if answer else "" for answer in answers)
        image = as_shown(picture, request.control, box if condition in task.marked else None, shuffle)
        samples[condition] = Sample(
            id=f"{task.name}-{question.question_id}-{condition}-{request.format}-{request.control or 'none'}",
            image=image,
            question=task.wording(question, condition, request.format, choices or ()),
            answer=answers[0],
            answers=answers[1:],
            box=box,
            boxes=boxes or None,
            choices=choices,
            condition=condition,
            question_id=question.question_id,
            image_id=question.image_id,
            task=task.name,
            control=request.control,
        )
    return samples


def _usable(picture: LazyImage, decode: bool) -> LazyImage:
    """The picture, after its header – or, with `decode`, all of it – was read. Raises ImageError."""
    if decode:
        picture.open()
    else:
        picture.size()
    return picture


def _partner(task: Asker, request: SampleRequest, question: Question, pool: Pool) -> tuple[Question, LazyImage]:
    """Another question with another, usable picture and, where this one has a box, with a box: one of up to 20."""
    rng = random.Random(seed_of("swap", task.name, question.question_id, request.seed))
    others = pool[question.box is not None]
    drawn = rng.sample(others, min(len(others), 200))
    failure: ImageError | None = None
    for other in [other for other in drawn if other.image_id != question.image_id][:20]:
        try:
            return other, _usable(task.picture(other), request.skip_bad)
        except ImageError as error:
            if not request.skip_bad:
                raise
            failure = error
    if failure is not None:
        raise failure
    raise ParameterError(
        f"{task.name}: control 'swapped' needs a second picture, but all questions of split {request.split!r} have "
        f"picture {shown(question.image_id, 60)}; use 'white' or 'shuffled'."
    )


def _with_count(bad: Sequence[RecordError]) -> RecordError:
    """The first malformed record as an error that tells how many more there are and how to go on."""
    first, more = bad[0], len(bad) - 1
    others = f" ({more} more malformed record{'s' if more > 1 else ''})" if more else ""
    message = str(first)[len(place_of(first)) + 2 :] if first.path else str(first)
    return RecordError(f"{message}{others}; correct it, or leave it out with skip_bad=True", first.path, first.line)


def place_of(error: RecordError) -> str:
    """The file, and the line where known, that a RecordError's message begins with."""
    return f"{error.path or ''}{f', line {error.line}' if error.line is not None else ''}"


def _report(task: Asker, request: SampleRequest, n: int | None, drawn: int, skipped: Sequence[Skipped]) -> None:
    if skipped:
        log.warning("%s: skipped %d, first %s", task.name, len(skipped), skipped[0])
    if not drawn:
        first = f", the first of them: {skipped[0].reason}" if skipped else ""
        asked = f"condition {listed(request.conditions)}, format {request.format!r}"
        raise ParameterError(
            f"{task.name}: no question of split {request.split!r} can be asked in {asked} ({len(skipped)} "
            f"skipped{first}); choose another split or format, or see the data."
        )
    if n is not None and drawn < n:
        log.warning("%s: %d questions asked for, only %d there", task.name, n, drawn)


Control = Literal["white", "shuffled", "swapped"]
CONTROLS: tuple[Control, ...] = ("white", "shuffled", "swapped")
"""white     a white picture of the same size, nothing drawn on it (paper code)
shuffled  the picture's 8 × 8 blocks permuted; a box, where the condition draws one, is drawn afterwards (ours)
swapped   another sample's picture with that sample's own box; question and right answer stay (ours)"""


def seed_of(*parts: object) -> int:
    """A 32-bit seed from any values: the same on every machine, unrelated for different values."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")


def as_shown(picture: LazyImage, control: str, drawn: Box | None, seed: int) -> LazyImage:
    """The picture as a sample shows it: the control's operation, then the red box where `drawn` gives one."""
    if control == "white":
        return picture.with_operation(Whiten())
    if control == "shuffled":
        picture = picture.with_operation(ShuffleBlocks(seed))
    return picture if drawn is None else picture.with_operation(DrawBox(drawn))
