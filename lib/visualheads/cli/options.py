"""Options that commands share, each group a dataclass that a command takes as one argument."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visualheads import plugins
from visualheads.models.progress import Wish
from visualheads.paths import RESULTS

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tracing.jobs import TraceJob

FAILED, BAD_INPUT = 1, 2
SHOWN_SKIPPED = 20

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


class _Told:
    quiet = False


def be_quiet(quiet: bool) -> None:
    """Whether bars, notes and reports are left out, and only results and errors are printed."""
    _Told.quiet = quiet


def bar() -> Wish:
    """Whether a bar of progress is shown, as the library takes it."""
    return False if _Told.quiet else "auto"


def as_json(told: object) -> None:
    """Print a result for a script."""
    sys.stdout.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")


def say(line: str) -> None:
    """Print a line as it is: names and paths may hold brackets."""
    out.print(line, markup=False, highlight=False)


def say_pairs(told: Mapping[str, str]) -> None:
    """Print names and values as a table of two columns; values are told in full."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in told.items():
        table.add_row(escape(name), escape(value))
    out.print(table)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print warnings as single lines without the place in the code they come from."""
    shown = warnings.showwarning

    def note(message: Warning | str, *_rest: object, **_more: object) -> None:
        if _Told.quiet:
            return
        err.print("[yellow]Note:[/]", end=" ")
        err.print(str(message), markup=False, highlight=False)

    warnings.showwarning = note
    try:
        yield
    finally:
        warnings.showwarning = shown


Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16.", show_default="the checkpoint's")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed records and pictures, and list them.")]
Name = Annotated[str, typer.Argument(help="Catalogue name, folder or hub id.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a script.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Set a store that is there aside and start anew.")]
Results = Annotated[Path, typer.Option("--out", help="Folder of the results: <out>/<model>/<task>.zarr.")]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens run together.", show_default="by device")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler whose workers do the work.", show_default=False)
]
Cluster = Annotated[
    Path | None, typer.Option(help="YAML file of a cluster of batch jobs (dask-jobqueue).", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and how much of it.")]
AnswerPrefix = Annotated[str, typer.Option(help="Text that every answer is made to begin with.", show_default=False)]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=lambda names: plugins.use(names or []),
        is_eager=True,
        help="A module or .py file that adds a benchmark or an adapter; may be repeated.",
    ),
]


@dataclass(frozen=True)
class Checkpoint:
    """What is loaded, and the form of its prompts."""

    revision: Annotated[str | None, typer.Option(help="Of a hub id.", show_default=False)] = None
    adapter: Annotated[
        str | None, typer.Option(help="Folder with the files of a LoRA adapter.", show_default=False)
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(help="Plain form with <image> and {question}.", show_default="the chat template"),
    ] = None
    system: Annotated[str | None, typer.Option(help="System message for the chat template.", show_default=False)] = None
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="Jinja template: a file, its text, or the name of one of the checkpoint's.",
            show_default="the checkpoint's",
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `load`, and of a TraceJob; files by their full path."""
        files = {"adapter": full_path(self.adapter), "chat_template": full_path(self.chat_template)}
        return asdict(self) | files


@dataclass(frozen=True)
class Loading(Checkpoint):
    """What is loaded, in which form it is asked, and where it runs."""

    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, auto (spread the layers).", show_default="a GPU if there is one; miniatures: cpu"
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16.", show_default="the checkpoint's; float32 on CPUs and for miniatures"
        ),
    ] = None


@dataclass(frozen=True)
class Questions:
    """What is asked."""

    task: Annotated[str, typer.Option(help="Benchmark, or table for your own questions.")] = "looktwice"
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the official files; for the task table, the table.", show_default="the shipped scenes"
        ),
    ] = None
    condition: Annotated[list[str] | None, typer.Option(help="May be repeated.", show_default="all")] = None
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="free or letters; may be repeated.", show_default="the task's first"),
    ] = None
    control: Annotated[
        list[str] | None,
        typer.Option(help="none, white, shuffled or swapped; may be repeated.", show_default="none"),
    ] = None
    split: Annotated[str | None, typer.Option(show_default="the task's first")] = None
    n: Annotated[int | None, typer.Option("--n", "-n", help="Questions per condition.", show_default="all")] = None
    seed: Annotated[int, typer.Option(help="Decides the draw of questions and distractors.")] = 0
    answer_prefix: AnswerPrefix = ""
    skip_bad: SkipBad = False

    def job(self, model: str, loading: Loading, results: Path = RESULTS, **settings: Any) -> TraceJob:
        """The trace of these questions, which are read already; what is left out of them is told."""
        from visualheads.tracing.jobs import TraceJob

        job = TraceJob(
            model,
            self.task,
            data=full_path(self.data),
            conditions=tuple(self.condition or ()),
            formats=tuple(self.form or ()),
            controls=tuple("" if name == "none" else name for name in self.control or ("none",)),
            results=str(results.expanduser().resolve()),
            **{name: getattr(self, name) for name in ("split", "n", "seed", "answer_prefix")},
            **loading.settings(),
            **{"skip_bad": self.skip_bad, **settings},
        )
        _tell_skipped(job)
        return job


def load(model: str, loading: Loading) -> VisionLanguageModel:
    """Load a model as its options tell."""
    from visualheads.models import loading as models

    return models.load(model, **loading.settings())


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--import`, and every field of the dataclasses among its parameters as an option of its own."""
    signature = inspect.signature(command, eval_str=True)
    asked = signature.parameters
    groups: dict[str, Any] = {name: asked[name].annotation for name in asked if is_dataclass(asked[name].annotation)}

    @wraps(command)
    def run(**given: Any) -> None:
        del given["imports"]  # used already, by its callback
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        command(**given)

    flat = [inspect.Parameter("imports", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins)]
    for name, parameter in asked.items():
        flat += _options(groups[name]) if name in groups else [parameter]
    told: Any = run
    told.__signature__ = signature.replace(
        parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in flat]
    )
    return run


def _options(group: type) -> list[inspect.Parameter]:
    return list(inspect.signature(group, eval_str=True).parameters.values())


def full_path(value: str | None) -> str | None:
    """The full path of what is there, for processes that run in another folder; anything else as it is."""
    if not value or "\0" in value:
        return value
    path = Path(value).expanduser()
    try:
        return str(path.resolve()) if path.exists() else value
    except OSError:  # a template's text is too long for a path
        return value


def _tell_skipped(job: TraceJob) -> None:
    for entry in job.skipped[:SHOWN_SKIPPED]:
        err.print(f"skipped {entry.where}: {entry.reason}", markup=False, highlight=False)
    if job.skipped:
        pictures = sum(entry.picture for entry in job.skipped)
        more = len(job.skipped) - SHOWN_SKIPPED
        err.print(
            f"{len(job.skipped)} skipped{f', {more} of them not listed' if more > 0 else ''}: "
            f"{pictures} unusable pictures, {len(job.skipped) - pictures} malformed records.",
            highlight=False,
        )
    for reason, count in job.left_out.items():
        err.print(f"{count} left out: {reason}", markup=False, highlight=False)
