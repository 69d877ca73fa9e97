"""What lies in an original checkpoint's folder: its settings, and its files of weights, opened one at a time."""

from __future__ import annotations

import pickle
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor

from visualheads.errors import CheckpointError, UnsupportedModelError, got
from visualheads.models.checkpoints import damaged, read_json, shards_of
from visualheads.paths import read_table

TEXT_MODELS: dict[str, str] = read_table(__file__, "names.yml")["text_models"]
"""Original class or model type → transformers' type of the language model (the released code of LLaVA, ViP-LLaVA)."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RUNS_CODE = ("Unsupported global", "Unsupported class", "Unsupported operand")


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one stored weight, and the file it lies in."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Original:
    """An original checkpoint's folder: its config, the type of its language model, its weights' headers by name."""

    folder: Path
    config: dict[str, Any]
    text_type: str
    headers: dict[str, Header]


def read_original(folder: Path) -> Original:
    """Read an original folder's config and the headers of its weights; no weight is kept in memory.

    Raises CheckpointError (not such a folder, LoRA or projector only, files missing or damaged) or
    UnsupportedModelError (another language model).
    """
    if not folder.is_dir():
        raise CheckpointError(
            got("source", str(folder), "a local folder in LLaVA's original format", "fetch the checkpoint first")
        )
    config = read_json(folder / "config.json")
    if "vision_config" in config:
        raise CheckpointError(
            f"{folder} is in transformers' format already (its config has a vision_config); load it as it is."
        )
    if "mm_vision_tower" not in config:
        raise CheckpointError(
            f"{folder} is no LLaVA checkpoint: its config.json has no mm_vision_tower; name a folder of LLaVA or "
            "ViP-LLaVA in the original format."
        )
    names = [*(config.get("architectures") or []), config.get("model_type")]
    found = [TEXT_MODELS[name] for name in names if name in TEXT_MODELS]
    if not found:
        raise UnsupportedModelError(
            got("language model", ", ".join(str(name) for name in names), "llama, mistral, phi3 (LlavaLlama…, …)")
        )
    return Original(folder, config, found[0], headers(folder))


def headers(folder: Path) -> dict[str, Header]:
    """Name → header of every weight of a folder, in the order of its files. Raises CheckpointError."""
    found: dict[str, Header] = {}
    for file in weight_files(folder):
        for name, weight in opened(file):
            if name in found:
                raise CheckpointError(f"{folder} has {name} twice, in {found[name].file.name} and {file.name}.")
            found[name] = Header(file, weight.shape, weight.dtype)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of weights: those of the index, else the single file; safetensors before pickled ones."""
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        index, single = folder / f"{stem}.{ending}.index.json", folder / f"{stem}.{ending}"
        if index.is_file():
            return shards_of(index)
        if single.is_file():
            return [single]
    if (folder / "adapter_config.json").is_file() or (folder / "adapter_model.bin").is_file():
        raise CheckpointError(f"{folder} holds a LoRA adapter; merge it with its language model first, then convert.")
    if (folder / "mm_projector.bin").is_file():
        raise CheckpointError(f"{folder} holds a projector without a language model; convert a fully tuned checkpoint.")
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin, nor an index of shards.")


@dataclass(frozen=True)
class Stored:
    """One weight of an open file: its shape and dtype at once, its values by `read`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    _file: Any
    _name: str

    def read(self) -> Tensor:
        """The values; of pickled files mapped from the disk where their layout allows."""
        if isinstance(self._file, Tensor):
            return self._file
        try:
            return self._file.get_tensor(self._name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._name} cannot be read ({error}); fetch its file again.") from error


def opened(file: Path) -> Iterator[tuple[str, Stored]]:
    """Name and weight of everything in a file, which is closed at the end.

    Pickled files are read with weights_only=True: nothing in them is run. Raises CheckpointError.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (no mapping)
                    part = weights.get_slice(name)
                    kind = DTYPES.get(part.get_dtype(), torch.int64)
                    yield name, Stored(tuple(part.get_shape()), kind, weights, name)
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error
        return
    for name, weight in _unpickled(file).items():
        if not isinstance(weight, Tensor):
            raise CheckpointError(f"{file} holds a {type(weight).__name__} at {name!r}; weights only are converted.")
        yield str(name), Stored(tuple(weight.shape), weight.dtype, weight, str(name))


def _unpickled(file: Path) -> dict[str, Any]:
    try:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # files of before torch 1.6 cannot be mapped: one of them is held in memory at a time
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in RUNS_CODE):
            raise CheckpointError(
                f"{file} would run code when opened: it holds more than weights, and weights_only=False is never used; "
                "save its state_dict anew, tensors only, or take another copy."
            ) from error
        raise damaged(file, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise damaged(file, error) from error
    if not isinstance(weights, dict):
        raise CheckpointError(f"{file} holds a {type(weights).__name__}; a dictionary of names and tensors is needed.")
    return weights


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
