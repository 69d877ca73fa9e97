"""The model card of a miniature, written from its configuration, training record and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from visualheads.miniatures.architectures import Miniature
from visualheads.miniatures.training import TUNING_SHARES

CARD = Path(__file__).with_name("model_card.md")
"""The card's template. Source of the factor by which intervals are too narrow: `evaluation.score`."""


def model_card(description: Miniature, config: Any, record: dict[str, Any]) -> str:
    """The card's Markdown text."""
    blind = {name: entry["blind_answer"] for name, entry in record["scores"].items() if "blind_answer" in entry}
    counts = above(record)
    missed = [kind for kind, (over, of) in counts.items() if over < of]
    learned, asked = [kind for kind in counts if kind not in missed], record["asked"]["tuning"]
    return rendered(
        CARD,
        model=description,
        config=config,
        text=config.text_config,
        vision=config.vision_config,
        record=record,
        blind=[(name.removesuffix("/free"), answer) for name, answer in blind.items() if name.endswith("/free")],
        kinds=by_kind(record["benchmarks"]),
        counts=counts,
        missed=missed,
        rarest=min(learned, key=lambda kind: asked.get(kind, 0.0), default=""),
        shares=TUNING_SHARES,
    )


def rendered(template: Path, **values: Any) -> str:
    """The text of a Jinja template, such as a card's, with these values."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"interval": percent, "percent": lambda share: f"{100 * share:.1f}"}
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def percent(value: dict[str, Any]) -> str:
    """`87.5 (84.0–90.4)`: accuracy and its 95 % interval in percent."""
    return f"{100 * value['accuracy']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def by_kind(benchmarks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return benchmark → kind → scores of those that ask several kinds, from a training record's `benchmarks`."""
    found = {name: entry.get("kinds", {}) for name, entry in benchmarks.items()}
    return {name: kinds for name, kinds in found.items() if len(kinds) > 1}


def above(record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Count, by kind, the benchmarks whose score is above chance and what questions alone tell, and all that ask it."""
    told = [pair for kinds in by_kind(record.get("benchmarks", {})).values() for pair in kinds.items()]
    over, of = Counter(kind for kind, entry in told if entry["above_chance"]), Counter(kind for kind, _ in told)
    return {kind: (over[kind], number) for kind, number in of.items()}
