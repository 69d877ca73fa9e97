"""Traced datasets with a planted truth, for the claims: every number comes from a pattern that the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

Pattern = Callable[[str, str], np.ndarray]
"""(condition, task) → image weight (layer, head) in (0, 1)."""
LAYERS, HEADS = 6, 4
EFFECTS = ("effect_margin", "whole_margin", "looking_margin")
STAGES = ["early"] * 2 + ["middle"] * 2 + ["late"] * 2


def pattern(seed: int = 0) -> np.ndarray:
    """A pattern of its own for every seed."""
    return 0.1 + 0.8 * np.random.default_rng(seed).random((LAYERS, HEADS))


def always(values: np.ndarray) -> Pattern:
    """The same pattern whatever is asked."""
    return lambda _condition, _task: values


@dataclass
class Planted:
    """One model: patterns, noise per sample, share of right answers, and who it is.

    gain    added to the concentration of right answers
    white   log-odds of the white pictures relative to the real ones; None: no white pictures
    sinks   share of what sets heads apart in concentration that sink tokens make; None: no sink dimensions
    """

    weight: Pattern = field(default_factory=lambda: always(pattern()))
    concentration: np.ndarray = field(default_factory=lambda: pattern(1))
    noise: float = 0.02
    right: float = 0.5
    gain: float = 0.0
    white: float | None = None
    sinks: float | None = None
    tokens: int = 64
    llm: str = "Vicuna-7B"
    recipe: str = "1.5"
    family: str = "LLaVA"
    form: str = "free"


def world(
    models: Mapping[str, Planted], conditions: Sequence[str] = ("plain-general",),
    tasks: Sequence[str] = ("looktwice",), pictures: int = 16, seed: int = 0,
) -> xr.Dataset:  # fmt: skip
    """All models on every picture in every condition (of each task); the first `right` of the pictures are answered."""
    return xr.concat(
        [_one(name, told, conditions, tasks, pictures, seed) for name, told in models.items()],
        "model", data_vars="all", coords="minimal", compat="override", join="outer",
    )  # fmt: skip


def _one(
    name: str, told: Planted, conditions: Sequence[str], tasks: Sequence[str], pictures: int, seed: int
) -> xr.Dataset:
    rng = np.random.default_rng([seed, *name.encode()])
    labels: list[dict[str, Any]] = []
    weights, odds, concentration, correct = [], [], [], []
    for control in ("", "white") if told.white is not None else ("",):
        for task in tasks:
            for condition in conditions:
                for picture in range(pictures):
                    labels.append(
                        {
                            "task": task, "condition": condition, "control": control, "format": told.form,
                            "answer": "2",
                            "question_id": f"{task}{picture}", "image_id": f"{task}{picture}",
                            "sample": f"{task}-{condition}-{picture}-{control}",
                        }
                    )  # fmt: skip
                    weight = np.clip(
                        told.weight(condition, task) + rng.normal(0, told.noise, (LAYERS, HEADS)), 0.01, 0.99
                    )
                    is_right = picture < round(told.right * pictures)
                    weights.append(weight)
                    shift = (told.white or 0.0) if control else 0.0
                    odds.append(np.log(weight / (1 - weight)) + shift + rng.normal(0, told.noise))
                    concentration.append(
                        np.clip(
                            told.concentration + told.gain * is_right + rng.normal(0, told.noise, (LAYERS, HEADS)), 0, 1
                        )
                    )
                    correct.append(float(is_right) if not control else np.nan)
    focus = np.stack(concentration, -1)[None]
    mean = focus.mean()
    bare = focus * np.nan if told.sinks is None else focus - told.sinks * (focus - mean)
    head_dims = ("model", "layer", "head", "sample")
    weight = np.stack(weights, -1)[None]
    coords: dict[str, Any] = {
        "model": [name], "layer": range(LAYERS), "head": range(HEADS),
        "llm": ("model", [told.llm]), "recipe": ("model", [told.recipe]), "family": ("model", [told.family]),
        "parameters": ("model", [1.0]), "depth_stage": (("model", "layer"), [STAGES]),
    }  # fmt: skip
    for key in labels[0]:
        values = np.empty(len(labels), dtype=object)
        values[:] = [label[key] for label in labels]
        coords[key] = ("sample", values)
    return xr.Dataset(
        {
            "image_weight": (head_dims, weight), "region_weight": (head_dims, weight / 2),
            "image_log_odds": (head_dims, np.stack(odds, -1)[None]), "concentration": (head_dims, focus),
            "image_log_odds_no_sink": (head_dims, np.stack(odds, -1)[None]), "top_share": (head_dims, focus),
            "spatial_entropy": (head_dims, 1 - focus),
            "focus_nats": (head_dims, focus * 4), "concentration_no_sink": (head_dims, bare),
            "correct": (("model", "sample"), np.array([correct])),
            "n_image_tokens": (("model", "sample"), np.full((1, len(labels)), told.tokens)),
        },
        coords,
    )  # fmt: skip


def swept(lost: float, samples: int = 200, count: int = 2, random: float = 0.0, seed: int = 0) -> xr.Dataset:
    """A sweep of the late top heads and two random controls; `lost` of the samples are answered no longer."""
    rng = np.random.default_rng(seed)
    orders = ["top", "random", "random"]
    correct = np.ones((1, 3, samples))
    for place, share in enumerate((lost, random, random)):
        correct[0, place, rng.permutation(samples)[: round(share * samples)]] = 0
    heads = np.zeros((1, 3, LAYERS, HEADS), bool)
    heads[0, :, -1, :count] = True
    dims = ("model", "set", "sample")
    return xr.Dataset(
        {
            "correct": (dims, correct), "margin": (dims, correct), "kl": (dims, 1 - correct),
            "clean_correct": (("model", "sample"), np.ones((1, samples))),
            "clean_margin": (("model", "sample"), np.ones((1, samples))),
            "heads": (("model", "set", "layer", "head"), heads),
        },
        {
            "model": ["mini-1.5-7B"], "set": ["top", "random 0", "random 1"], "ranking": ("set", ["image_weight"] * 3),
            "stage": ("set", ["late"] * 3), "order": ("set", orders), "count": ("set", [count] * 3),
            "sample": [f"s{i}" for i in range(samples)], "image_id": ("sample", [f"p{i}" for i in range(samples)]),
        },
    )  # fmt: skip


def late_sweep(lost: float, samples: int = 400, count: int = 2, other: float = 0.0, model: str = "m") -> xr.Dataset:
    """A sweep of the late top heads, two random and the bottom ones; `lost` of the samples are answered no longer."""
    rng, orders = np.random.default_rng(0), ["top", "random", "random", "bottom"]
    correct = np.ones((1, len(orders), samples))
    for place, share in enumerate((lost, other, other, other)):
        correct[0, place, rng.permutation(samples)[: round(share * samples)]] = 0
    heads = np.zeros((1, len(orders), LAYERS, HEADS), bool)
    heads[0, :, -1] = True
    dims, ids = ("model", "set", "sample"), [f"s{i}" for i in range(samples)]
    return xr.Dataset(
        {
            "correct": (dims, correct), "margin": (dims, correct), "kl": (dims, 1 - correct),
            "clean_correct": (("model", "sample"), np.ones((1, samples))),
            "clean_margin": (("model", "sample"), np.ones((1, samples))),
            "heads": (("model", "set", "layer", "head"), heads),
        },
        {
            "model": [model], "set": ["top", "random 0", "random 1", "bottom"], "ranking": ("set", ["detection"] * 4),
            "stage": ("set", ["late"] * 4), "order": ("set", orders), "count": ("set", [count] * 4), "sample": ids,
            "image_id": ("sample", ids), "task": ("sample", ["looktwice"] * samples), "llm": ("model", ["A-7B"]),
            "question_only": ("sample", np.full(samples, 0.3)),
        },
    )  # fmt: skip


def effects_of(
    values: np.ndarray, noise: float = 0.05, pictures: int = 16, name: str = "m", seed: int = 0
) -> xr.Dataset:
    """Single-head effects (layer, head) with noise per sample."""
    rng = np.random.default_rng(seed)
    array = values[None, ..., None] + rng.normal(0, noise, (1, LAYERS, HEADS, pictures))
    ids = [f"e{i}" for i in range(pictures)]
    return xr.Dataset(
        {name: (("model", "layer", "head", "sample"), array) for name in EFFECTS},
        {"model": [name], "layer": range(LAYERS), "head": range(HEADS), "sample": ids, "image_id": ("sample", ids)},
    )


def lists_of(values: np.ndarray, other: np.ndarray, noise: float = 0.02, lists: int = 16, seed: int = 0) -> xr.Dataset:
    """Traced lists of a text-only model: attention on asked words, and on others and the token before (layer, head)."""
    rng = np.random.default_rng(seed)
    names = {"asked_weight": values, "unasked_weight": other, "previous_weight": other}
    data = {
        name: (
            ("model", "layer", "head", "sample"),
            own[None, ..., None] + rng.normal(0, noise, (1, LAYERS, HEADS, lists)),
        )
        for name, own in names.items()
    }
    coords = {"model": ["t"], "layer": range(LAYERS), "head": range(HEADS), "sample": [f"l{i}" for i in range(lists)]}
    return xr.Dataset(data, coords)
