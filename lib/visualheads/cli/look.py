"""`visualheads look`: one picture, one question, and a page that shows where every head looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visualheads.cli.console import say
from visualheads.errors import ParameterError, got


def look(
    model: Annotated[str, typer.Argument(help="A catalogue name, a checkpoint's folder, or a hub id.")],
    image: Annotated[Path, typer.Argument(help="The picture.")],
    question: Annotated[str, typer.Argument(help="What is asked about it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("look.html"),
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
    device: Annotated[str | None, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, auto …")] = None,
    data: Annotated[Path | None, typer.Option(help="Also write the numbers behind the page, as NetCDF.")] = None,
) -> None:
    """Write a page that shows where each head of a model looks while it answers a question about a picture."""
    from visualheads.explorer import look as look_at
    from visualheads.models.loading import load

    wanted = _rows(rows)
    explorer = look_at(
        load(model, device=device), image, question, rows=wanted, effects=effects, max_new_tokens=max_new_tokens
    )
    path = explorer.save(out)
    answers = explorer.looks[0].answers
    say(f"Answer: {answers.text if answers else ''}")
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in any browser.")
    if data is not None:
        say(f"Wrote {explorer.save_data(data)}")


def _rows(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        return int(text) if len(parts) == 1 else [int(part) for part in parts if part]
    except ValueError:
        raise ParameterError(got("rows", text, "a number, or positions with commas between them")) from None
