"""The miniatures' language: plain English over a closed vocabulary of words and plural endings, and its tokenizer."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from visualheads.miniatures.world import ADJECTIVES, CLASSES, COLOURS, QUALITIES, SUPERCATEGORIES
from visualheads.paths import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

WORDINGS: dict[str, tuple[str, ...]] = {
    kind: tuple(forms) for kind, forms in read_table(__file__, "questions.yml")["wordings"].items()
}
"""Kind of question → how it is put."""
LOOKTWICE = ("general", "object", "super")
PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left", "right", "above", "below")

LIST_REQUEST = "List the objects."
COLOUR_REQUEST = "List the objects with their colours."
TALLY_REQUEST = "Count the objects."
PLACE_REQUEST = "Where are the objects located?"
THESE = "these"  # in a tally: the class of the marked object
# A tally asks in three steps from a bare word to nearly a whole question: (class, supercategory, the marked class).
TALLY_STYLES = (
    ("{name}", "{category}", THESE),
    ("{plural} ?", "{category} ?", f"{THESE} ?"),
    ("How many {plural} ?", "How many of these {category} ?", f"How many of {THESE} ?"),
)

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
    forms = [form for group in (*WORDINGS.values(), *TALLY_STYLES) for form in group]
    adjectives = [adjective for pair in ADJECTIVES.values() for adjective in pair]
    hints = [RECTANGLE_HINT, FREE_HINT, LETTERS_HINT, LIST_REQUEST, COLOUR_REQUEST, TALLY_REQUEST, PLACE_REQUEST]
    text = " ".join([*forms, *hints, *adjectives, *QUALITIES, *PLACES, *RELATIONS, "a an Yes No"])
    return re.sub(r"\{\w+\}", " ", text)


def split(text: str) -> list[str]:
    """Split a text into words as the miniatures' tokenizer does (special tokens aside)."""
    return re.findall(WORD, text)


@cache
def vocabulary() -> dict[str, int]:
    """Return the id of every word and plural ending: special tokens first, `<pad>` is 0."""
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
    """Return the ids of a text, without special tokens; raises KeyError for a word outside the vocabulary."""
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
    """Return the vocabulary as a transformers tokenizer: `<s>` in front, unknown words become `<unk>`."""
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


def join_ids(ids: Sequence[int]) -> int:
    """Return one id for several words that share a place: digits to the vocabulary's base; the first is not `<pad>`."""
    return sum(word * len(vocabulary()) ** digit for digit, word in enumerate(ids))


def embed(table: nn.Embedding, ids: Int[Tensor, "batch key"]) -> Float[Tensor, "batch key hidden"]:
    """Return the embeddings of ids; of words that share a place (`join_ids`), the sum of theirs."""
    size = len(vocabulary())
    embeddings, rest = table(ids % size), ids // size
    while bool(rest.any()):
        further = rest % size
        embeddings = embeddings + table(further) * (further > 0)[..., None]
        rest = rest // size
    return embeddings
