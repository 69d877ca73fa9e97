"""What the claims are judged by: traces, sweeps, effects, text lists; each may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import scored_statistics
from visualheads.analysis.subset import models_of
from visualheads.cards import cards


@dataclass(frozen=True, eq=False)
class Evidence:
    """Datasets in memory. What is None or empty makes the claims that need it not testable.

    traces          all models' traces, white pictures included (`survey.traced`)
    sweeps          sweeps of `protocol.protocol_sets` by mode and positions, such as "zero, all"
    effects         effects of single heads (`effects.head_effects`), on the models of `traces`
    untrained       traces of untrained networks of the same shapes, under the names of the trained models
    further         the traces with those of further trainings (other seeds, less data): controls of claim 7
    text            traced lists by text-only model (`miniatures.text_heads`), and of fresh networks
    grown_from      text-only model of each tuned model
    sinks           what stands for sinks in models without sink dimensions, by model (`sink_finding.find`)
    """

    traces: xr.Dataset | None = None
    sweeps: Mapping[str, xr.Dataset] = field(default_factory=dict)
    effects: xr.Dataset | None = None
    untrained: xr.Dataset | None = None
    further: xr.Dataset | None = None
    text: Mapping[str, xr.Dataset] = field(default_factory=dict)
    text_untrained: Mapping[str, xr.Dataset] = field(default_factory=dict)
    grown_from: Mapping[str, str] = field(default_factory=dict)
    sinks: Mapping[str, xr.Dataset] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Every model that appears."""
        datasets = [self.traces, self.further, self.effects, *self.sweeps.values()]
        return list(dict.fromkeys(name for ds in datasets if ds is not None for name in models_of(ds)))

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """`comparison.scored_statistics` of the traces, for the claims that compare models."""
        assert self.traces is not None
        return scored_statistics(self.traces)

    @property
    def every_training(self) -> xr.Dataset | None:
        """`further` where there is any, else the traces."""
        return self.traces if self.further is None else self.further

    @property
    def scope(self) -> str:
        """ "in miniature" where all models are miniatures, else ""."""
        return "in miniature" if self.models and all(is_miniature(name) for name in self.models) else ""

    def only(self, small: bool) -> Evidence:
        """The evidence about miniatures alone, or about all other models alone."""

        def kept(ds: xr.Dataset | None) -> xr.Dataset | None:
            chosen = [] if ds is None else [name for name in models_of(ds) if is_miniature(name) == small]
            return ds.sel(model=chosen) if ds is not None and chosen else None

        sweeps = {mode: kept(sweep) for mode, sweep in self.sweeps.items()}
        return replace(
            self,
            traces=kept(self.traces),
            sweeps={mode: sweep for mode, sweep in sweeps.items() if sweep is not None},
            effects=kept(self.effects),
            untrained=kept(self.untrained),
            further=kept(self.further),
            sinks={name: ds for name, ds in self.sinks.items() if is_miniature(name) == small},
        )


def is_miniature(name: str) -> bool:
    """Whether a model is one of the miniatures, or a further training of one, by its name."""
    card = cards().get(name)
    return bool(card and card.miniature) or name.startswith("mini-")
