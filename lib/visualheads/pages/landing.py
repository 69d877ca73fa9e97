"""What the landing page takes from the runs: the key figure, and what was found, model by model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visualheads.catalog import cards
from visualheads.places import slug_of

FACTS = "-facts.json"
FIGURE = "landing-figure.txt"
GLANCE = "landing-glance.txt"
NOTHING = "No model has been traced yet: run `make book`."


def write(root: Path, results: Path) -> None:
    """Write the two pieces that the landing page includes."""
    results.mkdir(parents=True, exist_ok=True)
    models = _models(root, results)
    _put(results / FIGURE, _figure(models))
    _put(results / GLANCE, _glance(models))


def _models(root: Path, results: Path) -> list[dict[str, Any]]:
    """Facts of the models whose page is there, in the catalogue's order."""
    order = {slug_of(name): index for index, name in enumerate(cards())}
    found = []
    for path in results.glob(f"*{FACTS}"):
        slug = path.name.removesuffix(FACTS)
        if (root / "book" / "models" / f"{slug}.ipynb").is_file():
            found.append({**json.loads(path.read_text(encoding="utf-8")), "slug": slug})
    return sorted(found, key=lambda facts: (order.get(facts["slug"], len(order)), facts["slug"]))


def _figure(models: list[dict[str, Any]]) -> str:
    if not models:
        return NOTHING
    first = models[0]
    return (
        f"```{{vegalite}} results/{first['slug']}-head-map.json\n:name: fig-landing\n"
        f"How much each attention head of {first['model']} looks at the picture ({first['samples']} questions). "
        "Click a head: "
        "below appear its values over the questions, and where in the picture it looks on average.\n```\n\n"
        f"The figure and its explanation are part of the [page of {first['model']}](models/{first['slug']}.ipynb).\n"
    )


def _glance(models: list[dict[str, Any]]) -> str:
    if not models:
        return NOTHING
    pieces = []
    for facts in models:
        lines = [f"| {told['claim']} | {told['finding']} | {told['control']} |" for told in facts["findings"]]
        pieces.append(
            f"**[{facts['model']}](models/{facts['slug']}.ipynb)**, {facts['note']}:\n\n"
            "| what the paper says | what this run shows | compared with |\n| --- | --- | --- |\n" + "\n".join(lines)
        )
    return "\n\n".join(pieces) + "\n"


def _put(path: Path, text: str) -> None:
    """Only when it changed: the book's hash is over contents, but editors and watchers look at times."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
