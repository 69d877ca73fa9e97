"""The model card of a miniature, written from its configuration, training record and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from visualheads.miniatures.architectures import Miniature
from visualheads.miniatures.training import TUNING_SHARES

CARD = Path(__file__).with_name("model_card.md")
"""The card's template. Source of the factor by which intervals are too narrow: `evaluation.score`."""


def model_card(description: Miniature, config: Any, record: dict[str, Any]) -> str:
    """The card's Markdown text."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"interval": percent, "percent": lambda share: f"{100 * share:.1f}"}
    blind = {name: entry["blind_answer"] for name, entry in record["scores"].items() if "blind_answer" in entry}
    return environment.from_string(CARD.read_text(encoding="utf-8")).render(
        model=description,
        config=config,
        text=config.text_config,
        vision=config.vision_config,
        record=record,
        blind=[(name.removesuffix("/free"), answer) for name, answer in blind.items() if name.endswith("/free")],
        kinds=by_kind(record["benchmarks"]),
        unlearned=unlearned(record),
    )


def percent(value: dict[str, Any]) -> str:
    """`87.5 (84.0–90.4)`: accuracy and its 95 % interval in percent."""
    return f"{100 * value['accuracy']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def by_kind(benchmarks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return benchmark → kind → scores of those that ask several kinds, from a training record's `benchmarks`."""
    found = {name: entry.get("kinds", {}) for name, entry in benchmarks.items()}
    return {name: kinds for name, kinds in found.items() if len(kinds) > 1}


def above(record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Count, by kind, the benchmarks whose score is above chance and what questions alone tell, and all that ask it."""
    found: dict[str, tuple[int, int]] = {}
    for kinds in by_kind(record.get("benchmarks", {})).values():
        for kind, entry in kinds.items():
            over, of = found.get(kind, (0, 0))
            found[kind] = (over + bool(entry["above_chance"]), of + 1)
    return found


def unlearned(record: Mapping[str, Any]) -> str:
    """Say which kinds were not learned everywhere, how often training asked them, and what it asked as rarely."""
    counts = above(record)
    missed = [kind for kind, (over, of) in counts.items() if over < of]
    if not counts:
        return ""
    if not missed:
        return "Every kind is above chance and above what questions alone tell in every score."
    listed = [f"*{kind}* (above in {counts[kind][0]} of {counts[kind][1]} scores)" for kind in missed]
    text = (
        f"Not learned, or not everywhere: {', '.join(listed)}. There the 95 % interval does not lie above both chance "
        "and what the question alone tells."
    )
    asked = record.get("asked")
    if not asked:
        return text
    text += (
        f" Shares of the questions of visual tuning: {_shares(asked['tuning'], missed)}; of the text-only "
        f"stage: {_shares(asked['text'], missed)}. Besides, {100 * TUNING_SHARES['colours']:.0f} % of tuning's "
        f"batches before its restart list objects with colours, {100 * TUNING_SHARES['places']:.0f} % their places."
    )
    learned = [kind for kind in counts if kind not in missed]
    if learned:
        rarest = min(learned, key=lambda kind: asked["tuning"].get(kind, 0.0))
        text += f" The rarest kind that is above in every score: {_shares(asked['tuning'], [rarest])} of tuning's."
    return text + " Shares do not tell the reason alone, which was not tested."


def _shares(asked: Mapping[str, float], kinds: Sequence[str]) -> str:
    """`*colour* 2.2 %, *relation* 0.2 %`."""
    return ", ".join(f"*{kind}* {100 * asked.get(kind, 0.0):.1f} %" for kind in kinds)
