"""Inputs of the joined model: pictures as its processor makes them, and many questions on one packed in a sequence.

The picture's tokens stand once; each question sees them and itself, and counts its positions from the picture's end.
Or one question alone, on a scene in words or in a picture, with which keys are what (`Prompt`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.questions import NO, YES, Question
from visualheads.miniatures.smol.scenes import MOST_OBJECTS, Scene
from visualheads.miniatures.smol.sprites import SpriteSheet
from visualheads.models.smol.architecture import (
    DEVIATION,
    GRID,
    IMAGE_TOKEN,
    IMAGE_TOKENS,
    MEAN,
    RESAMPLE,
    SIDE,
    Projector,
)
from visualheads.models.smol.joined_model import ADAPTER, LORA, lora_layers, lora_state
from visualheads.tasks.pictures import DrawBox

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The language model's own system message, which its chat template writes."""
BEFORE = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
ASK = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
IGNORED = -100


def as_pixels(picture: Image.Image) -> Float[Tensor, "channel height width"]:
    """Return a picture resized to `SIDE` and normalised."""
    square = picture.convert("RGB").resize((SIDE, SIDE), RESAMPLE)
    values = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
    return (values.float() / 255 - MEAN) / DEVIATION


def as_saved(picture: Image.Image, quality: int) -> Image.Image:
    """Return a picture as it comes back from a JPEG file of this quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def draw_box(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the picture with a red rectangle around `box`, drawn as the LookTwice task draws it."""
    return DrawBox(box).apply(picture)


class Tokenizer(Protocol):
    def __call__(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Packed:
    """A batch: token ids, positions, who sees whom, and the answer token expected after each token."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    question: Tensor
    """Number of the question that a target belongs to, within its row; −1 elsewhere."""


def prefix_ids(tokenizer: Tokenizer, image_tokens: int, text: str = "") -> list[int]:
    """Ids of everything before the question: system message, picture (or `text` in its place), line break."""
    return tokenizer(BEFORE + (text or IMAGE_TOKEN * image_tokens) + "\n").input_ids


def pack(tokenizer: Tokenizer, rows: Sequence[tuple[Sequence[int], Sequence[Question]]], pad: int) -> Packed:
    """Pack rows of (ids before the questions, questions) into one batch, padded on the right."""
    encoded = [
        [(tokenizer(q.text + ASK).input_ids, tokenizer(q.answer + END).input_ids) for q in asked] for _, asked in rows
    ]
    lengths = [
        len(before) + sum(len(asked) + len(answer) - 1 for asked, answer in parts)
        for (before, _), parts in zip(rows, encoded, strict=True)
    ]
    shape = (len(rows), max(lengths))
    ids, positions = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    targets, question = torch.full(shape, IGNORED), torch.full(shape, -1)
    segment = torch.full(shape, -2)  # −1 what all see, 0… the questions, −2 padding
    for row, ((before, _), parts) in enumerate(zip(rows, encoded, strict=True)):
        at = len(before)
        ids[row, :at], positions[row, :at], segment[row, :at] = torch.tensor(before), torch.arange(at), -1
        for number, (asked, answer) in enumerate(parts):
            told = [*asked, *answer[:-1]]
            here = slice(at, at + len(told))
            ids[row, here] = torch.tensor(told)
            positions[row, here] = len(before) + torch.arange(len(told))
            segment[row, here] = number
            answered = slice(at + len(asked) - 1, at + len(told))
            targets[row, answered], question[row, answered] = torch.tensor(answer), number
            at += len(told)
    same = segment[:, :, None] == segment[:, None, :]
    causal = torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
    mask = (same | (segment[:, None, :] == -1)) & causal
    return Packed(ids, positions, mask[:, None], targets, question)


def answer_logits(model: Any, head: nn.Module, batch: Packed, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (float32) and targets of all answer tokens of a batch, in row order.

    Parameters
    ----------
    model : PreTrainedModel
        The language model's decoder.
    head : nn.Module
        What makes logits of its last states.
    batch : Packed
        From `pack`.
    inputs : Tensor
        Language-model inputs, (row, token, hidden).

    Returns
    -------
    tuple of Tensor
        (answer token, vocabulary) and (answer token,).
    """
    hidden_keys = torch.zeros(batch.mask.shape, dtype=inputs.dtype)
    hidden_keys.masked_fill_(~batch.mask, torch.finfo(inputs.dtype).min)  # eager attention adds its mask
    hidden = model(
        inputs_embeds=inputs, attention_mask=hidden_keys, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    answered = batch.targets != IGNORED
    return head(hidden[answered]).float(), batch.targets[answered]


def right_answers(batch: Packed, logits: Tensor) -> list[list[bool]]:
    """Whether each question of each row is answered exactly: every token is the most probable one after the right
    ones before it, which is what greedy decoding gives, too."""
    hits = torch.ones_like(batch.targets, dtype=torch.bool)
    answered = batch.targets != IGNORED
    hits[answered] = logits.argmax(-1) == batch.targets[answered]
    return [
        [bool(row_hits[row == number].all()) for number in range(int(row.max()) + 1)]
        for row, row_hits in zip(batch.question, hits, strict=True)
    ]


def likeliest_answers(
    tokenizer: Tokenizer, rows: Sequence[tuple[Sequence[int], Sequence[Question]]], batch: Packed, logits: Tensor
) -> list[list[bool]]:
    """Whether the right answer's first token is the likeliest of all answers that its kind of question leaves open."""
    open_to = {
        kind: [tokenizer(one).input_ids[0] for one in answers]
        for kind, answers in {"exists": (YES, NO), "-letters": "ABCD", "": map(str, range(1, MOST_OBJECTS + 1))}.items()
    }
    answered = batch.targets != IGNORED
    first: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(answered.nonzero()[:, 0].tolist(), batch.question[answered].tolist(), strict=True)):
        first.setdefault(key, place)
    found = []
    for row, (_, asked) in enumerate(rows):
        hits = []
        for number, question in enumerate(asked):
            ids = next(ids for kind, ids in open_to.items() if question.kind.endswith(kind))
            best = ids[int(logits[first[row, number], ids].argmax())]
            hits.append(best == tokenizer(question.answer).input_ids[0])
        found.append(hits)
    return found


@dataclass
class Learner:
    """The model while it learns: frozen parts in their own precision, learned parts in float32."""

    tokenizer: Any
    language_model: Any
    tower: Any
    adapter: Projector
    sheet: SpriteSheet

    def learned(self) -> dict[str, Tensor]:
        """All learned tensors and the adapter's statistics, by the names they are saved under."""
        adapter = {f"{ADAPTER}{name}": value.detach() for name, value in self.adapter.state_dict().items()}
        lora = {f"{LORA}{name}": value for name, value in lora_state(self.language_model).items()}
        return {**adapter, **lora}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take learned tensors; LoRA matrices that `weights` lacks keep their initial values."""
        projector = {name[len(ADAPTER) :]: value for name, value in weights.items() if name.startswith(ADAPTER)}
        self.adapter.load_state_dict(projector)
        with torch.no_grad():
            for name, layer in lora_layers(self.language_model):
                for part in ("down", "up"):
                    if f"{LORA}{name}.{part}" in weights:
                        getattr(layer, part).copy_(weights[f"{LORA}{name}.{part}"])

    def features(self, pictures: Sequence[Any]) -> Tensor:
        """Features of rendered pictures, one row of tokens each."""
        pixels = torch.stack([as_pixels(picture) for picture in pictures])
        with torch.no_grad():
            return self.tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)

    def inputs(self, batch: Packed, features: Tensor | None, pictures: int) -> Tensor:
        """Language-model inputs: word embeddings, with adapted features in the first rows' image tokens."""
        embedded = self.language_model.get_input_embeddings()(batch.ids)
        if features is None:
            return embedded
        image = (batch.ids == self.image_token) & (torch.arange(len(batch.ids))[:, None] < pictures)
        return embedded.masked_scatter(image[..., None], self.adapter(features).to(embedded.dtype))

    @property
    def image_token(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def scores(self, batch: Packed, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (float32) and targets of all answer tokens of a batch, in row order."""
        return answer_logits(self.language_model.model, self.language_model.lm_head, batch, inputs)


@dataclass(frozen=True)
class Prompt:
    """Language-model inputs of one question, and which keys are the scene, the asked objects, and the others.

    `numbers` are the tokens of the numbers that may be the answer, `answer` is the place of the right one among them.
    """

    inputs: Float[Tensor, "token hidden"]
    content: Bool[Tensor, " token"]
    asked: Bool[Tensor, " token"]
    unasked: Bool[Tensor, " token"]
    numbers: tuple[int, ...]
    answer: int
    image_id: str


def text_prompt(module: Any, tokenizer: Any, scene: Scene, name: str, image_id: str) -> Prompt:
    """The question “How many … are there?” on a scene told in words, for a language model without pictures."""
    told = questions.told_in_words(scene)
    before = prefix_ids(tokenizer, 0, told)
    first = len(prefix_ids(tokenizer, 0, told[: told.index(":") + 1])) - 1
    spans, at = [], first
    for index, thing in enumerate(scene.objects):
        words = len(tokenizer(f" {thing.name}" + ("," if index + 1 < len(scene.objects) else "")).input_ids)
        spans.append((thing.name, at, at + words))
        at += words
    ids = [*before, *tokenizer(_question(name) + ASK).input_ids]
    content, asked, unasked = (torch.zeros(len(ids), dtype=torch.bool) for _ in range(3))
    for named, start, end in spans:
        content[start:end] = True
        (asked if named == name else unasked)[start:end] = True
    inputs = module.get_input_embeddings()(torch.tensor(ids))
    return Prompt(inputs, content, asked, unasked, *_answer(tokenizer, scene, name), image_id)


def picture_prompt(module: Any, tokenizer: Any, picture: Image.Image, scene: Scene, name: str, image_id: str) -> Prompt:
    """The same question on a picture, which shows the scene, or another one as a control, for a FastVLM."""
    before = prefix_ids(tokenizer, IMAGE_TOKENS)
    ids = torch.tensor([*before, *tokenizer(_question(name) + ASK).input_ids])
    content = ids == module.config.image_token_id
    pixels = as_pixels(picture)[None].to(module.dtype)
    features = module.get_image_features(pixels, return_dict=True).pooler_output[0]
    embedded = module.get_input_embeddings()(ids)
    inputs = embedded.masked_scatter(content[:, None], features.to(embedded.dtype))
    asked, unasked = (torch.zeros(len(ids), dtype=torch.bool) for _ in range(2))
    own, others = cells(scene, name)
    asked[content], unasked[content] = torch.from_numpy(own), torch.from_numpy(others & ~own)
    return Prompt(inputs, content, asked, unasked, *_answer(tokenizer, scene, name), image_id)


def _question(name: str) -> str:
    return questions.free("object", questions.count_object(name), "").text


def _answer(tokenizer: Any, scene: Scene, name: str) -> tuple[tuple[int, ...], int]:
    """Tokens of the numbers, and the place of the right one: a model may know the number and word its answer freely."""
    numbers = [tokenizer.convert_tokens_to_ids(str(number)) for number in range(1, MOST_OBJECTS + 1)]
    return tuple(numbers), scene.count(name) - 1


def cells(scene: Scene, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Image tokens, row by row, whose cells meet an object of the class, and those that meet another object."""
    found = [np.zeros((GRID, GRID), dtype=bool) for _ in range(2)]
    for thing in scene.objects:
        left, top, right, bottom = (
            edge * GRID / side for edge, side in zip(thing.box, (*scene.size, *scene.size), strict=True)
        )
        rows, columns = slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))
        found[thing.name != name][rows, columns] = True
    return found[0].ravel(), found[1].ravel()


def drawn_questions(scenes: Sequence[Scene]) -> list[tuple[Scene, str, str]]:
    """Scenes of two or more classes, the asked class (by turns), and the picture's name."""
    several = [(number, scene) for number, scene in enumerate(scenes) if len(scene.names) > 1]
    return [(scene, scene.names[number % len(scene.names)], str(number)) for number, scene in several]
