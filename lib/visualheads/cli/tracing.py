"""`visualheads trace` and `look`: a model is asked, and what its heads attend to becomes a store or a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

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
    as_json,
    bar,
    err,
    grouped,
    load,
    out,
    say,
    say_pairs,
    warnings_as_notes,
)
from visualheads.errors import HeadError, ParameterError, checked_whole, got
from visualheads.paths import RESULTS

if TYPE_CHECKING:
    import xarray as xr


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
        say_pairs(jobs.estimate(job))
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


def _rows(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        return int(text) if len(parts) == 1 else [int(part) for part in parts if part]
    except ValueError:
        raise ParameterError(got("rows", text, "a number, or positions with commas between them")) from None


Heads = Annotated[str, typer.Option(help="Layer-head, such as 14-22,13-16, or a file of head scores (see export).")]
Top = Annotated[int | None, typer.Option(min=1, help="Of a file of scores: the best so many.", show_default="all")]
Mode = Annotated[str, typer.Option(help="zero, mean, uniform, image_knockout, … (see vh.ablate).")]
Positions = Annotated[str, typer.Option(help="all, after_image or last_prompt.", show_default="the mode's own")]


@grouped
def ablate(
    model: Name,
    heads: Heads,
    loading: Loading,
    questions: Questions,
    mode: Mode = "zero",
    positions: Positions = "",
    top: Top = None,
    json: Json = False,
) -> None:
    """Remove heads, and print how answers change."""
    from visualheads.interventions import ablate as change

    _tell(_changed(change, model, heads, top, loading, questions, mode, positions), json)


@grouped
def steer(
    model: Name,
    heads: Heads,
    loading: Loading,
    questions: Questions,
    bias: Annotated[float, typer.Option(help="Added to the scores of the image tokens in the box.")] = 4.0,
    box: Annotated[
        str | None, typer.Option(help="left,top,right,bottom in pixels.", show_default="the picture")
    ] = None,
    top: Top = None,
    json: Json = False,
) -> None:
    """Turn heads towards a part of the picture, and print how answers change."""
    from visualheads.interventions import steer as change

    region: Any = None if box is None else tuple(_numbers("--box", box, float, "numbers"))
    _tell(_changed(change, model, heads, top, loading, questions, region, bias), json)


@grouped
def sweep(
    model: Name,
    scores: Annotated[Path, typer.Argument(help="A file of head scores (see export).")],
    loading: Loading,
    questions: Questions,
    counts: Annotated[str, typer.Option(help="Sizes of the sets: the best so many heads.")] = "1,2,5,10",
    mode: Mode = "zero",
    positions: Positions = "",
    results: Results = RESULTS,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Remove the best heads of a ranking, more and more of them, into a store. Repeating does what is missing."""
    from visualheads.interventions.modes import MODES
    from visualheads.interventions.sweeps import sweep_path, sweep_to_store
    from visualheads.paths import slug_of

    job = questions.job(model, loading, results)
    samples, sizes = job.samples, _numbers("--counts", counts, int, "whole numbers from 1,")
    sets = {f"top {size}": _heads(str(scores), checked_whole("--counts", size)) for size in sizes}
    loaded = load(model, loading)
    if mode in MODES:
        positions = positions or MODES[mode].positions[0]
    path = sweep_path(results, slug_of(loaded.name), Path(job.path).stem, mode, positions)
    asked = {"fresh": fresh, "progress": bar(), "seed": job.seed, "task_files": job.arguments()["task_files"]}
    with warnings_as_notes():
        found = sweep_to_store(loaded, samples, sets, path, mode, positions, **asked)
    if not json:
        say(str(path))
    _tell(found, json)


def _changed(
    change: Callable[..., xr.Dataset], model: str, heads: str, top: int | None, loading: Any, questions: Any, *how: Any
) -> xr.Dataset:
    """Change heads of a model; questions and heads are read before the model, so that bad input is told at once."""
    samples, chosen = questions.job(model, loading).samples, _heads(heads, top)
    with warnings_as_notes():
        return change(load(model, loading), samples, chosen, *how, progress=bar())


def _heads(text: str, top: int | None) -> Any:
    """(layer, head) pairs, as listed, or the best of a file."""
    from visualheads.heads.lists import LAYER_HEAD, read_scores
    from visualheads.heads.ranking import estimates
    from visualheads.heads.selection import best_heads

    if text.endswith((".json", ".csv")) or Path(text).is_file():
        scores = estimates(read_scores(text)).isel(model=0)
        known = scores.values[scores.notnull().values]
        count = int(known.sum()) if ((known == 0) | (known == 1)).all() else len(known)  # a set without scores is marks
        return best_heads(scores, top or count)
    found = [LAYER_HEAD.fullmatch(part) for part in text.split(",")]
    pairs = [(int(one[1]), int(one[2])) for one in found if one]
    if len(pairs) < len(found):
        allowed = "layer-head pairs, such as 14-22,13-16 or L14H22, or a file of head scores"
        raise HeadError(got("heads", text, allowed))
    return pairs


def _numbers(name: str, text: str, kind: Callable[[str], Any], allowed: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(got(name, text, f"{allowed} with commas between them")) from None


def _tell(found: xr.Dataset, json: bool) -> None:
    """Accuracy before and after, and how far the answers moved, of every set."""
    many = found if "set" in found.dims else found.expand_dims(set=["heads"])
    rows = []
    for name in many["set"].values.tolist():
        one = many.sel(set=name)
        means = {key: float(one[key].mean()) for key in ("clean_correct", "correct", "kl")}
        clean, after, moved = (None if math.isnan(value) else value for value in means.values())
        changed = int((one["prediction"] != one["clean_prediction"]).sum())
        rows.append({"set": name, "heads": int(one["heads"].sum()), "samples": one.sizes["sample"],
                     "accuracy_before": clean, "accuracy": after, "changed_answers": changed, "kl": moved})  # fmt: skip
    if json:
        as_json(rows)
        return
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value or 0) for value in row.values()))
    out.print(table)
