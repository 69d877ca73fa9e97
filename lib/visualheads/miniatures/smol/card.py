"""The model card of a joined model, written from its scores; and the figures it should reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visualheads.cards import data_folder, trained_steps
from visualheads.miniatures.card import rendered
from visualheads.models.smol.base_weights import PACKAGES

CARD = Path(__file__).with_name("model_card.md")
GOALS = {"looktwice/plain-object": 0.80, "looktwice/plain-super": 0.70, "looktwice/visual-general": 0.60, "pope": 0.85}
"""Least accuracy of smol-1.5, as seen, greedy, exact match."""
BLIND_MARGIN = 0.05
"""With a white picture no more right than the best question-only answerer plus this, at the upper 95 % limit."""
ELSEWHERE_MARGIN = 0.08
"""How much less may be right on scenes of another generator."""


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


def model_card(name: str, scores: dict[str, Any], steps: int) -> str:
    """Return the card as Markdown."""
    elsewhere = {f"another generator, {kind}": entry for kind, entry in scores["elsewhere"].items()}
    return rendered(
        CARD,
        name=name,
        steps=steps,
        gguf=PACKAGES[0].name,
        scores=flat_scores(scores),
        goals=goal_lines(scores) if name == "smol-1.5" else [],
        never_shown=scores["held_out"] | elsewhere,
        text=scores["text"],
        lists=scores["lists"],
    )


def write_card(name: str, scores: dict[str, Any], folder: Path | None = None) -> Path:
    """Write `<name>.scores.json` and the card `<name>.md` beside the learned weights; returns the card's path."""
    folder = folder or data_folder() / "smol"
    (folder / f"{name}.scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    card = folder / f"{name}.md"
    card.write_text(model_card(name, scores, trained_steps(name, folder)), encoding="utf-8")
    return card
