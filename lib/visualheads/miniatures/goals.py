"""The figures asked of a miniature, and how far those found are from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
