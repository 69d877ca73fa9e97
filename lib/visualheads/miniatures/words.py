"""The miniatures' language: plain English over a closed vocabulary of words and plural endings, and its tokenizer."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from visualheads.miniatures.distortions import ADJECTIVES, QUALITIES
from visualheads.miniatures.wordings import (
    COLOUR_REQUEST,
    LIST_REQUEST,
    PLACE_REQUEST,
    PLACES,
    RELATIONS,
    TALLY_REQUEST,
    TALLY_STYLES,
    WORDINGS,
)
from visualheads.miniatures.world import CLASSES, COLOURS, SUPERCATEGORIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, UNK, IMAGE)
WORD = r"USER:|ASSISTANT:|[A-Za-z]+(?:'s)?|[0-9]+|[^\sA-Za-z0-9]"
PLURAL_ENDINGS = ("##s", "##es")  # “cars” is two pieces, “car” and “##s”: plurals share their singular's embedding
FILLER = "."  # what stands between the objects of a text list, as empty ground does between those of a picture
MARK = "rectangle"  # stands before the object that a text list points at

RECTANGLE_HINT = "The exemplary object is within the rectangle."
FREE_HINT = "Answer the question using a single word or phrase."
LETTERS_HINT = "Answer with the option's letter from the given choices directly."


def _sentences() -> str:
    """Every sentence that is asked, with its place holders left out, and every option that is offered."""
    asked = [form for forms in WORDINGS.values() for form in forms] + [form for forms in TALLY_STYLES for form in forms]
    adjectives = [adjective for pair in ADJECTIVES.values() for adjective in pair]
    hints = [RECTANGLE_HINT, FREE_HINT, LETTERS_HINT, LIST_REQUEST, COLOUR_REQUEST, TALLY_REQUEST, PLACE_REQUEST]
    text = " ".join([*asked, *hints, *adjectives, *QUALITIES, *PLACES, *RELATIONS, "a an Yes No"])
    return re.sub(r"\{\w+\}", " ", text)


def split(text: str) -> list[str]:
    """The words of a text, as the miniatures' tokenizer separates them (special tokens aside)."""
    return re.findall(WORD, text)


@cache
def vocabulary() -> dict[str, int]:
    """Word → id; special tokens first, `<pad>` = 0."""
    words = [
        *SPECIAL,
        USER,
        ASSISTANT,
        *(str(number) for number in range(21)),
        *"ABCDEF",
        *SUPERCATEGORIES,
        *CLASSES,
        *PLURAL_ENDINGS,
        *COLOURS,
        *split(_sentences()),
        *".,;:?!()'-",
    ]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def encode(text: str) -> list[int]:
    """Ids of a text without special tokens; raises KeyError for a word outside the vocabulary."""
    ids = vocabulary()
    pieces = [piece for word in split(text) for piece in ([word] if word in ids else _pieces(word))]
    return [ids[piece] for piece in pieces]


def _pieces(word: str) -> list[str]:
    """A plural as its longest known stem and its ending, as WordPiece separates them."""
    for ending in ("s", "es"):
        stem = word.removesuffix(ending)
        if stem != word and stem in vocabulary():
            return [stem, f"##{ending}"]
    return [word]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The same vocabulary as a transformers tokenizer: `<s>` in front, unknown words become `<unk>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Split(Regex(WORD), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=1024,
    )


def together(ids: Sequence[int]) -> int:
    """One id for several words told in a single place, the first of which is not `<pad>`: digits to the vocabulary's
    base."""
    return sum(word * len(vocabulary()) ** digit for digit, word in enumerate(ids))


def embedded(table: nn.Embedding, ids: Int[Tensor, "batch key"]) -> Float[Tensor, "batch key hidden"]:
    """Embeddings of ids; of words told together, the sum of theirs."""
    size = len(vocabulary())
    told, rest = table(ids % size), ids // size
    while bool(rest.any()):
        more = rest % size
        told = told + table(more) * (more > 0)[..., None]
        rest = rest // size
    return told
