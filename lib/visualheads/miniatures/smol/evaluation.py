"""Scores of a joined model on the shipped scenes, its controls, its language, and a quick look while it trains."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from visualheads.miniatures.evaluation import score
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.learner import Learner
from visualheads.miniatures.smol.packing import answer_logits, as_pixels, pack, prefix_ids, right_answers
from visualheads.miniatures.smol.questions import Question
from visualheads.miniatures.smol.scenes import draw_scene
from visualheads.miniatures.smol.training import Mix, mean, training_rows
from visualheads.models.smol.architecture import IMAGE_TOKENS, SIDE
from visualheads.tasks import task
from visualheads.tasks.sample import Sample

BENCHMARKS = ("looktwice", "pope", "seedbench")
BATCH = 4
TOGETHER = 12
"""Questions on one white picture that are computed together."""
TEXT_SCENES = 60
WINDOW = 512
"""Tokens of running text that are read together."""

Asked = tuple[Image.Image, list[Sample]]


QUICK_SCENES = 40
QUICK_BATCH = 8


def benchmark_samples(data: Path, name: str, n: int | None = None) -> list[Sample]:
    """Return the samples of all conditions of a benchmark on the shipped scenes, in free form where it has one."""
    benchmark = task(name, data=data)
    form: Any = "letters" if name == "seedbench" else "free"
    return [
        sample
        for condition in benchmark.conditions or (None,)
        for sample in benchmark.samples(condition=condition, format=form, n=n)
    ]


def by_picture(samples: Iterable[Sample]) -> list[Asked]:
    """Group samples that ask about the same pixels; each picture is opened once."""
    groups: dict[tuple[str, bool], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.image_id, sample.condition.startswith("visual")].append(sample)
    return [(asked[0].open(), asked) for asked in groups.values()]


def answered(module: Any, tokenizer: Any, samples: Sequence[Sample]) -> dict[str, bool]:
    """Return whether each sample is answered exactly, by id.

    Questions on one picture are computed together (see `packing`); each is answered as if it were asked alone.
    """
    groups = [
        (picture, [(sample.id, sample.question, sample.answer) for sample in asked])
        for picture, asked in by_picture(samples)
    ]
    return _right(module, tokenizer, groups)


def answered_blindly(module: Any, tokenizer: Any, samples: Sequence[Sample]) -> dict[str, bool]:
    """Return the same with a white picture in every one's place: all are one, so that each question is asked once."""
    different = {(sample.question, sample.answer): sample.id for sample in samples}
    asked = [(sample_id, question, answer) for (question, answer), sample_id in different.items()]
    white = Image.new("RGB", (SIDE, SIDE), "white")
    found = _right(module, tokenizer, [(white, asked[at : at + TOGETHER]) for at in range(0, len(asked), TOGETHER)])
    return {sample.id: found[different[sample.question, sample.answer]] for sample in samples}


@torch.no_grad()
def _right(
    module: Any, tokenizer: Any, groups: Sequence[tuple[Image.Image, Sequence[tuple[str, str, str]]]]
) -> dict[str, bool]:
    """Whether questions (id, text, answer) on pictures are answered exactly."""
    before = prefix_ids(tokenizer, IMAGE_TOKENS)
    found: dict[str, bool] = {}
    for start in range(0, len(groups), BATCH):
        chunk = groups[start : start + BATCH]
        rows = [(before, [Question("", text, answer) for _, text, answer in asked]) for _, asked in chunk]
        batch = pack(tokenizer, rows, tokenizer.pad_token_id)
        inputs = _inputs(module, batch.ids, [picture for picture, _ in chunk])
        logits, _ = answer_logits(module.model.language_model, module.lm_head, batch, inputs)
        for (_, asked), hits in zip(chunk, right_answers(batch, logits), strict=True):
            found.update({sample_id: hit for (sample_id, _, _), hit in zip(asked, hits, strict=True)})
    return found


def _inputs(module: Any, ids: Tensor, pictures: Sequence[Image.Image]) -> Tensor:
    pixels = torch.stack([as_pixels(picture) for picture in pictures]).to(module.dtype)
    features = module.get_image_features(pixels, return_dict=True).pooler_output
    embedded = module.get_input_embeddings()(ids)
    image = (ids == module.config.image_token_id)[..., None]
    return embedded.masked_scatter(image, features.to(embedded.dtype))


def benchmark_scores(module: Any, tokenizer: Any, data: Path, name: str, n: int | None = None) -> dict[str, Any]:
    """Return, by condition, scores with intervals: as seen, with a white picture, and of the question alone.

    `question_only` is the most frequent answer of the condition: what the best answerer without a picture says.
    """
    samples = benchmark_samples(data, name, n)
    seen, blind = (answer(module, tokenizer, samples) for answer in (answered, answered_blindly))
    by_condition: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_condition[sample.condition or "all"].append(sample)
    told: dict[str, Any] = {}
    for condition, asked in by_condition.items():
        pictures = [sample.image_id for sample in asked]
        answers = [sample.answer for sample in asked]
        usual = max(sorted(set(answers)), key=answers.count)
        told[condition] = {
            "seen": score([seen[sample.id] for sample in asked], pictures),
            "white": score([blind[sample.id] for sample in asked], pictures),
            "question_only": score([answer == usual for answer in answers], pictures),
        }
    return told


@torch.no_grad()
def perplexity(language_model: Any, head: Any, tokenizer: Any, text: str) -> float:
    """Return the perplexity of a running text, read in windows of `WINDOW` tokens."""
    ids = torch.tensor(tokenizer(text).input_ids)
    losses = [
        functional.cross_entropy(
            head(language_model(input_ids=window[None], use_cache=False).last_hidden_state)[0, :-1].float(),
            window[1:],
            reduction="none",
        )
        for window in ids.split(WINDOW)
        if len(window) > 1
    ]
    return float(torch.cat(losses).mean().exp())


@torch.no_grad()
def text_answers(language_model: Any, head: Any, tokenizer: Any, scenes: int = TEXT_SCENES) -> dict[str, Any]:
    """Return scores, by kind, of questions about scenes that are told in words: no picture, the same wording."""
    rng = random.Random("smol-text")
    right: dict[str, list[bool]] = defaultdict(list)
    for _ in range(-(-scenes // BATCH)):
        drawn = [draw_scene(rng, held_out_pairs=True) for _ in range(BATCH)]
        rows = [
            (prefix_ids(tokenizer, 0, questions.told_in_words(scene)), questions.of_text(rng, scene)) for scene in drawn
        ]
        batch = pack(tokenizer, rows, tokenizer.pad_token_id)
        embedded = language_model.get_input_embeddings()(batch.ids)
        logits, _ = answer_logits(language_model, head, batch, embedded)
        for (_, asked), hits in zip(rows, right_answers(batch, logits), strict=True):
            for question, hit in zip(asked, hits, strict=True):
                right[question.kind].append(hit)
    return {kind: score(values) for kind, values in sorted(right.items())}


def evaluate(module: Any, tokenizer: Any, data: Path, text: str, n: int | None = None) -> dict[str, Any]:
    """Return all scores of a model.

    Parameters
    ----------
    module : FastVlmForConditionalGeneration
        From `visualheads.models.smol.join`.
    tokenizer : PreTrainedTokenizer
        Its tokenizer.
    data : Path
        Folder of the scenes (data/smol/scenes).
    text : str
        Running text for the perplexity.
    n : int, optional
        Samples of each condition; by default all.

    Returns
    -------
    dict
        By benchmark and condition; `text` holds perplexity and answers about lists in words.
    """
    found: dict[str, Any] = {name: benchmark_scores(module, tokenizer, data, name, n) for name in BENCHMARKS}
    language = module.model.language_model
    found["text"] = {
        "perplexity": perplexity(language, module.lm_head, tokenizer, text),
        "answers": text_answers(language, module.lm_head, tokenizer),
    }
    return found


def exact_answers(
    learner: Learner, scenes: int = QUICK_SCENES, seed: str = "held-out", texts: bool = False
) -> dict[str, float]:
    """Return the share of exactly answered questions of each kind on fresh scenes that training never draws."""
    rng = random.Random(seed)
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(-(-scenes // QUICK_BATCH)):
        rows, pictures = training_rows(learner, rng, Mix(0, QUICK_BATCH) if texts else Mix(QUICK_BATCH))
        batch = pack(learner.tokenizer, rows, learner.tokenizer.pad_token_id)
        with torch.no_grad():
            features = learner.features(pictures) if pictures else None
            logits, targets = learner.scores(batch, learner.inputs(batch, features, len(pictures)))
        for (_, asked), answered in zip(rows, right_answers(batch, logits), strict=True):
            for question, hit in zip(asked, answered, strict=True):
                kind = question.kind if question.kind != "exists" else f"exists-{question.answer}"
                right[kind].append(float(hit))
        right["token"].extend((logits.argmax(-1) == targets).float().tolist())
    return {kind: mean(values) for kind, values in sorted(right.items())}
