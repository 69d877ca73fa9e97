"""`visualheads trace`, `top` and `export`: from samples to a store, from a store to a list of heads."""

from __future__ import annotations

import math
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from visualheads.cli.console import SHOWN_SKIPPED, Imports, as_json, bar, err, out, say, warnings_as_notes
from visualheads.errors import ParameterError, StoreError, got
from visualheads.tracing.batching import BATCH_TOKENS

if TYPE_CHECKING:
    import xarray as xr

    from visualheads.tracing.jobs import TraceJob

BATCH_DEFAULT = f"{BATCH_TOKENS['cpu']} on CPUs, {BATCH_TOKENS['cuda']} on GPUs"
Store = Annotated[Path, typer.Argument(help="A store (….zarr), or a folder of results.")]
Model = Annotated[str | None, typer.Option(help="Which model, where the results hold several.", show_default=False)]
By = Annotated[str, typer.Option(help="detection, image_weight, region_weight, concentration, gaze, … (see vh.rank).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for a script.")]
Query = Annotated[str | None, typer.Option(help="first_generated or last_prompt.", show_default=False)]


def trace(
    model: Annotated[str, typer.Argument(help="Catalogue name, folder or hub id.")],
    task: Annotated[str, typer.Option(help="Benchmark.")] = "looktwice",
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with the official files; for the task table, the table.", show_default="the shipped scenes"
        ),
    ] = None,
    condition: Annotated[list[str] | None, typer.Option(help="May be repeated.", show_default="all")] = None,
    form: Annotated[
        list[str] | None,
        typer.Option("--format", help="free or letters; may be repeated.", show_default="the task's first"),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="none, white, shuffled or swapped; may be repeated.", show_default="none"),
    ] = None,
    split: Annotated[str | None, typer.Option(show_default="the task's first")] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Questions per condition.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Decides the draw of questions and distractors.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, auto (spread the layers).", show_default="a GPU if there is one; miniatures: cpu"
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16.", show_default="the checkpoint's; float32 on CPUs and for miniatures"
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.", show_default=False)] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens run together.", show_default=BATCH_DEFAULT)] = None,
    folder: Annotated[Path, typer.Option("--out", help="The store is <out>/<model>/<task>.zarr.")] = Path(
        "data/results"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a store that is there aside and start anew.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out malformed records and pictures, and list them.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers do the shards.", show_default=False)
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="YAML file of a cluster of batch jobs (dask-jobqueue).", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and how much of it.")] = False,
    json: Json = False,
    imports: Imports = None,
) -> None:
    """Measure every head on every sample, into a store. Repeating the command does only what is missing."""
    del imports
    if scheduler and cluster:
        raise ParameterError("trace: got both --scheduler and --cluster; give the one whose workers are meant.")
    from visualheads.tracing import jobs

    job = jobs.TraceJob(
        model,
        task,
        data=None if data is None else str(Path(data).expanduser().resolve()),
        conditions=tuple(condition or ()),
        formats=tuple(form or ()),
        controls=tuple("" if name == "none" else name for name in control or ("none",)),
        split=split,
        n=n,
        seed=seed,
        device=device,
        dtype=dtype,
        revision=revision,
        batch_tokens=batch_tokens,
        skip_bad=skip_bad or dry_run,  # a dry run counts all that a run would stop at
        results=str(folder.expanduser().resolve()),
    )
    _tell_skipped(job)
    if job.skipped and not skip_bad:
        err.print("Without --skip-bad, a run stops at the first of them.")
    if dry_run:
        _tell_plan(job)
        return
    with warnings_as_notes(), _workers(scheduler, cluster) as workers:
        ds = jobs.run(job, scheduler=workers, fresh=fresh, progress=bar())
    right = float(ds["correct"].mean())
    if json:
        as_json({"store": job.path, "samples": ds.sizes["sample"], "accuracy": None if math.isnan(right) else right})
        return
    told = "no answers known" if math.isnan(right) else f"accuracy {right:.1%}"
    say(f"{job.path}: {ds.sizes['sample']} samples, {told}")


def top(
    store: Store,
    by: By = "detection",
    model: Model = None,
    query: Query = None,
    n: Annotated[int, typer.Option("--top", "-n", min=1, help="How many heads.")] = 20,
    json: Json = False,
) -> None:
    """Print the best heads of a ranking with their 95 % intervals."""
    from visualheads.heads.top import top as best

    ds = _opened(store)
    frame = best(ds, by, n, query=query, model=_one_model([str(name) for name in ds["model"].values], model))
    if json:
        as_json(frame.reset_index().astype(object).to_dict("records"))
        return
    table = Table("#", "head", "layer", "head in layer", by, "95 % interval")
    for place, row in enumerate(frame.itertuples(), start=1):
        table.add_row(
            str(place),
            str(row.Index),
            str(row.layer),
            str(row.head),
            f"{row.score:.4f}",
            f"{row.low:.4f} – {row.high:.4f}",
        )
    out.print(table)


def export(
    store: Store,
    target: Annotated[Path, typer.Argument(help="File to write: .json or .csv.")],
    by: By = "detection",
    model: Model = None,
    query: Query = None,
) -> None:
    """Write a ranking of all heads, with intervals, for other programs (vh.read_scores reads it back)."""
    from visualheads.heads.lists import export_scores
    from visualheads.heads.ranking import rank as rank_heads

    scores = rank_heads(_opened(store), by=by, interval=True, query=query)
    chosen = _one_model([str(name) for name in scores["model"].values], model)
    say(str(export_scores(scores.sel(model=[chosen]), target)))


def _opened(path: Path) -> xr.Dataset:
    from visualheads.store.combine import open_results
    from visualheads.store.read import open_store

    if not path.exists():
        raise StoreError(got("store", str(path), "a ….zarr store or a folder of results", "trace a model first"))
    stored = path.name.endswith((".zarr", ".zarr.zip"))
    return open_store(path) if stored else open_results(path)


def _one_model(names: list[str], model: str | None) -> str:
    if model is None and len(names) > 1:
        raise ParameterError(f"the results hold {len(names)} models; choose one with --model: {', '.join(names)}.")
    if model is not None and model not in names:
        raise ParameterError(got("--model", model, names))
    return model or names[0]


def _workers(scheduler: str | None, cluster: Path | None) -> Any:
    if cluster is None:
        return nullcontext(scheduler)
    from visualheads.tracing.cluster import from_yaml

    return closing(from_yaml(cluster))


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


def _tell_plan(job: TraceJob) -> None:
    """What a trace would do, without loading weights."""
    from visualheads.tracing.dry_run import estimate

    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in estimate(job).items():
        table.add_row(name, value)
    out.print(table)
