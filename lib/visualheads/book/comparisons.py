"""Pages that compare what was traced; each joins the book only when it has something to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visualheads.analysis.families import series_of
from visualheads.analysis.lineage import descent, matched
from visualheads.analysis.models import MOMENTS, checkpoint_config
from visualheads.book.page import Page
from visualheads.cards import cards, data_folder, miniature_folder
from visualheads.paths import slug_of
from visualheads.studies.shipped import FULL

FOLDER = Path("book/results")
MODEL_PAGES = Path("book/models")
OLD_PAGES = "mini-*-training.ipynb"
TEMPLATES = Path("notebooks")
MAIN_TASK = "looktwice"
ALONE = "visualheads book"


@dataclass(frozen=True)
class Traced:
    """Which models were traced on which benchmarks, and what is known of the models' descent."""

    tasks: dict[str, frozenset[str]]
    descent: pd.DataFrame

    @property
    def models(self) -> list[str]:
        return list(self.tasks)


@dataclass(frozen=True)
class Comparison:
    """A comparison page: its slug (template and output), its title, and whether there is something to show.

    last: it also reads what other pages keep among the results.
    """

    slug: str
    title: str
    shows: Callable[[Traced], bool]
    last: bool = False


def _any(told: Traced) -> bool:
    return bool(told.models)


def _several(told: Traced) -> bool:
    """A comparison of benchmarks needs two of them, or two models on one."""
    return len(told.models) > 1 or any(len(tasks) > 1 for tasks in told.tasks.values())


def _conditions(told: Traced) -> bool:
    return any(MAIN_TASK in tasks for tasks in told.tasks.values())


def _scale(told: Traced) -> bool:
    table = told.descent
    sizes = [
        (a, b) for a, b in matched(table, "llm") if series_of(table.loc[a, "llm"]) == series_of(table.loc[b, "llm"])
    ]
    return bool(sizes or matched(table, "recipe") or matched(table, "data_share"))


def _families(told: Traced) -> bool:
    shapes = [shape for name in told.models if (shape := _shape(name)) is not None]
    return len(shapes) > len(set(shapes))


def _emergence(told: Traced) -> bool:
    del told
    return any((data_folder() / "miniatures").glob(f"*/{MOMENTS}"))


def _trained(told: Traced) -> bool:
    del told
    return any((data_folder() / "miniatures").glob("*/training.json"))


def _removed(told: Traced) -> bool:
    """Heads of shipped miniatures are removed on pages of their own, before these pages are run."""
    shipped = [name for name in told.models if (miniature_folder(name) / "config.json").is_file()]
    return any(MAIN_TASK in told.tasks[name] for name in shipped)


COMPARISONS = (
    Comparison("models", "The models", _any),
    Comparison("training", "How the miniatures learned", _trained),
    Comparison("conditions", "Six conditions", _conditions),
    Comparison("benchmarks", "Five benchmarks", _several),
    Comparison("scale", "Scale: recipe, size, data", _scale),
    Comparison("families", "Families", _families),
    Comparison("emergence", "Emergence", _emergence),
    Comparison("removals", "Heads removed: all models", _removed, last=True),
    Comparison("rankings", "Which ranking finds the heads that matter", _removed, last=True),
    Comparison("steering", "Steering and grounding", _removed),
    Comparison("sinks", "Sinks", _removed),
    Comparison("claims", "Fourteen claims", _conditions, last=True),
)
"""In the order of the book. A new comparison is an entry here, a template of that name and a line in _toc.yml."""


def traced_in(results: Path) -> Traced:
    """What a folder of results holds, told by its paths alone: quick, however much there is."""
    known = {slug_of(name): name for name in cards()}
    tasks: dict[str, set[str]] = {}
    for pattern in ("*/*.zarr", "*/*.zarr.zip"):
        for path in sorted(results.glob(pattern)):
            task = path.name.split(".zarr")[0]
            if "-" not in task:  # controls, sweeps and lists lie beside
                tasks.setdefault(known.get(path.parent.name, path.parent.name), set()).add(task)
    return Traced({name: frozenset(found) for name, found in tasks.items()}, descent(list(tasks)))


def comparison_pages(root: str | Path, results: str = "data/results") -> list[Page]:
    """The comparison pages that have something to show for the traces in `results`."""
    root = Path(root).resolve()
    folder = root / results
    told = traced_in(folder)
    pages = []
    for one in COMPARISONS:
        template = root / TEMPLATES / f"{one.slug}.ipynb"
        if template.is_file() and told.models and one.shows(told):
            pages.append(
                Page(
                    template=template,
                    output=root / FOLDER / f"{one.slug}.ipynb",
                    slug=one.slug,
                    title=one.title,
                    parameters={"results": results},
                    data=(data_folder() / "miniatures", data_folder() / FULL),
                    stores=folder,
                    last=one.last,
                    command=ALONE if results == "data/results" else f"{ALONE} --full",
                )
            )
    return pages


def remove_outdated(root: str | Path, pages: Sequence[Page]) -> None:
    """Delete comparison pages of an earlier run that have nothing to show any more: they are not among `pages`.

    Earlier versions had a page of its own for each miniature's training: these go too.
    """
    wanted = {page.output for page in pages}
    for one in COMPARISONS:
        output = Path(root).resolve() / FOLDER / f"{one.slug}.ipynb"
        if output not in wanted:
            output.unlink(missing_ok=True)
    for output in (Path(root).resolve() / MODEL_PAGES).glob(OLD_PAGES):
        output.unlink()


def _shape(model: str) -> tuple[int, int] | None:
    config = checkpoint_config(model)
    text = config.get("text_config") or config
    card = cards().get(model)
    layers = text.get("num_hidden_layers") or (card.layers if card else None)
    heads = text.get("num_attention_heads") or (card.heads if card else None)
    return (int(layers), int(heads)) if layers and heads else None
