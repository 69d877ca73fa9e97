"""What the claims are judged by: traces, sweeps, effects, text lists; each may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import xarray as xr

from visualheads.catalog import cards
from visualheads.claims.verdicts import names_of
from visualheads.comparison import scored_statistics


@dataclass(frozen=True, eq=False)
class Evidence:
    """Datasets in memory. What is None or empty makes the claims that need it not testable.

    traces          all models' traces, white pictures included (`survey.traced`)
    sweeps          sweeps of `protocol.protocol_sets` by mode and positions, such as "zero, all"
    effects         effects of single heads (`effects.head_effects`), on the models of `traces`
    untrained       traces of untrained networks of the same shapes, under the names of the trained models
    further         the traces with those of further trainings (other seeds, less data): controls of claims 7 and 13
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
        datasets = [self.traces, self.effects, *self.sweeps.values()]
        return list(dict.fromkeys(name for ds in datasets if ds is not None for name in names_of(ds)))

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
        known = cards()
        small = [(name in known and known[name].miniature) or name.startswith("mini-") for name in self.models]
        return "in miniature" if small and all(small) else ""
