"""`visualheads train` and `visualheads scenes`: the miniatures and the scenes they are asked about."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from visualheads.cards import data_folder
from visualheads.cli.console import say
from visualheads.errors import ParameterError

SMOL_STAGES = ("smol-frozen", "smol-1.5")


def train(
    name: Annotated[str, typer.Argument(help="The miniature, such as mini-1.5-7B.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="All that are not trained yet, one after the other; stages are shared.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="With --all: also those that are trained.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of every stage, in a minute: nothing is learned.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where the checkpoints go.", show_default="data/miniatures; with --smoke a temporary folder"
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where unfinished stages are kept.", show_default="data/training")
    ] = None,
    until: Annotated[int, typer.Option(help="smol-frozen, smol-1.5: the step at which training ends.")] = 3000,
    anneal: Annotated[int, typer.Option(help="smol-frozen, smol-1.5: last steps, in which the rate goes down.")] = 600,
) -> None:
    """Train a miniature through all its stages, or go on where a killed run stopped; smol-frozen, smol-1.5: a stage of
    the language model that learns to see."""
    if name in SMOL_STAGES:
        from visualheads.miniatures.smol.start import start

        start(name, until, anneal, folder=folder, report=say)
        return
    from visualheads.miniatures.architectures import miniature, training_order
    from visualheads.miniatures.train import is_trained, trace_moments
    from visualheads.miniatures.train import train as train_one
    from visualheads.models.devices import checked_device

    if every == bool(name):
        raise ParameterError("train: give the name of one miniature, or --all.")
    if again and not every:
        raise ParameterError("train: --again goes with --all; a miniature given by name is always trained.")
    placed = str(checked_device(device))
    names = training_order() if every else [name]
    for each in names:
        miniature(each)
    if smoke and folder is None:  # so that no trained miniature is replaced
        folder = Path(tempfile.mkdtemp(prefix="visualheads-smoke-"))
    target = folder or data_folder() / "miniatures"
    unfinished = work or (target / "unfinished" if smoke else data_folder() / "training")
    for each in names:
        if every and not again and not smoke and is_trained(each, target):
            say(f"{each}: trained already")
            continue
        made = train_one(each, target=target, work=unfinished, smoke=smoke, device=placed, report=_report)
        if not smoke:
            trace_moments(each, made, unfinished)
        say(f"{each}: {made}")
    if smoke:
        say(f"Every stage ran, nothing is learned; what was written is in {target}")


def _report(stage: str, step: int, steps: int, record: dict[str, Any]) -> None:
    """One line per report of a stage."""
    told = ", ".join(
        f"{key} {value:.3g}" for key, value in record.items() if isinstance(value, float) and key != "seconds"
    )
    say(f"{stage} {step}/{steps}: {told}, {record.get('seconds', 0):.0f} s")


def scenes(
    folder: Annotated[
        Path | None, typer.Option("--out", show_default="data/scenes; with --smol data/smol/scenes")
    ] = None,
    smol: Annotated[bool, typer.Option("--smol", help="The emoji scenes of smol-1.5.")] = False,
) -> None:
    """Draw the shipped scenes of all five benchmarks again: the same bytes every time."""
    if smol:
        from visualheads.miniatures.smol.benchmarks import write_test_scenes
        from visualheads.miniatures.smol.scenes import use_sheet
        from visualheads.miniatures.smol.sprites import read_sheet

        sheet = read_sheet(data_folder() / "smol")
        use_sheet(sheet)
        target = folder or data_folder() / "smol" / "scenes"
        write_test_scenes(target, sheet)
        say(str(target))
        return
    from visualheads.miniatures.scenes import WRITERS

    target = folder or data_folder() / "scenes"
    for name, write in WRITERS.items():
        write(target / name)
        say(str(target / name))
