"""Text about the training of the miniatures, from the records that it leaves beside their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from visualheads.book.prose.words import agreeing, between, code, counted, escaped, listed, missing, table
from visualheads.cards import cards, data_folder, miniature_folder
from visualheads.charts.conditions import FORMAT_NAMES
from visualheads.charts.labels import benchmark, figure, in_sentence, thousands
from visualheads.charts.training import CLOCK, STAGES, named_stages
from visualheads.miniatures.card import blind_answers, by_kind, missed_by, unlearned
from visualheads.miniatures.evaluation import score

Records = Mapping[str, Mapping[str, Any]]
RECORD = "training.json"
CHAPTER = "How the miniatures learned"
"""The title of the page that tells the scores over all items."""
ABOVE, BLIND = "above chance", "blind"
"""Endings of what is asked of a score, and of one with white pictures."""
NEEDS_TRAINING = "no miniature with a record of its training is there"


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
        return missing(NEEDS_TRAINING)
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
        return missing(NEEDS_TRAINING)
    lines, total, counted_once = [], 0.0, set()
    for name, record in records.items():
        cells = []
        for stage, told in named_stages(record).items():
            key = _owner(name, record, stage)
            shared = key in counted_once
            counted_once.add(key)
            total += 0.0 if shared else float(told["seconds"])
            cells.append(f"{told['steps']} × {told['batch']}, {told['seconds'] / 60:.0f} min{' (shared)' * shared}")
        cells += ["–"] * (len(STAGES) - len(cells))
        lines.append((code(name), record.get("seed", 0), *cells[: len(STAGES)]))
    header = ("miniature", "seed", *STAGES)
    return (
        table(header, lines)
        + "\n\nSteps × scenes or lists in a step, and minutes. All of it together, shared stages once, took "
        f"{total / 3600:.1f} hours of two processor cores or less. Minutes depend on what else the machine did: they "
        "do not compare models. The same code runs on a GPU (`--device cuda`)."
    )


def _owner(name: str, record: Mapping[str, Any], stage: str) -> tuple[str, str]:
    """Which training a stage was: all share a tower, those of one language model that, a short tuning its parent's
    alignment."""
    whose = {
        STAGES[0]: "",
        STAGES[1]: str(record.get("text_model", "")),
        STAGES[2]: str(record.get("parent") or name),
    }
    return stage, whose.get(stage, name)


def accuracies(records: Records) -> str:
    """What was measured on fresh scenes at the end of every stage."""
    if not records:
        return missing(NEEDS_TRAINING)
    lines, tested = [], set()
    for name, record in records.items():
        stages = named_stages(record)
        tested |= {int(told["tested"]) for told in stages.values() if told.get("tested")}
        cells = [_last(told) for told in stages.values()]
        cells += ["–"] * (len(STAGES) - len(cells))
        lines.append((code(name), *cells[: len(STAGES)]))
    text = table(("miniature", *[f"{stage}: last measured, %" for stage in STAGES]), lines)
    if tested:
        text += (
            f"\n\nThese are quick looks while training, at {listed([thousands(n) for n in sorted(tested)])} "
            "pictures or lists that training never uses, the same ones at every look: the tower is asked "
            "about every object, the others one question each (and of lists one tally of several numbers). "
            "In brackets: the 95 % interval (Wilson, with answers taken as independent) and the "
            "number of answers. Kinds of questions with few answers are known badly here, better from the items below. "
            f"*{figure('recall')}*: objects whose class their patch tells; "
            f"*{figure('precision')}*: precision of these; *{figure('box_accuracy')}*: whether an object lies in the "
            f"drawn box; *{figure('exists')}*: yes or no; *{figure('letters')}*: questions of any kind that offer "
            "answers A–D."
        )
    return text


def scores(records: Records) -> str:
    """The share of right answers over all shipped items, benchmark by benchmark."""
    known = {name: record["benchmarks"] for name, record in records.items() if record.get("benchmarks")}
    if not known:
        return missing("no miniature was scored on the benchmarks")
    tasks = list(dict.fromkeys(task for told in known.values() for task in told))
    lines = [
        (code(name), *[_share(told[task]["seen"]) if task in told else "–" for task in tasks])
        for name, told in known.items()
    ]
    counts = [max(int(told[task]["seen"]["n"]) for told in known.values() if task in told) for task in tasks]
    header = [f"{escaped(benchmark(task))}, %" for task in tasks]
    asked = [f"{thousands(n)} of {escaped(benchmark(task))}" for task, n in zip(tasks, counts, strict=True)]
    return table(("miniature", *header), lines) + (
        f"\n\nShares of right answers over all shipped items, with 95 % intervals: {listed(asked)} prompts; "
        "LookTwice-QA without questions that do not say what they mean (`plain-general`), MMBench with every "
        "round counted by itself. Where MMBench and POPE ask several prompts about one picture, intervals are a "
        "bootstrap over the pictures; else they are Wilson's, which take prompts as independent. For LookTwice-QA, "
        "which asks about one picture in every condition and format, they are too narrow; a single condition in a "
        "single format, as in the model cards, has one prompt a scene. "
        f"Other pages score the traced samples, which are fewer, with intervals over pictures."
        f"{blind_answers(records, escaped)}"
    )


def kinds(records: Records) -> str:
    """Scores by kind of question, a table for each benchmark that asks several, and what was not learned."""
    known = {name: by_kind(record.get("benchmarks", {})) for name, record in records.items()}
    tasks = list(dict.fromkeys(task for told in known.values() for task in told))
    if not tasks:
        return missing("no miniature was scored by kind of question")
    parts = []
    for task in tasks:
        there = {name: told[task] for name, told in known.items() if task in told}
        columns = list(dict.fromkeys(kind for told in there.values() for kind in told))
        lines = [
            (code(name), *[_learned(told[kind]) if kind in told else "–" for kind in columns])
            for name, told in there.items()
        ]
        header = [
            f"{figure(kind)}, %{_chance([told[kind] for told in there.values() if kind in told])}" for kind in columns
        ]
        parts.append(f"**{escaped(benchmark(task))}**\n\n" + table(("miniature", *header), lines))
    text = "\n\n".join(parts) + (
        "\n\nShares of right answers with 95 % intervals, as above. In bold: not above chance, or not above what the "
        "best answerer tells who knows the question alone. "
    )
    return text + unlearned(_whole(records), figure)


def _whole(records: Records) -> dict[str, Mapping[str, Any]]:
    """Records of trainings with all of their data: short extra tunings are held to nothing."""
    return {name: record for name, record in records.items() if record.get("data_share", 1.0) == 1}


def _learned(entry: Mapping[str, Any]) -> str:
    seen = entry["seen"]
    told = f"{100 * seen['accuracy']:.0f} ({between(100 * seen['low'], 100 * seen['high'], 0)})"
    return told if entry["above_chance"] else f"**{told}**"


def _chance(entries: Sequence[Mapping[str, Any]]) -> str:
    """Chance and the number of prompts, for the heading of a column: ` (chance 25, 40 prompts)`."""
    most = max(entries, key=lambda entry: entry["seen"]["n"])
    return f" (chance {100 * most['chance']:.0f}, {thousands(most['seen']['n'])} prompts)"


def items(model: str) -> dict[str, int]:
    """How many items of each benchmark the training record's scores are over; empty for any other model.

    LookTwice-QA with all its conditions, MMBench in questions, as scores of traces count them.
    """
    record = training_record(model) or {}
    told = record.get("benchmarks", {})
    found = {name: int(entry["seen"]["n"]) for name, entry in told.items() if "seen" in entry}
    if "pooled" in record:
        found["looktwice"] = int(record["pooled"]["seen"]["n"])
    rounds = told.get("mmbench", {}).get("conditions", {})
    if rounds:
        found["mmbench"] = max(int(entry["n"]) for entry in rounds.values())
    return found


def targets(records: Records) -> str:
    """What was asked of each miniature, whether it is reached, and where it is not by how much and why, if known.

    Of short extra tunings nothing is asked.
    """
    known = {name: record["targets"] for name, record in _whole(records).items() if record.get("targets")}
    if not known:
        return missing("no miniature was scored against what is asked of it")
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
            sign = "<" if what.endswith(BLIND) else ">"
            found = f"{100 * entry['found']:.0f}"
            cells.append(found if entry["reached"] else f"**{found}** (not {sign} {100 * entry['wanted']:.0f})")
        lines.append((code(name), *cells))
        missed = [_missed(entry) for entry in told if not entry["reached"]]
        reasons += [f"* {code(name)}: {'; '.join(missed)}."] if missed else []
    text = table(("miniature", *[escaped(_target(what)) for what in whats]), lines)
    text += (
        f"\n\n{reached} of {counted(asked, 'figure')} asked for {agreeing(reached, 'is', 'are')} reached. In bold: "
        "what is not, with the limit. A *lower 95 % limit* is that of the score, and has to lie above chance and above "
        "what questions alone tell; an *upper 95 % limit* is that of the score with white pictures, and may not lie "
        "much above these. Both are of the intervals above, where scores themselves stand too."
    )
    return text + ("\n\nNot reached:\n\n" + "\n".join(reasons) if reasons else "")


def _missed(entry: Mapping[str, Any]) -> str:
    """What is missed by how much; with the reason where one can be computed."""
    why = f" ({in_sentence(entry['why'])})" if entry.get("why") else ""
    return f"{_target(entry['what']).removesuffix(', %')} – {missed_by(entry)}{why}"


def _target(what: str) -> str:
    """The heading of a column of targets."""
    name, _, kind = what.partition(" ")
    if kind == ABOVE:
        return f"{benchmark(name)}, lower 95 % limit, %"
    if kind == BLIND:
        return f"{benchmark(name)}, white pictures, upper 95 % limit, %"
    condition, _, form = what.partition("/")
    return f"{condition}, {FORMAT_NAMES.get(form, form)}, %" if form else f"{what}, %"


def moments(names: Sequence[str]) -> str:
    """What the figure of the heads through training shows, and where it is taken up."""
    if not names:
        return missing("moments of training are kept only with miniatures that were trained here")
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
    answers = stage.get("answers", {})
    return "; ".join(f"{figure(key)} {_measured(value, answers.get(key))}" for key, value in told.items()) or "–"


def _measured(value: float, answers: int | None) -> str:
    """A share in percent, with its interval and the number of answers where that is known."""
    if not answers:
        return f"{100 * value:.0f}"
    found = score([True] * (right := round(value * answers)) + [False] * (answers - right))
    return f"{100 * value:.0f} ({between(100 * found['low'], 100 * found['high'], 0)}; {thousands(answers)})"


def _share(score: Mapping[str, Any]) -> str:
    return f"{100 * score['accuracy']:.1f} ({between(100 * score['low'], 100 * score['high'], 1)})"
