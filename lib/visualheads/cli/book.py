"""`visualheads page` and `visualheads book`: notebooks run, pages rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from visualheads.cli.console import out, say
from visualheads.cli.options import grouped
from visualheads.errors import KernelError, ParameterError, got
from visualheads.paths import project_folder


@grouped
def page(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder or hub id.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of notebooks/model.ipynb."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the notebook even where nothing changed.")] = False,
) -> None:
    """Run the model notebook for one model; `visualheads book` then puts its page into the book."""
    from visualheads.book.catalogue import run_model_page
    from visualheads.models.checkpoints import resolve

    resolve(model)
    root, given = project_root(), parameters(parameter or [])
    _check_values(root, model, given)
    written = run_model_page(root, model, given, force=force)
    say(str(written))


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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Notebooks run side by side; each needs about half a gigabyte of memory besides its model.",
            show_default="the cores",
        ),
    ] = None,
) -> None:
    """Trace the miniatures, run the notebooks, render the book, and print the path of its first page."""
    from visualheads.book.build import build_book

    index = build_book(project_root(), full=full, force=force, workers=workers, report=say)
    out.print("[bold green]The book:[/]", end=" ")
    say(str(index))


def full(
    name: Annotated[str, typer.Argument(help="A miniature, such as mini-1.5-7B.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All miniatures, side by side.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run it even where what is shipped still holds.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Miniatures side by side; each needs about half a gigabyte of memory besides its model.",
            show_default="the cores",
        ),
    ] = None,
) -> None:
    """Run the full protocol of removed heads and keep it in data/full; a killed run goes on where it stopped."""
    from visualheads.book.protocols import run_full

    if every == bool(name):
        raise ParameterError("full: give the name of one miniature, or --all.")
    failed = run_full(project_root(), [name] if name else None, workers, force, say)
    if failed:
        raise KernelError("\n".join(failed))


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
