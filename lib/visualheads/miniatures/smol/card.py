"""The model card of a joined model, written from its scores; and the figures it should reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visualheads.cards import data_folder, trained_steps
from visualheads.miniatures.card import percent
from visualheads.models.smol.base_weights import PACKAGES

GOALS = {"looktwice/plain-object": 0.80, "looktwice/plain-super": 0.70, "looktwice/visual-general": 0.60, "pope": 0.85}
"""Least accuracy of smol-1.5, as seen, greedy, exact match."""
BLIND_MARGIN = 0.05
"""With a white picture no more right than the best question-only answerer plus this, at the upper 95 % limit."""
ELSEWHERE_MARGIN = 0.08
"""How much less may be right on scenes of another generator."""
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
* Scored as it was trained: language model in bfloat16, the rest in float32.
"""
STAGES = {
    "smol-frozen": "Tower and language model are frozen: only the projector was trained.",
    "smol-1.5": "A first stage trained the projector alone, a second one also LoRA (r = 8, all linear layers).",
}


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
        over = entry["white_gain"]["upper"]
        if over > BLIND_MARGIN:
            lines.append(f"{what}: with a white picture up to {100 * over:.1f} points above the question-only answerer")
    for kind, entry in scores["elsewhere"].items():
        short = flat[f"looktwice/plain-{kind}"]["seen"]["accuracy"] - entry["seen"]["accuracy"]
        reached = "reached" if short <= ELSEWHERE_MARGIN else "not reached"
        verdict = f"asked for at most {100 * ELSEWHERE_MARGIN:.0f} below: {reached}"
        told = f"{abs(100 * short):.1f} points {'below' if short > 0 else 'above'} plain-{kind}"
        lines.append(f"scenes of another generator, {kind}: {told}, {verdict}")
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


def elsewhere_table(scores: dict[str, Any]) -> str:
    """Questions on what training never showed, as a Markdown table."""
    lines = ["| counts of what is named, on | accuracy % (95 % interval) | prompts |", "| --- | --- | --- |"]
    entries = {**scores["held_out"], **{f"another generator, {kind}": it for kind, it in scores["elsewhere"].items()}}
    lines += [f"| {what} | {percent(entry['seen'])} | {entry['seen']['n']} |" for what, entry in entries.items()]
    return "\n".join(lines)


def text_table(text: dict[str, Any]) -> str:
    """Answers about lists in words, before and after, as a Markdown table."""
    lines = [
        "| about lists in words | as fetched: likeliest % | exact % | in this model: likeliest % | exact % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, after in text["answers"].items():
        each = [one for told in (text["before"]["answers"][kind], after) for one in (told["chosen"], told)]
        lines.append(f"| {kind} ({after['n']}) | {' | '.join(map(percent, each))} |")
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
    parts = [head, "## Scores", score_table(scores), goals, "## What training never showed", elsewhere_table(scores)]
    parts += ["## Language", text_table(text)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def write_card(name: str, scores: dict[str, Any], folder: Path | None = None) -> Path:
    """Write `<name>.scores.json` and the card `<name>.md` beside the learned weights; returns the card's path."""
    folder = folder or data_folder() / "smol"
    (folder / f"{name}.scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    card = folder / f"{name}.md"
    card.write_text(model_card(name, scores, trained_steps(name, folder)), encoding="utf-8")
    return card
