"""The tokenizer of an original folder, read without the SentencePiece library, with `<image>` added at its end.

The file is a protocol buffer: message 1 repeated are pieces (1 text, 2 score, 3 kind), message 2 tells how it was
trained (3: 1 unigram, 2 BPE).
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from visualheads.errors import CheckpointError
from visualheads.models.checkpoints import read_json

IMAGE = "<image>"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
MULTIPLE = 64
"""A vocabulary that has to grow ends at a multiple of this, which matrix products like (as llava-hf's do)."""

PROBES = ("How many of these are there?", "USER: What is it?\nASSISTANT:", "A. 3\nB. 4")


PIECE, TRAINER = 1, 2
TEXT, SCORE, KIND = 1, 2, 3
MODEL_TYPE, BPE_MODEL = 3, 2
NORMAL = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Words:
    """A tokenizer with `<image>`.

    tokenizer   transformers tokenizer, padding on the left
    image_id    id of `<image>`: its own where the tokenizer had it, else the first free one
    rows        rows of the embedding: the original's where the id fits, else enough for it, at a multiple of MULTIPLE
    added       rows that the original does not have
    probes      ids of a few texts in the original tokenizer, which must not change
    """

    tokenizer: Any
    image_id: int
    rows: int
    added: int
    probes: tuple[tuple[int, ...], ...]


def words_of(folder: Path, rows: int) -> Words:
    """The tokenizer of a folder for an embedding of `rows` rows, with `<image>`.

    Ids that no token has (a padded vocabulary, as Phi-3's 32 011 to 32 063) are used before the embedding grows.
    Raises CheckpointError.
    """
    tokenizer = _loaded(folder)
    probes = probed(tokenizer)
    taken = set(tokenizer.get_vocab().values())
    had = IMAGE in tokenizer.get_vocab()
    if not had:
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    if not isinstance(image_id, int) or (not had and image_id in taken) or tokenizer.tokenize(IMAGE) != [IMAGE]:
        raise CheckpointError(f"the tokenizer of {folder} takes no new token {IMAGE!r}; its files are damaged.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    needed = max(*taken, image_id) + 1
    grown = rows if needed <= rows else -(-needed // MULTIPLE) * MULTIPLE
    return Words(tokenizer, image_id, grown, grown - rows, probes)


def probed(tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """The ids of a few texts."""
    return tuple(tuple(tokenizer(text)["input_ids"]) for text in PROBES)


def _loaded(folder: Path) -> Any:
    """The tokenizer, from copies of its files: the config beside them names a class that transformers does not have."""
    import transformers

    with tempfile.TemporaryDirectory(prefix="visualheads-") as place:
        copy = Path(place)
        for name in FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, copy / name)
        if not (copy / "tokenizer.json").is_file():
            if not (folder / "tokenizer.model").is_file():
                raise CheckpointError(f"{folder} has neither tokenizer.json nor tokenizer.model; fetch one of them.")
            _from_pieces(folder / "tokenizer.model").save(str(copy / "tokenizer.json"))
        settings = read_json(copy / "tokenizer_config.json") if (copy / "tokenizer_config.json").is_file() else {}
        known = hasattr(transformers, str(settings.get("tokenizer_class", "")))
        kind = transformers.AutoTokenizer if known else transformers.LlamaTokenizer
        try:
            return kind.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the tokenizer of {folder} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
                "fetch its files again."
            ) from error


def _from_pieces(path: Path) -> Tokenizer:
    """A tokenizer of the vocabulary and merges of a SentencePiece model, with Llama's handling of spaces and bytes."""
    vocabulary, merges = read_pieces(path)
    begin = "<s>"
    if not {begin, "<unk>"} <= vocabulary.keys():
        raise CheckpointError(f"{path} has no {begin} or <unk>, so it is not Llama's; give a tokenizer.json as well.")
    tokenizer = Tokenizer(BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, vocabulary[begin])]
    )
    return tokenizer


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
    if model_type != BPE_MODEL or not vocabulary:
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
