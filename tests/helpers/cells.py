"""Cells of notebooks run in one namespace, and what they display kept as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest


def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that is displayed from now on: Markdown of sentences, text of tables, specifications of charts."""
    kept: list[str] = []

    def display(*shown: Any, raw: bool = False, **_settings: Any) -> None:
        for one in shown:
            kept.append(json.dumps(one) if raw else str(getattr(one, "data", one)))

    monkeypatch.setattr("IPython.display.display", display)
    return kept


def run_cells(notebook: Path, **parameters: Any) -> dict[str, Any]:
    """A notebook's code cells, one after the other, with these parameters in place of their defaults."""
    space: dict[str, Any] = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{notebook.name}: {cell.id}", "exec"), space)
        if "parameters" in cell.metadata.get("tags", ()):
            space |= parameters
    return space
