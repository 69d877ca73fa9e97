"""`visualheads models` and `visualheads doctor`: what there is, and what this machine can run."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from visualheads.cards import cards, data_folder, is_available
from visualheads.cli.options import FAILED, Checkpoint, Json, as_json, grouped, out, say, say_pairs, warnings_as_notes
from visualheads.errors import ParameterError, StoreError, got
from visualheads.paths import browser_program

if TYPE_CHECKING:
    import xarray as xr

GIGABYTE = 1e9
PACKAGES = ("visualheads", "torch", "transformers", "nnsight", "xarray", "zarr", "jupyter-book", "altair")
PICTURE = (640, 480)
SPARE = 1.2
"""A model wants this many times its weights: activations and the cache come on top. Ours, a rule of thumb."""

HERE = {(True, True): "shipped", (True, False): "not yet", (False, True): "fetch", (False, False): "convert"}


def models(json: Json = False) -> None:
    """List the models of the catalogue."""
    if json:
        as_json([card.model_dump(mode="json") | {"available": is_available(card)} for card in cards().values()])
        return
    table = Table(
        *(Column(title, no_wrap=True) for title in ("name", "here")),
        *(Column(title, overflow="fold") for title in ("family", "language model", "heads", "image tokens", "memory")),
    )
    for card in cards().values():
        shape = f"{card.layers} × {card.heads} / {card.kv_heads}" if card.layers else ""
        memory = f"{card.memory_gb:g} GB" if card.memory_gb else ""
        here = HERE[card.miniature or card.joined, is_available(card)]
        table.add_row(card.name, here, card.family, card.llm, shape, card.image_tokens, memory)
    out.print(table)
    out.print(
        "heads: layers × heads per layer / key-value heads; "
        "here: shipped = runs at once; not yet = make miniatures; fetch = from the hub by `vh.load(name)`; "
        "convert = the original checkpoint has to be converted first",
        style="dim",
    )


@grouped
def doctor(
    checkpoint: Checkpoint,
    model: Annotated[
        str | None, typer.Argument(help="A catalogue name, folder or hub id to try, without its weights.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell what this machine can run and what is missing; or what a checkpoint is, and whether its parts work."""
    told, missing = (_machine(), _missing()) if model is None else (_parts(model, checkpoint), [])
    if json:
        as_json({**told, "missing": missing})
    else:
        say_pairs(told)
        for line in missing:
            say(f"missing: {line}")
    if missing:
        raise typer.Exit(FAILED)


def _machine() -> dict[str, str]:
    import torch

    from visualheads.models.devices import main_memory
    from visualheads.models.provenance import version_of

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    memory = main_memory()
    largest = max((gpu.total_memory for gpu in gpus), default=memory)
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    fitting = [
        card.name
        for card in cards().values()
        if not (card.miniature or card.joined) and 0 < (card.memory_gb or 0) * GIGABYTE * SPARE <= largest
    ]
    return {
        "Python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := version_of(name))},
        "CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch",
        "memory": f"{memory / GIGABYTE:.0f} GB" if memory else "unknown",
        "GPU": "; ".join(f"{gpu.name}, {gpu.total_memory / GIGABYTE:.0f} GB" for gpu in gpus)
        or "none that torch can use: real checkpoints will be slow, miniatures are not",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / GIGABYTE:.0f} GB",
        "Chromium": browser_program() or "none: browser tests are left out",
        "hub": "off (HF_HUB_OFFLINE is set)" if offline else "used for catalogue names and hub ids",
        "data": str(data_folder()),
        "miniatures here": ", ".join(_miniatures()) or "none",
        "real models that fit into memory in 16 bit": ", ".join(fitting) or "none",
    }


def _missing() -> list[str]:
    from visualheads.models.provenance import version_of

    lacking = [f"{name} is not installed; pip install {name}" for name in PACKAGES if not version_of(name)]
    if _miniatures():
        return lacking
    return [*lacking, f"no miniature in {data_folder() / 'miniatures'}; make miniatures, or set VISUALHEADS_DATA"]


def _miniatures() -> list[str]:
    return [card.name for card in cards().values() if card.miniature and is_available(card)]


def _parts(name: str, checkpoint: Checkpoint) -> dict[str, str]:
    """Read configuration, processor and the weights' headers, and send a picture through the processor.

    A joined model is loaded: that is how its parts come together.
    """
    from visualheads.models import blueprints, checkpoints, loading

    source = checkpoints.resolve(name)
    with warnings_as_notes():
        if source.card is not None and source.card.joined:
            model = loading.load(name, **checkpoint.settings())
            kind, shape, prompts = type(model.module), model.shape, model.prompts
            tokens = len(model.token_map(PICTURE))
        else:
            ready = blueprints.prepare(source, **checkpoint.settings()).check()
            kind, shape, prompts = ready.plan.module_class, ready.plan.shape, ready.prompts
            tokens = ready.plan.image_tokens(PICTURE)
    layers, heads, kv_heads = shape
    return {
        "checkpoint": source.location,
        "class": f"{kind.__name__}, {layers} layers × {heads} heads ({kv_heads} key-value)",
        "processor": f"{type(prompts.processor).__name__}, {tokens:,} image tokens of {PICTURE[0]} × {PICTURE[1]}",
        "prompt": repr(prompts.told),
        "verdict": "its parts work together; the weights' values were not read",
    }


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
        numbers = f"{row.score:.4f}", f"{row.low:.4f} – {row.high:.4f}"
        table.add_row(*map(str, (place, row.Index, row.layer, row.head)), *numbers)
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
