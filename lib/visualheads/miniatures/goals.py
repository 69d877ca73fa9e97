"""The figures asked of a miniature, and how far those found are from them.

Which kinds of question miniatures learned, how often training asked each, and what they say without a picture: text
for cards and the chapter, from training records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from visualheads.miniatures.training import TUNING_SHARES

FORMATS = ("free", "letters")
BLIND_SLACK = 0.05  # how far blind accuracy, at its upper 95 % limit, may lie above the best question-only answerer


def targets(record: dict[str, Any], marked: bool) -> list[dict[str, Any]]:
    """The figures asked of a miniature, each with what was found; `marked`: trained on drawn boxes (ViP)."""
    scores = record["scores"]
    asked = [("plain-object", 0.8), ("plain-super", 0.7), *([("visual-general", 0.8)] if marked else [])]
    told = [
        {"what": f"{name}/{form}", "wanted": least, "found": scores[f"{name}/{form}"]["seen"]["accuracy"]}
        for name, least in asked
        for form in FORMATS
    ]
    for entry in told:
        entry["reached"] = entry["found"] >= entry["wanted"]
        if not entry["reached"] and (why := _miscounted(entry["what"], scores)):
            entry["why"] = why
    for name, entry in record["benchmarks"].items():
        best = max(entry["chance"], entry["question_only"]["accuracy"])
        told.append(
            {
                "what": f"{name} above chance",
                "wanted": best,
                "found": entry["seen"]["low"],
                "reached": entry["above_chance"],
            }
        )
        allowed = best + BLIND_SLACK
        blind = entry["blind"]["high"]
        told.append({"what": f"{name} blind", "wanted": allowed, "found": blind, "reached": blind <= allowed})
        if blind > allowed and entry["blind"]["low"] <= best:
            told[-1]["why"] = _noise(name, entry["blind"], best)
    return told


def _miscounted(what: str, scores: Mapping[str, Any]) -> str:
    """What is wrong with the wrong answers of a condition and format; "" where it was not kept."""
    number = scores[what].get("one_off")
    if number is None:
        return ""
    seen = scores[what]["seen"]
    wrong = seen["n"] - round(seen["accuracy"] * seen["n"])
    told = f"{number} of {wrong} wrong answers are one too few or one too many"
    named = what.replace("general", "object")
    if named == what:
        return told
    right = 100 * scores[named]["seen"]["accuracy"]
    return f"{told}; of the same pictures, {right:.1f} % are counted right where the question names the object"


def _noise(name: str, blind: dict[str, Any], best: float) -> str:
    """Why a limit is exceeded by a blind model whose interval holds the best answerer without eyes."""
    told = " to ".join(f"{100 * blind[bound]:.1f}" for bound in ("low", "high"))
    about = f" ({blind['pictures']} pictures)" if "pictures" in blind else ""
    return (
        f"with white pictures {name} is right in {100 * blind['accuracy']:.1f} % ({told}) of {blind['n']} prompts"
        f"{about}, no more than the best answerer without eyes ({100 * best:.1f} %) as far as so many can tell: it is "
        "the width of the interval that passes the limit"
    )


def missed_by(entry: Mapping[str, Any]) -> str:
    """By how much a figure misses its limit: `1.2 points above its limit`."""
    far = 100 * (entry["found"] - entry["wanted"])
    return f"{abs(far):.1f} points {'above' if far > 0 else 'below'} its limit"


Records = Mapping[str, Mapping[str, Any]]


def by_kind(benchmarks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Benchmark → kind → scores, of the benchmarks that ask several kinds, from a training record's `benchmarks`."""
    found = {name: told.get("kinds", {}) for name, told in benchmarks.items()}
    return {name: kinds for name, kinds in found.items() if len(kinds) > 1}


def above(records: Records) -> dict[str, tuple[int, int]]:
    """Kind → in how many of its scores (one a model and benchmark) the interval lies above chance and above what
    questions alone tell, and how many there are."""
    found: dict[str, tuple[int, int]] = {}
    for record in records.values():
        for kinds in by_kind(record.get("benchmarks", {})).values():
            for kind, told in kinds.items():
                over, of = found.get(kind, (0, 0))
                found[kind] = (over + bool(told["above_chance"]), of + 1)
    return found


def unlearned(records: Records, named: Callable[[str], str] = str) -> str:
    """Which kinds were not learned everywhere, how often training asked them, and what it asked as rarely."""
    counts = above(records)
    missed = [kind for kind, (over, of) in counts.items() if over < of]
    if not counts:
        return ""
    if not missed:
        return "Every kind is above chance and above what questions alone tell in every score."
    told = [f"*{named(kind)}* (above in {counts[kind][0]} of {counts[kind][1]} scores)" for kind in missed]
    text = (
        f"Not learned, or not everywhere: {', '.join(told)}. There the 95 % interval does not lie above both chance "
        "and what the question alone tells."
    )
    asked = [record["asked"] for record in records.values() if record.get("asked")]
    if not asked:
        return text
    text += (
        f" Shares of the questions of visual tuning: {_shares(asked, 'tuning', missed, named)}; of the text-only "
        f"stage: {_shares(asked, 'text', missed, named)}. Besides, {100 * TUNING_SHARES['colours']:.0f} % of tuning's "
        f"batches before its restart list objects with colours, {100 * TUNING_SHARES['places']:.0f} % their places."
    )
    learned = [kind for kind in counts if kind not in missed]
    if learned:
        rarest = min(learned, key=lambda kind: sum(each["tuning"].get(kind, 0.0) for each in asked))
        text += (
            f" The rarest kind that is above in every score: {_shares(asked, 'tuning', [rarest], named)} of tuning's."
        )
    return text + " Shares do not tell the reason alone, which was not tested."


def blind_answers(records: Records, quoted: Callable[[str], str] = str) -> str:
    """What is said most often to free questions about white pictures, condition by condition; "" where unknown."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records.values():
        for name, entry in record.get("scores", {}).items():
            if name.endswith("/free") and "blind_answer" in entry:
                found.setdefault(name.removesuffix("/free"), []).append(entry["blind_answer"])
    told = []
    for condition, answers in found.items():
        [(text, number)] = Counter(answer["text"] for answer in answers).most_common(1)
        same = [answer for answer in answers if answer["text"] == text]
        where = f" in {number} of {len(answers)} miniatures" if len(answers) > 1 else ""
        share, right = (_range([100 * answer[name] for answer in same]) for name in ("share", "right"))
        told.append(
            f"*{condition}* “{quoted(text)}”{where} ({share} % of the answers; right for {right} % of the questions)"
        )
    return f"\n\nWith white pictures the most frequent free answer is: {', '.join(told)}." if told else ""


def _shares(asked: list[Mapping[str, Any]], stage: str, kinds: list[str], named: Callable[[str], str]) -> str:
    """`*colour* 2.2 to 2.5 %, *relation* 0.2 %`: the range over the trainings."""
    told = []
    for kind in kinds:
        share = _range([100 * each[stage].get(kind, 0.0) for each in asked])
        told.append(f"*{named(kind)}* {share} %")
    return ", ".join(told)


def _range(values: list[float]) -> str:
    """`0.8`, or `0.7 to 0.9` where they differ."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
