"""The same heads at three moments: a language model that never saw a picture, then with pictures, then tuned on them.

One question in three forms: objects told in words to the untouched language model, shown in a picture to the frozen
one, and to the tuned one. All are read through one path: language-model inputs in, two attention rows out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visualheads.analysis.three_moments import FROZEN, TEXT, TUNED, chosen_heads
from visualheads.cards import data_folder, learned_file
from visualheads.errors import StoreError
from visualheads.heads.selection import depth_stage
from visualheads.miniatures.smol.packing import (
    Prompt,
    as_pixels,
    as_saved,
    drawn_questions,
    picture_prompt,
    text_prompt,
)
from visualheads.miniatures.smol.scenes import Scene, draw_scene, render, use_sheet
from visualheads.miniatures.smol.sprites import read_sheet
from visualheads.models.smol.base_weights import weights_identity
from visualheads.models.smol.joined_model import join, read_learned, with_untrained_projector
from visualheads.store.read import open_store
from visualheads.store.schema import provenance
from visualheads.store.upkeep import pack
from visualheads.tracing.forward import FIRST_GENERATED, LAST_PROMPT

TUNED_TEXT = "smol-1.5, lists in words"
UNTRAINED, SHUFFLED = "SmolLM2, untrained adapter", "smol-1.5, other pictures"
"""Beside the three moments: the tuned model on words; pictures through an adapter that learned nothing, and pictures of
another scene, as controls."""
STEP = "smol-1.5 at step {}, pictures"
"""A moment on the way from frozen to tuned."""
SCENES = 110
RANDOM_SETS, STANDARDISED, QUALITY = 5, 16, 90
"""Sets of random heads; pictures by whose features an untrained adapter is standardised; JPEG quality of pictures."""
KIND, PROTOCOL, BITS = "three-moments", 2, 9
ROWS = (LAST_PROMPT, FIRST_GENERATED)
"""Attention rows that are read: the one that gives the answer, and that of the answer's first token."""
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
ANSWERS = {
    "correct": "the most probable number is right",
    "log_probability": "log-probability of the right number among numbers (nats)",
}
REPEATED, SEQUENCES = 24, 8
"""Random tokens that are told twice, and how many such sequences, for what heads do on any text."""


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
def last_scores(language_model: Any, head: Any, prompt: Prompt) -> Float[Tensor, " word"]:
    """Scores of all words as the answer's first token."""
    return head(language_model(inputs_embeds=prompt.inputs[None], use_cache=False).last_hidden_state[0, -1]).float()


@torch.no_grad()
def read_rows(
    language_model: Any, prompt: Prompt, answer: Tensor
) -> Float[NDArray[np.float32], "query layer head token"]:
    """Every head's attention on the prompt in ROWS, where the answer's first token is `answer`."""
    inputs = torch.cat([prompt.inputs, language_model.get_input_embeddings()(answer[None])])
    with eager(language_model):
        found = language_model(inputs_embeds=inputs[None], output_attentions=True, use_cache=False).attentions
    return torch.stack([layer[0, :, -2:, :-1] for layer in found]).movedim(2, 0).float().numpy()


def measured(
    rows: Float[NDArray[np.floating], "query layer head token"], prompt: Prompt
) -> dict[str, NDArray[np.float64]]:
    """`MEASURES` (query, layer, head) of one prompt; lifts are NaN where there is nothing to look at."""
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


def answered(scores: Float[Tensor, " word"], prompt: Prompt) -> tuple[bool, float]:
    """Whether the most probable number is the right one, and the right one's log-probability among numbers in nats."""
    numbers = scores[list(prompt.numbers)].log_softmax(-1)
    return int(numbers.argmax()) == prompt.answer, float(numbers[prompt.answer])


def trace_moment(name: str, language_model: Any, head: Any, prompts: Sequence[Prompt]) -> xr.Dataset:
    """Measures of every head on every prompt in both rows, and whether each is answered right.

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
        `MEASURES` (model, query, layer, head, sample), `BEHAVIOURS` (model, layer, head) and `ANSWERS` (model, sample).
    """
    scores = [last_scores(language_model, head, prompt) for prompt in prompts]
    told = [
        measured(read_rows(language_model, prompt, one.argmax()), prompt)
        for one, prompt in zip(scores, prompts, strict=True)
    ]
    dims = ("model", "query", "layer", "head", "sample")
    data: dict[str, Any] = {
        name: (dims, np.stack([one[name] for one in told], axis=-1)[None].astype(np.float32)) for name in MEASURES
    }
    found = behaviours(language_model)
    data |= {name: (("model", "layer", "head"), values[None].astype(np.float32)) for name, values in found.items()}
    right = [answered(one, prompt) for one, prompt in zip(scores, prompts, strict=True)]
    answers = np.array(right, dtype=np.float32).T[:, None]
    data |= {name: (("model", "sample"), values) for name, values in zip(ANSWERS, answers, strict=True)}
    coordinates = {
        "model": np.array([name], dtype=object),
        "query": np.array(ROWS, dtype=object),
        "image_id": ("sample", np.array([prompt.image_id for prompt in prompts], dtype=object)),
        "depth_stage": ("layer", np.array(depth_stage(len(found["sink"])), dtype=object)),
    }
    ds = xr.Dataset(data, coordinates)
    for measure, words in {**MEASURES, **BEHAVIOURS, **ANSWERS}.items():
        ds[measure].attrs["long_name"] = words
    return ds


@torch.no_grad()
def behaviours(language_model: Any) -> dict[str, NDArray[np.float64]]:
    """What heads do on random tokens that are told twice: `BEHAVIOURS`, means over rows of the second telling."""
    drawn = torch.randint(
        100, language_model.config.vocab_size, (SEQUENCES, REPEATED), generator=torch.Generator().manual_seed(0)
    )
    ids = torch.cat([drawn, drawn], 1)
    with eager(language_model):
        layers = language_model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    attention = torch.stack(layers).float().mean(1)  # layer, head, row, key
    rows = torch.arange(REPEATED, 2 * REPEATED - 1)
    keys = {"sink": 0 * rows, "previous": rows - 1, "induction": rows - REPEATED + 1, "copying": rows - REPEATED}
    return {name: attention[:, :, rows, key].mean(-1).double().numpy() for name, key in keys.items()}


def knockout(
    language_model: Any, head: Any, prompts: Sequence[Prompt], sets: Mapping[str, Sequence[tuple[int, int]]]
) -> xr.Dataset:
    """Answers while the heads of each set see nothing of the scene: `ANSWERS` named knocked_…, (set, sample)."""
    found = np.zeros((len(ANSWERS), len(sets), len(prompts)), dtype=np.float32)
    for index, heads in enumerate(sets.values()):
        for number, prompt in enumerate(prompts):
            with knocked_out(language_model, heads, prompt.content):
                found[:, index, number] = answered(last_scores(language_model, head, prompt), prompt)
    dims = ("set", "sample")
    data = {f"knocked_{name}": (dims, values) for name, values in zip(ANSWERS, found, strict=True)}
    return xr.Dataset(data, {"set": np.array(list(sets), dtype=object)})


def random_sets(chosen: xr.DataArray) -> dict[str, list[tuple[int, int]]]:
    """Draw sets of heads that were not chosen: from each layer as many as were chosen there, as far as there are."""
    mask = chosen.transpose("layer", "head").values
    rng = np.random.default_rng(0)
    drawn: dict[str, list[tuple[int, int]]] = {}
    for number in range(RANDOM_SETS):
        drawn[f"random {number}"] = [
            (layer, int(head))
            for layer, row in enumerate(mask)
            for head in rng.permutation(np.flatnonzero(~row))[: row.sum()]
        ]
    return drawn


def measure(n: int = SCENES, data: Path | None = None, report: Callable[[str], object] = str) -> xr.Dataset:
    """Measure all moments and controls of the joined models on fresh scenes; see `measure_modules`.

    Needs the base weights (`visualheads weights smol`).

    Parameters
    ----------
    n : int
        Scenes that are drawn; those with two classes or more are asked about.
    data : Path, optional
        Folder of the sprites; data/smol by default.
    report : callable
        Takes a line about progress.
    """
    sheet = read_sheet(data or data_folder() / "smol")
    use_sheet(sheet)
    rng = random.Random("three moments")
    asked = drawn_questions([draw_scene(rng, held_out_pairs=True) for _ in range(n)])
    pictures = [as_saved(render(scene, sheet), QUALITY) for scene, _, _ in asked]
    frozen, processor = join(read_learned(learned_file("smol-frozen")))
    tuned, _ = join(read_learned(learned_file("smol-1.5")))
    steps = {STEP.format(int(path.stem[-6:])): path for path in training_moments()}
    between = ((name, join(read_learned(path))[0]) for name, path in steps.items())  # one at a time in memory
    return measure_modules(frozen, tuned, processor.tokenizer, asked, pictures, report, between)


def training_moments() -> list[Path]:
    """Weights of smol-1.5 that its training kept on the way, by step; none where it was trained elsewhere."""
    return sorted(learned_file("smol-1.5").parent.joinpath("moments").glob("smol-1.5-??????.safetensors"))


def measure_modules(
    frozen: Any,
    tuned: Any,
    tokenizer: Any,
    asked: Sequence[tuple[Scene, str, str]],
    pictures: Sequence[Image.Image],
    report: Callable[[str], object] = str,
    between: Iterable[tuple[str, Any]] = (),
) -> xr.Dataset:
    """Measure heads at all moments and in all controls, and what hiding the scene from those that look does.

    Parameters
    ----------
    frozen, tuned : FastVlmForConditionalGeneration
        Before and after the language model was trained on pictures.
    tokenizer : PreTrainedTokenizer
        Of both.
    asked : sequence of (Scene, str, str)
        From `drawn_questions`.
    pictures : sequence of Image
        Of the scenes.
    report : callable
        Takes a line about progress.
    between : iterable of (str, FastVlmForConditionalGeneration)
        Models on the way from `frozen` to `tuned`, with what to call them: their heads and answers are measured too.

    Returns
    -------
    Dataset
        Moments and controls along `model`, see `trace_moment`; `chosen` (layer, head), the heads that look at asked
        objects in the tuned model, chosen on every other picture; `knocked_correct` and `knocked_log_probability`
        (model, set, sample) on the other pictures, NaN elsewhere and in controls, where each set of heads – the
        chosen, random ones of the same layers, all – sees nothing of the scene.
    """
    some = torch.stack([as_pixels(picture) for picture in pictures[:STANDARDISED]])
    untrained = with_untrained_projector(frozen, some)
    others = [*pictures[1:], pictures[0]]

    def told(module: Any) -> list[Prompt]:
        return [text_prompt(module, tokenizer, *one) for one in asked]

    @torch.no_grad()
    def shown(module: Any, seen: Sequence[Image.Image] = pictures) -> list[Prompt]:
        return [picture_prompt(module, tokenizer, picture, *one) for one, picture in zip(asked, seen, strict=True)]

    made: dict[str, tuple[Any, list[Prompt]]] = {
        TEXT: (frozen, told(frozen)),
        FROZEN: (frozen, shown(frozen)),
        TUNED: (tuned, shown(tuned)),
        TUNED_TEXT: (tuned, told(tuned)),
        UNTRAINED: (untrained, shown(untrained)),
        SHUFFLED: (tuned, shown(tuned, others)),
    }
    traced = []
    for name, (module, prompts) in made.items():
        report(f"{name}: {len(prompts)} questions")
        traced.append(trace_moment(name, module.model.language_model, module.lm_head, prompts))
    after_frozen = list(made).index(FROZEN) + 1
    for place, (name, module) in enumerate(between, after_frozen):
        report(f"{name}: {len(asked)} questions")
        traced.insert(place, trace_moment(name, module.model.language_model, module.lm_head, shown(module)))
    ds: xr.Dataset = xr.concat(traced, "model")  # pyright: ignore[reportAssignmentType]
    chosen = chosen_heads(ds.sel(query=LAST_PROMPT), TUNED).transpose("layer", "head")
    everywhere = xr.ones_like(chosen)
    sets = {"looking": _pairs(chosen), **random_sets(chosen), "all": _pairs(everywhere)}
    judged = np.flatnonzero(~chosen.attrs["chosen_on"])
    effects = []
    for name in (TEXT, FROZEN, TUNED):
        module, prompts = made[name]
        report(f"{name}: {len(sets)} sets of heads on {len(judged)} questions")
        found = knockout(module.model.language_model, module.lm_head, [prompts[at] for at in judged], sets)
        effects.append(found.assign_coords(sample=judged).expand_dims(model=np.array([name], dtype=object)))
    knocked = xr.concat(effects, "model").reindex(model=ds["model"].values, sample=np.arange(len(asked)))
    ds = ds.assign_coords(set=knocked["set"])
    ds["chosen"] = (("layer", "head"), chosen.values)
    return ds.assign({name: (values.dims, values.values) for name, values in knocked.data_vars.items()})


def _pairs(mask: xr.DataArray) -> list[tuple[int, int]]:
    return [(layer, head) for layer, head in np.argwhere(mask.values).tolist()]


def identity() -> dict[str, Any]:
    """What decides the numbers, as it is now: the learned weights, the base weights, and this study's protocol."""
    return {
        "protocol": PROTOCOL,
        "weights": {name: weights_identity(learned_file(name)) for name in ("smol-frozen", "smol-1.5")},
    }


def shipped_path() -> Path:
    """Where the shipped measurements lie."""
    return data_folder() / "smol" / "three-moments.zarr.zip"


def ship(ds: xr.Dataset, path: Path | None = None) -> Path:
    """Write measurements packed, with the identity of what is there now; returns the path."""
    told = np.full(ds.sizes["model"], provenance(identity(), {}), dtype=object)
    return pack(ds.assign_coords(provenance=("model", told)), path or shipped_path(), BITS, KIND)


def shipped() -> xr.Dataset:
    """Return the shipped measurements. Raises StoreError where they are of other weights than those that are there."""
    ds = open_store(shipped_path()).load()
    if json.loads(str(ds["provenance"].values[0]))["identity"] != identity():
        raise StoreError(f"{shipped_path()} is of other weights; measure again: visualheads moments")
    return ds
