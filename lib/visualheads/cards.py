"""What models there are: one card each, read from catalog.yml."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, Field, computed_field

from visualheads.paths import slug_of

if TYPE_CHECKING:
    import pandas as pd

DATA_VARIABLE = "VISUALHEADS_DATA"
"""Environment variable that names the data folder, for installations without the project's folder around them."""

APART = "-folder"
"""Ending of the name of a folder whose last two parts spell a catalogued model, such as mini/1.5-7B."""

DEFAULT_MODEL = "smol-1.5"
"""The model that examples, the landing page and the explorer take when none is named."""

CATALOGUE = Path(__file__).with_name("catalog.yml")


class Card(BaseModel):
    """What is known of one model. Empty means unknown, never a guess.

    name            what `vh.load` and the pages call it
    joined          made when loaded: base weights from packages, joined with what was learned here (`models.smol`)
    paper_name      its row in the paper's table; empty for other models
    hub_id          checkpoint in transformers' format; empty where the original has to be converted
    original_id     checkpoint that the paper's authors used
    revision        commit of the checkpoint; empty: the newest
    class_name      transformers class
    llm             language model it was tuned from
    parameters      in billions, as in its name
    layers, heads, kv_heads     decoder shape
    image_tokens    as text: a number, or how it depends on the picture
    vision          tower and which of its features are used
    preparation     how the original prepares a picture ("crop", "pad to square", "resize", "tiles", …)
    prepared        how the processor that comes with the loaded checkpoint prepares it; geometry follows that one
    prompt          form around <image> and {question}; the processor's chat template goes before it; empty: only that
    stop            end token
    pope            F1 on POPE that was published of it, in percent, mean of the three conditions; pope_source: where
    memory_gb       gigabytes for the weights in 16 bit: 2 × parameters
    differs         what is known to differ from the paper's use
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: str
    class_name: str
    miniature: bool = False
    joined: bool = False
    paper_name: str = ""
    hub_id: str = ""
    original_id: str = ""
    revision: str = ""
    llm: str = ""
    recipe: str = ""
    parameters: float | None = Field(default=None, gt=0)
    layers: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    kv_heads: int | None = Field(default=None, gt=0)
    image_tokens: str = ""
    vision: str = ""
    preparation: str = ""
    prepared: str = ""
    prompt: str = ""
    stop: str = ""
    licence: str = ""
    pope: float | None = Field(default=None, gt=0, lt=100)
    pope_source: str = ""
    differs: str = ""

    @computed_field
    @property
    def memory_gb(self) -> float | None:
        """Gigabytes for the weights in 16 bit; None where the number of parameters is unknown."""
        return None if self.parameters is None else round(2 * self.parameters, 1)

    @property
    def scenes(self) -> str:
        """Folder of the pictures that it learned to see, from the project's; empty: those a task has by itself."""
        return "data/smol/scenes" if self.joined else ""

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """(layers, heads, kv_heads); None where unknown."""
        return self.layers, self.heads, self.kv_heads


def data_folder() -> Path:
    """The project's data folder: $VISUALHEADS_DATA, else `data` of the checkout this package is installed from.

    The variable may name the data folder, or the project's folder that holds it. Without a checkout around the package:
    `data` below the current folder.
    """
    if os.environ.get(DATA_VARIABLE):
        named = Path(os.environ[DATA_VARIABLE]).expanduser()
        return named / "data" if (named / "data").is_dir() else named
    checkout = Path(__file__).resolve().parents[2]
    root = checkout if (checkout / "pyproject.toml").is_file() or (checkout / "data").is_dir() else Path.cwd()
    return root / "data"


def miniature_folder(name: str) -> Path:
    """Where the checkpoint of a miniature lies, there or not."""
    return data_folder() / "miniatures" / name


def learned_file(name: str) -> Path:
    """Where the learned weights of a joined model lie, there or not."""
    return data_folder() / "smol" / f"{name}.safetensors"


def trained_steps(name: str, folder: Path | None = None) -> int:
    """Steps that a joined model's last stage was trained, as the log in `folder` (data/smol) tells; 0 without one."""
    log = (folder or data_folder() / "smol") / f"{name}.json"
    return int(json.loads(log.read_text(encoding="utf-8"))["step"]) if log.is_file() else 0


def converted_folder(name: str) -> Path:
    """Where a catalogued model without a hub id is looked for after its conversion, there or not."""
    return data_folder() / "checkpoints" / name


@cache
def cards() -> dict[str, Card]:
    """All cards by name, in the catalogue's order."""
    entries = [Card(**entry) for entry in yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))]
    return {card.name: card for card in entries}


def catalogue_order(names: Iterable[str]) -> list[str]:
    """The names in the catalogue's order, and others behind them by name."""
    place = {name: index for index, name in enumerate(cards())}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def card_at(folder: str | os.PathLike[str]) -> Card | None:
    """The card whose name loads this very folder: a miniature's, or a conversion's; None for any other folder."""
    place = Path(os.path.abspath(folder))
    card = cards().get(place.name)
    if card is None or (card.hub_id and not card.miniature):
        return None
    home = miniature_folder(card.name) if card.miniature else converted_folder(card.name)
    return card if place.resolve() == home.resolve() else None


def name_of(model: str | os.PathLike[str]) -> str:
    """What results, stores and pages call a model: its catalogue name, its hub id, or the slug of its folder.

    A folder is called by the last two parts of its place, however it was given: many are called checkpoint-1000. None
    is called as a catalogued model, except the one that this model's name loads.
    """
    text = os.fspath(model)
    folder = Path(text).expanduser()
    if text in cards() or not folder.is_dir():
        return text
    card = card_at(folder)
    if card is not None:
        return card.name
    slug = slug_of(os.path.abspath(folder))
    return f"{slug}{APART}" if slug in map(slug_of, cards()) else slug


def is_available(card: Card) -> bool:
    """Whether the card's name can be given to `load`: its files are there (joined models also need base weights once),
    or it has a hub id."""
    if card.miniature:
        return miniature_folder(card.name).is_dir()
    if card.joined:
        return learned_file(card.name).is_file()
    return bool(card.hub_id) or converted_folder(card.name).is_dir()


def catalog() -> pd.DataFrame:
    """Return a table of all catalogued models.

    Returns
    -------
    pandas.DataFrame
        One row per model, indexed by name, one column per field of a card, and `available`: the folder of a miniature
        or of a converted checkpoint, or what was learned of a joined model, is there; or it can be fetched from the
        hub.
    """
    import pandas as pd

    rows = [{**card.model_dump(), "available": is_available(card)} for card in cards().values()]
    return pd.DataFrame(rows).set_index("name")
