"""`visualheads compare`: the verdicts of two runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visualheads.cli.console import FAILED, say


def compare(
    old: Annotated[Path, typer.Argument(help="The baseline, such as data/verdicts.json.")],
    new: Annotated[Path, typer.Argument(help="What a run wrote: data/results/verdicts.json.")],
) -> None:
    """Print what changed between two runs' verdicts, as a Markdown table.

    Exit 1 where a label changed, an estimate left its old interval, or a claim is gone.
    """
    from visualheads.analysis.claims.baseline import CHANGES, SAME, compare_verdicts

    table = compare_verdicts(old, new)
    changed = table[table["change"] != SAME]
    if changed.empty:
        say(f"{len(table)} claims, no change.")
        return
    shown = changed.reset_index().round(4).astype(object)
    shown = shown.where(shown.notna(), "").astype(str)
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    say("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if changed["change"].isin(CHANGES).any():
        raise typer.Exit(FAILED)
