"""The tokenizer of an original folder, with `<image>` added where no other token is."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from visualheads.errors import CheckpointError
from visualheads.models.checkpoints import read_json
from visualheads.models.conversion.sentencepiece import read_pieces

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
