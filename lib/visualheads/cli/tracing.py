"""`visualheads trace` and `look`: a model is asked, and what its heads attend to becomes a store or a page."""

from __future__ import annotations

import math
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from visualheads.cli.console import as_json, bar, err, out, say, warnings_as_notes
from visualheads.cli.options import (
    AnswerPrefix,
    BatchTokens,
    Cluster,
    DryRun,
    Fresh,
    Json,
    Loading,
    Name,
    Questions,
    Results,
    Scheduler,
    grouped,
    load,
)
from visualheads.errors import ParameterError, got
from visualheads.paths import RESULTS

if TYPE_CHECKING:
    from visualheads.tracing.jobs import TraceJob


@grouped
def trace(
    model: Name,
    loading: Loading,
    questions: Questions,
    batch_tokens: BatchTokens = None,
    results: Results = RESULTS,
    fresh: Fresh = False,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Measure every head on every sample, into a store. Repeating the command does only what is missing."""
    from visualheads.tracing import jobs

    # a dry run counts all that a run would stop at
    skip = questions.skip_bad or dry_run
    job = questions.job(model, loading, results, batch_tokens=batch_tokens, skip_bad=skip)
    if job.skipped and not questions.skip_bad:
        err.print("Without --skip-bad, a run stops at the first of them.")
    if dry_run:
        _tell_plan(job)
        return
    with warnings_as_notes(), workers_of(scheduler, cluster) as workers:
        ds = jobs.run(job, scheduler=workers, fresh=fresh, progress=bar())
    right = float(ds["correct"].mean())
    if json:
        as_json({"store": job.path, "samples": ds.sizes["sample"], "accuracy": None if math.isnan(right) else right})
        return
    told = "no answers known" if math.isnan(right) else f"accuracy {right:.1%}"
    say(f"{job.path}: {ds.sizes['sample']} samples, {told}")


@grouped
def look(
    model: Name,
    image: Annotated[Path, typer.Argument(help="The picture.")],
    question: Annotated[str, typer.Argument(help="What is asked about it.")],
    loading: Loading,
    page: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("look.html"),
    answer_prefix: AnswerPrefix = "",
    effects: Annotated[
        str,
        typer.Option(
            help="Change heads one by one, to see what the answer becomes: top (the 24 that look most), all, or none. "
            "Two passes a head: seconds for a shipped model, some minutes on a GPU for the 1,024 of a 7B model."
        ),
    ] = "top",
    rows: Annotated[
        str | None,
        typer.Option(
            help="How many queries, 24 by default: the last prompt token, the generated ones, then the question's. "
            "Or their positions, with commas between them (“90,91”; one alone: “90,”)."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 16,
    data: Annotated[Path | None, typer.Option(help="Also write the numbers behind the page, as NetCDF.")] = None,
) -> None:
    """Write a page that shows where each head of a model looks while it answers a question about a picture."""
    from visualheads.explorer import look as look_at
    from visualheads.tasks import Sample

    wanted = _rows(rows)
    sample = Sample(image.name, image, question, answer_prefix=answer_prefix)
    sample.size()  # a picture that is none is told before the model is loaded
    with warnings_as_notes():
        explorer = look_at(
            load(model, loading), sample, rows=wanted, effects=effects, max_new_tokens=max_new_tokens, progress=bar()
        )
    path = explorer.save(page)
    answers = explorer.looks[0].answers
    say(f"Answer: {answers.text if answers else ''}")
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in any browser.")
    if data is not None:
        say(f"Wrote {explorer.save_data(data)}")


def check_workers(scheduler: str | None, cluster: Path | None) -> None:
    """Raise ParameterError where both are given."""
    if scheduler and cluster:
        raise ParameterError("got both --scheduler and --cluster; give the one whose workers are meant.")


def workers_of(scheduler: str | None, cluster: Path | None) -> Any:
    """A context that gives the workers of a scheduler's address or of a cluster's file; None where neither is given."""
    check_workers(scheduler, cluster)
    if cluster is None:
        return nullcontext(scheduler)
    from visualheads.tracing.cluster import from_yaml

    return closing(from_yaml(cluster))


def _tell_plan(job: TraceJob) -> None:
    """What a trace would do, without loading weights."""
    from visualheads.tracing.jobs import estimate

    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in estimate(job).items():
        table.add_row(name, value)
    out.print(table)


def _rows(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        return int(text) if len(parts) == 1 else [int(part) for part in parts if part]
    except ValueError:
        raise ParameterError(got("rows", text, "a number, or positions with commas between them")) from None
