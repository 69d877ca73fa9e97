"""`visualheads page` and `visualheads book`: notebooks run, pages rendered."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Column, Table

from visualheads.cards import cards, data_folder
from visualheads.cli.options import (
    BatchTokens,
    Cluster,
    DryRun,
    Dtype,
    Fresh,
    Name,
    Scheduler,
    SkipBad,
    bar,
    full_path,
    grouped,
    out,
    say,
)
from visualheads.cli.tracing import check_workers, workers_of
from visualheads.errors import KernelError, ParameterError, got
from visualheads.paths import project_folder, state_of
from visualheads.store import files

if TYPE_CHECKING:
    from visualheads.book.paper import Estimate


PageParameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of notebooks/model.ipynb."),
]
FILES = ("data", "adapter", "chat_template")
"""Parameters that may name files."""
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many run side by side; each needs about half a gigabyte of memory besides its model.",
        show_default="the cores",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Run the notebook even where nothing changed.")]


@grouped
def page(
    model: Name,
    parameter: PageParameters = None,
    force: Force = False,
) -> None:
    """Run the model notebook for one model; `visualheads book` then puts its page into the book."""
    say(str(_page_of(project_root(), model, parameters(parameter or []), force)))


@grouped
def export_page(
    model: Name,
    parameter: PageParameters = None,
    target: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.", show_default="MODEL.html")
    ] = None,
    force: Force = False,
) -> None:
    """Run the model notebook for one model and write its page as a single HTML file, without building the book."""
    from visualheads.book import export

    root = project_root()
    written = _page_of(root, model, parameters(parameter or []), force)
    target = target or Path(f"{written.stem}.html")
    with files.refusals_told(target):
        say(str(export.export_page(written, target, root)))


def _page_of(root: Path, model: str, given: dict[str, Any], force: bool) -> Path:
    """Run the page; its kernel runs in the project's folder, so paths are told in full."""
    from visualheads.book.catalogue import run_model_page
    from visualheads.models.checkpoints import resolve

    resolve(model)
    named = model if model in cards() else str(full_path(model))
    given |= {name: full_path(given[name]) for name in FILES if isinstance(given.get(name), str)}
    _check_values(root, named, given)
    return run_model_page(root, named, given, force=force)


def _check_values(root: Path, model: str, given: dict[str, Any]) -> None:
    """Refuse what the notebook would refuse, before its kernel starts."""
    from visualheads.book.catalogue import model_page
    from visualheads.book.page import checked
    from visualheads.book.traces import page_job
    from visualheads.models.devices import chosen_device, chosen_dtype

    page = model_page(root, model, given)
    if not page.template.is_file():
        return
    told = checked(page.template, page.parameters)
    for name, least in (("n", 1), ("heads", 1), ("batch_tokens", 0), ("seed", 0)):
        if told.get(name, least) < least:
            raise ParameterError(got(f"parameter {name}", told[name], f"{least} or more"))
    job = page_job(root, page)
    chosen_dtype(job.dtype, chosen_device(job.device))
    job.drawn  # noqa: B018  (unknown benchmarks, missing files, too few questions)


@grouped
def book(
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Every shipped question, the full protocol of removed heads, more timing runs: hours, not minutes.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run every notebook even where nothing changed.")] = False,
    workers: Workers = None,
) -> None:
    """Trace the miniatures, run the notebooks, render the book, and print the path of its first page."""
    root = project_root()
    index, stamp = root / "book/_build/html/book/index.html", root / "book/_build/unchanged.txt"
    made_from = _sources(root)
    if not (full or force) and index.is_file() and stamp.is_file() and stamp.read_text() == made_from + _made(root):
        say("book is up to date")
    else:
        from visualheads.book.build import build_book

        stamp.unlink(missing_ok=True)
        index = build_book(root, full=full, force=force, workers=workers, report=say)
        if not full and _sources(root) == made_from:  # else something was edited meanwhile
            stamp.write_text(made_from + _made(root))
    out.print("[bold green]The book:[/]", end=" ")
    say(str(index))


def _sources(root: Path) -> str:
    """State of what a book is made from, but for data. A book of the same state need not even be planned."""
    own = ("lib", "notebooks", "_config.yml", "_toc.yml", "pyproject.toml", ".git/logs/HEAD", "book/_static")
    words = [path for path in (root / "book").glob("*") if path.is_file()]
    installed = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    return f"{state_of(*(root / name for name in own), *sorted(words))} {installed} "


def _made(root: Path) -> str:
    """State of the data and of the pages that ran: a build changes both."""
    return state_of(*sorted({data_folder(), root / "data", root / "book/models", root / "book/results"}))


def pdf(
    target: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("visualheads.pdf"),
) -> None:
    """Print the book's pages, as they were run last, into one PDF; needs Chromium."""
    from visualheads.book import export

    with files.refusals_told(target):
        say(str(export.export_pdf(target, project_root())))


def full(
    name: Annotated[str, typer.Argument(help="A miniature such as mini-1.5-7B, or smol-1.5.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All miniatures, side by side.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run it even where what is shipped still holds.")] = False,
    workers: Workers = None,
) -> None:
    """Run the full protocol of removed heads and keep it in data/full; a killed run goes on where it stopped."""
    from visualheads.book.traces import run_full

    if every == bool(name):
        raise ParameterError("full: give the name of one miniature, or --all.")
    failed = run_full(project_root(), [name] if name else None, workers, force, say)
    if failed:
        raise KernelError("\n".join(failed))


@grouped
def paper(
    data: Annotated[
        Path, typer.Argument(help="Folder with a folder of official files per benchmark: looktwice, pope, mmbench, …")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Catalogue name, folder or hub id; may be repeated.", show_default="the nine"
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="Questions per condition.")] = 500,
    judged: Annotated[int, typer.Option(min=1, help="Questions on which heads are removed.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides the draw of questions and distractors.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, auto.", show_default="a GPU")] = None,
    dtype: Dtype = None,
    batch_tokens: BatchTokens = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    skip_bad: SkipBad = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> None:
    """Run the paper's models through every trace and sweep that pages and claims need; a killed run goes on.

    Time, memory and disk are told first. `visualheads book` then shows the models beside the miniatures.
    """
    from visualheads.book import paper as whole

    check_workers(scheduler, cluster)
    root = project_root()
    settings: dict[str, Any] = {"n": n, "seed": seed, "device": device, "dtype": dtype, "batch_tokens": batch_tokens}
    plans, missing = whole.plans(data, model or (), root, judged, skip_bad=skip_bad, **settings)
    for line in missing:
        say(f"left out: {line}")
    elsewhere = scheduler is not None or cluster is not None
    found = [whole.estimate(plan, math.nan if elsewhere else whole.speed_of(device, dtype)) for plan in plans]
    _tell_estimates(found)
    if dry_run:
        return
    if not elsewhere:
        for one in found:
            whole.check_room(one, device)
    with workers_of(scheduler, cluster) as workers:
        refused = whole.run_all(plans, say, workers, fresh, bar() if workers is None else False)
    for line in refused:
        say(line)
    for line in whole.known_answers(plans):
        say(line)


def _tell_estimates(found: Sequence[Estimate]) -> None:
    table = Table("model", *(Column(name, no_wrap=True) for name in ("left", "prompts", "memory", "disk")), "time")
    for one in found:
        known = (
            f"at most {_told(one.seconds / 3600, 'h')}" if not math.isnan(one.seconds) else "unknown: not this device"
        )
        table.add_row(
            one.plan.name, f"{len(one.left)} of {one.plan.size}", f"{one.prompts:,}",
            _told(one.needs.memory / 1e9, "GB"), _told(one.disk / 1e9, "GB"), known if one.left else "",
        )  # fmt: skip
    out.print(table)


def _told(value: float, unit: str) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2g} {unit}"


def parameters(given: list[str]) -> dict[str, Any]:
    """`["n=64", "dtype=float32"]` as a dict; values are read as YAML. Raises ParameterError for another form."""
    read: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise ParameterError(got("parameter", text, "NAME=VALUE, such as n=64"))
        if name in read:
            raise ParameterError(f"parameter {name!r} was given twice: {read[name]!r} and {value!r}; give it once.")
        try:
            read[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise ParameterError(f"parameter {name!r}: {value!r} cannot be read: {error}") from error
    return read


def project_root() -> Path:
    """The checkout: the current folder or one above it that holds notebooks and _config.yml, else the package's own.

    Raises ParameterError outside any checkout: the book's sources are not part of an installed package.
    """
    folder = project_folder() or project_folder(Path(__file__).resolve().parents[3])
    if folder is not None:
        return folder
    raise ParameterError(
        f"{Path.cwd()} is not inside a checkout of the project (_config.yml and notebooks/); clone it, and run this "
        "there."
    )
