"""What changing heads does to the first token of an answer: single heads in advance, any heads while a kernel runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visualheads.errors import ModeError, checked_name
from visualheads.explorer.look_data import Answers, Effect
from visualheads.interventions.editor import mean_reference
from visualheads.interventions.engine import Batch, Job
from visualheads.interventions.modes import ALL, Intervention, Reference, check_possible
from visualheads.interventions.text_model import check_alone, language_model_inputs
from visualheads.models.wrapper import decoded
from visualheads.tasks import task
from visualheads.tracing.settings import settings_of

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box, Sample

REMOVED, HIDDEN, STEERED = "mean", "image_knockout", "steer"
LABELS = {REMOVED: "Removed", HIDDEN: "Picture hidden", STEERED: "Steered"}
WHITE = (255, 255, 255)
CANDIDATES = 5
"""First tokens whose probabilities are told."""
REFERENCE_TASK, REFERENCE_CONDITION, REFERENCE_SAMPLES = "looktwice", "visual-object", 16
"""The shipped pictures over which a shipped model's heads are averaged."""
SHIPPED = f"The head's output is replaced by its mean over {REFERENCE_SAMPLES} shipped pictures."
WHITE_MEAN = "The head's output is replaced by its mean over the same prompt with a white picture."
KNOCKED_OUT = "The head cannot attend to image tokens; what it attends to otherwise grows in proportion."


@dataclass(frozen=True, eq=False)
class HeadChanger:
    """Changes heads of one model at one sample. The reference of removals is made when it is first needed.

    Parameters
    ----------
    model, sample
        What is changed, at what.
    max_new_tokens
        Longest answer.
    """

    model: VisionLanguageModel
    sample: Sample
    max_new_tokens: int
    references: dict[str, Reference]

    def intervention(self, mode: str, bias: float | None = None, box: Box | None = None) -> Intervention:
        """Return an intervention on this sample. Raises ModeError for another mode than `LABELS` has."""
        checked_name("mode", mode, LABELS, ModeError)
        made = Intervention(mode, ALL, reference=self.reference() if mode == REMOVED else None)
        if mode == STEERED:
            made = replace(made, bias=bias, boxes={} if box is None else {self.sample.id: box})
        check_possible(self.model, made)
        return made

    def reference(self) -> Reference:
        """Return what a removed head puts out: its mean over shipped pictures, or over the white one."""
        shipped = is_shipped(self.model)
        key = REFERENCE_TASK if shipped else self.sample.id
        if key not in self.references:
            samples: Sequence[Sample] = [white(self.sample)]
            if shipped:
                samples = task(REFERENCE_TASK).samples(condition=REFERENCE_CONDITION, n=REFERENCE_SAMPLES)
            self.references[key] = mean_reference(self.model, samples, max_new_tokens=1)
        return self.references[key]

    def description(self, mode: str) -> str:
        """Return in a sentence what the mode does here."""
        if mode == REMOVED:
            return SHIPPED if is_shipped(self.model) else WHITE_MEAN
        return KNOCKED_OUT

    def run(
        self,
        sets: NDArray[np.bool_],
        intervention: Intervention,
        max_new_tokens: int = 1,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> tuple[NDArray[np.float32], list[str]]:
        """Return the probabilities of the first token (set, vocabulary) and the answers (set) with head sets changed.

        Parameters
        ----------
        sets
            (set, layer, head).
        advance
            Told the number of different sets done.
        """
        settings = settings_of(self.model, [self.sample], "last_prompt", (), None, None, max_new_tokens)
        job = Job(self.model, [self.sample], sets, intervention, settings)
        with torch.no_grad():
            encoding = self.model.encode([self.sample])
            inputs = language_model_inputs(self.model, encoding)
            check_alone(self.model, encoding, inputs)
            batch = Batch.of(job, inputs, [0])
            clean = batch.clean()
            probabilities: dict[int, NDArray[np.float32]] = {}
            said: dict[int, str] = {}
            for piece in batch.pieces:
                logits, tokens = batch.changed(piece, clean)
                texts = decoded(self.model.tokenizer, tokens, self.model.end_tokens)
                for (_, chosen), row, text in zip(piece, logits.float().softmax(-1).cpu().numpy(), texts, strict=True):
                    probabilities[chosen], said[chosen] = row, text
                advance(len(piece))
        order = job.set_index.tolist()
        return np.stack([probabilities[index] for index in order]), [said[index] for index in order]

    def single_heads(
        self, mode: str, heads: Sequence[tuple[int, int]], top: Answers, advance: Callable[[int], None]
    ) -> Effect:
        """Return what changing each of these heads alone does; NaN for all others."""
        shape = self.model.shape[:2]
        layer, head = np.array(heads).T
        sets = np.zeros((len(heads), *shape), bool)
        sets[np.arange(len(heads)), layer, head] = True
        found, _ = self.run(sets, self.intervention(mode), advance=advance)
        ids = [token for token, _, _ in top.top]
        probability = np.full((*shape, len(ids)), np.nan, np.float32)
        first, first_probability = np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        probability[layer, head] = found[:, ids]
        first[layer, head], first_probability[layer, head] = found.argmax(-1), found.max(-1)
        texts = {int(token): self.model.tokenizer.decode([int(token)]) for token in np.unique(first) if token >= 0}
        return Effect(LABELS[mode], self.description(mode), probability, first, first_probability, texts)

    def answer(self, mode: str, heads: Sequence[tuple[int, int]], bias: float, box: Box | None) -> dict[str, Any]:
        """Return the answer with these heads changed, as the explorer takes it from a kernel."""
        sets = np.zeros((1, *self.model.shape[:2]), bool)
        for layer, head in heads:
            sets[0, layer, head] = True
        found, said = self.run(sets, self.intervention(mode, bias, box), self.max_new_tokens)
        note = self.description(mode)
        if mode == STEERED:
            where = "the drawn box" if box is not None else "the whole picture"
            note = f"{bias:+g} on the scores of the image tokens in {where}."
        return {"text": said[0], "top": candidates(self.model, found[0]), "note": note}


def answers_of(model: VisionLanguageModel, ids: Any, prompt: int, logits: Any) -> Answers:
    """Return the unchanged model's answer and its likeliest first tokens."""
    text = model.tokenizer.decode(ids[prompt:].tolist(), skip_special_tokens=True).strip()
    told = candidates(model, logits.softmax(-1).numpy())
    return Answers(text, tuple((one["id"], one["text"], one["probability"]) for one in told))


def candidates(model: VisionLanguageModel, probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return the likeliest first tokens of an answer: id, text, probability."""
    top = np.argsort(-probabilities, kind="stable")[:CANDIDATES]
    return [
        {"id": int(token), "text": model.tokenizer.decode([int(token)]), "probability": float(probabilities[token])}
        for token in top
    ]


def white(sample: Sample) -> Sample:
    """Return the sample with a white picture of the same size."""
    return replace(
        sample, id=f"{sample.id} white", image=Image.new("RGB", sample.open().size, WHITE), box=None, boxes=None
    )


def is_shipped(model: VisionLanguageModel) -> bool:
    """Whether this model comes with the project, and so with pictures that it was made for."""
    return model.card is not None and model.card.miniature
