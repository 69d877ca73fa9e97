"""Executed notebooks made the same in every run: no times, no random ids, no memory addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
TAGS_WITHOUT_OUTPUT = {"remove-output"}
KEPT_CELL_METADATA = {"tags", "mystnb"}
RECORD = "visualheads"
"""Key of the notebook's metadata under which a page tells what it was made from."""


def cleaned(notebook: NotebookNode, record: Mapping[str, Any]) -> NotebookNode:
    """The notebook with `record` in its metadata; equal inputs give equal bytes. Changes `notebook` itself."""
    ids: dict[str, str] = {}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index + 1:02d}"
        tags = set(cell.metadata.get("tags", ()))
        if "injected-parameters" in tags:
            tags.add("hide-input")
        kept = {key: value for key, value in cell.metadata.items() if key in KEPT_CELL_METADATA and key != "tags"}
        cell.metadata = NotebookNode({**kept, **({"tags": sorted(tags)} if tags else {})})
        if cell.cell_type == "code":
            cell.outputs = [] if tags & TAGS_WITHOUT_OUTPUT else [_steady(output, ids) for output in cell.outputs]
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    notebook.metadata = NotebookNode(
        {"kernelspec": notebook.metadata.get("kernelspec", {}), "language_info": language, RECORD: dict(record)}
    )
    return notebook


def _steady(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        text = UUID.sub(lambda match: ids.setdefault(match[0], f"00000000-0000-0000-0000-{len(ids):012d}"), value)
        return ADDRESS.sub("at 0x…", text)
    if isinstance(value, Mapping):
        return NotebookNode({key: _steady(item, ids) for key, item in value.items()})
    if isinstance(value, list):
        return [_steady(item, ids) for item in value]
    return value
