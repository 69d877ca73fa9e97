"""How a claim is decided: one number with an interval, a margin that decides for and against alike, and its power.

A claim has one or several parts. Each part is a statistic of drawn pictures; its interval comes from a bootstrap over
pictures, drawn alike for all models. Power comes from a second bootstrap inside the first: data sets of the same size
are drawn, shifted to a planted truth, and judged by the same rule. Below: what the claims are judged by, and the
choices that a judge makes on the way.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from visualheads.analysis.lineage import language_models
from visualheads.analysis.subset import models_of
from visualheads.cards import cards
from visualheads.heads.bootstrap import LEVEL, PictureSums, interval, picture_sums
from visualheads.heads.ranking import ROW, sample_scores

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NOT_TESTABLE = "not testable here"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_TESTABLE)
LEAST_POWER = 0.5
"""Power below which a claim is not testable here."""
SURER = 0.99
"""Level of the intervals of claims 2 and 8: 95 % ones supported a planted truth at the margin in 6 to 8 % of the data
sets."""
DRAWS, PLANTED, WITHIN = 500, 200, 200
"""Draws of pictures for an interval; planted data sets, and draws within each, for power."""
TRUTHS = (0.0, 1.0, 2.0)
"""What is planted, in margins."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Drawn pictures, the same for every statistic that asks for a pool of as many.

    n       replicates; 0: the pictures as they are, once
    within  draws, and the row of them, that is the data set from which these are drawn
    """

    n: int = 0
    seed: int = 0
    within: tuple[Draws, int] | None = None

    def rng(self, pool: str, pictures: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(pool.encode()), pictures])

    def of(self, pictures: int, pool: str = "") -> NDArray[np.float64]:
        """Weights (replicate, picture): how often each picture was drawn."""
        shares = np.full(pictures, 1 / pictures)
        if self.within is not None:
            outer, row = self.within
            shares = outer.of(pictures, pool)[row] / pictures
        if not self.n:
            return (shares * pictures)[None]
        return self.rng(pool, pictures).multinomial(pictures, shares, size=self.n).astype(np.float64)


Statistic = Callable[[Draws], NDArray[np.float64]]
"""Drawn pictures → values (unit, replicate)."""


@dataclass(frozen=True, eq=False)
class Part:
    """One number that a claim hangs on: the mean over language models of the means of their models.

    statistic   values (unit, replicate) of drawn pictures; units whose value is NaN do not count
    margin      what decides: the interval lies wholly on one side of it, or the part is undecided
    units, llm  models (or what else there is a value of), and the language model of each
    claimed     the side of the margin on which the claim is right
    alike       every unit counts once, instead of every language model
    drawn_llms  language models are what is drawn, not pictures: the interval is over them (t)
    """

    name: str
    statistic: Statistic
    margin: float
    units: Sequence[str]
    llm: Sequence[str]
    claimed: Literal["above", "below"] = "above"
    alike: bool = False
    drawn_llms: bool = False
    level: float = LEVEL

    @cached_property
    def each(self) -> NDArray[np.float64]:
        """Every unit's value."""
        return self.statistic(Draws())[:, 0]

    @cached_property
    def drawn(self) -> NDArray[np.float64]:
        """Every unit's values under drawn pictures (unit, draw)."""
        return self.statistic(Draws(DRAWS))

    def mean(self, values: NDArray[np.float64], without: str = "") -> NDArray[np.float64]:
        """Mean (replicate) of values (unit, replicate); `without`: a language model that is left out."""
        own = np.array(self.units if self.alike else self.llm)
        kept = np.isfinite(self.each) & (np.array(self.llm) != without)
        parts = [finite_mean(values[kept & (own == name)]) for name in dict.fromkeys(own[kept])]
        return finite_mean(np.array(parts)) if parts else np.full(values.shape[1], np.nan)

    @property
    def estimate(self) -> float:
        return float(self.mean(self.each[:, None])[0])

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The interval over pictures, or over language models."""
        if self.drawn_llms:
            return self.over_llms()[1:]
        return _bounds(self.estimate, self.mean(self.drawn), self.level)

    @property
    def label(self) -> str:
        return decided(*self.bounds, self.margin, self.claimed)

    def left_out(self, llm: str) -> tuple[float, float, float]:
        """Estimate and bounds without a language model."""
        estimate = float(self.mean(self.each[:, None], llm)[0])
        return estimate, *_bounds(estimate, self.mean(self.drawn, llm), self.level)

    def over_llms(self) -> tuple[float, float, float]:
        """Estimate and bounds as if the language models were drawn from many (t); unbounded for fewer than two."""
        means = self._of_llms()
        width = float(_half_width(means[None], self.level)[0])
        return self.estimate, self.estimate - width, self.estimate + width

    def _of_llms(self) -> NDArray[np.float64]:
        kept = np.isfinite(self.each)
        owner = np.array(self.llm)[kept]
        return np.array([self.each[kept][owner == name].mean() for name in dict.fromkeys(owner)])

    def _planted_llms(self) -> dict[float, NDArray[np.bool_]]:
        """`planted` of language models drawn from many (normal), as far apart as these are."""
        means = self._of_llms()
        noise = np.random.default_rng(1).normal(0, means.std(ddof=1) if len(means) > 1 else 0, (PLANTED, len(means)))
        width = _half_width(noise, self.level)
        means = {times: noise.mean(axis=1) + times * self.margin for times in TRUTHS}
        return {
            times: self._supported(list(zip(own - width, own + width, strict=True))) for times, own in means.items()
        }

    def table(self) -> pd.DataFrame:
        """One row per unit: unit, llm, part, estimate, lower, upper, margin."""
        rows = []
        for name, llm, value, drawn in zip(self.units, self.llm, self.each, self.drawn, strict=True):
            lower, upper = _bounds(float(value), drawn, self.level)
            rows.append(
                {"unit": name, "llm": llm, "part": self.name, "estimate": value, "lower": lower, "upper": upper}
            )
        return pd.DataFrame(rows).assign(margin=self.margin)

    @cached_property
    def planted(self) -> Mapping[float, NDArray[np.bool_]]:
        """Which of PLANTED data sets of this size support the part where 0, m and 2m are the truth: times m → data set.

        The data sets are the same pictures for all parts, so that parts can be asked together.
        """
        if self.drawn_llms:
            return self._planted_llms()
        outer = Draws(PLANTED, seed=1)
        estimates = self.mean(self.statistic(outer))
        inner = [self.mean(self.statistic(Draws(WITHIN, 2 + row, (outer, row)))) for row in range(PLANTED)]
        found = {}
        for times in TRUTHS:
            moved = estimates - finite_mean(self.mean(self.drawn)) + times * self.margin
            bounds = [_bounds(float(own), drawn, self.level) for own, drawn in zip(moved, inner, strict=True)]
            found[times] = self._supported(bounds)
        return found

    def _supported(self, bounds: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        return np.array([decided(low, high, self.margin, self.claimed) == SUPPORTED for low, high in bounds])

    def recall(self, planted: Sequence[str]) -> None:
        """Take what was simulated before, on the same numbers (`told_planted`)."""
        bits = [np.unpackbits(np.frombuffer(bytes.fromhex(one), dtype=np.uint8), count=PLANTED) for one in planted]
        vars(self)["planted"] = {times: one.astype(bool) for times, one in zip(TRUTHS, bits, strict=True)}

    @property
    def told_planted(self) -> list[str]:
        """`planted` in hexadecimal digits, by truth."""
        return [np.packbits(self.planted[times]).tobytes().hex() for times in TRUTHS]

    @property
    def found_right(self) -> NDArray[np.bool_]:
        """Which planted data sets support the part where it is right: at 2m, and at 0 for claims of no change."""
        return self.planted[2.0 if self.claimed == "above" else 0.0]


@dataclass(frozen=True, eq=False)
class Finding:
    """What a judge found: the parts of which a claim consists, and what is told beside them.

    Attributes
    ----------
    parts
        Numbers with their intervals and margins; none where the claim is not testable here.
    reason
        Why it is not.
    agree
        Parts are readings of one claim: it is decided only where all agree. Else all have to be supported, and one that
        is not supported decides against the claim.
    also, table
        Further numbers by name, and a table of them.
    planted, label
        How often the claim was supported where 0, 1 and 2 margins were planted, and what the intervals say, where these
        do not come from the parts.
    """

    parts: Sequence[Part] = ()
    reason: str = ""
    agree: bool = False
    also: Mapping[str, float] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    planted: Mapping[float, float] | None = None
    label: str = ""

    @property
    def by_interval(self) -> str:
        """What the intervals say, whatever the power."""
        labels = [part.label for part in self.parts]
        if self.reason or not all(np.isfinite([part.estimate, *part.bounds]).all() for part in self.parts):
            return NOT_TESTABLE
        if self.label:
            return self.label
        return agreed(labels) if self.agree else all_of(labels)

    @cached_property
    def power(self) -> float:
        """How often the claim is supported where it is right, all of its parts at once; NaN without parts."""
        if self.planted is not None:
            return self.planted[2.0]
        right = [part.found_right for part in self.parts]
        return float(np.all(right, axis=0).mean()) if right else float("nan")

    @property
    def false_support(self) -> float:
        """How often it is supported where the truth is the margin itself: of several parts the largest."""
        if self.planted is not None:
            return self.planted[1.0]
        return max((float(part.planted[1.0].mean()) for part in self.parts), default=float("nan"))

    @property
    def verdict(self) -> str:
        told = self.by_interval
        return told if told == NOT_TESTABLE or self.power >= LEAST_POWER else NOT_TESTABLE


def missing(what: str) -> Finding:
    """Not testable here, and why."""
    return Finding(reason=what)


def decided(lower: float, upper: float, margin: float = 0.0, claimed: str = "above") -> str:
    """Supported where the interval lies wholly on the claimed side of the margin, not supported where on the other."""
    if claimed == "below":
        lower, upper, margin = -upper, -lower, -margin
    if lower > margin:
        return SUPPORTED
    return NOT_SUPPORTED if upper < margin else UNDECIDED


def all_of(labels: Sequence[str]) -> str:
    """A claim that needs all of its parts."""
    if NOT_SUPPORTED in labels:
        return NOT_SUPPORTED
    return SUPPORTED if labels and all(one == SUPPORTED for one in labels) else UNDECIDED


def agreed(labels: Sequence[str]) -> str:
    """A claim of which the parts are readings."""
    return labels[0] if len(set(labels)) == 1 else UNDECIDED


def _half_width(means: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Half widths (replicate) of the intervals of means (replicate, language model); unbounded for fewer than two."""
    n = means.shape[1]
    if n < 2:
        return np.full(len(means), np.inf)
    return stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(means, axis=1)


def _bounds(estimate: float, drawn: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Percentiles of the draws about their own mean (`bootstrap.centred_interval` says why)."""
    lower, upper = interval(drawn[None], level)
    centre = float(np.nanmean(drawn)) if np.isfinite(drawn).any() else float("nan")
    return estimate + float(lower[0]) - centre, estimate + float(upper[0]) - centre


def finite_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is finite; NaN where nothing is."""
    there = np.isfinite(values)
    total, count = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


MAIN_TASK = "looktwice"
MINIATURES, JOINED, CHECKPOINTS = "miniatures", "adapters on a real language model", "checkpoints"
KINDS = (CHECKPOINTS, MINIATURES, JOINED)
"""Kinds of models, which are never pooled; the first one there decides, the others are judged beside it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Datasets in memory: what is None or empty makes the claims that need it not testable.

    Attributes
    ----------
    traces
        All models' traces, both attention rows, white pictures included (`analysis.models.traced`).
    null
        Heads of untrained networks of every model's shape, dimension `draw`.
    effects
        Whole and looking effects of every head, and `vhd` (model, layer, head, sample).
    late
        Sweeps of late heads on all benchmarks by mode.
    sinks
        Sink tokens, and concentration without them in both rows, by model (`studies.sinks.find`).
    moments
        The same heads before and after a language model learned to see, in both rows (`studies.three_moments`).
    text, grown_from
        Traced lists by text-only model (`text_heads.text_heads`), and which one a model came from.
    beside
        Evidence about models of other kinds, whose datasets lie apart.
    """

    traces: xr.Dataset | None = None
    null: xr.Dataset | None = None
    effects: xr.Dataset | None = None
    late: Mapping[str, xr.Dataset] = field(default_factory=dict)
    sinks: Mapping[str, xr.Dataset] = field(default_factory=dict)
    moments: xr.Dataset | None = None
    text: Mapping[str, xr.Dataset] = field(default_factory=dict)
    grown_from: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[Evidence, ...] = ()

    @cached_property
    def models(self) -> list[str]:
        """Every model that appears."""
        datasets = [self.traces, self.effects, *self.late.values()]
        return list(dict.fromkeys(name for ds in datasets if ds is not None for name in models_of(ds)))

    @cached_property
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

    def part(self, name: str, found: Mapping[str, Statistic], margin: float, **how: Any) -> Part:
        """A part of a claim over models, from the statistic of each."""
        llm = [self.llm.get(model, model) for model in found]
        return Part(name, stacked(list(found.values())), margin, list(found), llm, **how)

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
    """What a judge could have done otherwise: the defaults decide, the others are told as robustness.

    Attributes
    ----------
    row
        The attention row.
    null
        What heads have to exceed: "untrained and white", "untrained", "white", "every key" (the first token and sinks
        among the keys).
    concentration
        Which reading of it.
    weighting
        "benchmarks": each counts once; "questions": each question does.
    layers
        "all" or "without the first".
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


def stacked(each: Sequence[Statistic]) -> Statistic:
    """The statistics of several models as one: values (model, replicate)."""
    return lambda draws: np.stack([one(draws) for one in each])
