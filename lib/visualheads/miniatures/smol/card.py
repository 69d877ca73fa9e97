"""The model card of a joined model, written from its scores; and the figures it should reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visualheads.cards import data_folder, learned_file, trained_steps
from visualheads.miniatures.card import percent
from visualheads.models.smol import join, read_learned
from visualheads.models.smol.base_weights import PACKAGES

GOALS = {"looktwice/plain-object": 0.80, "looktwice/plain-super": 0.70, "looktwice/visual-general": 0.60, "pope": 0.85}
"""Least accuracy of smol-1.5, as seen, greedy, exact match."""
BLIND_MARGIN = 0.05
"""With a white picture no more right than the best question-only answerer plus this, at the upper 95 % limit."""
NO_REFERENT = "looktwice/plain-general"
"""“These” with nothing marked: reported, nothing is expected of it."""

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
    from visualheads.miniatures.smol.evaluation import evaluate, perplexity, text_answers
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
