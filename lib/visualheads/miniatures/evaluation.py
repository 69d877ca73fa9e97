"""Scores of a saved miniature on the shipped benchmarks, with intervals and controls, and what is asked of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from visualheads.heads.losses import share_right
from visualheads.miniatures.questions import kind_of, question_only, without_looking
from visualheads.tasks import task
from visualheads.tasks.sample import LETTERS
from visualheads.tasks.scoring import correct

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

BATCH = 50
OTHERS = ("pope", "mmbench", "seedbench", "qbench")
ANSWERS = ("Yes", "No")  # of questions without choices: POPE's
FORMATS = ("free", "letters")
SLACK = 0.05  # how far blind accuracy, at its upper 95 % limit, may lie above the best question-only answerer


def score(right: Sequence[bool], pictures: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the share of right answers with its 95 % interval and the number of items.

    Parameters
    ----------
    right : sequence of bool
    pictures : sequence of str, optional
        Which picture each item is about. Where several are about one, the interval is a bootstrap over the pictures
        (`heads.proportions.share_right`); else, and without `pictures`, it is Wilson's, which takes items as
        independent. Pooled over conditions and formats of LookTwice, where several prompts ask about one picture and
        are not kept apart here, that is too narrow: over the pictures of four miniatures' traces it is 1.5 to 1.8
        times as wide.

    Returns
    -------
    dict
        accuracy, low, high, n, and pictures where several items are about one.
    """
    share: dict[str, Any] = {"accuracy": sum(right) / len(right)}
    if pictures is not None and len(set(pictures)) < len(pictures):
        values = np.array(right, dtype=float)
        found = share_right(xr.DataArray(values, dims="sample", coords={"image_id": ("sample", list(pictures))}))
        return {**share, "low": found["lower"], "high": found["upper"], "n": len(right), "pictures": len(set(pictures))}
    interval = stats.binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return {**share, "low": float(interval.low), "high": float(interval.high), "n": len(right)}


@torch.no_grad()
def answers(model: Any, processor: Any, samples: Sequence[Sample]) -> list[str]:
    """Ask all samples: greedy answers as text, through the processor's chat template and plain `generate`."""
    found: list[str] = []
    for start in range(0, len(samples), BATCH):
        chosen = samples[start : start + BATCH]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
                add_generation_prompt=True,
            )
            for sample in chosen
        ]
        inputs = processor(images=[s.open() for s in chosen], text=prompts, padding=True, return_tensors="pt")
        ids = model.generate(**inputs.to(model.device), max_new_tokens=3, do_sample=False)
        found += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in found]


def evaluate(folder: Path, n: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Score a checkpoint on all five benchmarks, with the picture, with a white one, without eyes.

    Parameters
    ----------
    folder : pathlib.Path
        The checkpoint.
    n : int, optional
        Questions per condition; all of them by default.
    device : str

    Returns
    -------
    dict
        scores (of LookTwice, by `condition/format`), pooled, benchmarks (by name), targets (a list).
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
    """Score all conditions and formats of LookTwice, and all of them together."""
    benchmark = task("looktwice")
    scores: dict[str, Any] = {}
    pooled: dict[str, list[bool]] = {"seen": [], "blind": [], "question_only": []}
    for condition in benchmark.conditions:
        free = benchmark.samples(condition=condition, format="free", n=n)
        for form in FORMATS:
            samples = free if form == "free" else benchmark.samples(condition=condition, format=form, n=n)
            white = benchmark.samples(condition=condition, format=form, control="white", n=n)
            seen, blind = answers(model, processor, samples), answers(model, processor, white)
            right = {"seen": _right(samples, seen), "blind": _right(white, blind)}
            right["question_only"] = question_only(samples, free)
            told = {"blind_answer": most_frequent(white, blind), "one_off": one_off(samples, seen)}
            scores[f"{condition}/{form}"] = {name: score(values) for name, values in right.items()} | told
            for name, values in right.items():
                pooled[name] += values
    return {"scores": scores, "pooled": {name: score(values) for name, values in pooled.items()}}


def most_frequent(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, Any]:
    """Return the answer given most often: text, its share of the answers, and of which share it is the right one."""
    [(text, number)] = Counter(given).most_common(1)
    right = sum(correct(sample, text) == 1 for sample in samples)
    return {"text": text, "share": number / len(given), "right": right / len(samples)}


def one_off(samples: Sequence[Sample], given: Sequence[str]) -> int:
    """Count the answers that are a number one below or above the right one."""
    found = 0
    for sample, text in zip(samples, given, strict=True):
        number, right = _number(sample, text), _number(sample, sample.answer)
        found += number is not None and right is not None and abs(number - right) == 1
    return found


def _number(sample: Sample, answer: str) -> int | None:
    """The number that an answer names, in digits or as a letter of the sample's choices."""
    text = dict(zip(LETTERS, sample.choices or (), strict=False)).get(answer, answer)
    return int(text) if text.isdecimal() else None


def summary(scores: dict[str, Any]) -> dict[str, Any]:
    """Sum LookTwice up as one entry among the benchmarks: all conditions but the one without a referent.

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
    """Score one benchmark in its own format: with the picture, with a white one, without eyes."""
    benchmark = task(name)
    form = benchmark.formats[0]
    samples = benchmark.samples(format=form, n=n)
    white = benchmark.samples(format=form, control="white", n=n)
    return scores_of(samples, answers(model, processor, samples), white, answers(model, processor, white))


def scores_of(
    samples: Sequence[Sample], given: Sequence[str], white: Sequence[Sample], blind: Sequence[str]
) -> dict[str, Any]:
    """Score given answers to a benchmark, all together and by kind of question.

    Parameters
    ----------
    samples, given
        The questions with their pictures, and the answers to them.
    white, blind
        The questions with white pictures, and the answers to these.
    """
    kinds = {kind: _compared(*part) for kind, part in _by_kind(samples, given).items() if kind}
    return {**_compared(samples, given), "blind": _scored(white, blind), "kinds": kinds}


def _compared(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, Any]:
    """Answers beside what the questions alone tell, and chance."""
    guesses = score(without_looking(samples), [sample.image_id for sample in samples])
    found = {"seen": _scored(samples, given), "question_only": guesses}
    chance = sum(1 / len(sample.choices or ANSWERS) for sample in samples) / len(samples)
    return {**found, **chance_of(found, chance)}


def chance_of(found: dict[str, Any], chance: float) -> dict[str, Any]:
    """Return chance (random answers of the right form) and whether the score is above it and what questions alone tell.

    Above: its 95 % interval lies above both.
    """
    best = max(chance, found["question_only"]["accuracy"])
    return {"chance": chance, "above_chance": found["seen"]["low"] > best}


def _by_kind(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, tuple[list[Sample], list[str]]]:
    """Samples and answers, apart by kind of question."""
    parts: dict[str, tuple[list[Sample], list[str]]] = {}
    for sample, text in zip(samples, given, strict=True):
        asked, said = parts.setdefault(kind_of(sample), ([], []))
        asked.append(sample)
        said.append(text)
    return parts


def _scored(samples: Sequence[Sample], given: Sequence[str]) -> dict[str, Any]:
    return score(_right(samples, given), [sample.image_id for sample in samples])


def _right(samples: Sequence[Sample], given: Sequence[str]) -> list[bool]:
    return [correct(sample, text) == 1 for sample, text in zip(samples, given, strict=True)]


def targets(record: dict[str, Any], marked: bool) -> list[dict[str, Any]]:
    """Hold a miniature's figures against what is asked of it.

    Parameters
    ----------
    record : dict
        As `evaluate` makes it.
    marked : bool
        Whether the miniature was trained on drawn boxes (ViP): then more is asked.

    Returns
    -------
    list of dict
        what, wanted, found, reached.
    """
    scores = record["scores"]
    least = {"plain-object": 0.8, "plain-super": 0.7, **({"visual-general": 0.8} if marked else {})}
    found = [
        {"what": f"{name}/{form}", "wanted": wanted, "found": scores[f"{name}/{form}"]["seen"]["accuracy"]}
        for name, wanted in least.items()
        for form in FORMATS
    ]
    for entry in found:
        entry["reached"] = entry["found"] >= entry["wanted"]
    for name, entry in record["benchmarks"].items():
        best = max(entry["chance"], entry["question_only"]["accuracy"])
        low, blind = entry["seen"]["low"], entry["blind"]["high"]
        found += [
            {"what": f"{name} above chance", "wanted": best, "found": low, "reached": entry["above_chance"]},
            {"what": f"{name} blind", "wanted": best + SLACK, "found": blind, "reached": blind <= best + SLACK},
        ]
    return found
