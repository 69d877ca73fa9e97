"""Text for the page about sinks, from the tables that its figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.sinks import BY_ATTENTION, MASSIVE, OUTLIERS, VARIANTS
from visualheads.book.prose.comparison import missing
from visualheads.book.prose.steering import WIDENED
from visualheads.book.prose.words import between, code, counted, listed, percent, table
from visualheads.charts.labels import POSITIONS
from visualheads.charts.sinks import MODES
from visualheads.models.sinks import SINK_THRESHOLD, SINK_THRESHOLD_HIDDEN
from visualheads.studies.evidence import FEWEST_SAMPLES
from visualheads.studies.sink_finding import DRAWN, SHARE

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
            + "none is found in a short text (next section), so no token carries the mark of a sink. Something else is "
            "marked instead: in every picture the background patches – those that meet no labelled object – that draw "
            f"most attention from all heads together in the last prompt token's row, {percent(SHARE)} of all, in whole "
            "patches. "
            "What heads give them is judged in another row, the first generated token's. They need not be sinks, and "
            "what they explain is no bound on what sinks do: one on an object escapes, and one of few heads may."
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
    lines, apart, beside = [], {}, []
    for model, part in activations.groupby("model", sort=False):
        known = str(found[str(model)]["sink_dimensions"].values[0])
        cells = []
        for measure in OUTLIERS.values():
            own = part[part["measure"] == measure]
            best = own.loc[own["value"].idxmax()]
            cells.append(f"{best['value']:.2f} (dimension {int(best['dimension'])}, {best['part']})")
        both = part[part["measure"] == OUTLIERS["both"]]
        above = both[both["value"] > 1]
        if not known and len(above):
            beside.append(f"{code(str(model))} ({_where(above)})")
        elif not known:
            apart[code(str(model))] = float(both["value"].max())
        lines.append((code(str(model)), known or "none", *cells))
    header = ("model", "sink dimensions", *(f"highest of {name} (where)" for name in OUTLIERS.values()))
    text = (
        table(header, lines)
        + "\n\nBoth numbers are in units of what a sink dimension must exceed: τ = 20·√(hidden size / 4096) after RMS "
        "normalisation (Kang et al., ICLR 2025), and 20 times the token's median magnitude (ours). A dimension at τ "
        f"holds {percent(SINK_THRESHOLD**2 / SINK_THRESHOLD_HIDDEN)} of its token's energy at every width, which is "
        "less unusual the fewer dimensions there are. A sink dimension exceeds both on one and the same token of a "
        "short text without a picture, between the layers of the model's second half, and on no more than half of the "
        "tokens. The table and the figure are of other prompts, those with pictures that were asked here, and of the "
        "five dimensions that come nearest to both on one token (there the lesser of the two counts); the highest "
        "strength and the highest multiple of the median may be of different tokens."
    )
    if apart:
        text += (
            f" In {listed(list(apart))} no token of these prompts exceeds both in any dimension of any layer's input: "
            f"the lesser of the two is {max(apart.values()):.2f} at most."
        )
    if beside:
        text += (
            f" In {listed(beside)} some token of these prompts exceeds both in one dimension, as none of the short "
            "text does; what brings that about is not known."
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
        + f"\n\nConcentrations are means of the most concentrated heads ({strongest}, chosen on these same pictures), "
        "with 95 % intervals over pictures. If the marked tokens made heads look concentrated, concentration would "
        "fall without them much more than without as many random background patches. The claim is decided on the page "
        "of claims, by models that have sink dimensions and from full stores alone, on other pictures than those on "
        "which the heads are chosen."
    )


def places(found: Mapping[str, xr.Dataset]) -> str:
    """How strong the marked tokens are, and whether they are always the same ones."""
    if not found:
        return missing(NOTHING, False)
    lines, kinds = [], {_definition(ds) for ds in found.values()}
    for model, ds in found.items():
        one = ds.isel(model=0)
        drawn, marks = one["drawn"].values, one["sink"].values.astype(bool)
        highest = float(np.nanmax(drawn[marks])) if marks.any() else float("nan")
        reach = int((marks & (np.nan_to_num(drawn) >= DRAWN)).sum())
        often = float(np.nanmax(one["sink_map"].values))
        lines.append((
            code(model), f"{highest:.1f}" if marks.any() else "–", f"{float(np.nanmax(drawn)):.1f}", str(reach),
            percent(often), percent(float(np.nanmean(one["sink_map"].values))),
        ))  # fmt: skip
    header = (
        "model", "strongest marked token draws", "strongest of all", f"marked ones from {DRAWN:g} on",
        "most often marked cell", "mean cell",
    )  # fmt: skip
    text = (
        table(header, lines)
        + "\n\nWhat a token draws, in the last prompt token's row, is told as a multiple of an even share of the "
        f"attention on patches. A sink would draw many times an even share: from {DRAWN:g} on one might call a "
        "background patch a sink (ours). The cells are those of the whole picture, without tiles; marks without a "
        "preferred place would fall on each as often as on the mean cell."
    )
    if BY_ATTENTION in kinds:
        text += (
            " Where patches are marked by the attention that they draw, no background patch draws more than the "
            "strongest marked one: what draws more meets a labelled object."
        )
    return text


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
        told.append(f"less than {tokens} in {less} and more in {more} of {counted(len(part), 'comparison')}")
    where = listed([POSITIONS.get(str(name), str(name)) for name in sorted(set(found["positions"]))])
    return (
        table(header, lines)
        + f"\n\nHeads were changed at these positions: {where}. Losses with 95 % intervals, paired over pictures; a "
        f"loss below 0 means that answers were better. {WIDENED} Random tokens are as many as are marked in each "
        f"picture, averaged over {span} draws; random image tokens are any other patches, those on objects included. "
        f"Of margin, the marked tokens cost {listed(told)}, counted where the whole interval of the difference, paired "
        "over pictures, lies on that side of 0. About one in forty would lie on either side by the chance of the "
        "pictures alone; which tokens were drawn at random adds to it."
    )


def _where(above: pd.DataFrame) -> str:
    """Dimensions, tokens and layers of activations."""
    told = []
    for (dimension, part), own in above.groupby(["dimension", "part"], sort=False):
        layers = sorted(own["layer"].unique().tolist())
        whole = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
        numbers = f"{layers[0]} to {layers[-1]}" if whole else listed([str(layer) for layer in layers])
        told.append(f"dimension {dimension} of {part} at the input of layer{'s' * (len(layers) > 1)} {numbers}")
    return "; ".join(told)


def _definition(ds: xr.Dataset) -> str:
    return str(ds["definition"].values[0])


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
