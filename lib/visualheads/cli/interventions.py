"""`visualheads ablate`, `steer` and `sweep`: heads changed, and what becomes of the answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from visualheads.cli.console import as_json, bar, out, say, warnings_as_notes
from visualheads.cli.options import Fresh, Json, Loading, Name, Questions, Results, grouped, load
from visualheads.errors import HeadError, ParameterError, checked_whole, got
from visualheads.paths import RESULTS

if TYPE_CHECKING:
    import xarray as xr

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

    samples, chosen = questions.job(model, loading).samples, _heads(heads, top)
    with warnings_as_notes():
        found = change(load(model, loading), samples, chosen, mode, positions, progress=bar())
    _tell(found, json)


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

    region: Any = None if box is None else tuple(_numbers("--box", box))
    samples, chosen = questions.job(model, loading).samples, _heads(heads, top)
    with warnings_as_notes():
        found = change(load(model, loading), samples, chosen, region, bias, progress=bar())
    _tell(found, json)


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
    from visualheads.interventions.sweeps import sweep_path, sweep_to_store
    from visualheads.paths import slug_of

    job = questions.job(model, loading, results)
    samples, sizes = job.samples, _counts(counts)
    sets = {f"top {size}": _heads(str(scores), size) for size in sizes}
    loaded = load(model, loading)
    path = sweep_path(results, slug_of(loaded.name), Path(job.path).stem, mode, positions)
    asked = {"fresh": fresh, "progress": bar(), "seed": job.seed, "task_files": job.arguments()["task_files"]}
    with warnings_as_notes():
        found = sweep_to_store(loaded, samples, sets, path, mode, positions, **asked)
    if not json:
        say(str(path))
    _tell(found, json)


def _heads(text: str, top: int | None) -> Any:
    """(layer, head) pairs, as listed, or the best of a file."""
    from visualheads.heads.lists import read_scores
    from visualheads.heads.ranking import top_heads

    if text.endswith((".json", ".csv")) or Path(text).is_file():
        scores = read_scores(text).isel(model=0)
        scores = scores.sel(bound="estimate") if "bound" in scores.dims else scores
        values = scores.transpose("layer", "head").values
        best = top_heads(values.reshape(-1, 1), top or values.size)[:, 0].reshape(values.shape)
        return [(int(layer), int(head)) for layer, head in zip(*best.nonzero(), strict=True)]
    try:
        return [(int(layer), int(head)) for layer, head in (pair.split("-") for pair in text.split(","))]
    except ValueError:
        allowed = "layer-head pairs, such as 14-22,13-16, or a file of head scores"
        raise HeadError(got("heads", text, allowed)) from None


def _counts(text: str) -> list[int]:
    try:
        return [checked_whole("--counts", int(part)) for part in text.split(",")]
    except ValueError:
        raise ParameterError(got("--counts", text, "whole numbers from 1, with commas between them")) from None


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(got(name, text, "numbers with commas between them")) from None


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
