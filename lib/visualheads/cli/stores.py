"""`visualheads verify`: whether every file of a store is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visualheads.cli.console import FAILED, as_json, say
from visualheads.cli.results import Json


def verify(
    store: Annotated[Path, typer.Argument(help="A store (….zarr or ….zarr.zip).")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards undone, so that the next trace does them anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every file of a store and print the damaged ones, a line each. Exit 0 where there is none, else 1."""
    from visualheads.store import verify as check

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
