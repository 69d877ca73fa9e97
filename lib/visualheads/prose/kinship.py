"""Text for the comparisons of scale, families and emergence, and the tables of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from visualheads.catalog import Card
from visualheads.emergence import FRESH, OTHER, OWN
from visualheads.lineage import OTHER as OTHER_LLM
from visualheads.lineage import RETRAINED, SAME, SEED
from visualheads.prose.comparison import missing
from visualheads.prose.words import between, code, escaped, listed, percent, table

NEEDS_RECIPE = "1.5 against 1.6 needs two models of one language model with other recipes"
NEEDS_SIZE = "size needs two models of one recipe and series of language models, such as Vicuna-7B and Vicuna-13B"
NEEDS_DATA = "tokens against data needs models tuned on a part of the data beside those tuned on all of it"
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
        "counted among the models compared."
    )


def changes(found: pd.DataFrame, needs: str) -> str:
    """Pair by pair: how scores and heads change, counted and as a table."""
    if found.empty:
        return missing(needs, False)
    lines = []
    for pair, rows in found.groupby("pair", sort=False):
        tokens = f"{rows['tokens_one'].mean():.0f} → {rows['tokens_other'].mean():.0f}"
        up, down = int((rows["lower"] > 0).sum()), int((rows["upper"] < 0).sum())
        change = f"{100 * rows['difference'].mean():+z.1f}"
        means = rows[["image_weight", "image_log_odds", "focus_nats"]].mean()
        heads = f"{means['image_weight']:+z.3f}, {means['image_log_odds']:+z.2f}, {means['focus_nats']:+z.2f}"
        lines.append((escaped(str(pair)), tokens, change, f"{up} up, {down} down of {len(rows)}", heads))
    header = ("pair", "image tokens", "mean change of score, points", "benchmarks with a clear change")
    told = table((*header, "change of image weight, log-odds, focus (nats)"), lines)
    return (
        f"{told}\n\nA change is clear where its 95 % interval, paired over pictures, does not hold 0. Raw image weight "
        "rises with the number of image tokens by itself; the log-odds compare with a head that looks everywhere "
        f"alike, and focus in nats does not depend on the number of tokens.{_unlike_tuning(found)}"
    )


def _unlike_tuning(found: pd.DataFrame) -> str:
    """What else differs in pairs whose models were tuned on different numbers of pictures."""
    unlike = found[found["pictures_one"].notna() & (found["pictures_one"] != found["pictures_other"])]
    unlike = unlike.drop_duplicates("pair").dropna(subset=["pictures_other"])
    if unlike.empty:
        return ""
    told = [f"{row.pair}: {row.pictures_one:,.0f} and {row.pictures_other:,.0f}" for row in unlike.itertuples()]
    return (
        " **Something else differs too:** the number of pictures seen in visual tuning, each once, by the recipes' own "
        f"schedules ({escaped('; '.join(told))})."
    )


def tokens_and_data(found: pd.DataFrame) -> str:
    """Whether many image tokens lose more than few when there is less data to tune on (claim 13)."""
    if found.empty or found["data_share"].nunique() < 2:
        return missing(NEEDS_DATA, False)
    lines, losses = [], {}
    for (llm, recipe), rows in found.groupby(["llm", "recipe"], sort=False):
        whole, part = rows[rows["data_share"] == 1], rows[rows["data_share"] < 1]
        for row in rows.itertuples():
            score = f"{100 * row.estimate:.1f} ({between(100 * row.lower, 100 * row.upper, 1)})"
            lines.append((code(row.model), recipe, f"{row.tokens:.0f}", percent(row.data_share), score))
        if len(whole) and len(part):
            losses[f"{recipe} ({llm})"] = (
                float(whole["tokens"].iloc[0]),
                float(whole["estimate"].iloc[0] - part["estimate"].iloc[0]),
            )
    text = table(("model", "recipe", "image tokens", "tuning data", "score over all benchmarks, %"), lines)
    if len(losses) > 1:
        told = [f"{name}: {100 * loss:.1f} points at {tokens:.0f} tokens" for name, (tokens, loss) in losses.items()]
        text += (
            f"\n\nLoss from tuning on less data – {listed(told)}. The project page expects more loss with more tokens."
        )
    return text


def families(found: pd.DataFrame, kin: Mapping[str, float] | None) -> str:
    """Do models of one language model share their visual heads (claim 7)?"""
    if found.empty:
        return missing(NEEDS_SHAPE, False)
    lines = []
    for kind, rows in found.groupby("relation", sort=False):
        spread = between(rows["correlation"].min(), rows["correlation"].max())
        lines.append(
            (kind, len(rows), f"{rows['correlation'].mean():.2f}", spread, f"{rows['within_layers'].mean():.2f}")
        )
    text = table(("relation", "pairs", "mean ρ", "from … to", "within layers"), lines)
    if kin:
        text += (
            f"\n\nPairs of one language model correlate with {kin['same']:.2f}, pairs of other ones with "
            f"{kin['other']:.2f}: a "
            f"difference of {kin['difference']:+z.2f} (p = {kin['p_value']:.3f}, language models shuffled among the "
            "models; further trainings of a model do not count in it)."
        )
    absent = [name for name in (SEED, SAME, RETRAINED, OTHER_LLM) if name not in set(found["relation"])]
    if absent:
        text += f"\n\nNo pair yet for: {listed(absent)}."
    return text + (
        "\n\nHeads are compared place by place. Two language models that were trained apart share no places but "
        "depth, so their "
        "pairs show what depth alone makes; *another tuning seed* shows how much a pattern is one training's "
        "chance; the grey "
        "mark in the figure is the ceiling that noise of sampling pictures leaves."
    )


def moments(found: pd.DataFrame) -> str:
    """When the heads of the end can be told, model by model."""
    if found.empty:
        return missing("moments of training are kept only with miniatures that were trained here", False)
    lines = []
    for name, rows in found.groupby("model", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        near = rows[rows["rho"] >= 0.9]
        when = near.iloc[0]["moment"] if len(near) else "–"
        grown = f"{first['top']:.2f} → {last['top']:.2f}"
        lines.append((code(str(name)), len(rows), f"{first['rho']:.2f}", percent(first["shared"]), when, grown))
    header = (
        "model",
        "moments",
        "ρ of first with last",
        "of the last's strongest tenth, already strongest",
        "ρ ≥ 0.9 from",
    )
    return table((*header, "mean weight of these heads, first → last"), lines) + (
        "\n\nThe first moment is that of a language model that has never seen a picture, with an untrained adapter."
    )


def text_heads(found: pd.DataFrame, right: Mapping[str, float]) -> str:
    """Are the visual heads the list-reading heads of the text-only model (claim 10)?"""
    if found.empty:
        return missing("the comparison with text needs a model whose text-only checkpoint is there too", False)
    lines = []
    for row in found.itertuples():
        told = f"{row.rho:.2f} ({between(row.lower, row.upper)})"
        lines.append(
            (
                code(row.model),
                code(row.text_model),
                row.kind,
                told,
                f"{row.within:.2f}",
                f"{row.ceiling:.2f}",
            )
        )
    means = found.groupby("kind", sort=False)["rho"].mean()
    parts = [f"{means[kind]:.2f} with {kind}" for kind in (OWN, FRESH, OTHER) if kind in means]
    scores = [f"{percent(value)} ({code(name)})" for name, value in right.items()]
    return (
        table(("model", "lists read by", "which is", "ρ (95 % interval)", "within layers", "ceiling"), lines)
        + f"\n\nOn average, heads' attention on the asked region of pictures correlates {listed(parts)}. The "
        "text-only models "
        f"themselves count rightly in {listed(scores)} of these lists. On a picture the region is that of the one "
        "marked "
        "object, on a list all words of the asked class."
    )


def model_table(found: pd.DataFrame, scores: pd.DataFrame) -> str:
    """The traced models and shipped miniatures: shape, image tokens, trained parts, scores with intervals."""
    if found.empty:
        return missing("no checkpoint is there", False)
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
    return table((*header, *[f"{escaped(group)} %" for group in groups]), lines)


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
