"""Scores of a joined model on the shipped scenes, its controls, its language; and its card, written from them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from visualheads.cards import data_folder, learned_file, trained_steps
from visualheads.miniatures.card import percent
from visualheads.miniatures.evaluation import score
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.packing import answer_logits, as_pixels, pack, prefix_ids, right_answers
from visualheads.miniatures.smol.questions import Question
from visualheads.miniatures.smol.scenes import draw_scene
from visualheads.models.smol.architecture import IMAGE_TOKENS, SIDE
from visualheads.models.smol.base_weights import PACKAGES
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

GOALS = {"looktwice/plain-object": 0.80, "looktwice/plain-super": 0.70, "looktwice/visual-general": 0.60, "pope": 0.85}
"""Least accuracy of smol-1.5, as seen, greedy, exact match."""
BLIND_MARGIN = 0.05
"""With a white picture no more right than the best question-only answerer plus this, at the upper 95 % limit."""
NO_REFERENT = "looktwice/plain-general"
"""“These” with nothing marked: reported, nothing is expected of it."""

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
    language = module.model.language_model
    found["text"] = {
        "perplexity": perplexity(language, module.lm_head, tokenizer, text),
        "answers": text_answers(language, module.lm_head, tokenizer),
    }
    return found


HEAD = """\
# {name}

SmolLM2-135M-Instruct reads the last feature map of EfficientNet-Lite2 (ImageNet) through a two-layer projector.
{stage} The base weights are others' (Apache-2.0, fetched by `visualheads weights smol`); here are only those learned by
this project: `{name}.safetensors`.

* Class: FastVlmForConditionalGeneration; 30 layers × 9 query / 3 key-value heads; 144 image tokens (12 × 12).
* The language model's weights are dequantised from 4 bits ({gguf}); its perplexity on `text.md` is {before:.2f} as
  fetched and {after:.2f} in this model.
* The tower's features know little of place; 32 added channels tell the distance from each edge, by zero padding. The
  published channels are unchanged.
* Trained on emoji scenes only (see README.md), {steps} steps. It knows nothing of photographs.
"""
STAGES = {
    "smol-frozen": "Tower and language model are frozen: only the projector was trained.",
    "smol-1.5": "A first stage trained the projector alone, a second one also LoRA (r = 8, all linear layers).",
}


def evaluate_model(name: str, n: int | None = None, data: Path | None = None) -> dict[str, Any]:
    """Score a joined model on the shipped scenes and text, beside the language model as fetched.

    Parameters
    ----------
    name : str
        smol-1.5 or smol-frozen.
    n : int, optional
        Samples of each condition; by default all.
    data : Path, optional
        data/smol by default.

    Returns
    -------
    dict
        From `evaluation.evaluate`; `text` also has the untouched language model's figures under `before`.
    """
    from visualheads.miniatures.smol.scenes import use_sheet
    from visualheads.miniatures.smol.sprites import read_sheet

    data = data or data_folder() / "smol"
    text = (data / "text.md").read_text(encoding="utf-8")
    learned = read_learned(learned_file(name))
    use_sheet(read_sheet(data))
    module, processor = join(learned)
    found = evaluate(module, processor.tokenizer, data / "scenes", text, n)
    untouched, _ = join({key: value for key, value in learned.items() if not key.startswith("lora.")})
    language, head = untouched.model.language_model, untouched.lm_head
    found["text"]["before"] = {
        "perplexity": perplexity(language, head, processor.tokenizer, text),
        "answers": text_answers(language, head, processor.tokenizer),
    }
    return found


def flat_scores(scores: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores by `benchmark/condition`; POPE's three conditions and SEED-Bench also count as one each."""
    told: dict[str, dict[str, Any]] = {}
    for benchmark in ("looktwice", "pope", "seedbench"):
        for condition, entry in scores[benchmark].items():
            told[benchmark if condition == "all" else f"{benchmark}/{condition}"] = entry
    return told


def goal_lines(scores: dict[str, Any]) -> list[str]:
    """One line for each figure asked for: reached or by how much not."""
    lines = []
    flat = flat_scores(scores)
    for what, wanted in GOALS.items():
        entries = [entry["seen"] for key, entry in flat.items() if key == what or key.startswith(f"{what}/")]
        found = sum(entry["accuracy"] for entry in entries) / len(entries)
        verdict = "reached" if found >= wanted else f"**{100 * (wanted - found):.1f} points short**"
        lines.append(f"{what}: {100 * found:.1f} %, asked for {100 * wanted:.0f} %: {verdict}")
    for what, entry in flat.items():
        over = entry["white"]["high"] - entry["question_only"]["accuracy"]
        if over > BLIND_MARGIN:
            lines.append(f"{what}: with a white picture up to {100 * over:.1f} points above the question-only answerer")
    return lines


def score_table(scores: dict[str, Any]) -> str:
    """All benchmarks and conditions as a Markdown table."""
    lines = [
        "| benchmark/condition | accuracy % (95 % interval) | white picture % | question only % | prompts |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, entry in flat_scores(scores).items():
        note = " (no referent)" if what == NO_REFERENT else ""
        usual = f"{100 * entry['question_only']['accuracy']:.1f}"
        cells = [percent(entry["seen"]), percent(entry["white"]), usual, str(entry["seen"]["n"])]
        lines.append(f"| {what}{note} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text_table(text: dict[str, Any]) -> str:
    """Answers about lists in words, before and after, as a Markdown table."""
    lines = [
        "| about lists in words | as fetched % | in this model % | prompts |",
        "| --- | --- | --- | --- |",
    ]
    for kind, after in text["answers"].items():
        lines.append(f"| {kind} | {percent(text['before']['answers'][kind])} | {percent(after)} | {after['n']} |")
    return "\n".join(lines)


def model_card(name: str, scores: dict[str, Any], steps: int) -> str:
    """Return the card as Markdown."""
    text = scores["text"]
    head = HEAD.format(
        name=name,
        stage=STAGES[name],
        gguf=PACKAGES[0].name,
        before=text["before"]["perplexity"],
        after=text["perplexity"],
        steps=steps,
    )
    goals = "\n".join(f"* {line}" for line in goal_lines(scores)) if name == "smol-1.5" else ""
    parts = [head, "## Scores", score_table(scores), goals, "## Language", text_table(text)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def write_card(name: str, scores: dict[str, Any], folder: Path | None = None) -> Path:
    """Write `<name>.scores.json` and the card `<name>.md` beside the learned weights; returns the card's path."""
    folder = folder or data_folder() / "smol"
    (folder / f"{name}.scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    card = folder / f"{name}.md"
    card.write_text(model_card(name, scores, trained_steps(name, folder)), encoding="utf-8")
    return card
