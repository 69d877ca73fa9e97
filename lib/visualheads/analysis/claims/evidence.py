"""What the claims are judged by, and the choices that a judge makes on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from visualheads.analysis.claims.rules import Draws, Statistic
from visualheads.analysis.lineage import language_models
from visualheads.analysis.subset import models_of
from visualheads.cards import cards
from visualheads.heads.bootstrap import PictureSums, picture_sums
from visualheads.heads.ranking import ROW, sample_scores

MAIN_TASK = "looktwice"
MINIATURES, JOINED, CHECKPOINTS = "miniatures", "adapters on a real language model", "checkpoints"
KINDS = (CHECKPOINTS, MINIATURES, JOINED)
"""Kinds of models, which are never pooled; the first one there decides, the others are judged beside it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Datasets in memory. What is None or empty makes the claims that need it not testable.

    traces          all models' traces, both attention rows, white pictures included (`analysis.models.traced`)
    null            heads of untrained networks of every model's shape, dimension `draw` (`studies.effects`)
    effects         whole and looking effects of every head, and `vhd` (`studies.effects`)
    late            sweeps of late heads on all benchmarks by mode (`studies.full_protocol`)
    sinks           sink tokens and concentration without them, by model (`studies.sink_finding`)
    text            traced lists by text-only model (`miniatures.text_heads`); grown_from: which one a model came from
    beside          evidence about models of other kinds, whose datasets lie apart
    """

    traces: xr.Dataset | None = None
    null: xr.Dataset | None = None
    effects: xr.Dataset | None = None
    late: Mapping[str, xr.Dataset] = field(default_factory=dict)
    sinks: Mapping[str, xr.Dataset] = field(default_factory=dict)
    text: Mapping[str, xr.Dataset] = field(default_factory=dict)
    grown_from: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[Evidence, ...] = ()

    @property
    def models(self) -> list[str]:
        """Every model that appears."""
        datasets = [self.traces, self.effects, *self.late.values()]
        return list(dict.fromkeys(name for ds in datasets if ds is not None for name in models_of(ds)))

    @property
    def llm(self) -> dict[str, str]:
        """Language model of each model."""
        found: dict[str, str] = {}
        for ds in (self.effects, *self.late.values(), self.traces):
            found |= {} if ds is None else language_models(ds)
        return found

    @property
    def scope(self) -> str:
        """On what the claims are judged: "9 miniatures of 5 language models"."""
        kinds = {kind_of(name) for name in self.models}
        llms, models = len(set(self.llm.values())), len(self.models)
        what = " and ".join(sorted(kinds)) if kinds else "models"
        return f"{models} {what} of {llms} language model{'s' if llms != 1 else ''}"

    def only(self, models: Sequence[str]) -> Evidence:
        """The evidence about these models alone."""

        def kept(ds: xr.Dataset | None) -> xr.Dataset | None:
            chosen = [] if ds is None else [name for name in models_of(ds) if name in models]
            return ds.sel(model=chosen) if ds is not None and chosen else None

        late = {mode: part for mode, ds in self.late.items() if (part := kept(ds)) is not None}
        sinks = {name: ds for name, ds in self.sinks.items() if name in models}
        found = replace(self, traces=kept(self.traces), null=kept(self.null), effects=kept(self.effects))
        return replace(found, late=late, sinks=sinks, beside=())

    def by_kind(self) -> dict[str, Evidence]:
        """The evidence by kind of model, the kind that decides first."""
        names = {kind: [name for name in self.models if kind_of(name) == kind] for kind in KINDS}
        found = {kind: self.only(models) for kind, models in names.items() if models}
        for one in self.beside:
            found = {**one.by_kind(), **found}
        return {kind: found[kind] for kind in KINDS if kind in found}


@dataclass(frozen=True)
class Choice:
    """What a judge could have done otherwise; the defaults decide, the others are told as robustness.

    row             attention row
    null            what heads have to exceed: "untrained and white", "untrained", "white", "every key" (the first token
                    and sinks among the keys)
    concentration   which reading of it
    weighting       "benchmarks": each counts once; "questions": each question does
    layers          "all" or "without the first"
    """

    row: str = ROW
    null: str = "untrained and white"
    concentration: str = "concentration"
    weighting: str = "benchmarks"
    layers: str = "all"


READINGS = {"concentration": 1, "focus_nats": 1, "top_share": 1, "spatial_entropy": -1}
"""Readings of concentration, and the sign with which they tell it."""
OTHERWISE: dict[str, tuple[str, ...]] = {
    "row": ("first_generated",),
    "null": ("untrained", "white", "every key"),
    "concentration": tuple(name for name in READINGS if name != "concentration"),
    "weighting": ("questions",),
    "layers": ("without the first",),
}
"""The other options of every choice."""


def kind_of(model: str) -> str:
    """Whether a model is a miniature, an adapter on a real language model, or a checkpoint."""
    card = cards().get(model)
    if card is not None and card.joined:
        return JOINED
    return MINIATURES if (card is not None and card.miniature) or model.startswith("mini-") else CHECKPOINTS


def has(ds: xr.Dataset | None, *variables: str) -> bool:
    """Whether there is a dataset, and with these variables."""
    return ds is not None and all(name in ds for name in variables)


def in_row(ds: xr.Dataset, choice: Choice) -> str | None:
    """The `query` to ask a dataset for; None where it holds that row alone."""
    rows = np.atleast_1d(ds["query"].values).astype(str).tolist() if "query" in ds.coords else [choice.row]
    return choice.row if "query" in ds.dims or set(rows) != {choice.row} else None


def sums_of(part: xr.Dataset, measure: str, choice: Choice) -> PictureSums:
    """A measure of one model summed by picture, over heads one after the other.

    Raises ParameterError where samples are of several attention rows, or of another one than is judged.
    """
    return picture_sums(sample_scores(part, measure, query=in_row(part, choice)).isel(model=0))


def stacked(each: Sequence[Callable[[Draws], np.ndarray]]) -> Statistic:
    """The statistics of several models as one: values (model, replicate)."""
    return lambda draws: np.stack([one(draws) for one in each])
