"""The commands, and how a run of one of them ends."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from visualheads import __version__
from visualheads.cli import book, information, making, tracing
from visualheads.cli.options import BAD_INPUT, FAILED, be_quiet, err, out
from visualheads.errors import DiskFullError, KernelError, VisualHeadsError

LOG = logging.getLogger("visualheads")
ANYWHERE = ("--quiet", "-q", "--debug")
"""Options of every command, which may stand before its name or behind it."""

app = typer.Typer(
    name="visualheads",
    help="Which attention heads look at the picture? Trace, rank and explore them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    information.models,
    information.doctor,
    tracing.look,
    tracing.trace,
    information.top,
    information.export,
    information.verify,
    tracing.ablate,
    tracing.steer,
    tracing.sweep,
    book.page,
    book.export_page,
    book.book,
    book.pdf,
    book.full,
    book.paper,
    information.compare,
    making.convert,
    making.train,
    making.scenes,
    making.weights,
    making.card,
    making.moments,
    making.export_checkpoint,
):
    app.command()(command)
app.command("rank", hidden=True)(information.top)
app.command("model", hidden=True)(book.page)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"visualheads {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _shared(
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    del version
    be_quiet(quiet)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    LOG.setLevel(logging.DEBUG if debug else logging.WARNING)


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in SystemExit with one of the exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign still gets the rest
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        shared = [word for word in given if word in ANYWHERE]
        app(args=[*shared, *(word for word in given if word not in ANYWHERE)], prog_name="visualheads")
    except VisualHeadsError as error:
        if LOG.isEnabledFor(logging.DEBUG):
            raise
        err.print("[bold red]Error:[/]", end=" ")
        err.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(FAILED if isinstance(error, DiskFullError | KernelError) else BAD_INPUT)
    except OSError as error:
        if LOG.isEnabledFor(logging.DEBUG):
            raise
        sys.stderr.write(
            f"Error: the system refuses: {error}; free disk or memory, or check the place of the output.\n"
        )
        sys.exit(FAILED)
