"""`visualheads train` and `visualheads scenes`: the miniatures and the scenes they are asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from visualheads.catalog import data_folder
from visualheads.cli.console import say
from visualheads.errors import ParameterError


def train(
    name: Annotated[str, typer.Argument(help="The miniature, such as mini-1.5-7B.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All miniatures, one after the other.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of every stage, in a minute; needs --out: nothing is learned.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where the checkpoints go. [default: data/miniatures]", show_default=False),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where unfinished stages are kept. [default: data/training]", show_default=False)
    ] = None,
) -> None:
    """Train a miniature through all its stages, or go on where a killed run stopped."""
    from visualheads.miniatures.architectures import MINIATURES, miniature
    from visualheads.miniatures.moments import trace_moments
    from visualheads.miniatures.train import train as train_one

    if every == bool(name):
        raise ParameterError("train: give the name of one miniature, or --all.")
    if smoke and folder is None:
        raise ParameterError(
            "train --smoke learns nothing; give --out FOLDER, so that no trained miniature is replaced."
        )
    names = list(MINIATURES) if every else [name]
    for each in names:
        miniature(each)
    target = folder or data_folder() / "miniatures"
    unfinished = work or (target / "unfinished" if smoke else data_folder() / "training")
    for each in names:
        made = train_one(each, target=target, work=unfinished, smoke=smoke, device=device, report=_report)
        if not smoke:
            trace_moments(each, made, unfinished)
        say(f"{each}: {made}")


def _report(stage: str, step: int, steps: int, record: dict[str, Any]) -> None:
    """One line per report of a stage."""
    told = ", ".join(
        f"{key} {value:.3g}" for key, value in record.items() if isinstance(value, float) and key != "seconds"
    )
    say(f"{stage} {step}/{steps}: {told}, {record.get('seconds', 0):.0f} s")


def scenes(
    folder: Annotated[Path | None, typer.Option("--out", help="[default: data/scenes]", show_default=False)] = None,
) -> None:
    """Draw the shipped scenes of all five benchmarks again: the same bytes every time."""
    from visualheads.miniatures.scenes import WRITERS

    target = folder or data_folder() / "scenes"
    for name, write in WRITERS.items():
        write(target / name)
        say(str(target / name))
