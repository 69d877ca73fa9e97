"""Verdicts as a file, so that a run can be held against an earlier one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from visualheads.errors import RecordError
from visualheads.store.files import refusals_told, write_file

FORMAT = 2
TEXTS = ("statement", "verdict", "scope", "unit")
NUMBERS = ("estimate", "lower", "upper", "margin", "power")
DIGITS = 6
"""Significant digits of a number in the file: more are noise of another machine's sums."""
SAME, LABEL, OUTSIDE, NEW, GONE = "same", "label changed", "estimate outside the old interval", "new", "gone"
CHANGES = (LABEL, OUTSIDE, GONE)
"""What makes `visualheads compare` fail."""


def save_verdicts(verdicts: pd.DataFrame, path: str | Path) -> Path:
    """Write verdicts as JSON.

    Parameters
    ----------
    verdicts : DataFrame
        As `verdict_table` gives them.
    path : path
        The file; its folder is made.

    Returns
    -------
    Path
        The file. A number that is not finite is null.

    Raises
    ------
    StoreError, DiskFullError
        If the file cannot be written.
    """
    target = Path(path)
    claims = {
        str(number): {
            **{name: row[name] for name in TEXTS},
            **{name: _number(row[name]) for name in NUMBERS},
            "also": {name: _number(value) for name, value in row["also"].items()},
        }
        for number, row in verdicts.iterrows()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with refusals_told(target):
        write_file(
            target, (json.dumps({"format": FORMAT, "claims": claims}, indent=1, ensure_ascii=False) + "\n").encode()
        )
    return target


def read_verdicts(path: str | Path) -> dict[str, dict[str, Any]]:
    """Claim number → record, as `save_verdicts` wrote them. Raises RecordError for another file."""
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: {error}; give a file that a run wrote, such as data/results/verdicts.json."
        ) from error
    claims = read.get("claims") if isinstance(read, dict) else None
    if not isinstance(claims, dict) or read.get("format") != FORMAT:
        raise RecordError(f"{path}: no verdicts of format {FORMAT}; give a file that a run wrote.")
    return claims


def compare_verdicts(old: str | Path, new: str | Path) -> pd.DataFrame:
    """Hold the verdicts of one run against those of another.

    Parameters
    ----------
    old, new : path
        Files of `save_verdicts`.

    Returns
    -------
    DataFrame
        One row per claim (index `claim`): verdicts and estimates of both, and `change`, one of "same", "label changed",
        "estimate outside the old interval", "new" and "gone". Estimates are NaN where a claim was not testable.

    Raises
    ------
    RecordError
        If a file holds no verdicts.
    """
    before, after = read_verdicts(old), read_verdicts(new)
    rows = []
    for number in sorted({*before, *after}, key=int):
        was, now = before.get(number), after.get(number)
        rows.append(
            {
                "claim": int(number),
                "old verdict": was["verdict"] if was else "",
                "new verdict": now["verdict"] if now else "",
                "old estimate": _float(was, "estimate"),
                "old lower": _float(was, "lower"),
                "old upper": _float(was, "upper"),
                "new estimate": _float(now, "estimate"),
                "change": _change(was, now),
            }
        )
    return pd.DataFrame(rows).set_index("claim")


def _change(was: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    if was is None or now is None:
        return NEW if was is None else GONE
    if was["verdict"] != now["verdict"]:
        return LABEL
    estimate, lower, upper = _float(now, "estimate"), _float(was, "lower"), _float(was, "upper")
    if math.isnan(estimate) != math.isnan(_float(was, "estimate")):
        return OUTSIDE
    return OUTSIDE if estimate < lower or estimate > upper else SAME


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _float(record: dict[str, Any] | None, name: str) -> float:
    value = record.get(name) if record else None
    return float("nan") if value is None else float(value)
