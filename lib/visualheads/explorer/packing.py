"""Arrays as text: base64, compressed where that pays, and attention weights in four bits on a log scale."""

from __future__ import annotations

import base64
import gzip
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {"u1": np.uint8, "u2": np.uint16, "i4": np.int32, "f2": np.float16, "f4": np.float32}
"""What an array can be stored as, little-endian."""

CODES = 15
"""Code 0 is no weight; codes 1 to 15 run from a head's `low` to its `peak` on a log scale."""

LEFT_OUT = 0.01
"""`low` is the largest weight below which lies at most this share of a head's attention …"""
HEAVIEST = 0.02
"""… of what is left without this share of its heaviest tokens, which may be sinks that a reader hides."""

KEYS = 16
"""Text keys kept of each row: those with most attention."""

KEY_DECADES = 6
"""Weights of text keys are bytes: 0 is none, 1 to 255 run over six decades up to 1."""

SMALL = 512
"""Bytes from which on an array is compressed."""


def pack(values: Any, dtype: str) -> dict[str, Any]:
    """Return an array as JSON values: its dtype, its shape, and its bytes as base64 text.

    Parameters
    ----------
    values
        The array; it is converted to `dtype`.
    dtype
        One of `DTYPES`.
    """
    array = np.ascontiguousarray(np.asarray(values), dtype=np.dtype(DTYPES[dtype]).newbyteorder("<"))
    data = array.tobytes()
    packed: dict[str, Any] = {"dtype": dtype, "shape": list(array.shape)}
    if len(data) >= SMALL:
        # mtime=0: the same array is the same text in every run
        data, packed["gzip"] = gzip.compress(data, compresslevel=6, mtime=0), True
    packed["data"] = base64.b64encode(data).decode("ascii")
    return packed


def quantise(weights: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """Return attention weights (head, token) as codes of four bits and what is needed to read them.

    Returns
    -------
    dict
        `codes` (head, ⌈tokens / 2⌉), two a byte, the first in the low half; `low`, `peak` and `total` (head), the
        weights of code 1 and 15 and the exact sum. A head whose weights are NaN, as one without a map, has NaN there.
    """
    heads, tokens = weights.shape
    weights = np.asarray(weights, np.float32)
    missing = np.asarray(np.isnan(weights).any(axis=1))
    clean = np.where(missing[:, None], 0.0, weights)
    peak, total = clean.max(axis=1, initial=0.0), clean.sum(axis=1)
    low = np.minimum(_lowest(clean), peak)
    step = np.log(np.maximum(peak, 1e-30) / np.maximum(low, 1e-30)) / (CODES - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.log(clean / low[:, None]) / np.where(step > 0, step, 1.0)[:, None]
    # a weight less than half a step below `low` still counts as `low`
    codes = np.where(clean > 0, np.clip(np.round(np.nan_to_num(place, neginf=-1.0)) + 1, 0, CODES), 0).astype(np.uint8)
    if tokens % 2:
        codes = np.concatenate([codes, np.zeros((heads, 1), np.uint8)], axis=1)
    scale = {"low": low, "peak": peak, "total": total}
    told = {name: np.where(missing, np.nan, values).astype(np.float32) for name, values in scale.items()}
    return {"codes": codes[:, 0::2] | (codes[:, 1::2] << 4), **told}


def text_keys(weights: NDArray[np.floating], positions: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return each head's `KEYS` heaviest text keys: their positions, ascending, and their weights as bytes.

    Parameters
    ----------
    weights
        (head, key) of the text keys.
    positions
        Where these keys stand among all tokens.
    """
    kept = min(KEYS, weights.shape[1])
    top = np.sort(np.argpartition(-np.nan_to_num(weights), kept - 1, axis=1)[:, :kept], axis=1)
    chosen = np.nan_to_num(np.take_along_axis(weights, top, axis=1))
    with np.errstate(divide="ignore"):
        codes = np.round(255 + np.log10(chosen) * 254 / KEY_DECADES)
    return positions[top], np.where(chosen > 0, np.clip(codes, 0, 255), 0).astype(np.uint8)


def _lowest(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Per head the weight from which on codes are used."""
    heads, tokens = weights.shape
    rest = np.sort(weights, axis=1)[:, : tokens - math.ceil(HEAVIEST * tokens)] if tokens > 1 else weights
    if not rest.shape[1]:
        return weights.max(axis=1)
    below = np.cumsum(rest, axis=1)
    first = (below <= LEFT_OUT * below[:, -1:]).sum(axis=1).clip(max=rest.shape[1] - 1)
    low = rest[np.arange(heads), first]
    positive = np.where(weights > 0, weights, np.inf).min(axis=1)
    return np.where(low > 0, low, np.where(np.isfinite(positive), positive, 1.0))
