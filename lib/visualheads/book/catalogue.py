"""Which pages there are: one per model, what belongs to it, and those about the tool itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visualheads.book import inputs
from visualheads.book.comparisons import MAIN_TASK, comparison_pages
from visualheads.book.page import ONCE, Page, parameters_of
from visualheads.book.run import run_page
from visualheads.cards import Card, cards, data_folder, miniature_folder, name_of
from visualheads.errors import ParameterError, got
from visualheads.paths import RESULTS as DATA_RESULTS
from visualheads.paths import slug_of
from visualheads.studies.shipped import path_of

MODELS = Path("book/models")
RESULTS = Path("book/results")
TEMPLATES = Path("notebooks")
ABLATION = "-ablation"
"""Ending of the slug of a model's page of removed heads."""
FULL_RESULTS = "data/results-full"
ALWAYS_TOLD = ("n", "seed")
"""Parameters that the command under a figure names even where they are the defaults."""
FULL_COST = {"sweep_runs": 3, "eager_runs": 7, "eager_runs_long": 7}
FULL_N = 1000
"""More questions than any shipped condition has: all of them."""


def model_page(root: str | Path, model: str, parameters: Mapping[str, Any] | None = None) -> Page:
    """The page of one model: a catalogue name, a checkpoint folder or a hub id."""
    root = Path(root).resolve()
    name = name_of(model)
    slug = slug_of(name)
    given = {"model": model, "slug": slug, **(parameters or {})}
    template = root / TEMPLATES / "model.ipynb"
    task = str(given.get("task", "looktwice"))
    asked = inputs.task_places(task, str(given.get("data") or ""))
    checkpoint = miniature_folder(model) if model in cards() else Path(model)
    return Page(
        template=template,
        output=root / MODELS / f"{slug}.ipynb",
        slug=slug,
        title=name if "/" not in name else slug,
        parameters=given,
        data=(*asked, *((checkpoint,) if checkpoint.is_dir() else ())),
        products=(root / RESULTS / f"{slug}-head-map.json", root / RESULTS / f"{slug}-facts.json"),
        stores=root / str(given.get("results", DATA_RESULTS)),
        only=slug,
        but=task,
        command=command(model, _told(template, given)),
    )


def ablation_page(root: str | Path, model: str, full: bool = False) -> Page:
    """The page that removes a model's heads: the full protocol where it is shipped. full: traces of all questions."""
    root = Path(root).resolve()
    slug = f"{slug_of(model)}{ABLATION}"
    return Page(
        template=root / TEMPLATES / "ablation.ipynb",
        output=root / RESULTS / f"{slug}.ipynb",
        slug=slug,
        title=f"Heads removed: {model}",
        parameters={"model": model, **({"results": FULL_RESULTS} if full else {})},
        data=(data_folder() / "scenes" / MAIN_TASK, miniature_folder(model), path_of(model, "").parent),
        stores=root / (FULL_RESULTS if full else str(DATA_RESULTS)),
        command="visualheads book --full" if full else "visualheads book",
    )


def cost_page(root: str | Path, full: bool = False) -> Page:
    """The page that tells what tracing costs, in processor time of one thread, so that other pages may run beside it.

    full: medians of more runs.
    """
    root = Path(root).resolve()
    return Page(
        template=root / TEMPLATES / "cost.ipynb",
        output=root / RESULTS / "cost.ipynb",
        slug="cost",
        title="What it costs",
        parameters=FULL_COST if full else {},
        longest=True,
        command="visualheads book --full" if full else "visualheads book",
    )


def model_pages(root: str | Path, full: bool = False, force: bool = False) -> list[Page]:
    """The pages of the miniatures that are there and stand for a model of the paper; variants have none of their own.

    A page that someone ran with other parameters keeps them, until `force` starts from the defaults. full: all
    questions, in a folder of their own.
    """
    root = Path(root).resolve()
    pages: list[Page] = []
    for card in shipped():
        if not card.paper_name:
            continue
        page = model_page(root, card.name)
        kept = {} if force else dict(inputs.recorded(page.output).get("parameters", {}))
        wanted = {**kept, "n": FULL_N, "results": FULL_RESULTS} if full else kept
        lasting = {k: v for k, v in wanted.items() if k not in ("model", "slug", *ONCE)}
        pages.append(model_page(root, card.name, lasting))
    return pages


def book_pages(root: str | Path, full: bool = False, force: bool = False) -> list[Page]:
    """All pages that the book runs: of miniatures, comparisons with something to show, the cost."""
    root = Path(root).resolve()
    pages = model_pages(root, full, force)
    pages += [ablation_page(root, page.title, full) for page in model_pages(root, full, force) if _answers(page)]
    pages += comparison_pages(root, FULL_RESULTS if full else str(DATA_RESULTS))
    if (root / TEMPLATES / "cost.ipynb").is_file():
        pages.append(cost_page(root, full))
    return [page for page in pages if page.template.is_file()]


def _answers(page: Page) -> bool:
    """Whether a model's page traces the benchmark on which heads are removed."""
    return page.parameters.get("task", MAIN_TASK) == MAIN_TASK


def shipped() -> list[Card]:
    """The catalogue's miniatures whose checkpoint is there."""
    return [c for c in cards().values() if c.miniature and (miniature_folder(c.name) / "config.json").is_file()]


def run_model_page(
    root: str | Path, model: str, parameters: Mapping[str, Any] | None = None, force: bool = False
) -> Path:
    """Run one model's page with these parameters of `notebooks/model.ipynb`; return the page. The next book has it.

    Raises ParameterError (also for `model` and `slug` among the parameters) and KernelError.
    """
    given = dict(parameters or {})
    for name in ("model", "slug"):
        if name in given:
            raise ParameterError(
                got("parameter", name, "parameters other than model and slug", "give the model by its place")
            )
    page = model_page(root, model, given)
    run_page(page, root, force=force)
    return page.output


def command(model: str, parameters: Mapping[str, Any]) -> str:
    """The command line that makes a model's page again."""
    settings = "".join(f" -p {name}={_quoted(value)}" for name, value in parameters.items())
    return f"visualheads page {_quoted(model)}{settings}"


def _told(template: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line has to say: what was given, and always how many questions and which seed."""
    defaults = {name: p.default for name, p in parameters_of(template).items()} if template.is_file() else {}
    always = {name: defaults[name] for name in ALWAYS_TOLD if name in defaults}
    return {name: value for name, value in {**always, **given}.items() if name not in ("model", "slug", *ONCE)}


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text and all(c.isalnum() or c in "._-/:,+" for c in text) else "'" + text.replace("'", "'\\''") + "'"
