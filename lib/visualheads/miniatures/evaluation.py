"""Scores of a saved miniature on the shipped benchmark: intervals, blind control, question-only answerer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy import stats

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from visualheads.tasks.sample import Sample

BATCH = 50
FORMATS = ("free", "letters")


def score(right: Sequence[bool]) -> dict[str, Any]:
    """Share of right answers with its 95 % Wilson interval and the number of items."""
    interval = stats.binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    bounds = {"low": float(interval.low), "high": float(interval.high)}
    return {"accuracy": sum(right) / len(right), **bounds, "n": len(right)}


@torch.no_grad()
def answers(model: PreTrainedModel, processor: ProcessorMixin, samples: Sequence[Sample]) -> list[str]:
    """Greedy answers as text, through the processor's chat template and plain `generate`."""
    found: list[str] = []
    prepare: Any = processor  # its call and its template take more than the base class tells
    run: Any = model
    for start in range(0, len(samples), BATCH):
        chosen = samples[start : start + BATCH]
        prompts = [
            prepare.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
                add_generation_prompt=True,
            )
            for sample in chosen
        ]
        inputs = prepare(images=[s.open() for s in chosen], text=prompts, padding=True, return_tensors="pt")
        ids = run.generate(**inputs.to(model.device), max_new_tokens=3, do_sample=False)
        found += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in found]


def question_only(samples: Sequence[Sample], known: Sequence[Sample]) -> list[bool]:
    """What the best answerer without eyes gets right: it knows every answer's frequency in this very set.

    Free form: the most frequent answer of the question type. Letters: the option whose text is the most frequent
    answer of the same questions in free form (`known`).
    """
    frequency = Counter(sample.answer for sample in known)
    best = frequency.most_common(1)[0][0]

    def guess(sample: Sample) -> str:
        if not sample.choices:
            return best
        ranked = max(range(len(sample.choices)), key=lambda index: frequency[sample.choices[index]])  # type: ignore[index]
        return "ABCDEFGH"[ranked]

    return [guess(sample) == sample.answer for sample in samples]


def evaluate(folder: Path, n: int | None = None) -> dict[str, Any]:
    """Scores of the checkpoint in `folder`: all conditions × formats, with the picture, with a white one, without eyes;
    `n` questions per condition (all of them by default).

    Returns {"scores": {"condition/format": {"seen": …, "blind": …, "question_only": …}}, "pooled": {…}}.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from visualheads.tasks import task

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    benchmark = task("looktwice")
    scores: dict[str, Any] = {}
    pooled: dict[str, list[bool]] = {"seen": [], "blind": [], "question_only": []}
    for condition in benchmark.conditions:
        free = benchmark.samples(condition=condition, format="free", n=n)
        for form in FORMATS:
            samples = free if form == "free" else benchmark.samples(condition=condition, format=form, n=n)
            white = benchmark.samples(condition=condition, format=form, control="white", n=n)
            right = {
                "seen": _right(answers(model, processor, samples), samples),
                "blind": _right(answers(model, processor, white), white),
                "question_only": question_only(samples, free),
            }
            scores[f"{condition}/{form}"] = {name: score(values) for name, values in right.items()}
            for name, values in right.items():
                pooled[name] += values
    return {"scores": scores, "pooled": {name: score(values) for name, values in pooled.items()}}


def _right(found: Sequence[str], samples: Sequence[Sample]) -> list[bool]:
    from visualheads.tasks.scoring import correct

    return [correct(sample, text) == 1 for text, sample in zip(found, samples, strict=True)]
