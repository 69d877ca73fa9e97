"""What a trace is asked to do: checked once, before anything runs, and the same for every shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.errors import ParameterError, SampleError, checked_name, checked_whole, got
from visualheads.heads.selection import head_pairs
from visualheads.models import provenance
from visualheads.models.attention_call import SINK_RULE
from visualheads.models.prompting import ONE_AT_A_TIME
from visualheads.models.wrapper import Margins
from visualheads.store import schema
from visualheads.tasks.sample import Sample
from visualheads.tracing.forward import BATCH_TOKENS, QUERIES
from visualheads.tracing.measures import DEFINITIONS_VERSION, MEASURES

if TYPE_CHECKING:
    from visualheads.models.token_map import TokenMap
    from visualheads.models.wrapper import VisionLanguageModel

KEEPABLE = ("mean_map", "maps", "attention")
DYNAMIC_GRID = (16, 16)
"""Grid of mean maps where pictures have grids of different shapes (Qwen-VL): each map is resampled onto it."""
MAX_NEW_TOKENS = 16
"""Longest answer by default; generation ends with the last answer of its batch, short ones cost less."""


@dataclass(frozen=True)
class Settings:
    """A trace's settings, and what they mean for this list of samples.

    grid            the pictures' shared whole-picture grid
    margins         what margins are over; `answers` is the hash of that
    groups          samples whose maps are averaged together
    sizes, prompts, lengths
                    of each sample's picture, (width, height), its rendered prompt, and that one's tokens, by id
    hashes          what decides each sample's own numbers, in order
    """

    queries: tuple[str, ...]
    keep: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]
    grid: tuple[int, int]
    batch_tokens: int
    max_new_tokens: int
    margins: Margins
    groups: tuple[schema.MapGroup, ...]
    sizes: dict[str, tuple[int, int]]
    prompts: dict[str, str]
    lengths: dict[str, int]
    hashes: tuple[str, ...]
    answers: str


def settings_of(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    query: str | Sequence[str],
    keep: str | Sequence[str],
    heads: Any,
    batch_tokens: int | None,
    max_new_tokens: int,
) -> Settings:
    """Check the samples and every setting. Raises SampleError, ImageError, HeadError or ParameterError."""
    if not hasattr(model, "token_map"):
        raise ParameterError(got("model", model, "a model of vh.load or vh.wrap"))
    _check(samples)
    queries, kept = _names("query", query, QUERIES), _names("keep", keep, KEEPABLE)
    if not queries:
        raise ParameterError(got("query", queries, QUERIES, "ask for at least one"))
    max_new_tokens = checked_whole("max_new_tokens", max_new_tokens)
    tokens = batch_tokens if batch_tokens is not None else BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
    tokens = checked_whole("batch_tokens", tokens)
    sizes = {sample.id: sample.size() for sample in samples}
    prompts = {sample.id: model.prompts.of(sample) for sample in samples}
    lengths = _lengths(model, prompts, sizes)
    _check_lengths(model, lengths, max_new_tokens)
    return Settings(
        queries=queries,
        keep=kept,
        heads=chosen_heads(model, heads, kept),
        grid=common_grid([model.token_map(size) for size in set(sizes.values())]),
        batch_tokens=tokens,
        max_new_tokens=max_new_tokens,
        margins=Margins(model.tokenizer, samples),
        groups=schema.map_groups(samples),
        sizes=sizes,
        prompts=prompts,
        lengths=lengths,
        hashes=tuple(provenance.hash_sample(sample, prompts[sample.id]) for sample in samples),
        answers=answers_of(samples),
    )


def check_unchanged(settings: Settings, samples: Sequence[Sample]) -> None:
    """Raise SampleError where a picture is no longer the one that the run began with, whose hash its numbers get."""
    hashes = dict(zip(settings.prompts, settings.hashes, strict=True))
    for sample in samples:
        if provenance.hash_sample(sample, settings.prompts[sample.id]) != hashes[sample.id]:
            raise SampleError(
                f"sample {sample.id!r}: its picture was changed while the run went on; start it again, and leave the "
                "pictures alone meanwhile."
            )


def _lengths(model: VisionLanguageModel, prompts: dict[str, str], sizes: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Tokens of each prompt: its text's and its picture's, without decoding the picture."""
    with ONE_AT_A_TIME:
        texts = model.tokenizer(list(prompts.values()))["input_ids"]
    return {name: len(text) + len(model.token_map(sizes[name])) for name, text in zip(prompts, texts, strict=True)}


def _check_lengths(model: VisionLanguageModel, lengths: dict[str, int], max_new_tokens: int) -> None:
    """Refuse prompts that leave no room for an answer among the positions that the language model knows."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    longest = max(lengths, key=lambda name: lengths[name])
    count = lengths[longest]
    if count + max_new_tokens > limit:
        raise SampleError(
            f"sample {longest!r} has a prompt of {count:,} tokens and up to {max_new_tokens} more for its answer, but "
            f"{model.name!r} knows {limit:,} positions; shorten the question, or lower max_new_tokens."
        )


def answers_of(samples: Sequence[Sample]) -> str:
    """Hash of the answers that free-form margins of this list are over."""
    known = Margins(None, samples).answers
    return provenance.hash_list(f"{task}: {sorted(answers)}" for task, answers in sorted(known.items()))


def coordinates_of(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    settings: Settings,
    seed: int = 0,
    task_files: str = "",
    single: bool = False,
) -> xr.Dataset:
    """The coordinates of this trace's Dataset; `single`: `query` is a scalar coordinate."""
    card = model.card
    identity = identity_of(model, settings, seed, task_files)
    return schema.coordinates(
        model.name,
        samples,
        model.shape.layers,
        model.shape.heads,
        queries=settings.queries[0] if single else settings.queries,
        llm=card.llm if card else "",
        family=card.family if card else "",
        recipe=card.recipe if card else "",
        parameters=model.parameters,
        provenance=schema.provenance(identity, circumstance_of(model)),
        groups=settings.groups if "mean_map" in settings.keep else None,
        selected=settings.heads if "maps" in settings.keep else None,
    )


def identity_of(
    model: VisionLanguageModel, settings: Settings, seed: int = 0, task_files: str = ""
) -> dict[str, str | int]:
    """What decides the numbers of a trace; stores of another identity are never mixed."""
    return {
        **{key: model.identity[key] for key in ("checkpoint", "revision", "weights")},
        "task_files": task_files,
        "definitions": DEFINITIONS_VERSION,
        "dtype": str(model.dtype).removeprefix("torch."),
        "seed": seed,
        "samples": provenance.hash_list(settings.hashes),
        **{key: model.identity[key] for key in ("processor", "prompt")},
        "measures": ", ".join(MEASURES),
        "max_new_tokens": settings.max_new_tokens,
        **({"sinks": f"{model.sink_dimensions}, rule {SINK_RULE}"} if model.sink_dimensions else {}),
    }


def circumstance_of(model: VisionLanguageModel) -> dict[str, str]:
    """What should not decide the numbers: versions, device, attention implementation."""
    attention = str(getattr(model.config.get_text_config(), "_attn_implementation", ""))
    return dict(_circumstance(model.device.type, attention))


@cache
def _circumstance(device: str, attention: str) -> dict[str, str]:
    return provenance.circumstance(device=device, attention=attention)  # asks for package versions: some 10 ms


def _names(what: str, value: str | Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """One name or several as a tuple."""
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ParameterError(got(what, value, allowed))
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        checked_name(what, name, allowed)
    if len(set(names)) < len(names):
        raise ParameterError(got(what, names, f"each of {', '.join(allowed)} at most once"))
    return names


def _check(samples: Sequence[Sample]) -> None:
    if isinstance(samples, (Sample, str)) or not isinstance(samples, Sequence):
        raise SampleError(f"samples: got a {type(samples).__name__}; give a list of vh.Sample.")
    if not samples:
        raise SampleError("samples: got an empty list; give at least one vh.Sample.")
    for index, sample in enumerate(samples):
        if not isinstance(sample, Sample):
            raise SampleError(f"samples[{index}] is a {type(sample).__name__}; give vh.Sample objects.")
    ids = [sample.id for sample in samples]
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})[:5]
        raise SampleError(f"sample ids are not unique: {', '.join(twice)}; give every sample its own id.")


def common_grid(maps: Sequence[TokenMap]) -> tuple[int, int]:
    """The pictures' shared whole-picture grid (rows, columns); DYNAMIC_GRID where they differ."""
    shapes = {token_map.grid_shape for token_map in maps}
    return shapes.pop() if len(shapes) == 1 else DYNAMIC_GRID


def chosen_heads(model: VisionLanguageModel, heads: Any, keep: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Heads as (layer, head) pairs, from what `head_pairs` takes; None: all of them.

    Raises HeadError as it does, ParameterError where no maps are kept.
    """
    layers, count, _ = model.shape
    if "maps" not in keep:
        if heads is not None:
            raise ParameterError("heads= chooses whose maps are kept; add keep=('maps',), or leave heads out.")
        return ()
    if heads is None:
        return tuple((layer, head) for layer in range(layers) for head in range(count))
    return tuple(head_pairs(model, heads))
