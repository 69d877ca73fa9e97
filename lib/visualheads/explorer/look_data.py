"""One model at one sample: what the explorer shows, as arrays and as its documented format (FORMAT.md).

Arrays become text: base64, compressed where that pays, and attention weights in four bits on a log scale.
"""

from __future__ import annotations

import base64
import gzip
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from visualheads.models.token_map import LEAST_OVERLAP, TokenMap
from visualheads.paths import read_table
from visualheads.store import schema

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

FORMAT = "visualheads.look"
VERSION = 1
"""Raised whenever a reader of the older form would go wrong."""

LARGEST_PICTURE = 1400
"""Longest edge of the picture in a page: larger ones are shown smaller, at the same place."""
QUALITY = 88
"""Of JPEG pictures."""
PROMPT, GENERATED, MEAN = "prompt", "generated", "mean"
LETTER = {"patch": "p", "newline": "n", "separator": "s"}

MEASURES: dict[str, dict[str, str]] = read_table(__file__, "measures.yml")
"""Name → long_name, unit (share, change, nats, ratio, number), kind (sequential, diverging, ratio), description."""


def sample_of(sample: Sample) -> dict[str, Any]:
    """What a look tells of a sample."""
    box = None if sample.box is None else list(sample.box)
    return {"id": sample.id, "question": sample.question, "answer": sample.answer, "box": box}


@dataclass(frozen=True)
class Row:
    """One query: where it stands among the tokens, what it is, and how a sentence calls it."""

    position: int
    kind: str
    label: str


@dataclass(frozen=True)
class Effect:
    """What an intervention on single heads does to the first token of the answer.

    Parameters
    ----------
    label, description
        What is done, in two words and in a sentence.
    probability
        (layer, head, candidate): of the unchanged model's likeliest tokens; NaN for heads that were not tried.
    first, first_probability
        (layer, head): the likeliest token of the changed model, and its probability.
    texts
        Token id → text, of `first`.
    """

    label: str
    description: str
    probability: NDArray[np.float32]
    first: NDArray[np.int32]
    first_probability: NDArray[np.float32]
    texts: Mapping[int, str]


@dataclass(frozen=True)
class Answers:
    """The unchanged model's answer, and the likeliest first tokens: (id, text, probability), the likeliest first."""

    text: str
    top: tuple[tuple[int, str, float], ...]


@dataclass(eq=False)
class Look:
    """What one model does at one picture and question.

    Parameters
    ----------
    model
        `name`, `layers`, `heads`, `kv_heads`.
    sample
        `id`, `question`, `answer` (expected, may be empty), `box` (left, top, right, bottom) or None.
    picture
        The picture, or None where it is not known; `picture_size` is then what positions refer to.
    token_ids, token_texts
        All tokens in order: prompt, then what was generated; empty texts for image tokens.
    prompt
        Number of prompt tokens.
    image
        Which tokens are image tokens.
    token_map
        Where the image tokens lie, or None where that is not known.
    rows
        The queries.
    attention
        (row, layer, head, key): their attention over all tokens; NaN for heads without a map.
    measures
        Name → (row, layer, head).
    sinks
        (layer, image token), or None where the model has no sink tokens.
    first
        The (layer, head) that is shown first, see `choose_first`; None: the one that looks most at this picture.
    """

    model: dict[str, Any]
    sample: dict[str, Any]
    picture: Image.Image | None
    picture_size: tuple[int, int]
    token_ids: NDArray[np.int64]
    token_texts: list[str]
    prompt: int
    image: NDArray[np.bool_]
    token_map: TokenMap | None
    rows: list[Row]
    attention: NDArray[np.float32]
    measures: dict[str, NDArray[np.float32]]
    sinks: NDArray[np.bool_] | None = None
    answers: Answers | None = None
    first: tuple[int, int] | None = None
    effects: dict[str, Effect] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def key(self) -> str:
        """What the look is called among others: model and sample."""
        return f"{self.model['name']}/{self.sample['id']}"

    @property
    def first_head(self) -> tuple[int, int]:
        """The (layer, head) that is shown first: `first`, else the one with most of `gaze`."""
        if self.first is not None or not np.isfinite(self.gaze).any():
            return self.first or (0, 0)
        return divmod(int(np.nanargmax(self.gaze)), int(self.model["heads"]))

    @cached_property
    def gaze(self) -> NDArray[np.float32]:
        """Each head's attention on the asked region (else on the picture) from the first row, (layer, head)."""
        weights = self.attention[0][..., self.image]
        box = self.sample.get("box")
        if box is not None and self.token_map is not None:
            weights = weights[..., self.token_map.in_box(box)]
        return weights.sum(axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Return the look in its format (FORMAT.md): plain JSON values, the same in every run."""
        first_layer, first_head = self.first_head
        width, height = self.picture_size
        source = None if self.picture is None else data_address(self.picture, LARGEST_PICTURE)
        made: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "sample": self.sample,
            "picture": {"width": width, "height": height, "source": source},
            "tokens": {
                "id": self.token_ids.tolist(),
                "text": self.token_texts,
                "prompt": self.prompt,
                "image": _runs(self.image),
            },
            "token_map": None if self.token_map is None else _token_map(self.token_map),
            "measures": {name: MEASURES[name] for name in self.measures},
            "rows": [self.row_json(index) for index in range(len(self.rows))],
            "first_head": first_layer * int(self.model["heads"]) + first_head,
            "sinks": None if self.sinks is None else pack(self.sinks, "u1"),
            "answers": None,
            "effects": {mode: _effect(effect) for mode, effect in self.effects.items()},
            "provenance": self.provenance,
            "note": self.note,
        }
        if self.answers is not None:
            top = [{"id": token, "text": text, "probability": round(p, 6)} for token, text, p in self.answers.top]
            made["answers"] = {"text": self.answers.text, "top": top}
        return made

    def row_json(self, index: int) -> dict[str, Any]:
        """Return one row in the look's format."""
        row, attention = self.rows[index], self.attention[index]
        flat = attention.reshape(-1, attention.shape[-1])
        coded = quantise(flat[:, self.image])
        made: dict[str, Any] = {"position": row.position, "kind": row.kind, "label": row.label}
        made["codes"] = pack(coded["codes"], "u1")
        made |= {name: pack(coded[name], "f4") for name in ("low", "peak", "total")}
        made["measures"] = {name: pack(values[index].reshape(-1), "f2") for name, values in self.measures.items()}
        # a query sees nothing that comes after it
        text = np.flatnonzero(~self.image[: flat.shape[1]])
        text = text[text <= row.position] if row.kind != MEAN else text
        made["keys"] = None
        if len(text):
            positions, codes = text_keys(flat[:, text], text)
            made["keys"] = {"positions": pack(positions, "u2"), "codes": pack(codes, "u1")}
        return made

    def to_dataset(self) -> xr.Dataset:
        """Return the data behind the view: a Dataset with the dimensions model, sample, query, layer, head, key."""
        lead = ("model", "sample", "query", "layer", "head")
        variables: dict[str, Any] = {"attention": ((*lead, "key"), self.attention[None, None])}
        variables |= {name: (lead, values[None, None]) for name, values in self.measures.items()}
        layers, heads = self.attention.shape[1:3]
        coords: dict[str, Any] = {
            "model": schema.text([self.model["name"]]),
            "sample": schema.text([self.sample["id"]]),
            "query": [row.position for row in self.rows],
            "query_label": ("query", schema.text([row.label for row in self.rows])),
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "key": np.arange(len(self.image)),
            "is_image": ("key", self.image),
            "token": ("key", schema.text(self.token_texts)),
            "question": ("sample", schema.text([self.sample["question"]])),
        }
        ds = xr.Dataset(variables, coords)
        ds["attention"].attrs.update(long_name="attention", units="1")
        for name in self.measures:
            ds[name].attrs.update(long_name=MEASURES[name]["long_name"], units=MEASURES[name]["unit"])
        return ds


def choose_first(looks: Sequence[Look]) -> None:
    """Let looks of one model begin with the head that looks most at the asked region, else the picture, over them all.

    The best head at a single picture need not look at what is asked in any other.
    """
    means = np.mean([look.gaze for look in looks], axis=0)
    if np.isfinite(means).any():
        for look in looks:
            look.first = divmod(int(np.nanargmax(means)), means.shape[1])


def asked_lift(look: Mapping[str, Any]) -> float:
    """How many times an even share of its attention on the picture the first head gives to the asked region.

    Parameters
    ----------
    look
        As `page.read_look` returns it, with a token map and a box.
    """
    row, head, told = look["rows"][0], look["first_head"], look["token_map"]
    codes = np.stack([row["codes"][head] & 15, row["codes"][head] >> 4], axis=-1).reshape(-1)[: len(told["kind"])]
    low, peak = float(row["low"][head]), float(row["peak"][head])
    weights = np.where(codes > 0, low * (peak / low) ** ((codes - 1.0) / (CODES - 1)), 0.0)
    left, top, right, bottom = told["box"].reshape(-1, 4).T
    box = look["sample"]["box"]
    wide = np.minimum(right, box[2]) - np.maximum(left, box[0])
    high = np.minimum(bottom, box[3]) - np.maximum(top, box[1])
    inside = np.minimum(wide, high) > LEAST_OVERLAP
    patches = np.array(list(told["kind"])) == LETTER["patch"]
    return float(weights[inside].sum() / weights[patches].sum() * patches.sum() / inside.sum())


def data_address(picture: Image.Image, largest: int) -> str:
    """Return a picture, made smaller where it is larger than `largest` pixels, as a data address."""
    small = picture.convert("RGB")
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    lossless = small.size == picture.size and max(small.size) <= 256  # small pictures keep their exact pixels
    kind, settings = ("png", {}) if lossless else ("jpeg", {"quality": QUALITY})
    out = io.BytesIO()
    small.save(out, kind, optimize=True, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _token_map(token_map: TokenMap) -> dict[str, Any]:
    return {
        "grid": list(token_map.grid_shape),
        "tiles": list(token_map.tile_shape),
        "kind": "".join(LETTER[str(kind)] for kind in token_map.kind),
        "tile": pack(token_map.tile, "u1"),
        "row": pack(np.maximum(token_map.grid_row, 0), "u2"),
        "column": pack(token_map.grid_column + 1, "u2"),  # newlines and separators have column −1
        "box": pack(token_map.box, "f4"),
    }


def _effect(effect: Effect) -> dict[str, Any]:
    candidates = effect.probability.shape[-1]
    return {
        "label": effect.label,
        "description": effect.description,
        "probability": pack(effect.probability.reshape(-1, candidates), "f4"),
        "first": pack(effect.first.reshape(-1), "i4"),
        "first_probability": pack(effect.first_probability.reshape(-1), "f4"),
        "texts": {str(token): text for token, text in sorted(effect.texts.items())},
    }


def _runs(marks: NDArray[np.bool_]) -> list[list[int]]:
    """The runs of True as [first, length]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [[int(start), int(stop - start)] for start, stop in edges.reshape(-1, 2)]


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


def unpack(packed: Mapping[str, Any]) -> NDArray[Any]:
    """Return the array that `pack` made text of."""
    data = base64.b64decode(packed["data"])
    if packed.get("gzip"):
        data = gzip.decompress(data)
    dtype = np.dtype(DTYPES[packed["dtype"]])
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(packed["shape"]).astype(dtype)


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
