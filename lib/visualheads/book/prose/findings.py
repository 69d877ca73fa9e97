"""What one run says about the paper's statements: estimates with their comparison, no verdicts.

Verdicts need the full protocol (decision rules written down beforehand, several models); here stands what was seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.book.prose.conditions import accuracy_sentence, pattern_correlations
from visualheads.book.prose.heads import heads_above, heads_preferring, row_agreement, strongest_by_stage
from visualheads.book.prose.words import agreeing, between, escaped, listed, percent, table
from visualheads.charts.display import plain
from visualheads.charts.labels import ANSWER_FORMATS
from visualheads.heads.agreement import agreement
from visualheads.store import files

NOTE_MINIATURE = "in miniature: a model organism, no evidence about large models"
NOTE_MODEL = "one model on one task"


def findings(ds: xr.Dataset, above: xr.Dataset | None = None, alone: xr.Dataset | None = None) -> list[dict[str, str]]:
    """One entry per statement that this dataset can speak to: claim, finding, control.

    above: `vh.above_null` against white pictures; or, where `alone` is that, against an untrained network too.
    """
    found = [_depth(ds), _correlation(ds)]
    if above is not None:
        found.insert(0, _above(ds, above, alone))
    found += [entry for entry in (_box(ds), _name(ds)) if entry]
    found.append(_rows(ds))
    return found


def paper(ds: xr.Dataset, above: xr.Dataset | None = None, alone: xr.Dataset | None = None) -> str:
    """The findings as a table; arguments as of `findings`."""
    lines = [(told["claim"], told["finding"], told["control"]) for told in findings(ds, above, alone)]
    return table(("what the paper says", "what this run shows", "compared with"), lines)


def save_facts(
    ds: xr.Dataset, path: str | Path, above: xr.Dataset | None = None, miniature: bool = False,
    alone: xr.Dataset | None = None,
) -> Path:  # fmt: skip
    """Write the findings for the landing page; above, alone: as of `findings`."""
    path = Path(path)
    facts: dict[str, Any] = {
        "model": escaped(str(np.atleast_1d(ds["model"].values)[0])),
        "samples": head_tables.view(ds).sizes["sample"],
        "accuracy": accuracy_sentence(ds),
        "note": NOTE_MINIATURE if miniature else NOTE_MODEL,
        "findings": findings(ds, above, alone),
    }
    told = json.dumps(plain_tree(facts), indent=1, sort_keys=True, ensure_ascii=False)
    with files.refusals_told(path):
        files.write_file(path, told.encode())
    return path


def plain_tree(value: Any) -> Any:
    """Nested dictionaries and lists with JSON values only."""
    if isinstance(value, dict):
        return {key: plain_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_tree(item) for item in value]
    return plain(value)


def _above(ds: xr.Dataset, above: xr.Dataset, alone: xr.Dataset | None) -> dict[str, str]:
    count, total = heads_above(above)
    white = count if alone is None else heads_above(alone)[0]
    even = heads_preferring(ds)
    finding = (
        f"{white} of {total} heads {agreeing(white, 'looks', 'look')} at it more than at a white picture, {even} of "
        f"{total} more than an even look over all tokens would"
    )
    control = "the same prompts with white pictures"
    if alone is not None:
        looking = f"{count} {agreeing(count, 'looks', 'look')}"
        finding += f"; {looking} at it more than at a white one and than an untrained network's"
        control += ", and the strongest head of an untrained network of the same shape"
    return {
        "claim": "Some heads look at the picture far more than a head without preference (claim 1)",
        "finding": finding,
        "control": f"{control}, 5 % false discovery rate",
    }


def _depth(ds: xr.Dataset) -> dict[str, str]:
    counts = strongest_by_stage(ds)
    layers = {stage: int((ds["depth_stage"].values == stage).sum()) for stage in counts}
    return {
        "claim": "They sit in early and middle layers (claim 2)",
        "finding": f"of the strongest tenth, {listed([f'{count} {stage}' for stage, count in counts.items()])}",
        "control": f"layers per stage: {listed([f'{count} {stage}' for stage, count in layers.items()])}",
    }


def _correlation(ds: xr.Dataset) -> dict[str, str]:
    told = agreement(ds, by=["image_weight", "concentration"], query=head_tables.QUERY).isel(model=0)
    pair = {"ranking": "image_weight", "other": "concentration"}
    low, high = (float(told["spearman_interval"].sel(pair).sel(bound=bound)) for bound in ("lower", "upper"))
    return {
        "claim": "Heads that put more attention on the image are also more concentrated in it (claim 11)",
        "finding": f"Spearman {float(told['spearman'].sel(pair)):.2f} (95 % interval {between(low, high)})",
        "control": f"within layers {float(told['spearman_within_layer'].sel(pair)):.2f}",
    }


def _box(ds: xr.Dataset) -> dict[str, str] | None:
    claim = "Drawing the box does not change the head pattern (claim 4)"
    return _alike(claim, pattern_correlations(ds, "plain-object", "visual-object"))


def _name(ds: xr.Dataset) -> dict[str, str] | None:
    claim = "Naming the object does change it (claim 4)"
    return _alike(claim, pattern_correlations(ds, "visual-general", "visual-object"))


def _alike(claim: str, found: dict[str, dict[str, float]]) -> dict[str, str] | None:
    if not found:
        return None
    value, ceiling = (
        listed([f"{at[name]:.3f} {ANSWER_FORMATS.get(form, form)}" for form, at in found.items()])
        for name in ("value", "ceiling")
    )
    return {
        "claim": claim,
        "finding": f"the patterns correlate with {value}",
        "control": f"two halves of one condition: {ceiling}",
    }


def _rows(ds: xr.Dataset) -> dict[str, str]:
    rho, shared = row_agreement(ds)["image_weight"]
    return {
        "claim": "The attention row is that of the first generated token (authors' code)",
        "finding": f"its ranking and that of the last prompt token correlate with {rho:.2f}",
        "control": f"they share {percent(shared)} of the strongest tenth",
    }
