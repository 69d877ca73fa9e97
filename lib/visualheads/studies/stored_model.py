"""A model as its shipped stores tell of it: what its page shows, without loading any weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from visualheads.analysis.effects import EFFECT, MAIN_TASK
from visualheads.cards import Card, cards
from visualheads.errors import StoreError
from visualheads.models.smol.architecture import GRID, SIDE
from visualheads.models.token_layouts import single_grid
from visualheads.models.token_map import TokenMap, stretched
from visualheads.studies import shipped
from visualheads.studies.ablation import EFFECTS, Removed
from visualheads.tasks import task
from visualheads.tasks.sample import Sample

LOOK = "look"
"""Name and kind of the store with the maps of a few heads on one question."""
LETTERS, WHITE = f"{MAIN_TASK}-letters", f"{MAIN_TASK}-white"
LATE = {"uniform_released, all": "late-uniform_released", "mean, all": "late-mean"}


@dataclass(frozen=True)
class StoredModel:
    """A joined model of the catalogue whose stores are shipped. Raises StoreError where they do not hold."""

    name: str

    def __post_init__(self) -> None:
        lacking = {MAIN_TASK, LETTERS, WHITE, LOOK} - set(shipped.full_stores(self.name))
        if lacking:
            raise StoreError(
                f"shipped stores of {self.name} are missing or made from other weights: {', '.join(sorted(lacking))}; "
                f"`visualheads full {self.name}` makes them, and `visualheads page {self.name}` needs none."
            )

    @property
    def card(self) -> Card:
        """Its card."""
        return cards()[self.name]

    @property
    def parameters(self) -> float:
        """Billions of parameters, as its card tells."""
        return self.card.parameters or 0.0

    def token_map(self, image_size: tuple[int, int]) -> TokenMap:
        """Where each image token of a picture lies in it."""
        return single_grid(stretched(image_size, (SIDE, SIDE)), (GRID, GRID))

    @cached_property
    def traces(self) -> xr.Dataset:
        """The main benchmark in both formats, and where heads look on average."""
        free, letters = (self._opened(name) for name in (MAIN_TASK, LETTERS))
        both: xr.Dataset = xr.concat(
            [free.drop_vars("mean_map"), letters], "sample", data_vars="all", coords="minimal", compat="override"
        )
        patches = GRID**2 * np.exp(-both["focus_nats"])  # as both are defined
        return both.assign(mean_map=free["mean_map"], effective_patches=patches)

    @cached_property
    def white(self) -> xr.Dataset:
        """The same questions about white pictures."""
        return self._opened(WHITE)

    def _opened(self, name: str) -> xr.Dataset:
        found = shipped.opened(self.name, name)
        assert found is not None  # checked when this was made
        return found.drop_vars("provenance")

    def look(self) -> tuple[Sample, xr.Dataset]:
        """One question, and its trace with the maps of a few heads."""
        one = self._opened(LOOK)
        wanted = str(one["sample"].values[0])
        asked = task(MAIN_TASK, data=shipped.task_folder(self.name, MAIN_TASK)).samples(format="free")
        return next(sample for sample in asked if sample.id == wanted), one

    def removed(self) -> Removed:
        """Late heads removed, as far as that is shipped."""
        found = {words: shipped.opened(self.name, name) for words, name in LATE.items()}
        sweeps = {words: ds for words, ds in found.items() if ds is not None}
        return Removed(sweeps, self.traces, 0, why="only the late heads of claim 5 were removed")

    @property
    def effects(self) -> xr.Dataset | None:
        """What the margin loses when one head's output is replaced by its mean."""
        found = shipped.opened(self.name, EFFECTS)
        return None if found is None else found.rename({"whole_margin": EFFECT})
