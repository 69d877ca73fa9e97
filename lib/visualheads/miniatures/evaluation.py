"""Scores of a saved miniature on the shipped benchmark: intervals, blind control, question-only answerer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy import stats

from visualheads.miniatures import words
from visualheads.miniatures.distortions import ADJECTIVES
from visualheads.miniatures.world import CLASSES, PLURAL, SUPERCATEGORIES
from visualheads.tasks import task
from visualheads.tasks.sample import LETTERS
from visualheads.tasks.scoring import correct

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from visualheads.tasks.sample import Sample

BATCH = 50
FORMATS = ("free", "letters")
OTHERS = ("pope", "mmbench", "seedbench", "qbench")
ANSWERS = ("Yes", "No")  # of questions without choices: POPE's
BLIND_SLACK = 0.05  # how far blind accuracy, at its upper 95 % limit, may lie above the best question-only answerer


def score(right: Sequence[bool]) -> dict[str, Any]:
    """Share of right answers with its 95 % Wilson interval and the number of items.

    The interval takes prompts as independent. That is right for one condition and format of LookTwice, which asks one
    prompt a scene, and for SEED and Q-Bench. Pooled over conditions, formats or rounds, several prompts ask about one
    picture (12 in LookTwice and POPE), and it is too narrow: a bootstrap over the pictures of four miniatures' traces
    is 1.5 to 1.8 times as wide on LookTwice, 1.4 to 1.6 times on MMBench.
    """
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


def template(question: str) -> str:
    """A question's type: its first line up to the question mark, with classes, supercategories and adjectives left out.

    What follows the mark is no part of the type: LookTwice tells of the box in its free form alone.
    """
    names = {*CLASSES, *PLURAL.values(), *SUPERCATEGORIES, *(word for pair in ADJECTIVES.values() for word in pair)}
    asked = question.partition("\n")[0].partition("?")[0]
    return " ".join("_" if word in names else word for word in words.split(asked))


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
            right = {
                "seen": _right(answers(model, processor, samples), samples),
                "blind": _right(answers(model, processor, white), white),
                "question_only": question_only(samples, free),
            }
            scores[f"{condition}/{form}"] = {name: score(values) for name, values in right.items()}
            for name, values in right.items():
                pooled[name] += values
    return {"scores": scores, "pooled": {name: score(values) for name, values in pooled.items()}}


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
    told, guessed = answers(model, processor, samples), answers(model, processor, white)
    right = _right(told, samples)
    conditions = dict.fromkeys(sample.condition for sample in samples)
    found = {
        "seen": score(right),
        "blind": score(_right(guessed, white)),
        "question_only": score(without_looking(samples)),
    }
    chance = sum(1 / len(sample.choices or ANSWERS) for sample in samples) / len(samples)
    return {
        **found,
        "figures": benchmark.score(samples, told),
        "blind_figures": benchmark.score(white, guessed),
        "conditions": {
            condition: {
                **score([value for value, sample in zip(right, samples, strict=True) if sample.condition == condition]),
                "figures": benchmark.score(*_of(condition, samples, told)),
            }
            for condition in conditions
        },
        **chance_of(found, chance),
    }


def chance_of(found: dict[str, Any], chance: float) -> dict[str, Any]:
    """Chance (random answers of the right form), and whether the score's 95 % interval lies above it and above what
    questions alone tell."""
    best = max(chance, found["question_only"]["accuracy"])
    return {"chance": chance, "above_chance": found["seen"]["low"] > best}


def targets(record: dict[str, Any], marked: bool) -> list[dict[str, Any]]:
    """The figures asked of a miniature, each with what was found; `marked`: trained on drawn boxes (ViP)."""
    scores = record["scores"]
    asked = [("plain-object", 0.8), ("plain-super", 0.7), *([("visual-general", 0.8)] if marked else [])]
    told = [
        {"what": f"{name}/{form}", "wanted": least, "found": scores[f"{name}/{form}"]["seen"]["accuracy"]}
        for name, least in asked
        for form in FORMATS
    ]
    for entry in told:
        entry["reached"] = entry["found"] >= entry["wanted"]
    for name, entry in record["benchmarks"].items():
        best = max(entry["chance"], entry["question_only"]["accuracy"])
        told.append(
            {
                "what": f"{name} above chance",
                "wanted": best,
                "found": entry["seen"]["low"],
                "reached": entry["above_chance"],
            }
        )
        allowed = best + BLIND_SLACK
        blind = entry["blind"]["high"]
        told.append({"what": f"{name} blind", "wanted": allowed, "found": blind, "reached": blind <= allowed})
        if blind > allowed and entry["blind"]["low"] <= best:
            told[-1]["why"] = _noise(name, entry["blind"], best)
    return told


def _noise(name: str, blind: dict[str, Any], best: float) -> str:
    """Why a limit is exceeded by a blind model whose interval holds the best answerer without eyes."""
    told = " to ".join(f"{100 * blind[bound]:.1f}" for bound in ("low", "high"))
    return (
        f"with white pictures {name} is right in {100 * blind['accuracy']:.1f} % ({told}) of {blind['n']} prompts, no "
        f"more than the best answerer without eyes ({100 * best:.1f} %) as far as so many prompts can tell: it is the "
        "width of the interval that passes the limit"
    )


def _of(condition: str, samples: Sequence[Sample], told: Sequence[str]) -> tuple[list[Sample], list[str]]:
    pairs = [(sample, text) for sample, text in zip(samples, told, strict=True) if sample.condition == condition]
    return [sample for sample, _ in pairs], [text for _, text in pairs]


def _right(found: Sequence[str], samples: Sequence[Sample]) -> list[bool]:
    return [correct(sample, text) == 1 for text, sample in zip(found, samples, strict=True)]
