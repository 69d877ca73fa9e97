"""Head profiles of benchmarks, compared within one answer format: letters and free form make profiles differ too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.heads import patterns
from visualheads.heads.ranking import real_samples

BY = ("task", "format")
FORMATS = "answer format"
"""The kind of a pair of one benchmark's two formats: the yardstick for what the format alone makes."""


def pairs(told: xr.Dataset) -> pd.DataFrame:
    """One row per model and pair of `alike.group_agreement(ds, BY)` that has something in common (`alike.model_pairs`).

    kind: the answer format that two benchmarks have in common (`letters`, `free`), or FORMATS for one benchmark asked
    in both.
    """
    names = [str(name) for name in told["group"].values]
    kinds: dict[str, list[tuple[str, str]]] = {form: [] for form in dict.fromkeys(_parts(name)[1] for name in names)}
    kinds[FORMATS] = []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            (task, form), (other_task, other_form) = _parts(one), _parts(other)
            if form == other_form:
                kinds[form].append((one, other))
            elif task == other_task:
                kinds[FORMATS].append((one, other))
    return patterns.model_pairs(told, kinds)


def identified(ds: xr.Dataset) -> pd.DataFrame:
    """`alike.identified` of benchmarks among those asked in the same format, with the column `format` in front."""
    own, parts = real_samples(ds), []
    forms = np.atleast_1d(own["format"].values).astype(str)
    for form in dict.fromkeys(forms):
        found = patterns.identified(own.isel(sample=np.flatnonzero(forms == form)), "task")
        found.insert(0, "format", form)
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def _parts(group: str) -> tuple[str, str]:
    """`letters` of `mmbench` from `mmbench, letters`, the task first."""
    task, _, form = group.rpartition(", ")
    return task, form
