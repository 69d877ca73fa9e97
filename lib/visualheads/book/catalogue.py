"""Which pages there are: one per model, one of its removed heads, those that compare models, and what tracing costs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visualheads.book import page as inputs
from visualheads.book.page import ONCE, Page, parameters_of
from visualheads.book.run import run_page
from visualheads.cards import Card, cards, data_folder, miniature_folder, name_of
from visualheads.errors import ParameterError, got
from visualheads.paths import RESULTS as DATA_RESULTS
from visualheads.paths import read_table, slug_of
from visualheads.studies.shipped import FULL, path_of

MODELS = Path("book/models")
RESULTS = Path("book/results")
TEMPLATES = Path("notebooks")
MAIN_TASK = "looktwice"
FULL_RESULTS = "data/results-full"
ALWAYS_TOLD = ("n", "seed")
"""Parameters that the command at a page's end names even where they are the defaults."""
FULL_N = 1000
"""More questions than any shipped condition has: all of them."""


@dataclass(frozen=True)
class Comparison:
    """A page that reads what was traced. A new one is an entry in comparisons.yml, a template and a line in _toc.yml.

    Parameters
    ----------
    slug, title : name of template and output, and the page's heading.
    reads : it reads results; without, it shows what the library and the data are.
    removes : it needs miniatures whose heads the book changes.
    last : it also reads what other pages keep among the results.
    words : a file of the library whose words only this page shows.
    data : a file or folder in the data folder that only this page reads.
    """

    slug: str
    title: str
    reads: bool = True
    removes: bool = False
    last: bool = False
    words: str = ""
    data: str = ""


COMPARISONS = tuple(Comparison(**told) for told in read_table(__file__, "comparisons.yml"))
"""In the order of the book, but for the page that takes longest, which starts before others that wait."""


def model_page(root: str | Path, model: str, parameters: Mapping[str, Any] | None = None) -> Page:
    """The page of one model: a catalogue name, a checkpoint folder or a hub id."""
    root = Path(root).resolve()
    card = cards().get(model)
    own = {"data": card.scenes} if card is not None and card.scenes else {}
    given = {"model": model, **own, **(parameters or {})}
    adapter = str(given.get("adapter") or "")
    name = f"{name_of(model)}-{name_of(adapter)}" if adapter else name_of(model)
    slug = slug_of(name)
    template = root / TEMPLATES / "model.ipynb"
    task = str(given.get("task", MAIN_TASK))
    asked = inputs.task_places(task, str(root / str(given["data"])) if given.get("data") else "")
    checkpoint = miniature_folder(model) if model in cards() else Path(model)
    others = (Path(str(given[key])) for key in ("adapter", "chat_template") if given.get(key))
    # a template may be given as text, which is no path: os.path then says no, where Path raises
    read = [path for path in (checkpoint, path_of(model, "").parent, *others) if os.path.exists(path)]
    return Page(
        template=template,
        output=root / MODELS / f"{slug}.ipynb",
        slug=slug,
        title=name if "/" not in name else slug,
        parameters=given,
        data=(*asked, *read),
        stores=root / str(given.get("results", DATA_RESULTS)),
        only=slug,
        but=task,
        command=command(model, _told(template, given)),
    )


def comparison_pages(root: str | Path, full: bool = False) -> list[Page]:
    """The comparison pages that have something to show for the traces among the results."""
    root = Path(root).resolve()
    results = FULL_RESULTS if full else str(DATA_RESULTS)
    traced = {path.parent.name for pattern in ("*/*.zarr", "*/*.zarr.zip") for path in (root / results).glob(pattern)}
    removable = {slug_of(card.name) for card in shipped()} & traced
    return [
        Page(
            template=root / TEMPLATES / f"{one.slug}.ipynb",
            output=root / RESULTS / f"{one.slug}.ipynb",
            slug=one.slug,
            title=one.title,
            parameters={"results": results} if one.reads else {},
            data=(
                data_folder() / "miniatures", data_folder() / FULL,
                *((inputs.LIBRARY / one.words,) if one.words else ()),
                *((data_folder() / one.data,) if one.data else ()),
            ),
            stores=root / results if one.reads else None,
            last=one.last,
            command="visualheads book --full" if full else "visualheads book",
        )
        for one in COMPARISONS
        if (removable if one.removes else traced)
    ]  # fmt: skip


def remove_outdated(root: str | Path, pages: Sequence[Page]) -> None:
    """Delete comparison pages of an earlier run that have nothing to show any more: they are not among `pages`."""
    wanted = {page.output for page in pages}
    for one in COMPARISONS:
        output = Path(root).resolve() / RESULTS / f"{one.slug}.ipynb"
        if output not in wanted:
            output.unlink(missing_ok=True)


def model_pages(root: str | Path, full: bool = False, force: bool = False) -> list[Page]:
    """The pages of the miniatures that are there and stand for a model of the paper, variants have none of their own;
    and of joined models whose stores are shipped, which are shown without loading them.

    A page that someone ran with other parameters keeps them, until `force` starts from the defaults. full: all
    questions, in a folder of their own.
    """
    root = Path(root).resolve()
    shown = [card for card in shipped() if card.paper_name]
    shown += [card for card in cards().values() if card.joined and path_of(card.name, MAIN_TASK).is_file()]
    pages: list[Page] = []
    for card in shown:
        output = model_page(root, card.name).output
        given = {} if force else dict(inputs.recorded(output).get("parameters", {}))
        if full and not card.joined:
            given |= {"n": FULL_N, "results": FULL_RESULTS}
        lasting = {name: value for name, value in given.items() if name not in ("model", *ONCE)}
        pages.append(model_page(root, card.name, lasting or ({"stored": True} if card.joined else None)))
    return pages


def book_pages(root: str | Path, full: bool = False, force: bool = False) -> list[Page]:
    """All pages that the book runs: of miniatures, and comparisons with something to show."""
    root = Path(root).resolve()
    pages = [*model_pages(root, full, force), *comparison_pages(root, full)]
    return [page for page in pages if page.template.is_file()]


def shipped() -> list[Card]:
    """The catalogue's miniatures whose checkpoint is there."""
    return [c for c in cards().values() if c.miniature and (miniature_folder(c.name) / "config.json").is_file()]


def run_model_page(
    root: str | Path, model: str, parameters: Mapping[str, Any] | None = None, force: bool = False
) -> Path:
    """Run one model's page with these parameters of `notebooks/model.ipynb`; return the page. The next book has it.

    Raises ParameterError (also for `model` among the parameters) and KernelError.
    """
    if "model" in (parameters or {}):
        raise ParameterError(
            got("parameter", "model", "the other parameters of the notebook", "name the model before them")
        )
    page = model_page(root, model, parameters)
    run_page(page, root, force=force)
    return page.output


def command(model: str, parameters: Mapping[str, Any]) -> str:
    """The command line that makes a model's page again."""
    settings = "".join(f" -p {name}={shlex.quote(str(value))}" for name, value in parameters.items())
    return f"visualheads page {shlex.quote(model)}{settings}"


def _told(template: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line has to say: what was given, and always how many questions and which seed."""
    defaults = {name: p.default for name, p in parameters_of(template).items()} if template.is_file() else {}
    always = {name: defaults[name] for name in ALWAYS_TOLD if name in defaults}
    return {name: value for name, value in {**always, **given}.items() if name not in ("model", *ONCE)}
