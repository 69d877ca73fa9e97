"""The table of contents: `_toc.yml` with its patterns replaced by the pages that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from visualheads.catalog import cards
from visualheads.pages.plan import ABLATION
from visualheads.places import slug_of

SUFFIXES = (".md", ".ipynb")


def written(root: Path, target: Path) -> Path:
    """Write the table of contents for the pages there are; return `target`."""
    told = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    told["parts"] = [
        {**part, "chapters": chapters}
        for part in told.get("parts", [])
        if (chapters := [new for entry in part["chapters"] for new in _expanded(root, entry)])
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target


def _expanded(root: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    if "glob" in entry:
        return _by_model(sorted(_pages(root, entry["glob"])))
    there = any((root / f"{entry['file']}{suffix}").is_file() for suffix in SUFFIXES) if "file" in entry else True
    return [entry] if there else []


def _pages(root: Path, pattern: str) -> list[str]:
    """Documents without their suffix; pages that are running or failed are no documents."""
    found = [path for suffix in SUFFIXES for path in root.glob(f"{pattern}{suffix}")]
    names = (path for path in found if ".partial." not in path.name and not path.name.startswith("."))
    return [path.relative_to(root).with_suffix("").as_posix() if path.suffix in SUFFIXES else "" for path in names]


def _by_model(documents: list[str]) -> list[dict[str, Any]]:
    """Catalogue's order first, other models after it."""
    order = {slug_of(name): index for index, name in enumerate(cards())}
    placed = sorted(documents, key=lambda name: (order.get(Path(name).name.removesuffix(ABLATION), len(order)), name))
    return [{"file": document} for document in placed]
