"""Text for the figures with one mark per head."""

from __future__ import annotations

import numpy as np
import xarray as xr

from visualheads.analysis import head_tables
from visualheads.book.prose.words import agreeing, between, counted, listed, percent
from visualheads.errors import HeadError
from visualheads.heads.agreement import agreement
from visualheads.heads.nulls import fit_mixture
from visualheads.heads.ranking import rank
from visualheads.store.variables import STAGES

TOP_SHARE = 0.1
"""Share of the heads called strongest in sentences."""
CLAIMED = 0.5
"""Probability from which a component of a mixture claims a head: it is the likelier one."""


def head_map(ds: xr.Dataset, query: str = head_tables.QUERY) -> str:
    """The spread over heads, and the strongest by image and by region weight."""
    table = head_tables.head_table(ds, ["image_weight", "region_weight", "region_lift", "image_log_odds"], query)
    best = table.loc[table["image_weight"].idxmax()]
    weights = table["image_weight"]
    n, preferring = head_tables.view(ds, query).sizes["sample"], heads_preferring(ds, query)
    text = (
        f"Over {n} prompts, the {len(table)} heads put between {percent(float(weights.min()))} and "
        f"{percent(float(weights.max()))} of "
        f"their attention on the picture (median {percent(float(weights.median()))}). The strongest is "
        f"**{best['name']}** in the "
        f"{best['stage']} stage, with {percent(best['image_weight'])}. Against a head that looks everywhere alike "
        f"{counted(preferring, 'head')} of {len(table)} "
        f"{agreeing(preferring, 'looks at the picture more than its', 'look at the picture more than their')} share of "
        "tokens (image log-odds above 0)."
    )
    if table["region_weight"].notna().any():
        region = table.loc[table["region_weight"].idxmax()]
        text += (
            f" On the asked object itself **{region['name']}** puts most: {percent(region['region_weight'])} of all "
            "its attention, "
            f"{region['region_lift']:.1f} times what an even look over the picture would give."
        )
        text += (
            " It is also the head that looks at pictures most."
            if region["name"] == best["name"]
            else " It is another head: *how much* of the picture a head looks at, and *where*, are two questions."
        )
    return text


def weight_concentration(ds: xr.Dataset, query: str = head_tables.QUERY) -> str:
    """Rank correlation of weight and concentration over heads, with interval, and within layers."""
    told = agreement(ds, by=["image_weight", "concentration"], query=query).isel(model=0)
    pair = {"ranking": "image_weight", "other": "concentration"}
    rho, within = float(told["spearman"].sel(pair)), float(told["spearman_within_layer"].sel(pair))
    low, high = (float(told["spearman_interval"].sel(pair).sel(bound=bound)) for bound in ("lower", "upper"))
    table = head_tables.head_table(ds, ["image_weight", "concentration", "effective_patches"], query)
    focus = table.loc[table["concentration"].idxmax()]
    direction = "rises" if low > 0 else "falls" if high < 0 else "neither clearly rises nor falls"
    depth = (
        "so depth alone does not make it"
        if within * rho > 0 and abs(within) >= abs(rho) / 2
        else "so most of the relation over all heads is one of depth"
    )
    return (
        f"Over heads, concentration {direction} with image weight: Spearman ρ = {rho:.2f} (95 % interval "
        f"{between(low, high)}, over pictures). After removing each layer's mean, ρ = {within:.2f}, {depth}. The most "
        f"concentrated head is **{focus['name']}**: its attention within the picture is as narrow as an even look at "
        f"{focus['effective_patches']:.1f} patches, while it puts {percent(focus['image_weight'])} of its attention "
        "there."
    )


def top_heads(ds: xr.Dataset, by: str = "image_weight", n: int = 16, query: str | None = None) -> str:
    """How clear the order of the best heads is."""
    table = head_tables.ranking_table(ds, by, n, query)
    first = table.iloc[0]
    tied = table[table["upper"] >= first["lower"]]["name"].tolist()
    counts = {stage: int((table["stage"] == stage).sum()) for stage in STAGES}
    stages = [f"{count} {agreeing(count, 'is', 'are')} {stage}" for stage, count in counts.items() if count]
    more = " and more" if len(tied) > 6 else ""
    clear = (
        f"No other head's interval reaches that of **{first['name']}**"
        if len(tied) == 1
        else f"The intervals of {listed(tied[:6])}{more} overlap: their order is not settled"
    )
    return (
        f"{clear} (the mean of {first['name']} is {first['estimate']:.3f}, "
        f"{between(first['lower'], first['upper'], 3)}). Of these {len(table)} heads, {listed(stages)}. Intervals are "
        "drawn over pictures, since prompts about one picture are not independent."
    )


def stage_profile(ds: xr.Dataset, query: str = head_tables.QUERY, model: str | None = None) -> str:
    """Where in depth the picture is looked at, by mean and by the strongest heads."""
    table = head_tables.head_table(ds, ["image_weight"], query, model)
    means = table.groupby("stage", sort=False)["image_weight"].mean()
    told = listed([f"{percent(float(means[stage]))} in the {stage} stage" for stage in STAGES if stage in means])
    counts = strongest_by_stage(ds, query, model)
    where = listed([f"{count} {agreeing(count, 'is', 'are')} {stage}" for stage, count in counts.items()])
    return (
        f"The mean image weight of a head is {told}. Of the strongest {counted(sum(counts.values()), 'head')} (a "
        f"tenth), {where}. "
        f"A layer has {table.groupby('layer').size().iloc[0]} heads, and its mean hides how far they differ: over all "
        f"heads from {percent(float(table['image_weight'].min()))} to {percent(float(table['image_weight'].max()))}."
    )


def strongest_by_stage(ds: xr.Dataset, query: str = head_tables.QUERY, model: str | None = None) -> dict[str, int]:
    """How many of the strongest tenth of the heads each stage holds."""
    table = head_tables.head_table(ds, ["image_weight"], query, model)
    best = table.nlargest(max(1, round(TOP_SHARE * len(table))), "image_weight")
    return {stage: int((best["stage"] == stage).sum()) for stage in STAGES}


def query_agreement(ds: xr.Dataset, queries: tuple[str, str] = ("first_generated", "last_prompt")) -> str:
    """How far the two attention rows rank heads alike."""
    lines = [
        f"{name.replace('_', ' ')} ρ = {rho:.2f} (top tenth shared: {percent(shared)})"
        for name, (rho, shared) in row_agreement(ds, queries).items()
    ]
    return (
        "Rank correlation over heads between the row of the first generated token and that of the last prompt "
        f"token: {listed(lines)}. "
        "The first row is the one the authors' code reads; the second is the one that produces the answer. Where "
        "they disagree, a "
        "ranking of heads depends on this choice."
    )


def row_agreement(
    ds: xr.Dataset, queries: tuple[str, str] = ("first_generated", "last_prompt")
) -> dict[str, tuple[float, float]]:
    """Per measure: Spearman over heads between two rows, and the share of the top tenth they have in common."""
    found = {}
    for name in ("image_weight", "region_weight", "concentration"):
        one, other = (head_tables.head_table(ds, [name], query)[name] for query in queries)
        if one.notna().sum() < 3 or other.notna().sum() < 3:
            continue
        k = max(1, round(TOP_SHARE * len(one)))
        shared = len(set(one.nlargest(k).index) & set(other.nlargest(k).index)) / k
        found[name] = (float(one.rank().corr(other.rank())), shared)
    return found


def heads_above(above: xr.Dataset) -> tuple[int, int]:
    """How many heads lie above the null, and how many were tested."""
    return int(above["above_null"].isel(model=0).sum()), int(np.isfinite(above["excess"].isel(model=0).values).sum())


def heads_preferring(ds: xr.Dataset, query: str = head_tables.QUERY) -> int:
    """How many heads put more attention on the image tokens than an even look over all tokens would, in the mean."""
    return int((head_tables.head_table(ds, ["image_log_odds"], query)["image_log_odds"] > 0).sum())


def nulls(above: xr.Dataset, alone: xr.Dataset | None = None) -> str:
    """How many heads look at pictures more than at white ones, from `vh.above_null`.

    alone: that against white pictures, where `above` is against an untrained network too.
    """
    count, total = heads_above(above)
    white = count if alone is None else heads_above(alone)[0]
    largest = float(np.nanmax(above["excess"].values))
    text = (
        f"Against the same prompts with a **white picture**, {white} of {total} heads "
        f"{agreeing(white, 'looks', 'look')} at the image tokens more when there is something to see (image log-odds, "
        "one-sided test over pictures, 5 % false discovery rate). A head that is not among them may have a "
        "high image weight all the same: as far as this test tells, it attends to where pictures stand, whatever they "
        "show."
    )
    if alone is None:
        return f"{text} The largest difference is {largest:.2f} nats."
    fewer = white - count
    others = (
        f": {counted(fewer, 'head')} {agreeing(fewer, 'attends', 'attend')} to what a picture shows, but "
        f"{agreeing(fewer, 'gives', 'give')} all its tokens together not clearly more than heads that have learned "
        "nothing"
    )
    return (
        f"{text} Against the strongest head of an **untrained network** of the same shape as well, {count} of {total} "
        f"{agreeing(count, 'does', 'do')}{others if fewer else ''}. The largest difference, from whichever of the two "
        f"is nearer, is {largest:.2f} nats."
    )


def mixture(ds: xr.Dataset, above: xr.Dataset, query: str = head_tables.QUERY) -> str:
    """What a mixture of two components says beside the threshold count of `above`, from `vh.above_null`.

    Fitted to the heads' mean image log-odds; a head is claimed where the upper component is the likelier one.
    """
    odds = rank(ds, "image_log_odds", query=query).isel(model=0).transpose("layer", "head").values.ravel()
    try:
        found = fit_mixture(odds)
    except HeadError:
        return "A mixture of two components cannot be fitted to so few different log-odds of heads."
    claimed = found.upper_probability(odds) > CLAIMED
    beyond = above["above_null"].isel(model=0).transpose("layer", "head").values.ravel()
    count, total = heads_above(above)
    text = (
        f"Beside this threshold, two normal components were fitted to the mean image log-odds of the heads: the lower "
        f"one has its mean at {found.mean[0]:+z.2f} nats (deviation {found.deviation[0]:.2f}), the upper one at "
        f"{found.mean[1]:+z.2f} ({found.deviation[1]:.2f}). The upper component claims {int(claimed.sum())} of "
        f"{int(np.isfinite(odds).sum())} heads (probability above {CLAIMED:g}), the threshold {count} of {total}; "
        f"{int((claimed & beyond).sum())} {agreeing(int((claimed & beyond).sum()), 'is', 'are')} named by both. "
    )
    text += (
        f"Two components fit better than one (BIC lower by {found.bic_gain:.1f})"
        if found.bic_gain > 0
        else f"Two components fit no better than one (BIC higher by {-found.bic_gain:.1f}): the heads do not fall into "
        "two groups, and the number that the upper one claims counts nothing"
    )
    if found.bic_gain > 0 and found.mean[1] <= 0:
        text += (
            ", but the upper one's mean does not lie above 0, where a head looks everywhere alike: what the fit sets "
            "apart are heads that look away from pictures, and the upper one is no group of visual heads"
        )
    higher = int((odds[~claimed] > odds[claimed].min()).sum()) if claimed.any() else 0
    if higher:
        text += (
            f". {counted(higher, 'head')} with higher log-odds than some claimed one {agreeing(higher, 'is', 'are')} "
            "given to the lower component, which is wide"
        )
    return f"{text}."
