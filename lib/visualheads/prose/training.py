"""Text about the training of the miniatures, from the records that it leaves beside their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from visualheads.catalog import cards, data_folder, miniature_folder
from visualheads.charts.training import CLOCK, STAGES, named_stages
from visualheads.prose.comparison import missing
from visualheads.prose.words import code, counted, escaped, listed, table

Records = Mapping[str, Mapping[str, Any]]
RECORD = "training.json"
NEEDS_TRAINING = "no miniature with a record of its training is there"
SHARED = STAGES[:2]
"""Stages that several miniatures share: tower and language model."""


def training_record(model: str) -> dict[str, Any] | None:
    """What a miniature's training left beside its checkpoint: stages, curves, scores; None for any other model."""
    path = miniature_folder(model) / RECORD
    if model not in cards() or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def training_records() -> dict[str, dict[str, Any]]:
    """The records of all miniatures that were trained, in the catalogue's order, then by name."""
    folders = sorted((data_folder() / "miniatures").glob(f"*/{RECORD}"))
    place = {name: index for index, name in enumerate(cards())}
    names = sorted((path.parent.name for path in folders), key=lambda name: (place.get(name, len(place)), name))
    found = {name: json.loads((miniature_folder(name) / RECORD).read_text(encoding="utf-8")) for name in names}
    return {name: record for name, record in found.items() if record.get("stages")}


def trained(records: Records) -> str:
    """Which of the paper's nine were trained in miniature, and what was trained besides."""
    if not records:
        return missing(NEEDS_TRAINING, False)
    nine = [card.name for card in cards().values() if card.miniature and card.paper_name]
    there = [name for name in nine if name in records]
    others = [name for name in records if name not in nine]
    text = f"Trained so far: {len(there)} of the {len(nine)} miniatures of the paper's models"
    text += f", {listed([code(name) for name in there])}." if there else "."
    if len(there) < len(nine):
        absent = [code(name) for name in nine if name not in records]
        text += f" Not trained yet: {listed(absent)}; the book leaves them out until they are."
    if others:
        text += f" Besides, as controls: {listed([code(name) for name in others])}."
    return text


def costs(records: Records) -> str:
    """Steps, pictures and minutes of every stage; stages that several miniatures share count once in the sum."""
    if not records:
        return missing(NEEDS_TRAINING, False)
    lines, total, counted_once = [], 0.0, set()
    for name, record in records.items():
        cells = []
        for stage, told in named_stages(record).items():
            key = (stage, record.get("text_model", "")) if stage == STAGES[1] else stage if stage in SHARED else None
            shared = key is not None and key in counted_once
            if key is not None:
                counted_once.add(key)
            total += 0.0 if shared else float(told["seconds"])
            cells.append(f"{told['steps']} × {told['batch']}, {told['seconds'] / 60:.0f} min{' (shared)' * shared}")
        cells += ["–"] * (len(STAGES) - len(cells))
        lines.append((code(name), record.get("seed", 0), *cells[: len(STAGES)]))
    header = ("miniature", "seed", *STAGES)
    return (
        table(header, lines)
        + "\n\nSteps × scenes or lists in a step, and minutes. All of it together, shared stages once, took "
        f"{total / 3600:.1f} hours of two processor cores or less. The same code runs on a GPU (`--device cuda`)."
    )


def accuracies(records: Records) -> str:
    """What was measured on fresh scenes at the end of every stage, and on the shipped benchmarks after the last."""
    if not records:
        return missing(NEEDS_TRAINING, False)
    lines = []
    for name, record in records.items():
        cells = [_last(told) for told in named_stages(record).values()]
        cells += ["–"] * (len(STAGES) - len(cells))
        pooled = record.get("pooled", {}).get("seen")
        final = "–" if pooled is None else f"{100 * pooled['accuracy']:.0f}"
        lines.append((code(name), *cells[: len(STAGES)], final))
    return table(("miniature", *[f"{stage}: last measured, %" for stage in STAGES], "LookTwice-QA, all, %"), lines)


def targets(records: Records) -> str:
    """What was asked of each miniature, whether it is reached, and where it is not the reason that its card tells."""
    known = {name: record["targets"] for name, record in records.items() if record.get("targets")}
    if not known:
        return missing("no miniature was scored against what is asked of it", False)
    whats = list(dict.fromkeys(entry["what"] for told in known.values() for entry in told))
    lines, reasons, reached, asked = [], [], 0, 0
    for name, told in known.items():
        by_name = {entry["what"]: entry for entry in told}
        cells = []
        for what in whats:
            entry = by_name.get(what)
            if entry is None:
                cells.append("–")
                continue
            asked, reached = asked + 1, reached + bool(entry["reached"])
            sign = "<" if what.endswith("blind") else ">"
            found = f"{100 * entry['found']:.0f}"
            cells.append(found if entry["reached"] else f"**{found}** (not {sign} {100 * entry['wanted']:.0f})")
        lines.append((code(name), *cells))
        if any(not entry["reached"] for entry in told):
            known_why = [str(entry["why"]) for entry in told if entry.get("why")]
            why = [*([records[name]["note"]] if records[name].get("note") else []), *known_why]
            reasons.append(f"* {code(name)}: {'; '.join(why) or 'its card gives no reason yet'}.")
    text = table(("miniature", *[escaped(what) for what in whats]), lines)
    text += f"\n\n{reached} of {counted(asked, 'figure')} asked for are reached. In bold: what is not, with the limit."
    return text + ("\n\nWhy not, as the model cards tell:\n\n" + "\n".join(reasons) if reasons else "")


def moments(names: Sequence[str]) -> str:
    """What the figure of the heads through training shows, and where it is taken up."""
    if not names:
        return missing("moments of training are kept only with miniatures that were trained here", False)
    return (
        f"Kept for {listed([code(name) for name in names])}. Each moment answered the same questions: the first before "
        "the adapter was aligned, with a language model that had never seen a picture. What it means for the claim "
        "that visual heads are list-reading heads stands in the chapter on emergence."
    )


def _last(stage: Mapping[str, Any]) -> str:
    last = stage["curve"][-1] if stage.get("curve") else {}
    told = {
        key: value for key, value in last.items() if key not in (*CLOCK, "loss") and isinstance(value, (int, float))
    }
    return ", ".join(f"{key} {100 * value:.0f}" for key, value in told.items()) or "–"
