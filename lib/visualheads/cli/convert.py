"""`visualheads convert`: an original LLaVA folder becomes one that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visualheads.cli.console import say, warnings_as_notes
from visualheads.cli.signals import Stopped

GIGABYTE = 1e9


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of the original checkpoint (LLaVA, ViP-LLaVA).")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    tower: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the CLIP vision tower.",
            show_default="in the checkpoint, or the folder its config names",
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(help="Catalogue name of the model, such as vip-phi-3-3.8B.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="vicuna_v1, llava_v1, mistral_instruct, llava_phi_3, llava_llama_3 or plain.",
            show_default="the recipe's",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16.", show_default="the language model's"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint folder at TARGET.")] = False,
) -> None:
    """Convert an original LLaVA checkpoint; TARGET appears when it is complete and checked."""
    from visualheads.models.conversion import convert as converted

    try:
        with warnings_as_notes():
            made = converted(source, target, tower=tower, card=card, prompt=prompt, dtype=dtype, overwrite=overwrite)
    except Stopped as stopped:
        stopped.kept = "nothing was written"
        raise
    grown = f", {made.rows_added} rows added to the vocabulary" if made.rows_added else ""
    say(
        f"{made.target}: {made.class_name} ({made.text_type}), {made.size / GIGABYTE:.1f} GB in {made.files} "
        f"{'file' if made.files == 1 else 'files'}, <image> is token {made.image_token_id}{grown}"
    )
    say(f"pictures: {made.preparation}; prompt: {made.prompt}; vision tower from: {made.tower}")
