"""Text for the page about sinks, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.charts.sinks import MODES
from visualheads.claims.gather import FEWEST_SAMPLES
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, counted, listed, percent, table
from visualheads.sink_finding import BY_ATTENTION, DRAWN, MASSIVE, SHARE
from visualheads.sink_tables import OUTLIERS, VARIANTS

NOTHING = "no shipped miniature was traced on LookTwice, so no sinks were looked for"


def protocol(found: Mapping[str, Mapping[str, xr.Dataset]]) -> str:
    """What was looked at, and what counts as a sink in which model."""
    sinks = found["sinks"]
    if not sinks:
        return missing(NOTHING, False)
    few = {name: ds.sizes["sample"] for name, ds in sinks.items() if ds.sizes["sample"] < FEWEST_SAMPLES}
    asked = max(ds.sizes["sample"] for ds in sinks.values())
    kinds = {kind: [name for name, ds in sinks.items() if _definition(ds) == kind] for kind in (MASSIVE, BY_ATTENTION)}
    but = listed([f"{number} in {code(name)}" for name, number in few.items()]) if len(few) < len(sinks) else ""
    text = f"{counted(asked, 'question')} a model" + (f" ({but})" if but else "")
    text += f": {listed([code(name) for name in sinks])}."
    if kinds[MASSIVE]:
        text += (
            f" In {listed([code(name) for name in kinds[MASSIVE]])} tokens are marked as sinks where a sink dimension "
            "is massive at the input of any layer."
        )
    if kinds[BY_ATTENTION]:
        who = [code(name) for name in kinds[BY_ATTENTION]]
        none = len(who) > 1 and len(who) == len(sinks)
        text += (
            (" None of them has a sink dimension: " if none else f" {listed(who)} {_have(who)} no sink dimension: ")
            + "none meets both criteria of the next section in text, so no token carries the mark of a sink. The "
            "nearest thing is marked instead: in every "
            f"picture the background patches – those that meet no labelled object – that draw most attention from all "
            f"heads together, {percent(SHARE)} of all patches. What these explain is the most that patches which all "
            "heads favour could explain; a sink of one head alone, or one on an object, would escape."
        )
    if few:
        where = f" in {listed([code(name) for name in few])}" if but else ""
        text += (
            f"\n\n**This is the reduced protocol**{where}: fewer than {FEWEST_SAMPLES} questions. Its intervals are "
            "wide, and no verdict on claim 9 comes from it; `make book FULL=1` runs all of it."
        )
    return text


def dimensions(found: Mapping[str, xr.Dataset], activations: pd.DataFrame) -> str:
    """Which dimensions mark sinks, and how near the others come."""
    if activations.empty:
        return missing(NOTHING, False)
    lines, ratio_fails, only_seen = [], {}, []
    for model, part in activations.groupby("model", sort=False):
        known = str(found[str(model)]["sink_dimensions"].values[0])
        cells = []
        for measure in OUTLIERS.values():
            own = part[part["measure"] == measure]
            best = own.loc[own["value"].idxmax()]
            cells.append(f"{best['value']:.2f} (dimension {int(best['dimension'])}, {best['part']})")
        highest = part.groupby("measure")["value"].max()
        if not known and highest[OUTLIERS["outlier"]] > 1 > highest[OUTLIERS["ratio"]]:
            ratio_fails[str(model)] = highest[OUTLIERS["ratio"]]
        elif not known and highest.min() > 1:
            only_seen.append(str(model))
        lines.append((code(str(model)), known or "none", *cells))
    header = ("model", "sink dimensions", "highest strength (where)", "highest times the median (where)")
    text = (
        table(header, lines)
        + "\n\nBoth numbers are in units of what a sink dimension must reach, on one and the same token: τ = 20·√("
        "hidden size / 4096) after RMS normalisation (Kang et al., ICLR 2025), and 20 times the token's median "
        "magnitude (ours). The table and the figure are of the prompts with pictures that were asked here; which "
        "dimensions are a model's sink dimensions is told by a short text without a picture, as they are the language "
        "model's."
    )
    if ratio_fails:
        most = percent(max(ratio_fails.values()))
        text += (
            f" In {listed([code(name) for name in ratio_fails])} some token exceeds τ, which is low in so narrow a "
            f"network, but no dimension reaches 20 times its token's median ({most} of that at most): activations are "
            "uneven, not massive."
        )
    if only_seen:
        text += (
            f" In {listed([code(name) for name in only_seen])} both are exceeded with pictures, but by no dimension on "
            "one token of the short text: what is massive there comes with the picture, and marks no token of the "
            "language model's own."
        )
    return text


def shares(found: Mapping[str, xr.Dataset], heads: pd.DataFrame, focus: pd.DataFrame) -> str:
    """How much of the image weight lies on the marked tokens, and what concentration is without them (claim 9)."""
    if heads.empty:
        return missing(NOTHING, False)
    lines = []
    for model, part in heads.groupby("model", sort=False):
        one = found[str(model)].isel(model=0)
        best = part.loc[part["sink_share"].idxmax()] if part["sink_share"].notna().any() else None
        own = focus[(focus["model"] == model) & (focus["heads"] != "all")].set_index("variant")
        cells = [
            f"{own.loc[words, 'estimate']:.3f} ({between(own.loc[words, 'lower'], own.loc[words, 'upper'], 3)})"
            for words in VARIANTS.values()
        ]
        marked = one["sink"].values.sum() / max(1, one["patch"].values.sum())
        lines.append((
            code(str(model)), percent(marked), percent(float(part["sink_share"].mean())),
            f"{best['name']} ({percent(best['sink_share'])})" if best is not None else "–", *cells,
        ))  # fmt: skip
    names = [f"concentration {words}" for words in VARIANTS.values()]
    header = ("model", "tokens marked", "share of image weight, mean head", "most", *names)
    strongest = listed(sorted({str(name) for name in focus["heads"] if name != "all"}))
    return (
        table(header, lines)
        + f"\n\nConcentrations are means of the most concentrated heads ({strongest}), with 95 % intervals over "
        "pictures. If sinks made heads look concentrated, concentration would fall without the marked tokens much more "
        "than without as many random background patches. The claim is decided on the page of claims from full "
        "stores alone, on other pictures than those on which the heads are chosen."
    )


def places(found: Mapping[str, xr.Dataset]) -> str:
    """How strong the marked tokens are, and whether they are always the same ones."""
    if not found:
        return missing(NOTHING, False)
    lines = []
    for model, ds in found.items():
        one = ds.isel(model=0)
        drawn, marks = one["drawn"].values, one["sink"].values.astype(bool)
        highest = float(np.nanmax(drawn[marks])) if marks.any() else float("nan")
        reach = int((marks & (np.nan_to_num(drawn) >= DRAWN)).sum())
        often = float(np.nanmax(one["sink_map"].values))
        lines.append((
            code(model), f"{highest:.1f}" if marks.any() else "–", f"{float(np.nanmax(drawn)):.1f}", str(reach),
            percent(often),
        ))  # fmt: skip
    header = (
        "model", "strongest marked token draws", "strongest of all", f"marked ones above {DRAWN:g}",
        "most often marked cell",
    )  # fmt: skip
    return (
        table(header, lines)
        + "\n\nWhat a token draws is told as a multiple of an even share of the attention on the picture. A sink in "
        "the usual sense would draw many times an even share, in picture after picture at the same place; tokens that "
        "show objects do so because they are asked about."
    )


def removal(found: pd.DataFrame) -> str:
    """What removing or redistributing does, against as many other tokens."""
    if found.empty:
        return missing("no picture has a marked token, so nothing was removed", False)
    lines = []
    for (model, mode, heads), part in found.groupby(["model", "mode", "heads"], sort=False):
        cells = []
        for measure in ("accuracy", "margin"):
            scale, digits = (100, 0) if measure == "accuracy" else (1, 2)
            for row in part[part["measure"] == measure].itertuples():
                bounds = between(scale * row.lower, scale * row.upper, digits)
                known = row.lower == row.lower
                cells.append(f"{scale * row.estimate:z.{digits}f}" + (f" ({bounds})" if known else ""))
        lines.append((code(str(model)), MODES[str(mode)], heads, *cells))
    header = (
        "model", "what", "heads", "points lost: marked", "random image tokens", "random background",
        "margin lost: marked", "random image tokens", "random background",
    )  # fmt: skip
    draws = found["draws"][found["tokens"] != "the marked tokens"]
    span = str(draws.max()) if draws.min() == draws.max() else f"{draws.min()} to {draws.max()}"
    margin = found[(found["measure"] == "margin") & found["excess"].notna()]
    told = []
    for tokens, part in margin.groupby("tokens", sort=False):
        less, more = int((part["excess_upper"] < 0).sum()), int((part["excess_lower"] > 0).sum())
        told.append(f"than {tokens} clearly less in {less} and clearly more in {more} of {len(part)}")
    return (
        table(header, lines)
        + "\n\nLosses with 95 % intervals, paired over pictures; a loss below 0 means that answers were better. "
        "Random tokens are as many as are marked in each picture, averaged over "
        f"{span} draws. The marked tokens cost, of margin, {listed(told)} cases (intervals paired over pictures)."
    )


def _definition(ds: xr.Dataset) -> str:
    return str(ds["definition"].values[0])


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
