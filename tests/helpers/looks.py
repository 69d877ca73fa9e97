"""Made looks: any shape, no model; and the reading of what a look packs, as its page reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visualheads.explorer.look_data import CODES, GENERATED, KEY_DECADES, PROMPT, Answers, Effect, Look, Row
from visualheads.models.token_map import TokenMap

QUESTION = "How many dogs are there?\nAnswer with one word."
WORDS = ["<s>", "USER:", "How", " many", " dogs", " are", " there", "?", "\n", "ASSISTANT:"]
BEFORE = 2
"""Text tokens before the picture."""
ANSWER = ["two", "."]


def grid_map(rows: int, columns: int, size: tuple[int, int], tiles: tuple[int, int] = (0, 0)) -> TokenMap:
    """A whole-picture grid, and (with tiles) a joined grid of twice its fineness with a newline after each row."""
    width, height = size
    parts = []
    for tile_grid, shape in ((False, (rows, columns)), (True, (2 * rows * bool(tiles[0]), 2 * columns))):
        for row in range(shape[0]):
            for column in range(shape[1]):
                across, down = width / shape[1], height / shape[0]
                box = (column * across, row * down, (column + 1) * across, (row + 1) * down)
                tile = 0
                if tile_grid:
                    tile = 1 + (row * tiles[0] // shape[0]) * tiles[1] + column * tiles[1] // shape[1]
                parts.append(("patch", tile, row, column, box))
            if tile_grid:
                parts.append(("newline", 0, row, -1, (np.nan,) * 4))
    kind, tile, row, column, box = zip(*parts, strict=True)
    shape = (2 * rows, 2 * columns) if tiles[0] else (0, 0)
    return TokenMap(
        np.array(kind),
        np.array(tile),
        np.array(row),
        np.array(column),
        np.array(box, float),
        size,
        (rows, columns),
        shape,
    )


def made_look(
    name: str = "made",
    sample: str = "dogs",
    layers: int = 4,
    heads: int = 6,
    grid: tuple[int, int] = (6, 8),
    tiles: tuple[int, int] = (0, 0),
    rows: int = 3,
    known: bool = True,
    sinks: bool = False,
    effects: bool = True,
    seed: int = 0,
    size: tuple[int, int] = (320, 240),
) -> Look:
    """A look with attention drawn at random: log-normal weights, a few of them large, as heads have."""
    random = np.random.default_rng(seed)
    token_map = grid_map(*grid, size, tiles)
    n_image = len(token_map)
    texts = [*WORDS[:BEFORE], *[""] * n_image, *WORDS[BEFORE:], *ANSWER]
    image = np.zeros(len(texts), bool)
    image[BEFORE : BEFORE + n_image] = True
    prompt = len(texts) - len(ANSWER)
    positions = [prompt - 1, *range(prompt, len(texts)), *range(prompt - 2, 0, -1)]
    positions = [at for at in positions if not image[at]]
    while len(positions) < rows:  # a page of a real model has more queries than these texts have tokens
        positions.append(len(texts) - 1)
    positions = positions[:rows]
    attention = random.lognormal(0, 1.6, (rows, layers, heads, len(texts))).astype(np.float32)
    attention[..., image] *= random.lognormal(0, 2, (rows, layers, heads, 1)).astype(np.float32)
    for row, position in enumerate(positions):
        attention[row, ..., position + 1 :] = 0
    attention /= attention.sum(axis=-1, keepdims=True)
    weight = attention[..., image].sum(axis=-1)
    odds = np.clip(weight, 1e-6, 1 - 1e-6)
    measures = {
        "image_weight": weight,
        "image_log_odds": np.log(odds / (1 - odds)) - np.log(n_image / (len(texts) - n_image)),
        "concentration": random.random(weight.shape, dtype=np.float32),
        "white_change": weight - 0.5,
    }
    marked = None
    if sinks:
        marked = np.zeros((layers, n_image), bool)
        marked[:, 5] = True
        attention[..., BEFORE + 5] += 1.0
        attention /= attention.sum(axis=-1, keepdims=True)
        measures["sink_share"] = attention[..., BEFORE + 5] / attention[..., image].sum(axis=-1)
    top = ((7, " two", 0.6), (8, " three", 0.3), (9, " one", 0.05))
    return Look(
        model={"name": name, "layers": layers, "heads": heads, "kv_heads": heads},
        sample={"id": sample, "question": QUESTION, "answer": "two", "box": [40.0, 40.0, 120.0, 120.0]},
        picture=Image.effect_noise(size, 60).convert("RGB") if seed >= 0 else None,
        picture_size=size,
        token_ids=np.arange(len(texts)),
        token_texts=texts,
        prompt=prompt,
        image=image,
        token_map=token_map if known else None,
        rows=[
            Row(
                at,
                GENERATED if at >= prompt else PROMPT,
                f"“{texts[at].strip()}”" if at != prompt - 1 else "the last prompt token",
            )
            for at in positions
        ],
        attention=attention,
        measures=measures,
        sinks=marked,
        answers=Answers("two", top),
        effects={mode: _effect(random, layers, heads, mode) for mode in ("mean", "image_knockout")} if effects else {},
        provenance={"weights": "abc123"},
        note="" if known else "The layout is not known.",
    )


def _effect(random: np.random.Generator, layers: int, heads: int, mode: str) -> Effect:
    probability = random.dirichlet((6, 3, 1), (layers, heads)).astype(np.float32)
    probability[0, 1] = np.nan  # a head that was not tried
    first = np.full((layers, heads), 7, np.int32)
    first[1, 2] = 11
    told = {"mean": ("Removed", "Its mean stands instead."), "image_knockout": ("Picture hidden", "It cannot look.")}
    label, description = told[mode]
    return Effect(
        label, description, probability, first, np.full((layers, heads), 0.5, np.float32), {7: " two", 11: " many"}
    )


def dequantise(
    codes: NDArray[np.uint8], low: NDArray[Any], peak: NDArray[Any], total: NDArray[Any], tokens: int
) -> NDArray[np.float32]:
    """Return the weights (head, token) that `quantise` made codes of, scaled to their exact sums."""
    both = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)[:, :tokens]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.nan_to_num(np.log(peak / low) / (CODES - 1))
        weights = np.where(both > 0, low[:, None] * np.exp(step[:, None] * (both.astype(np.float32) - 1)), 0.0)
        factor = np.nan_to_num(total / weights.sum(axis=1), posinf=0.0)
    weights = weights * factor[:, None]
    weights[np.isnan(peak)] = np.nan
    return weights.astype(np.float32)


def key_weights(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of text keys from their bytes."""
    return np.where(codes > 0, 10 ** ((codes.astype(np.float32) - 255) * KEY_DECADES / 254), 0).astype(np.float32)
