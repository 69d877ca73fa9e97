"""Text for the comparison of families, and the tables of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from visualheads.analysis.lineage import OTHER as OTHER_LLM
from visualheads.analysis.lineage import RETRAINED, SAME, SEED, descent
from visualheads.book.prose.words import between, code, escaped, listed, missing, percent, table
from visualheads.cards import Card
from visualheads.charts.labels import benchmark

NEEDS_SHAPE = "families need at least two models whose language models have the same layers and heads"


def variants(table: pd.DataFrame) -> str:
    """Which of the models are further trainings of another one, and what they are for; nothing where there are none.

    table: `lineage.lineage`.
    """
    told = []
    for name, row in table[table["variant"].astype(bool)].iterrows():
        if row["data_share"] < 1:
            what = f"tuned on {percent(row['data_share'])} of the data"
        elif row["seed"]:
            what = f"tuned again with seed {row['seed']}"
        else:
            what = f"grown from {code(row['text_model'])}, a second training of the language model"
        told.append(f"{code(str(name))} ({what})")
    if not told:
        return ""
    return (
        f"Further trainings: {listed(told)}. They tell chance and data from differences between models, and are never "
        "counted among the models compared; where pairs are counted, the text says how many hold one."
    )


def starts(table: pd.DataFrame, common: Sequence[Sequence[str]]) -> str:
    """Which language models of a `lineage.lineage` grew from the same random weights; nothing where none did.

    common: groups of text-only models, as of `architectures.common_starts`.
    """
    here = table.loc[~table["variant"].astype(bool), "text_model"]
    told = [listed([code(name) for name in names]) for names in common if set(names) <= set(here)]
    return "".join(
        f"\n\n{names} have one shape and one seed: they were trained apart, but from the same random weights. They "
        "count as different language models here, and models of them are more alike than such models elsewhere: the "
        "comparison with other language models is the stricter for it."
        for names in told
    )


def families(found: pd.DataFrame, kin: Mapping[str, float] | None, alone: Mapping[str, str] | None = None) -> str:
    """Do models of one language model share their visual heads (claim 7)?

    found: `kinship.relations`; kin: its `kinship.kin_difference`; alone: the models `kinship.without_partner`.
    """
    if found.empty:
        return missing(NEEDS_SHAPE)
    variant = descent(list(dict.fromkeys([*found["group"], *found["other"]])))["variant"].to_dict()
    further = found["group"].map(variant).astype(bool) | found["other"].map(variant).astype(bool)
    lines = []
    for (kind, shape), rows in found.groupby(["relation", "shape"], sort=False):
        spread = between(rows["correlation"].min(), rows["correlation"].max())
        lines.append((
            kind, shape, len(rows), int(further[rows.index].sum()), int(rows["counted"].sum()),
            f"{rows['correlation'].mean():.2f}", spread, f"{rows['within_layers'].mean():.2f}",
        ))  # fmt: skip
    header = (
        "relation", "layers × heads", "pairs", "of them with a further training", "counted in the difference", "mean ρ",
        "from … to", "within layers",
    )  # fmt: skip
    text = table(header, lines)
    if alone:
        told = [f"{code(name)} ({shape})" for name, shape in alone.items()]
        text += (
            f"\n\nIn no pair, since no other model here has as many layers and heads: {listed(told)}. What is found "
            "here is about the others."
        )
    if kin:
        known = kin.get("lower", np.nan) == kin.get("lower", np.nan)  # one model may make all the difference
        bounds = f" (95 % interval {between(kin['lower'], kin['upper'])}, over models)" if known else ""
        least = f"; so few models can give {kin['least_p']:.3f} at least" if "least_p" in kin else ""
        text += (
            f"\n\nPairs of one language model correlate with {kin['same']:.2f}, pairs of other ones with "
            f"{kin['other']:.2f}: a difference of {kin['difference']:+z.2f}{bounds} (p = {kin['p_value']:.3f}, "
            f"language models shuffled among the models of a shape{least}). Pairs with a further training of a model, "
            "or with a model whose language model is unknown, do not count in it, nor do those of a shape that has "
            "pairs of one kind only: the table says how many of its pairs count."
        )
    absent = [name for name in (SEED, SAME, RETRAINED, OTHER_LLM) if name not in set(found["relation"])]
    if absent:
        text += f"\n\nNo pair yet for: {listed(absent)}."
    return text


def model_table(found: pd.DataFrame, scores: pd.DataFrame) -> str:
    """The traced models and shipped miniatures: shape, image tokens, trained parts, scores with intervals."""
    if found.empty:
        return missing("no checkpoint is there")
    told = {
        (r.model, r.group): f"{100 * r.estimate:.0f} ({between(100 * r.lower, 100 * r.upper, 0)})"
        for r in scores.itertuples()
    }
    groups = list(dict.fromkeys(scores["group"])) if len(scores) else []
    lines = []
    for row in found.to_dict("records"):
        cells = [told.get((row["model"], group), "–") for group in groups]
        variant = [f"seed {row['seed']}"] if row["seed"] else []
        variant += [f"{percent(row['data_share'])} of the data"] if row["data_share"] < 1 else []
        named = code(row["model"]) + (f" ({', '.join(variant)})" if variant else "")
        size = _size(row["parameters"])
        lines.append(
            (
                named,
                row["llm"],
                row["recipe"],
                _shape(row),
                size,
                row["image_tokens"] or "–",
                row["trained"] or "–",
                *cells,
            )
        )
    header = (
        "model",
        "language model",
        "recipe",
        "layers × heads / kv heads",
        "parameters",
        "image tokens",
        "trained in tuning",
    )
    return table((*header, *[f"{escaped(benchmark(group))}, %" for group in groups]), lines)


def paper_table(cards: Sequence[Card]) -> str:
    """The paper's nine models as the catalogue knows them."""
    lines = []
    for card in cards:
        shape = _shape({"layers": card.layers, "heads": card.heads, "kv_heads": card.kv_heads})
        size = f"{card.parameters:g} billion" if card.parameters else "–"
        checkpoint = card.hub_id or f"{card.original_id} (to be converted)"
        lines.append(
            (
                escaped(card.paper_name),
                card.llm,
                card.recipe,
                shape,
                size,
                escaped(card.image_tokens),
                escaped(checkpoint),
            )
        )
    header = (
        "paper's name",
        "language model",
        "recipe",
        "layers × heads / kv heads",
        "parameters",
        "image tokens",
        "checkpoint",
    )
    return table(header, lines)


def _shape(row: Mapping[str, object]) -> str:
    """`32 × 32 / 8`; a dash for what is unknown."""
    layers, heads, kv_heads = (_whole(row[name]) for name in ("layers", "heads", "kv_heads"))
    return f"{layers} × {heads} / {kv_heads}"


def _whole(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) and np.isfinite(value) else "–"


def _size(billions: float) -> str:
    if not np.isfinite(billions):
        return "–"
    return f"{1000 * billions:.2f} million" if billions < 0.1 else f"{billions:.1f} billion"
