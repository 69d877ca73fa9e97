"""One question on one scene for the joined model: told in words, or shown as a picture; and which keys are what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.packing import ASK, as_pixels, prefix_ids
from visualheads.miniatures.smol.scenes import MOST_OBJECTS, Scene
from visualheads.models.smol.architecture import GRID, IMAGE_TOKENS


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
