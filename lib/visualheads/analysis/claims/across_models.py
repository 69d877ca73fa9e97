"""Claims across models, and about their descent: 6, 7, 10, 12 and 13."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from visualheads.analysis.claims.rules import (
    MAIN_TASK,
    PLANTED,
    SUPPORTED,
    UNDECIDED,
    Choice,
    Draws,
    Evidence,
    Finding,
    Part,
    Statistic,
    has,
    in_row,
    missing,
    stacked,
    sums_of,
)
from visualheads.analysis.models import model_table
from visualheads.analysis.subset import models_of, subset, tasks_of
from visualheads.heads.agreement import matched_heads, spearman
from visualheads.heads.bootstrap import PictureSums, picture_sums
from visualheads.heads.permutation import orders
from visualheads.heads.ranking import DETECTION_SHARE, head_count, sample_scores, top_heads

GAIN = 0.1
"""Margin of claim 6: a tenth of the squared error."""
ADVANTAGE = 0.1
"""Margin of claim 10, a difference of rank correlations."""
CLOSER, FEWEST_KIN = 0.1, 3
"""Margin of claim 7, a difference of rank correlations; language models tuned more than once that it needs."""
FEWEST_LLMS = 4
"""Language models that claim 6 leaves out one by one."""
ALPHA = 0.05
READ, CONTROLS = "asked_weight", ("unasked_weight", "previous_weight")
"""What heads attend to on lists: what claim 10 is about, and what tells it from other habits."""

Sums = dict[str, dict[str, tuple[PictureSums, PictureSums]]]
"""Model → benchmark → image weight of its visual heads, and right answers."""


def heads_predict_scores(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 6: within benchmarks, the visual heads' image weight predicts scores of models of unseen language models.

    Scores and weights are means over the models of a language model, without the benchmark's mean over the others.
    """
    if not has(evidence.traces, "image_weight", "correct"):
        return missing("there are no traces with image_weight and answers")
    assert evidence.traces is not None
    sums = _sums(evidence, choice)
    llms = list(dict.fromkeys(evidence.llm[name] for name in sums))
    if len(llms) < FEWEST_LLMS:
        return missing(f"models of fewer than {FEWEST_LLMS} language models were traced")
    tasks = [task for task in tasks_of(evidence.traces) if all(task in own for own in sums.values())]

    def told(draws: Draws) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and scores (replicate, language model, benchmark)."""
        found = []
        for place in (0, 1):
            each = {
                name: [own[task][place].means(draws.of(len(own[task][place].pictures), task))[0] for task in tasks]
                for name, own in sums.items()
            }
            means = [np.mean([each[name] for name in each if evidence.llm[name] == llm], axis=0) for llm in llms]
            found.append(np.moveaxis(np.array(means), -1, 0))
        return found[0], found[1]

    part = Part("gain", lambda draws: _gain(*told(draws))[None], GAIN, ["all"], ["all"])
    weights, scores = told(Draws())
    every = _gain(
        weights[0][np.array(orders(len(llms)))], np.broadcast_to(scores[0], (len(orders(len(llms))), *scores[0].shape))
    )
    p_value = float((every >= every[0] - 1e-12).mean())
    label = part.label if part.label != SUPPORTED or p_value <= ALPHA else UNDECIDED
    also = {"p_value": p_value, "llms": float(len(llms)), "benchmarks": float(len(tasks))}
    also |= {f"gain_{task}": float(_gain(weights[..., [at]], scores[..., [at]])[0]) for at, task in enumerate(tasks)}
    width = part.estimate - part.bounds[0]
    planted = {times: _planted(weights[0], times * GAIN, width) for times in (0.0, 1.0, 2.0)}
    return Finding([part], label=label, planted=planted, also=also)


def kin_share_heads(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 7: patterns of models of one language model are more alike than those of others of their shape.

    Heads of separate trainings have no places in common: they are matched by what they do on lists in words, and so are
    those of one language model, between two halves of the lists. Language models are drawn, not pictures.
    """
    if not has(evidence.traces, "image_weight") or not evidence.text:
        return missing("there are no traced lists of text-only models beside traces with image_weight")
    assert evidence.traces is not None
    told = {name: habits for name in models_of(evidence.traces) if (habits := _habits(evidence, name)) is not None}
    models = {name: subset(evidence.traces, model=name, task=MAIN_TASK, trim=True) for name in told}
    weights = {name: sums_of(own, "image_weight", choice) for name, own in models.items()}
    groups = model_table(None, list(told)).set_index("model")["kv_heads"].to_dict() if told else {}
    pairs: dict[bool, list[tuple[str, str, NDArray[np.intp]]]] = {True: [], False: []}
    for one, two in combinations(told, 2):
        heads = told[one][0].shape[1]
        if told[one][0].shape != told[two][0].shape or len(weights[one].counts) != told[one][0][..., 0].size:
            continue
        common = int(groups[one]) if groups[one] and groups[one] == groups[two] else heads
        order = matched_heads(told[one][0], told[two][1], common)
        same = evidence.llm[one] == evidence.llm[two]
        pairs[same].append((one, two, (np.arange(len(order))[:, None] * heads + order).ravel()))

    def alike(kind: bool, llm: str) -> Statistic:
        """Mean correlation of the pairs of one kind that a language model has a part in."""
        own = [pair for pair in pairs[kind] if llm in (evidence.llm[pair[0]], evidence.llm[pair[1]])]

        def mean(draws: Draws) -> NDArray[np.float64]:
            drawn = draws.of(len(weights[own[0][0]].pictures), MAIN_TASK)
            means = {name: weights[name].means(drawn) for name in {name for pair in own for name in pair[:2]}}
            scores = [np.stack([means[one].T, means[two][order].T], axis=1) for one, two, order in own]
            return np.mean([spearman(both)[:, 0, 1] for both in scores], axis=0)

        return mean

    has_both = [
        llm for llm in dict.fromkeys(evidence.llm[pair[0]] for pair in pairs[True])
        if any(llm in (evidence.llm[one], evidence.llm[two]) for one, two, _ in pairs[False])
    ]  # fmt: skip
    again = [float((order == np.arange(len(order))).mean()) for _, _, order in pairs[True]]
    also = {"found_again": float(np.mean(again))} if again else {}
    if has_both:
        kinds = [(alike(True, llm), alike(False, llm)) for llm in has_both]
        also |= {"same": float(np.mean([one(Draws())[0] for one, _ in kinds]))}
        also |= {"other": float(np.mean([two(Draws())[0] for _, two in kinds]))}
    if len(has_both) < FEWEST_KIN:
        reason = (
            f"language models are what has to be drawn, and {len(has_both)} of them was tuned more than once beside "
        )
        return Finding(reason=f"{reason}others of its shape; {FEWEST_KIN} would be needed", also=also)
    each = [lambda draws, one=one, two=two: one(draws) - two(draws) for one, two in kinds]
    part = Part("matched", stacked(each), CLOSER, has_both, has_both, drawn_llms=True)
    return Finding([part], table=part.table(), also=also)


def _habits(evidence: Evidence, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """How far the heads of a model's text-only model look where, on two halves of the lists (layer, head, feature):
    the values of every habit in order of their size, so that other lists give the same features."""
    lists = evidence.text.get(evidence.grown_from.get(name, ""))
    if lists is None or not all(one in lists for one in (READ, *CONTROLS)):
        return None
    found = np.stack([lists[one].isel(model=0).transpose("layer", "head", "sample") for one in (READ, *CONTROLS)], 2)
    half = found.shape[-1] // 2
    first, second = (np.sort(found[..., part::2][..., :half]).reshape(*found.shape[:2], -1) for part in (0, 1))
    return first, second


def list_heads_become_visual(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 10: attention on asked words of lists goes with attention on asked regions, more than other habits do.

    The habits are the same heads' in the text-only model: attention on words of other objects, and on the token before.
    """
    if not has(evidence.traces, "region_weight") or not evidence.text:
        return missing("there are no traced lists of text-only models beside traces with boxes")
    assert evidence.traces is not None
    each: dict[str, Statistic] = {}
    own_rho = []
    for name in models_of(evidence.traces):
        lists = evidence.text.get(evidence.grown_from.get(name, ""))
        if lists is None or not all(one in lists for one in (READ, *CONTROLS)):
            continue
        found = _advantage(subset(evidence.traces, model=name, task=MAIN_TASK, trim=True), lists, choice)
        if found is not None:
            each[name] = lambda draws, found=found: found(draws)[0]
            own_rho.append(float(found(Draws())[1][0]))
    if not each:
        return missing("no model's own text-only model was traced on lists")
    part = evidence.part("advantage", each, ADVANTAGE)
    return Finding([part], table=part.table(), also={"own": float(np.mean(own_rho))})


def tokens_help_small_models(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 12: one pair of recipes, which differ in more than tokens, tells nothing about tokens."""
    del evidence, choice
    return missing("needs models below 7B that differ in image tokens alone, above and below 2 000, in several seeds")


def tokens_need_data_in_large_models(evidence: Evidence, choice: Choice) -> Finding:
    """Claim 13: needs amounts of data crossed with numbers of tokens."""
    del evidence, choice
    return missing("needs 13B models of few and many tokens, each tuned on several amounts of data, in several seeds")


def _sums(evidence: Evidence, choice: Choice) -> Sums:
    assert evidence.traces is not None
    found: Sums = {}
    for name in models_of(evidence.traces):
        for task in tasks_of(evidence.traces):
            own = subset(evidence.traces, model=name, task=task)
            if not own.sizes["sample"] or not np.isfinite(own["correct"]).any():
                continue
            values = sample_scores(own, "image_weight", query=in_row(own, choice)).isel(model=0)
            mean = values.mean("sample").values.reshape(-1, 1)
            top = top_heads(mean, head_count(int(np.isfinite(mean).sum()), DETECTION_SHARE))[:, 0]
            strongest = values.where(xr.DataArray(top.reshape(values.shape[:2]), dims=values.dims[:2]))
            weight = strongest.mean(["layer", "head"]).assign_coords(image_id=own["image_id"])
            found.setdefault(name, {})[task] = (picture_sums(weight), picture_sums(own["correct"].isel(model=0)))
    return found


def _gain(weights: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the squared error (replicate) that a line in the weights saves: each language model is left out once.

    weights, scores: (replicate, language model, benchmark). The baseline is the mean score of the others.
    """
    missed = guessed = np.zeros(len(scores))
    for out in range(scores.shape[1]):
        others = np.delete(np.arange(scores.shape[1]), out)
        mean_x, mean_y = weights[:, others].mean(axis=1), scores[:, others].mean(axis=1)
        x, y = weights[:, others] - mean_x[:, None], scores[:, others] - mean_y[:, None]
        slope = (x * y).sum(axis=(1, 2)) / np.maximum((x * x).sum(axis=(1, 2)), 1e-12)
        left = scores[:, out] - mean_y
        guessed = guessed + (left**2).sum(axis=1)
        missed = missed + ((left - slope[:, None] * (weights[:, out] - mean_x)) ** 2).sum(axis=1)
    return 1 - missed / np.maximum(guessed, 1e-12)


def _planted(weights: NDArray[np.float64], share: float, width: float) -> float:
    """How often claim 6 is supported where weights explain this share of the scores' variance within benchmarks."""
    rng = np.random.default_rng(1)
    x = weights - weights.mean(axis=0)
    x = x / x.std()
    noise = rng.normal(size=(PLANTED, *x.shape))
    scores = np.sqrt(share) * x + np.sqrt(1 - share) * noise
    order = np.array(orders(len(x)))
    found = 0
    for one in scores:
        every = _gain(x[order], np.broadcast_to(one, (len(order), *one.shape)))
        found += bool(every[0] - width > GAIN and (every >= every[0] - 1e-12).mean() <= ALPHA)
    return found / PLANTED


def _advantage(
    own: xr.Dataset, lists: xr.Dataset, choice: Choice
) -> Callable[[Draws], tuple[NDArray[np.float64], NDArray[np.float64]]] | None:
    """Correlation with reading the asked words minus the largest with another habit, and the first by itself."""
    seen = sums_of(own, "region_weight", choice)
    shape = tuple(lists.sizes[dim] for dim in ("layer", "head"))
    if shape != (own.sizes["layer"], own.sizes["head"]):
        return None
    told: Mapping[str, PictureSums] = {
        name: picture_sums(lists[name].isel(model=0).transpose("layer", "head", "sample")) for name in (READ, *CONTROLS)
    }

    def advantage(draws: Draws) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pictures, words = draws.of(len(seen.pictures), MAIN_TASK), draws.of(len(told[READ].pictures), "lists")
        scores = np.stack([seen.means(pictures).T, *(one.means(words).T for one in told.values())], axis=1)
        rho = spearman(scores)[:, 0, 1:]
        return rho[:, 0] - rho[:, 1:].max(axis=1), rho[:, 0]

    return advantage
