"""`visualheads models` and `visualheads doctor`: what there is, and what this machine can run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from visualheads.cards import cards, data_folder, is_available
from visualheads.cli.console import FAILED, out, say, warnings_as_notes

GIGABYTE = 1e9
SPARE = 1.2
"""A model wants this many times its weights: activations and the cache come on top. Ours, a rule of thumb."""

HERE = {(True, True): "shipped", (True, False): "not yet", (False, True): "fetch", (False, False): "convert"}


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print all fields of all cards as JSON.")] = False,
) -> None:
    """List the models of the catalogue."""
    if as_json:
        listed = [card.model_dump() | {"available": is_available(card)} for card in cards().values()]
        out.print_json(json.dumps(listed, ensure_ascii=False))
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


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A catalogue name, folder or hub id to try, without its weights.")
    ] = None,
) -> None:
    """Tell what this machine can run and what is missing; or what a checkpoint is, and whether its parts work."""
    import torch

    if model is not None:
        _try_checkpoint(model)
        return
    missing: list[str] = []
    table = Table(show_header=False)
    table.add_row("Python", platform.python_version())
    for name in ("visualheads", "torch", "transformers", "nnsight", "xarray", "zarr", "jupyter-book", "altair"):
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "[red]missing[/]")
            missing.append(f"{name} is not installed; run `make book`, or `pip install -e .`")
    table.add_row("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch")
    memory = _memory()
    table.add_row("memory", f"{memory / GIGABYTE:.0f} GB" if memory else "unknown")
    largest = memory
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            table.add_row(f"GPU {index}", f"{properties.name}, {properties.total_memory / GIGABYTE:.0f} GB")
        largest = max(
            torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
        )
    else:
        table.add_row("GPU", "none that torch can use: real checkpoints will be slow, miniatures are not")
    free = shutil.disk_usage(Path.cwd()).free
    table.add_row("free disk here", f"{free / GIGABYTE:.0f} GB")
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    table.add_row("Chromium", browser or "none: browser tests are left out")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    table.add_row("hub", "off (HF_HUB_OFFLINE is set)" if offline else "used for catalogue names and hub ids")
    table.add_row("data", str(data_folder()))
    out.print(table)
    small = [card.name for card in cards().values() if card.miniature and is_available(card)]
    real = [
        card.name
        for card in cards().values()
        if not (card.miniature or card.joined)
        and card.memory_gb
        and largest
        and card.memory_gb * GIGABYTE * SPARE <= largest
    ]
    say(f"Miniatures here: {', '.join(small) or 'none'}")
    say(f"Real models that fit into memory in 16 bit: {', '.join(real) or 'none'}")
    if not small:
        missing.append(
            f"no miniature in {data_folder() / 'miniatures'}; run `make miniatures`, or set VISUALHEADS_DATA"
        )
    for line in missing:
        out.print("[red]missing:[/]", end=" ")
        say(line)
    if missing:
        raise typer.Exit(FAILED)


def _try_checkpoint(name: str) -> None:
    """Read configuration, processor and the weights' headers, and send a picture through the processor."""
    from visualheads.models import blueprints, checkpoints, self_check, weights
    from visualheads.models.prompting import prompts_of

    source = checkpoints.resolve(name)
    with warnings_as_notes():
        plan = blueprints.of_source(source, source.card.revision or None if source.card and not source.folder else None)
        if source.folder is not None:
            weights.check_headers(plan.config, source.folder)
        prompts = prompts_of(plan.processor, plan.adapter, source.card)
        self_check.check_prompts(prompts, plan.config)
    layers, heads, kv_heads = plan.shape
    for line in (
        f"class: {plan.module_class.__name__}, {layers} layers × {heads} heads ({kv_heads} key-value)",
        f"processor: {type(plan.processor).__name__}, {plan.image_tokens((640, 480)):,} image tokens of 640 × 480",
        f"prompt: {prompts.told!r}",
        f"{source.location}: its parts work together; the weights' values were not read.",
    ):
        say(line)


def _memory() -> int:
    """Memory of this machine in bytes; 0 where the system does not tell."""
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    if not all(name in getattr(os, "sysconf_names", {}) for name in names):
        return 0
    return os.sysconf(names[0]) * os.sysconf(names[1])
