"""`visualheads top`, `export`, `verify` and `compare`: what stores and verdicts hold, and whether they are sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from visualheads.cli.console import FAILED, as_json, out, say
from visualheads.cli.options import Json
from visualheads.errors import ParameterError, StoreError, got

if TYPE_CHECKING:
    import xarray as xr

Store = Annotated[Path, typer.Argument(help="A store (….zarr), or a folder of results.")]
Model = Annotated[str | None, typer.Option(help="Which model, where the results hold several.", show_default=False)]
By = Annotated[str, typer.Option(help="detection, image_weight, region_weight, concentration, gaze, … (see vh.rank).")]
Query = Annotated[str | None, typer.Option(help="first_generated or last_prompt.", show_default=False)]


def top(
    store: Store,
    by: By = "detection",
    model: Model = None,
    query: Query = None,
    n: Annotated[int, typer.Option("--top", "-n", min=1, help="How many heads.")] = 20,
    json: Json = False,
) -> None:
    """Print the best heads of a ranking with their 95 % intervals."""
    from visualheads.heads.selection import top as best

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


def verify(
    store: Annotated[Path, typer.Argument(help="A store (….zarr or ….zarr.zip).")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards undone, so that the next trace does them anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every file of a store and print the damaged ones, a line each. Exit 0 where there is none, else 1."""
    from visualheads.store import upkeep as check

    damaged = check.verify(store)
    if json:
        as_json({"store": str(store), "damaged": damaged})
    else:
        for key, fault in damaged.items():
            say(f"{fault}: {store / key}")
    if repair and damaged:
        undone = check.repair(store)
        damaged = check.verify(store)
        say(f"{store}: {len(undone)} shards are to be done anew, {len(damaged)} files cannot be repaired")
    if damaged:
        raise typer.Exit(FAILED)


def compare(
    old: Annotated[Path, typer.Argument(help="The baseline, such as data/verdicts.json.")],
    new: Annotated[Path, typer.Argument(help="What a run wrote: data/results/verdicts.json.")],
) -> None:
    """Print what changed between two runs' verdicts, as a Markdown table.

    Exit 1 where a label changed, an estimate left its old interval, or a claim is gone.
    """
    from visualheads.analysis.claims.baseline import CHANGES, SAME, compare_verdicts

    table = compare_verdicts(old, new)
    changed = table[table["change"] != SAME]
    if changed.empty:
        say(f"{len(table)} claims, no change.")
        return
    shown = changed.reset_index().round(4).astype(object)
    shown = shown.where(shown.notna(), "").astype(str)
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    say("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if changed["change"].isin(CHANGES).any():
        raise typer.Exit(FAILED)


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
