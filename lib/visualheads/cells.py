"""Rankings against effects in every cell: model, benchmark, mode and kind of effect. Numpy and xarray."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.agreement import spearman, top_k_overlap
from visualheads.causes import ATTRIBUTION, EFFECT, MAIN_TASK, Lists, effects_of
from visualheads.comparison import of_model
from visualheads.confronted import AGREEMENT_COLUMNS, N_BOOT, Case, in_format, ranking_agreements
from visualheads.rankings import head_count

CELL = ("mode", "task", "effect")
GUESS_COLUMNS = ("model", "guess", "spearman", "overlap", "chance", "r2")


def agreement_by_cell(
    traces: xr.Dataset, sweeps: Mapping[str, xr.Dataset], attributed: xr.Dataset | None = None,
    lists: Lists | None = None, n_boot: int = N_BOOT,
) -> pd.DataFrame:  # fmt: skip
    """`ranking_agreement` in every mode, on every benchmark and by every effect: columns CELL in front of its own.

    mode     as in `sweeps`; task: the benchmark, with its format where it was asked in several
    effect   "margin", "KL" (what changes without the head alone) or "many" (its share when many go at once, in the
             mode of `attributed`)
    """
    places: dict[tuple[str, str], dict[tuple[str, str, str], Case]] = {}
    for mode, sweep in sweeps.items():
        for task, form in _asked(sweep):
            main = task == MAIN_TASK and form == "free"
            effects, cases = effects_of(sweep, task, form), places.setdefault((task, form), {})
            label = task if form == "free" or task != MAIN_TASK else f"{task}, {form}"
            cases[mode, label, "margin"] = (effects, EFFECT)
            if main:
                cases[mode, label, "KL"] = (effects, "effect_kl")
            if main and attributed is not None and mode == _mode_of(attributed):
                cases[mode, label, "many"] = (attributed, ATTRIBUTION)
    parts = []
    for (task, form), cases in places.items():
        named = {str(number): case for number, case in enumerate(cases.values())}
        cells = pd.DataFrame(list(cases), columns=list(CELL), index=list(named))
        for name in np.atleast_1d(traces["model"].values).astype(str).tolist():
            own = of_model(traces, name, task)
            if own.sizes["sample"]:
                found = ranking_agreements(in_format(own, form), named, lists, n_boot=n_boot)
                parts.append(found.join(cells, on="case"))
    columns = [*CELL, *AGREEMENT_COLUMNS]
    if not parts:
        return pd.DataFrame(columns=columns)
    whole = pd.concat(parts, ignore_index=True)
    order = {mode: place for place, mode in enumerate(sweeps)}
    return whole.sort_values("mode", key=lambda mode: mode.map(order), kind="stable", ignore_index=True)[columns]


def best_rankings(cells: pd.DataFrame) -> pd.DataFrame:
    """The best ranking of every model and cell: columns CELL, model, ranking, spearman, lower, upper, runner_up, and
    `sure`: whether its interval lies above the estimate of the second."""
    rows = []
    for key, part in cells.groupby([*CELL, "model"], sort=False):
        ordered = part.sort_values("spearman", ascending=False)
        best, second = ordered.iloc[0], (ordered.iloc[1] if len(ordered) > 1 else None)
        rows.append({
            **dict(zip((*CELL, "model"), key, strict=True)),  # pyright: ignore[reportArgumentType]
            **{name: best[name] for name in ("ranking", "spearman", "lower", "upper")},
            "runner_up": "" if second is None else second["ranking"],
            "sure": second is None or bool(best["lower"] > second["spearman"]),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=[*CELL, "model", "ranking", "spearman", "lower", "upper", "runner_up", "sure"])


def guesses(sweep: xr.Dataset | None, attributed: xr.Dataset | None) -> pd.DataFrame:
    """How well cheap guesses find the exact effect of each head alone: one row per model and guess.

    guess      "gradient screen" (first order) or "many at once" (linear attribution from random subsets)
    spearman, overlap, chance   with the exact effects, over heads; r2 of the linear attribution on held-out subsets
    """
    effects = effects_of(sweep)
    rows = []
    for name in [] if effects is None else effects["model"].values.astype(str):
        assert effects is not None and sweep is not None
        exact = effects.sel(model=name)[EFFECT].mean("sample").values.ravel()
        found: dict[str, tuple[xr.DataArray, float]] = {}
        if "screen_margin" in sweep:
            found["gradient screen"] = (sweep["screen_margin"].sel(model=name), float("nan"))
        if attributed is not None and name in attributed["model"].values.astype(str):
            one = attributed.sel(model=name)
            found["many at once"] = (one[ATTRIBUTION], float(one["r2"]))
        for guess, (values, r2) in found.items():
            guessed = values.mean("sample").transpose("layer", "head").values.ravel()
            both = np.isfinite(exact) & np.isfinite(guessed)
            if both.sum() < 3:
                continue
            pair, k = np.stack([exact[both], guessed[both]]), head_count(int(both.sum()))
            rows.append({
                "model": name, "guess": guess, "spearman": float(spearman(pair)[0, 1]),
                "overlap": float(top_k_overlap(pair, k)[0, 1]), "chance": k / int(both.sum()), "r2": r2,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(GUESS_COLUMNS))


def _mode_of(attributed: xr.Dataset) -> str:
    """The mode and positions of a sweep that heads' shares come from, as sweeps are named."""
    return ", ".join(str(np.atleast_1d(attributed[name].values)[0]) for name in ("mode", "positions"))


def _asked(sweep: xr.Dataset) -> list[tuple[str, str]]:
    tasks, forms = (sweep[name].values.astype(str).tolist() for name in ("task", "format"))
    return sorted(set(zip(tasks, forms, strict=True)), key=lambda pair: (pair[0] != MAIN_TASK, pair))
