"""Verdicts as a file, so that a run can be held against an earlier one, and need not simulate power again."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from visualheads.errors import RecordError
from visualheads.store.files import refusals_told, write_file

if TYPE_CHECKING:
    from visualheads.analysis.claims.rules import Part

FORMAT = 2
TEXTS = ("statement", "verdict", "scope", "unit")
NUMBERS = ("estimate", "lower", "upper", "margin", "power")
PART = ("margin", "estimate", "lower", "upper")
DIGITS = 6
"""Significant digits of a number in the file: more are noise of another machine's sums."""
SAME, LABEL, OUTSIDE, NEW, GONE = "same", "label changed", "estimate outside the old interval", "new", "gone"
CHANGES = (LABEL, OUTSIDE, GONE)
"""What makes `visualheads compare` fail."""
RULES = ("rules", "looking", "attention", "causal", "across_models")
"""Modules of this package that decide how claims are judged."""
ALIKE = 0.02
"""By how much of its interval a part's numbers may differ from those whose power was simulated."""


def save_verdicts(verdicts: pd.DataFrame, path: str | Path, beside: pd.DataFrame | None = None) -> Path:
    """Write verdicts as JSON.

    Parameters
    ----------
    verdicts : DataFrame
        As `verdict_table` gives them.
    path : path
        The file; its folder is made.
    beside : DataFrame, optional
        Verdicts on models of other kinds, as `claims.beside` gives them.

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
    told = {"format": FORMAT, "rules": rules_hash(), "claims": _records(verdicts)}
    told["beside"] = {} if beside is None else _records(beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    with refusals_told(target):
        write_file(target, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return target


def _records(verdicts: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        str(number): {
            **{name: row[name] for name in TEXTS},
            **{name: _number(row[name]) for name in NUMBERS},
            "also": {name: _number(value) for name, value in row["also"].items()},
            "planted": [part | {name: _number(part[name]) for name in PART} for part in row["planted"]],
        }
        for number, row in verdicts.iterrows()
    }


def rules_hash() -> str:
    """Hash of what decides how claims are judged: the code of RULES, whatever its comments and docstrings say."""
    digest = hashlib.sha256()
    for name in RULES:
        source = files("visualheads.analysis.claims").joinpath(f"{name}.py").read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        digest.update("\n".join(code for line in lines if (code := line.split("  #")[0].strip())).encode())
    return digest.hexdigest()[:16]


def recall_power(parts: Iterable[Part], known: Sequence[Mapping[str, Any]]) -> None:
    """Take the simulated power of parts from a file, where they have the same numbers: simulating takes minutes."""
    for part in parts:
        for told in known:
            if part.name == told["part"] and list(part.units) == told["models"] and _alike(part, told):
                part.recall(told["planted"])


def _alike(part: Part, told: Mapping[str, Any]) -> bool:
    own = {"margin": part.margin, "estimate": part.estimate, "lower": part.bounds[0], "upper": part.bounds[1]}
    before = [math.nan if told[name] is None else float(told[name]) for name in PART]
    within = ALIKE * (part.bounds[1] - part.bounds[0])
    return all(abs(own[name] - value) <= within for name, value in zip(PART, before, strict=True))


def read_verdicts(path: str | Path, key: str = "claims") -> dict[str, dict[str, Any]]:
    """Claim number → record, as `save_verdicts` wrote them; `key`: "claims" or "beside". Raises RecordError for another
    file."""
    return _read(path)[key]


def known_parts(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Claim number → its parts with their simulated power, on models of every kind; none where rules have changed."""
    try:
        read = _read(path)
    except RecordError:  # none is there, or of another format: power is simulated
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in ("claims", "beside") if read.get("rules") == rules_hash() else ():
        for number, record in read[kind].items():
            found.setdefault(number, []).extend(record["planted"])
    return found


def _read(path: str | Path) -> dict[str, Any]:
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: {error}; give a file that a run wrote, such as data/results/verdicts.json."
        ) from error
    claims = read.get("claims") if isinstance(read, dict) else None
    if not isinstance(claims, dict) or read.get("format") != FORMAT:
        raise RecordError(f"{path}: no verdicts of format {FORMAT}; give a file that a run wrote.")
    return {"beside": {}, **read}


def compare_verdicts(old: str | Path, new: str | Path) -> pd.DataFrame:
    """Hold the verdicts of one run against those of another.

    Parameters
    ----------
    old, new : path
        Files of `save_verdicts`.

    Returns
    -------
    DataFrame
        One row per claim (index `claim`), and one more where models of another kind were judged: models, verdicts and
        estimates of both, and `change`, one of "same", "label changed",
        "estimate outside the old interval", "new" and "gone". Estimates are NaN where a claim was not testable.

    Raises
    ------
    RecordError
        If a file holds no verdicts.
    """
    rows = []
    for key in ("claims", "beside"):
        before, after = read_verdicts(old, key), read_verdicts(new, key)
        for number in sorted({*before, *after}, key=int):
            was, now = before.get(number), after.get(number)
            rows.append({
                "claim": int(number),
                "models": (now or was or {})["scope"],
                "old verdict": was["verdict"] if was else "",
                "new verdict": now["verdict"] if now else "",
                "old estimate": _float(was, "estimate"),
                "old lower": _float(was, "lower"),
                "old upper": _float(was, "upper"),
                "new estimate": _float(now, "estimate"),
                "change": _change(was, now),
            })  # fmt: skip
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
