"""Scores of a saved miniature on the shipped benchmark: intervals, blind control, question-only answerer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from visualheads.heads.proportions import share_right
from visualheads.miniatures import language
from visualheads.miniatures.distortions import ADJECTIVES
from visualheads.miniatures.goals import FORMATS, targets
from visualheads.miniatures.language import WORDINGS
from visualheads.miniatures.world import CLASSES, PLURAL, SUPERCATEGORIES
from visualheads.tasks import task
from visualheads.tasks.sample import LETTERS
from visualheads.tasks.scoring import correct

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from visualheads.tasks.sample import Sample

BATCH = 50
OTHERS = ("pope", "mmbench", "seedbench", "qbench")
ANSWERS = ("Yes", "No")  # of questions without choices: POPE's


def score(right: Sequence[bool], pictures: Sequence[str] | None = None) -> dict[str, Any]:
    """Share of right answers with its 95 % interval and the number of items.

    pictures    which picture each is about. Where several are about one, the interval is a bootstrap over the pictures
                (`answered.share_right`); else, and without `pictures`, it is Wilson's, which takes items as
                independent. Pooled over conditions and formats of LookTwice, where several prompts ask about one
                picture and are not told apart here, that is too narrow: over the pictures of four miniatures' traces
                it is 1.5 to 1.8 times as wide.
    """
    told: dict[str, Any] = {"accuracy": sum(right) / len(right)}
    if pictures is not None and len(set(pictures)) < len(pictures):
        values = np.array(right, dtype=float)
        found = share_right(xr.DataArray(values, dims="sample", coords={"image_id": ("sample", list(pictures))}))
        return {**told, "low": found["lower"], "high": found["upper"], "n": len(right), "pictures": len(set(pictures))}
    interval = stats.binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return {**told, "low": float(interval.low), "high": float(interval.high), "n": len(right)}


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


def template(question: str) -> str:
    """A question's type: its first line up to the question mark, with classes, supercategories and adjectives left out.

    What follows the mark is no part of the type: LookTwice tells of the box in its free form alone.
    """
    names = {*CLASSES, *PLURAL.values(), *SUPERCATEGORIES, *(word for pair in ADJECTIVES.values() for word in pair)}
    asked = question.partition("\n")[0].partition("?")[0]
    return " ".join("_" if word in names else word for word in language.split(asked))


@cache
def _types() -> dict[str, str]:
    """The kind of question of every type that `template` gives for the miniatures' wordings."""
    names = {"name": CLASSES[0], "other": CLASSES[0], "plural": PLURAL[CLASSES[0]], "category": SUPERCATEGORIES[0]}
    names["adjective"] = next(iter(ADJECTIVES.values()))[0]
    return {
        template(form.format(article=article, **names)): kind
        for kind, forms in WORDINGS.items()
        for form in forms
        for article in ("a", "an")
    }


def kind_of(sample: Sample) -> str:
    """The kind of a shipped question, by its wording: `colour`, `relation`, …; "" for a wording of others."""
    return _types().get(template(sample.question), "")


def answer_text(sample: Sample) -> str:
    """The right answer as text: with choices, the right choice."""
    return sample.choices[LETTERS.index(sample.answer)] if sample.choices else sample.answer


def question_only(samples: Sequence[Sample], known: Sequence[Sample], leave_out: bool = False) -> list[bool]:
    """What the best answerer without eyes gets right: it knows every answer's frequency in this very set.

    Free form: the most frequent answer of the question type. Letters: the option whose text is the most frequent
    answer of the same type of question in `known`. With `leave_out` it does not know the question's own answer: where
    there are nearly as many answers as questions, that alone would tell.
    """
    frequency: dict[str, Counter[str]] = defaultdict(Counter)
    own: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in known:
        frequency[template(sample.question)][answer_text(sample)] += 1
        own[sample.question_id][answer_text(sample)] += 1

    def guess(sample: Sample) -> str:
        answers = Counter(frequency[template(sample.question)])
        if leave_out:
            answers.subtract(own[sample.question_id])
        if not sample.choices:
            return answers.most_common(1)[0][0] if answers else ""
        return max(sample.choices, key=lambda option: answers[option])

    return [guess(sample) == answer_text(sample) for sample in samples]


def without_looking(samples: Sequence[Sample]) -> list[bool]:
    """The better of two answerers without eyes: `question_only` without each question's own answer, and the one that
    always says the most frequent answer. Leaving an answer out of a balanced set speaks against it, so that the first
    alone would fall below chance."""
    [(constant, _)] = Counter(sample.answer for sample in samples).most_common(1)
    always = [sample.answer == constant for sample in samples]
    return max(always, question_only(samples, samples, leave_out=True), key=sum)


def evaluate(folder: Path, n: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Scores of the checkpoint in `folder` on all five benchmarks, with the picture, with a white one, without eyes;
    `n` questions per condition (all of them by default).

    Returns {"scores": {"condition/format": …} of LookTwice, "pooled": …, "benchmarks": {name: …}, "targets": […]}.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    model.to(device)
    processor = AutoProcessor.from_pretrained(folder)
    record = looktwice_scores(model, processor, n)
    record["benchmarks"] = {"looktwice": summary(record["scores"])}
    for name in OTHERS:
        record["benchmarks"][name] = benchmark_scores(model, processor, name, n)
    record["targets"] = targets(record, model.config.model_type == "vipllava")
    return record


def looktwice_scores(model: Any, processor: Any, n: int | None) -> dict[str, Any]:
    """All conditions and formats of LookTwice, and all of them together."""
    benchmark = task("looktwice")
    scores: dict[str, Any] = {}
    pooled: dict[str, list[bool]] = {"seen": [], "blind": [], "question_only": []}
    for condition in benchmark.conditions:
        free = benchmark.samples(condition=condition, format="free", n=n)
        for form in FORMATS:
            samples = free if form == "free" else benchmark.samples(condition=condition, format=form, n=n)
            white = benchmark.samples(condition=condition, format=form, control="white", n=n)
            told, guessed = answers(model, processor, samples), answers(model, processor, white)
            right = {
                "seen": _right(told, samples),
                "blind": _right(guessed, white),
                "question_only": question_only(samples, free),
            }
            scores[f"{condition}/{form}"] = {name: score(values) for name, values in right.items()}
            scores[f"{condition}/{form}"] |= {
                "blind_answer": most_frequent(white, guessed),
                "one_off": one_off(samples, told),
            }
            for name, values in right.items():
                pooled[name] += values
    return {"scores": scores, "pooled": {name: score(values) for name, values in pooled.items()}}


def most_frequent(samples: Sequence[Sample], told: Sequence[str]) -> dict[str, Any]:
    """The answer given most often: text, its share of the answers, and of how many questions it is the right one."""
    [(text, number)] = Counter(told).most_common(1)
    right = sum(correct(sample, text) == 1 for sample in samples)
    return {"text": text, "share": number / len(told), "right": right / len(samples)}


def one_off(samples: Sequence[Sample], told: Sequence[str]) -> int:
    """How many answers are a number one below or above the right one."""
    found = 0
    for sample, text in zip(samples, told, strict=True):
        number, right = _number(sample, text), _number(sample, sample.answer)
        found += number is not None and right is not None and abs(number - right) == 1
    return found


def _number(sample: Sample, answer: str) -> int | None:
    """The number that an answer tells, in digits or as a letter of the sample's choices."""
    letters = dict(zip(LETTERS, sample.choices or (), strict=False))
    told = letters.get(answer, answer)
    return int(told) if told.isdecimal() else None


def summary(scores: dict[str, Any]) -> dict[str, Any]:
    """LookTwice as one entry among the benchmarks: all conditions but the one without a referent.

    Chance is one letter of four in one half of the prompts, and the likeliest answer to free questions in the other.
    """
    kept = [entry for name, entry in scores.items() if not name.startswith("plain-general")]
    found = {}
    for kind in ("seen", "blind", "question_only"):
        right = sum(round(entry[kind]["accuracy"] * entry[kind]["n"]) for entry in kept)
        found[kind] = score([True] * right + [False] * (sum(entry[kind]["n"] for entry in kept) - right))
    free = [entry["question_only"] for name, entry in scores.items() if name.endswith("/free") and entry in kept]
    likeliest = sum(entry["accuracy"] * entry["n"] for entry in free) / sum(entry["n"] for entry in free)
    return {**found, **chance_of(found, (1 / 4 + likeliest) / len(FORMATS))}


def benchmark_scores(model: Any, processor: Any, name: str, n: int | None = None) -> dict[str, Any]:
    """One benchmark in its own format and figures: with the picture, with a white one, without eyes."""
    benchmark = task(name)
    form = benchmark.formats[0]
    samples = benchmark.samples(format=form, n=n)
    white = benchmark.samples(format=form, control="white", n=n)
    return answered_scores(samples, answers(model, processor, samples), white, answers(model, processor, white))


def answered_scores(
    samples: Sequence[Sample], told: Sequence[str], white: Sequence[Sample], guessed: Sequence[str]
) -> dict[str, Any]:
    """`benchmark_scores` from the answers: all together, by condition, and by kind of question."""
    benchmark = task(samples[0].task)
    conditions = dict.fromkeys(sample.condition for sample in samples)
    kinds = dict.fromkeys(kind for kind in map(kind_of, samples) if kind)
    by_kind = {kind: _of(samples, told, lambda sample, kind=kind: kind_of(sample) == kind) for kind in kinds}
    by_condition = {name: _of(samples, told, lambda sample, name=name: sample.condition == name) for name in conditions}
    return {
        **_compared(samples, told),
        "blind": _scored(white, guessed),
        "figures": benchmark.score(samples, told),
        "blind_figures": benchmark.score(white, guessed),
        "conditions": {
            name: {**_scored(*part), "figures": benchmark.score(*part)} for name, part in by_condition.items()
        },
        "kinds": {kind: _compared(*part) for kind, part in by_kind.items()},
    }


def _compared(samples: Sequence[Sample], told: Sequence[str]) -> dict[str, Any]:
    """Answers beside what the questions alone tell, and chance."""
    guesses = score(without_looking(samples), [sample.image_id for sample in samples])
    found = {"seen": _scored(samples, told), "question_only": guesses}
    chance = sum(1 / len(sample.choices or ANSWERS) for sample in samples) / len(samples)
    return {**found, **chance_of(found, chance)}


def chance_of(found: dict[str, Any], chance: float) -> dict[str, Any]:
    """Chance (random answers of the right form), and whether the score's 95 % interval lies above it and above what
    questions alone tell."""
    best = max(chance, found["question_only"]["accuracy"])
    return {"chance": chance, "above_chance": found["seen"]["low"] > best}


def _of(
    samples: Sequence[Sample], told: Sequence[str], chosen: Callable[[Sample], bool]
) -> tuple[list[Sample], list[str]]:
    pairs = [(sample, text) for sample, text in zip(samples, told, strict=True) if chosen(sample)]
    return [sample for sample, _ in pairs], [text for _, text in pairs]


def _scored(samples: Sequence[Sample], told: Sequence[str]) -> dict[str, Any]:
    return score(_right(told, samples), [sample.image_id for sample in samples])


def _right(found: Sequence[str], samples: Sequence[Sample]) -> list[bool]:
    return [correct(sample, text) == 1 for text, sample in zip(found, samples, strict=True)]
