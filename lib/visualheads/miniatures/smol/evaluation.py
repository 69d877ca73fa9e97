"""Scores of a joined model: on the shipped scenes, on those of another generator, its controls, and its language."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image
from torch import Tensor
from torch.nn import functional

from visualheads.cards import data_folder, learned_file
from visualheads.heads.losses import share_gained
from visualheads.miniatures.evaluation import score
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.benchmarks import draw_test_scene
from visualheads.miniatures.smol.packing import (
    ASK,
    answer_logits,
    as_pixels,
    likeliest_answers,
    pack,
    prefix_ids,
    right_answers,
)
from visualheads.miniatures.smol.questions import Question
from visualheads.miniatures.smol.scenes import HELD_OUT_GROUND, draw_other, draw_scene, render, use_sheet
from visualheads.miniatures.smol.sprites import CATEGORY, SpriteSheet, read_sheet
from visualheads.models.smol.architecture import IMAGE_TOKENS, SIDE
from visualheads.models.smol.joined_model import join, read_learned
from visualheads.tasks import task
from visualheads.tasks.sample import Sample

BENCHMARKS = ("looktwice", "pope", "seedbench")
BATCH = 4
TOGETHER = 12
"""Questions on one white picture that are computed together."""
TEXT_SCENES = 60
WINDOW = 512
"""Tokens of running text that are read together."""

ELSEWHERE = 400
"""Scenes of another generator."""
LISTED, LONGEST_LIST = 100, 64
"""Scenes whose objects are listed, and the tokens of an answer."""
Asked = tuple[Image.Image, list[Sample]]


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
    pixels = torch.stack([as_pixels(picture) for picture in pictures]).to(module.model.vision_tower.dtype)
    features = module.get_image_features(pixels, return_dict=True).pooler_output
    embedded = module.get_input_embeddings()(ids)
    image = (ids == module.config.image_token_id)[..., None]
    return embedded.masked_scatter(image, features.to(embedded.dtype))


def benchmark_scores(module: Any, tokenizer: Any, data: Path, name: str, n: int | None = None) -> dict[str, Any]:
    """Return, by condition, scores with intervals: as seen, with a white picture, and of the question alone.

    `question_only` is the most frequent answer of the condition: what the best answerer without a picture says;
    `white_gain` how much more is right with a white picture, paired.
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
        right = {
            "seen": [seen[sample.id] for sample in asked],
            "white": [blind[sample.id] for sample in asked],
            "question_only": [answer == usual for answer in answers],
        }
        told[condition] = {name: score(values, pictures) for name, values in right.items()}
        told[condition]["white_gain"] = _gain(right["question_only"], right["white"], pictures)
    if name == "looktwice":
        told["held_out"] = _held_out(samples, seen, data)
    return told


def _gain(first: Sequence[bool], second: Sequence[bool], pictures: Sequence[str]) -> dict[str, float]:
    where = {"image_id": ("sample", list(pictures)), "sample": np.arange(len(pictures))}
    one, other = (xr.DataArray(np.array(each, dtype=float), where, ("sample",)) for each in (first, second))
    return share_gained(one, other)


def _held_out(samples: Sequence[Sample], seen: dict[str, bool], data: Path) -> dict[str, Any]:
    """What is right of questions that name what they ask about, on grounds and pairs of classes that training never
    showed, and on others."""
    records = json.loads((data / "looktwiceqa_dataset.json").read_text(encoding="utf-8"))
    names = ("held-out ground", "known ground", "held-out pair", "known pair")
    groups: dict[str, list[Sample]] = {name: [] for name in names}
    for sample in samples:
        if not sample.condition.endswith("general"):
            record = records[sample.image_id][0]
            for of, new in (("ground", record["Ground"] == HELD_OUT_GROUND), ("pair", record["Held_out_pair"])):
                groups[f"{'held-out' if new else 'known'} {of}"].append(sample)
    return {
        name: {"seen": score([seen[sample.id] for sample in asked], [sample.image_id for sample in asked])}
        for name, asked in groups.items()
        if asked
    }


def elsewhere_scores(module: Any, tokenizer: Any, sheet: SpriteSheet, n: int = ELSEWHERE) -> dict[str, Any]:
    """Return the same of counts on scenes of another generator (see `elsewhere`)."""
    groups, answers = [], defaultdict(list)
    for number in range(n):
        scene = draw_other(number, sheet)
        asked = [
            questions.free("object", questions.count_object(scene.name), scene.objects),
            questions.free("super", questions.count_super(CATEGORY[scene.name]), scene.category_objects),
        ]
        groups.append((scene.picture, [(f"{one.kind}/{number}", one.text, one.answer) for one in asked]))
        for one in asked:
            answers[one.kind].append(one.answer)
    found = _right(module, tokenizer, groups)
    return {
        kind: {
            "seen": score([found[f"{kind}/{number}"] for number in range(n)]),
            "question_only": score([answer == max(sorted(set(right)), key=right.count) for answer in right]),
        }
        for kind, right in answers.items()
    }


@torch.no_grad()
def list_scores(module: Any, tokenizer: Any, sheet: SpriteSheet, n: int = LISTED) -> dict[str, Any]:
    """Return which share of the objects on test scenes the model's lists name (`shown`), which share of what they name
    is there (`named`), and which share of the objects the list of the picture before names (`chance`)."""
    ids = torch.tensor([[*prefix_ids(tokenizer, IMAGE_TOKENS), *tokenizer(questions.LIST_REQUEST + ASK).input_ids]])
    scenes = [draw_test_scene(number).scene for number in range(1, n + 1)]
    lists = []
    for scene in scenes:
        pixels = as_pixels(render(scene, sheet))[None]
        said = module.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=LONGEST_LIST, do_sample=False)
        text = tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
        lists.append(Counter(map(str.strip, text.split(","))))
    shown = [Counter(thing.name for thing in scene.objects) for scene in scenes]
    return {
        "shown": _contained(shown, lists),
        "named": _contained(lists, shown),
        "chance": _contained(shown, [lists[-1], *lists[:-1]]),
    }


def _contained(wanted: Sequence[Counter[str]], given: Sequence[Counter[str]]) -> dict[str, Any]:
    """The share of what is wanted of each picture that is given."""
    hits: list[bool] = []
    pictures: list[str] = []
    for picture, (one, other) in enumerate(zip(wanted, given, strict=True)):
        found = (one & other).total()
        hits += [True] * found + [False] * (one.total() - found)
        pictures += [str(picture)] * one.total()
    return score(hits, pictures)


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
    """Return scores, by kind, of questions about scenes that are told in words: no picture, the same wording.

    Beside the exact answer `chosen`: whether the right one is the most probable of those that the question leaves open,
    which a model can get right that never learned to answer in one word.
    """
    rng = random.Random("smol-text")
    right: dict[str, list[bool]] = defaultdict(list)
    chosen: dict[str, list[bool]] = defaultdict(list)
    for _ in range(-(-scenes // BATCH)):
        drawn = [draw_scene(rng, held_out_pairs=True) for _ in range(BATCH)]
        rows = [
            (prefix_ids(tokenizer, 0, questions.told_in_words(scene)), questions.of_text(rng, scene)) for scene in drawn
        ]
        batch = pack(tokenizer, rows, tokenizer.pad_token_id)
        embedded = language_model.get_input_embeddings()(batch.ids)
        logits, _ = answer_logits(language_model, head, batch, embedded)
        exact, likely = right_answers(batch, logits), likeliest_answers(tokenizer, rows, batch, logits)
        for (_, asked), hits, likelier in zip(rows, exact, likely, strict=True):
            for question, hit, other in zip(asked, hits, likelier, strict=True):
                right[question.kind].append(hit)
                chosen[question.kind].append(other)
    return {kind: {**score(values), "chosen": score(chosen[kind])} for kind, values in sorted(right.items())}


def evaluate(module: Any, tokenizer: Any, data: Path, text: str, n: int | None = None) -> dict[str, Any]:
    """Return all scores of a model.

    Parameters
    ----------
    module : FastVlmForConditionalGeneration
        From `visualheads.models.smol.joined_model.join`.
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
    found["held_out"] = found["looktwice"].pop("held_out")
    found["text"] = language_scores(module, tokenizer, text)
    return found


def language_scores(module: Any, tokenizer: Any, text: str) -> dict[str, Any]:
    """Return the perplexity of a text and scores of questions told in words, of a joined model's language model."""
    parts = module.model.language_model, module.lm_head, tokenizer
    return {"perplexity": perplexity(*parts, text), "answers": text_answers(*parts)}


def evaluate_model(name: str, n: int | None = None) -> dict[str, Any]:
    """Score a joined model on the shipped scenes and text, beside the language model as fetched.

    Parameters
    ----------
    name : str
        smol-1.5 or smol-frozen.
    n : int, optional
        Samples of each condition; by default all.

    Returns
    -------
    dict
        From `evaluation.evaluate`; `text` also has the untouched language model's figures under `before`.
    """
    data = data_folder() / "smol"
    text = (data / "text.md").read_text(encoding="utf-8")
    learned = read_learned(learned_file(name))
    use_sheet(sheet := read_sheet(data))
    module, processor = join(learned)
    found = evaluate(module, processor.tokenizer, data / "scenes", text, n)
    found["elsewhere"] = elsewhere_scores(module, processor.tokenizer, sheet)
    found["lists"] = list_scores(module, processor.tokenizer, sheet)
    untouched, _ = join({key: value for key, value in learned.items() if not key.startswith("lora.")})
    found["text"]["before"] = language_scores(untouched, processor.tokenizer, text)
    return found
