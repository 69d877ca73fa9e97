"""The same heads at three moments: a language model that never saw a picture, then with pictures, then tuned on them.

One question in three forms: objects told in words to the untouched language model, shown in a picture to the frozen
one, and to the tuned one. All are read through one path: language-model inputs in, attention of the last row out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from visualheads.heads.selection import depth_stage
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.packing import ASK, END, as_pixels, prefix_ids
from visualheads.miniatures.smol.scenes import Scene, render
from visualheads.miniatures.smol.sprites import SpriteSheet
from visualheads.models.smol.architecture import GRID, IMAGE_TOKENS

MEASURES = {
    "content_weight": "attention on the told or shown scene",
    "asked_weight": "attention on the asked objects",
    "asked_lift": "attention on the asked objects against their share of the scene",
    "unasked_lift": "attention on other objects against their share of the scene",
}
BEHAVIOURS = {
    "sink": "attention on the first token",
    "previous": "attention on the token before",
    "induction": "attention on what followed the same token earlier",
    "copying": "attention on the same token earlier",
}
REPEATED, SEQUENCES = 24, 8
"""Random tokens that are told twice, and how many such sequences, for what heads do on any text."""


@dataclass(frozen=True)
class Prompt:
    """Language-model inputs of one question, and which keys are the scene, the asked objects, and the others."""

    inputs: Float[Tensor, "token hidden"]
    content: Bool[Tensor, " token"]
    asked: Bool[Tensor, " token"]
    unasked: Bool[Tensor, " token"]
    answer: tuple[int, ...]
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
    return Prompt(inputs, content, asked, unasked, _answer(tokenizer, scene, name), image_id)


def picture_prompt(module: Any, tokenizer: Any, sheet: SpriteSheet, scene: Scene, name: str, image_id: str) -> Prompt:
    """The same question on the picture of a scene, for a FastVLM."""
    before = prefix_ids(tokenizer, IMAGE_TOKENS)
    ids = torch.tensor([*before, *tokenizer(_question(name) + ASK).input_ids])
    content = ids == module.config.image_token_id
    pixels = as_pixels(render(scene, sheet))[None].to(module.dtype)
    features = module.get_image_features(pixels, return_dict=True).pooler_output[0]
    embedded = module.get_input_embeddings()(ids)
    inputs = embedded.masked_scatter(content[:, None], features.to(embedded.dtype))
    asked, unasked = (torch.zeros(len(ids), dtype=torch.bool) for _ in range(2))
    own, others = cells(scene, name)
    asked[content], unasked[content] = torch.from_numpy(own), torch.from_numpy(others & ~own)
    return Prompt(inputs, content, asked, unasked, _answer(tokenizer, scene, name), image_id)


def _question(name: str) -> str:
    return questions.free("object", questions.count_object(name), "").text


def _answer(tokenizer: Any, scene: Scene, name: str) -> tuple[int, ...]:
    return tuple(tokenizer(f"{scene.count(name)}{END}").input_ids)


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


@contextmanager
def eager(language_model: Any) -> Iterator[None]:
    """Let a language model compute attention so that it can be read."""
    before = language_model.config._attn_implementation
    language_model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        language_model.config._attn_implementation = before


@torch.no_grad()
def last_rows(language_model: Any, prompt: Prompt) -> Float[NDArray[np.float32], "layer head token"]:
    """Every head's attention from the last prompt token, which gives the answer."""
    with eager(language_model):
        found = language_model(inputs_embeds=prompt.inputs[None], output_attentions=True, use_cache=False).attentions
    return torch.stack([layer[0, :, -1] for layer in found]).float().numpy()


def measured(rows: Float[NDArray[np.floating], "layer head token"], prompt: Prompt) -> dict[str, NDArray[np.float64]]:
    """`MEASURES` of the heads on one prompt; lifts are NaN where there is nothing to look at."""
    content, asked, unasked = (mask.numpy() for mask in (prompt.content, prompt.asked, prompt.unasked))
    on_content = rows[..., content].sum(-1)
    found = {"content_weight": on_content, "asked_weight": rows[..., asked].sum(-1)}
    for name, mask in (("asked_lift", asked), ("unasked_lift", unasked)):
        share = mask.sum() / content.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = rows[..., mask].sum(-1) / on_content / share if share else np.full(on_content.shape, np.nan)
    return found


@contextmanager
def knocked_out(language_model: Any, heads: Sequence[tuple[int, int]], keys: Bool[Tensor, " token"]) -> Iterator[None]:
    """Let these heads (layer, head) see none of `keys` from any later row: edge knockout (Geva et al. 2023)."""
    of_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        of_layer.setdefault(layer, []).append(head)
    places = keys.nonzero().flatten()
    after = int(places.max()) + 1

    def hook(chosen: list[int]):
        def block(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            tokens, number = states.shape[1], language_model.config.num_attention_heads
            lowest = torch.finfo(states.dtype).min
            mask = torch.full((tokens, tokens), lowest, dtype=states.dtype).triu(1).repeat(1, number, 1, 1)
            for head in chosen:
                mask[0, head][after:, places] = lowest
            return args, {**kwargs, "attention_mask": mask}

        return block

    hooks = [
        language_model.layers[layer].self_attn.register_forward_pre_hook(hook(chosen), with_kwargs=True)
        for layer, chosen in of_layer.items()
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def is_right(language_model: Any, head: Any, prompt: Prompt) -> bool:
    """Whether the greedy answer is exactly the right one."""
    told = torch.tensor(prompt.answer)
    inputs = torch.cat([prompt.inputs, language_model.get_input_embeddings()(told[:-1])])
    states = language_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0, -len(told) :]
    return bool((head(states).argmax(-1) == told).all())


def trace_moment(name: str, language_model: Any, head: Any, prompts: Sequence[Prompt]) -> xr.Dataset:
    """Measures of every head on every prompt, and whether each is answered right: (model, layer, head, sample).

    Parameters
    ----------
    name : str
        What the moment is called.
    language_model : PreTrainedModel
        The decoder.
    head : nn.Module
        What makes logits of its last states.
    prompts : sequence of Prompt
        In the order of the samples.

    Returns
    -------
    Dataset
        `MEASURES`, `BEHAVIOURS` (model, layer, head) and `correct` (model, sample).
    """
    told = [measured(last_rows(language_model, prompt), prompt) for prompt in prompts]
    dims = ("model", "layer", "head", "sample")
    data: dict[str, Any] = {
        measure: (
            dims,
            np.stack([one[measure] for one in told], axis=-1)[None].astype(np.float32),
            {"long_name": words},
        )
        for measure, words in MEASURES.items()
    }
    for behaviour, values in behaviours(language_model).items():
        data[behaviour] = (dims[:3], values[None].astype(np.float32), {"long_name": BEHAVIOURS[behaviour]})
    right = [float(is_right(language_model, head, prompt)) for prompt in prompts]
    data["correct"] = (("model", "sample"), np.array([right], dtype=np.float32), {"long_name": "answer is right"})
    layers = data["content_weight"][1].shape[1]
    coordinates = {
        "model": np.array([name], dtype=object),
        "image_id": ("sample", np.array([prompt.image_id for prompt in prompts], dtype=object)),
        "depth_stage": ("layer", np.array(depth_stage(layers), dtype=object)),
    }
    return xr.Dataset(data, coordinates)


@torch.no_grad()
def behaviours(language_model: Any, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """What heads do on random tokens that are told twice: `BEHAVIOURS`, means over rows of the second telling."""
    drawn = torch.randint(100, language_model.config.vocab_size, (SEQUENCES, REPEATED), generator=seeded(seed))
    ids = torch.cat([drawn, drawn], 1)
    with eager(language_model):
        layers = language_model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    attention = torch.stack(layers).float().mean(1)  # layer, head, row, key
    rows = torch.arange(REPEATED, 2 * REPEATED - 1)
    keys = {"sink": 0 * rows, "previous": rows - 1, "induction": rows - REPEATED + 1, "copying": rows - REPEATED}
    return {name: attention[:, :, rows, key].mean(-1).double().numpy() for name, key in keys.items()}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def knockout_effect(
    language_model: Any, head: Any, prompts: Sequence[Prompt], sets: dict[str, Sequence[tuple[int, int]]]
) -> xr.DataArray:
    """Whether prompts are answered right while the heads of each set see nothing of the scene: (set, sample)."""
    right = np.zeros((len(sets), len(prompts)), dtype=np.float32)
    for index, heads in enumerate(sets.values()):
        for number, prompt in enumerate(prompts):
            with knocked_out(language_model, heads, prompt.content):
                right[index, number] = is_right(language_model, head, prompt)
    return xr.DataArray(right, {"set": list(sets)}, ("set", "sample"), "correct")


def drawn_questions(scenes: Sequence[Scene]) -> list[tuple[Scene, str, str]]:
    """Scenes of two or more classes, the asked class (by turns), and the picture's name."""
    several = [(number, scene) for number, scene in enumerate(scenes) if len(scene.names) > 1]
    return [(scene, scene.names[number % len(scene.names)], str(number)) for number, scene in several]


__all__ = [
    "BEHAVIOURS",
    "MEASURES",
    "Prompt",
    "behaviours",
    "drawn_questions",
    "knocked_out",
    "knockout_effect",
    "picture_prompt",
    "text_prompt",
    "trace_moment",
]
