"""Many head sets on many samples, sharing what can be shared.

Pictures are seen once per sample. Prompts of one length run together, never padded, so that a result depends on nothing
but its own prompt. Where only positions after the image are changed, everything before is a cache made once. No layer
below the lowest changed one is run again: its output is the clean one's. Head sets stand side by side in the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from visualheads.interventions.editor import Editor, answers, in_boxes, named
from visualheads.interventions.modes import AFTER_IMAGE, ALL, Intervention, image_sees_question
from visualheads.interventions.text_model import (
    LanguageModelInputs,
    cache_rows,
    check_alone,
    forward,
    joined,
    language_model_inputs,
    new_cache,
    select,
)
from visualheads.models.devices import fitting, in_halves, rows_of_cache
from visualheads.models.wrapper import decoded
from visualheads.tasks import scoring
from visualheads.tracing.forward import prefetched

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample
    from visualheads.tracing.settings import Settings

BLOCK = 32
"""Samples whose language-model inputs are held at a time, to be grouped by length."""
CACHES = 3
"""Caches of keys and values held at a time: what was before the first position run again, the clean pass, and the rows
that are changed (or answered)."""


@dataclass(frozen=True)
class Effects:
    """What head sets do: arrays (set, sample), and what the unchanged model does (sample)."""

    prediction: NDArray[np.object_]
    correct: NDArray[np.float32]
    margin: NDArray[np.float32]
    kl: NDArray[np.float32]
    clean_prediction: NDArray[np.object_]
    clean_correct: NDArray[np.float32]
    clean_margin: NDArray[np.float32]

    @classmethod
    def empty(cls, sets: int, samples: int) -> Effects:
        """Nothing measured yet."""

        def numbers(*shape: int) -> NDArray[np.float32]:
            return np.full(shape, np.nan, np.float32)

        return cls(
            np.full((sets, samples), "", dtype=object), numbers(sets, samples), numbers(sets, samples),
            numbers(sets, samples), np.full(samples, "", dtype=object), numbers(samples), numbers(samples),
        )  # fmt: skip

    def of_sets(self, places: NDArray[np.intp]) -> Effects:
        """The effects of sets at these places, which may recur."""
        changed = {name: getattr(self, name)[places] for name in ("prediction", "correct", "margin", "kl")}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class Job:
    """Head sets to be tried on samples under one intervention.

    marks    which heads are in each set
    """

    model: VisionLanguageModel
    samples: Sequence[Sample]
    marks: Bool[NDArray[np.bool_], "set layer head"]
    intervention: Intervention
    settings: Settings

    @cached_property
    def sets(self) -> Bool[Tensor, "set layer head"]:
        """The different sets: those of the same heads (one head is top of several rankings) run once."""
        return torch.from_numpy(np.unique(self.marks, axis=0))

    @cached_property
    def set_index(self) -> NDArray[np.intp]:
        """Where in `sets` each of the given sets is."""
        return np.unique(self.marks, axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def lowest(self) -> list[int]:
        """The lowest changed layer of each set."""
        return self.sets.any(-1).int().argmax(-1).tolist()

    def run(
        self, part: slice | Sequence[int] = slice(None), advance: Callable[[int], None] = lambda _count: None
    ) -> Effects:
        """The effects of every set on a part of the samples. `advance` is told the number of samples done."""
        indices = list(range(len(self.samples)))[part] if isinstance(part, slice) else list(part)
        effects, places = Effects.empty(len(self.sets), len(indices)), {index: at for at, index in enumerate(indices)}
        blocks = [indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK)]

        def prepare(index: int) -> Any:
            return self.model.encode([self.samples[index]])

        with torch.no_grad():
            ready = prefetched(indices, prepare)
            for block in blocks:
                groups: dict[tuple[int, int], list[tuple[int, LanguageModelInputs]]] = defaultdict(list)
                for index, encoding in (next(ready) for _ in block):
                    with fitting(self.model, [self.samples[index]]):
                        prompts = language_model_inputs(self.model, encoding)
                        check_alone(self.model, encoding, prompts)
                    groups[prompts.length, prompts.after_image].append((index, prompts))
                for (length, _), members in sorted(groups.items(), key=lambda item: item[0]):
                    size = self.rows(length, length)
                    for start in range(0, len(members), size):
                        batch = members[start : start + size]
                        for done, _ in in_halves(batch, lambda some: self._batch(some, places, effects)):
                            advance(len(done))
            ready.close()  # pyright: ignore[reportAttributeAccessIssue]
        return effects.of_sets(self.set_index)

    def rows(self, length: int, again: int) -> int:
        """Rows that run together, of prompts of `length` tokens of which the last `again` are run."""
        most = rows_of_cache(self.model, length + self.settings.max_new_tokens, CACHES)
        return max(1, min(self.settings.batch_tokens // again, most))

    def _batch(
        self, members: Sequence[tuple[int, LanguageModelInputs]], places: Mapping[int, int], effects: Effects
    ) -> None:
        """Some samples of one length: the clean pass, then all sets in pieces."""
        owners = [index for index, _ in members]
        with fitting(self.model, [self.samples[index] for index in owners]):
            batch = Batch.of(self, joined([prompts for _, prompts in members]), owners)
            clean = batch.clean()
            where = np.array([places[index] for index in owners])
            for row, index in enumerate(owners):
                effects.clean_margin[where[row]] = self._margin(index, clean.logits[row])
            every, longest = range(len(owners)), self.settings.max_new_tokens
            cache = cache_rows(clean.cache, every)
            said = answers(self.model, clean.logits, cache, batch.prompts, every, None, longest)
            effects.clean_prediction[where], effects.clean_correct[where] = self._judged(owners, said)
            reference = torch.log_softmax(clean.logits.float(), -1)
            made = (done for rows in batch.pieces for done in in_halves(rows, lambda some: batch.changed(some, clean)))
            for rows, (logits, said) in made:
                samples, sets = [sample for sample, _ in rows], [chosen for _, chosen in rows]
                asked = [owners[sample] for sample in samples]
                place = (np.array(sets), where[samples])
                found = torch.log_softmax(logits.float(), -1)
                own = reference[samples]
                kl = (own.exp() * (own - found)).sum(-1).clamp_min(0)
                effects.kl[place] = kl.cpu().numpy()
                effects.margin[place] = [self._margin(index, row) for index, row in zip(asked, logits, strict=True)]
                effects.prediction[place], effects.correct[place] = self._judged(asked, said)

    def _margin(self, index: int, logits: Tensor) -> float:
        return self.settings.margins(self.samples[index], logits.float())

    def _judged(self, indices: Sequence[int], said: Tensor) -> tuple[NDArray[np.object_], list[float]]:
        texts = decoded(self.model.tokenizer, said, self.model.end_tokens)
        judged = [scoring.correct(self.samples[index], text) for index, text in zip(indices, texts, strict=True)]
        return np.array(texts, dtype=object), judged


@dataclass(frozen=True)
class Clean:
    """The unchanged model on a batch: logits, layer outputs where sets begin, caches before and after the pass.

    marked   the image tokens that the mode works on
    """

    logits: Float[Tensor, "sample vocabulary"]
    outputs: dict[int, Tensor]
    before: Any
    cache: Any
    marked: Bool[Tensor, "layer sample token"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one length and all head sets, cut into pieces of (sample, set) rows that run together.

    first    the first position that is changed
    start    the first position that is run again: 0, or `first`
    """

    job: Job
    prompts: LanguageModelInputs
    owners: list[int]
    start: int
    first: int
    pieces: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, job: Job, prompts: LanguageModelInputs, owners: list[int]) -> Batch:
        first = first_changed(job.model, prompts, job.intervention.positions)
        start = first if _can_resume(job, prompts) else 0
        return cls(job, prompts, owners, start, first, _pieces(job, prompts, start))

    def clean(self) -> Clean:
        """The unchanged pass: over what comes before `start` (if anything), then over the rest."""
        model, prompts, intervention = self.job.model, self.prompts, self.job.intervention
        sinks = intervention.operation.tokens == "sinks" and intervention.tokens is None
        first, rest = (prompts.image[:, : self.start], prompts.image[:, self.start :]) if sinks else (None, None)
        before = new_cache(model)
        marks = []
        if self.start:
            passed = forward(model, prompts.part(0, self.start), before, sinks=first)
            marks.append(passed.sinks)
        lowest = {self._lowest(rows) - 1 for rows in self.pieces}
        cache = cache_rows(before, range(len(self.owners)))
        kwargs = prompts.part(self.start, prompts.length)
        passed = forward(model, kwargs, cache, start=self.start, keep=lowest, sinks=rest)
        marks.append(passed.sinks)
        found = torch.cat([mark for mark in marks if mark is not None], -1) if sinks else None
        return Clean(passed.logits, passed.outputs, before, cache, self._marked(found))

    def _marked(self, sinks: Bool[Tensor, "layer sample token"] | None) -> Bool[Tensor, "layer sample token"]:
        """The image tokens that the mode works on: all, those in a box, those named, or the model's `sinks`."""
        job, image = self.job, self.prompts.image
        if sinks is not None:
            return sinks.to(image.device) & image
        asked, marked = [job.samples[index] for index in self.owners], image
        if job.intervention.tokens is not None:
            marked = named(asked, image, job.intervention.tokens)
        elif job.intervention.boxes:
            marked = in_boxes(job.model, asked, image, job.intervention.boxes, job.settings.sizes)
        return marked.expand(job.model.shape.layers, *marked.shape)

    def changed(self, rows: Sequence[tuple[int, int]], clean: Clean) -> tuple[Tensor, Tensor]:
        """First logits and answers of (sample, set) rows."""
        model, prompts = self.job.model, self.prompts
        samples = [sample for sample, _ in rows]
        # a part of a piece begins where the piece does: that layer's input is known
        lowest = max((layer + 1 for layer in clean.outputs if layer < self._lowest(rows)), default=0)
        upper = range(lowest, model.shape.layers)
        cache = cache_rows(clean.before, samples, upper)
        editor = self._editor(rows, clean)
        kwargs = prompts.rows(samples).part(self.start, prompts.length)
        entry = (lowest, select(clean.outputs[lowest - 1], samples)) if lowest else None
        logits = forward(model, kwargs, cache, editor, start=self.start, entry=entry).logits
        if self.job.settings.max_new_tokens > 1:
            below = cache_rows(clean.cache, samples, range(lowest))
            cache.layers[:lowest] = below.layers[:lowest]
        said = answers(model, logits, cache, prompts, samples, editor, self.job.settings.max_new_tokens)
        return logits, said

    def _editor(self, rows: Sequence[tuple[int, int]], clean: Clean) -> Editor:
        samples = torch.tensor([sample for sample, _ in rows])
        sets = torch.tensor([chosen for _, chosen in rows])
        own, job = samples.to(self.prompts.image.device), self.job
        return Editor(job.intervention, job.sets[sets], self.prompts.image[own], clean.marked[:, own], self.first)

    def _lowest(self, rows: Sequence[tuple[int, int]]) -> int:
        return min(self.job.lowest[chosen] for _, chosen in rows)


def first_changed(model: VisionLanguageModel, prompts: LanguageModelInputs, positions: str) -> int:
    """The first position of the prompts that is changed. Raises ModeError where positions cannot be told apart."""
    if positions == ALL:
        return 0
    if positions == AFTER_IMAGE:
        if model.adapter.bidirectional and prompts.image_sees_question():
            raise image_sees_question(model)
        return prompts.after_image
    return prompts.length - 1


def _pieces(job: Job, prompts: LanguageModelInputs, start: int) -> list[list[tuple[int, int]]]:
    """(sample, set) rows that run together: sets that begin at a similar layer; on a cache, those of one sample."""
    lowest = job.lowest
    rows = [(sample, chosen) for sample in range(len(prompts.ids)) for chosen in range(len(job.sets))]
    if start:
        rows.sort(key=lambda row: (row[0], -lowest[row[1]], row[1]))
    else:
        rows.sort(key=lambda row: (-lowest[row[1]], row[1], row[0]))
    size = job.rows(prompts.length, prompts.length - start)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _can_resume(job: Job, prompts: LanguageModelInputs) -> bool:
    """Whether a prompt that is cut and resumed from a cache gives the same numbers."""
    if job.model.adapter.bidirectional:
        return False
    window = getattr(job.model.config.get_text_config(), "sliding_window", None)
    # a sliding cache forgets keys that “every key” of a whole prompt still counts
    return not (job.intervention.mode == "uniform_released" and window and window < prompts.length)
