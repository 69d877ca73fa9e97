"""Reading `tokenizer.model`, a SentencePiece BPE vocabulary, without that library: Vicuna's checkpoints have no other.

The file is a protocol buffer: message 1 repeated are pieces (1 text, 2 score, 3 kind), message 2 tells how it was
trained (3: 1 unigram, 2 BPE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from visualheads.errors import CheckpointError

PIECE, TRAINER = 1, 2
TEXT, SCORE, KIND = 1, 2, 3
MODEL_TYPE, BPE = 3, 2
NORMAL = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_pieces(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary: piece → id, merges in the order of their rank) of a SentencePiece BPE model.

    Raises CheckpointError for another kind of model, or a damaged file.
    """
    vocabulary: dict[str, int] = {}
    ranked: list[tuple[float, str]] = []
    try:
        content, model_type = path.read_bytes(), 1
        for number, value in _fields(content):
            if number == PIECE and isinstance(value, bytes):
                piece = dict(_fields(value))
                text, kind = piece[TEXT], piece.get(KIND, NORMAL)
                if not isinstance(text, bytes):
                    raise ValueError("a piece without text")
                word = text.decode("utf-8")
                if kind == NORMAL:
                    ranked.append((float(piece.get(SCORE, 0.0)), word))
                vocabulary[word] = len(vocabulary)
            elif number == TRAINER and isinstance(value, bytes):
                model_type = dict(_fields(value)).get(MODEL_TYPE, model_type)
    except (ValueError, KeyError, IndexError, struct.error, OSError) as error:
        raise CheckpointError(f"{path} is no SentencePiece model or damaged ({error}); fetch it again.") from error
    if model_type != BPE or not vocabulary:
        raise CheckpointError(f"{path} is no SentencePiece BPE model; give a folder with tokenizer.json as well.")
    return vocabulary, _merges(vocabulary, ranked)


def _merges(vocabulary: dict[str, int], ranked: list[tuple[float, str]]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third one, best score of the joined piece first."""
    merges: list[tuple[str, str]] = []
    usable = {word for _, word in ranked}
    for _, word in sorted(ranked, key=lambda entry: -entry[0]):
        halves = [(word[:cut], word[cut:]) for cut in range(1, len(word))]
        known = [pair for pair in halves if pair[0] in usable and pair[1] in usable]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) pairs of a protocol buffer message; 64-bit fields are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut off")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == FIXED32:
            yield tag >> 3, struct.unpack_from("<f", data, at)[0]
            at += 4
        elif kind == FIXED64:
            at += 8
        else:
            raise ValueError(f"field of kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at
