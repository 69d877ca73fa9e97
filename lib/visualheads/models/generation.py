"""Greedy answers from raw logits: how generation runs, where it stops, how tokens become an answer and a margin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from visualheads.models.prompting import ONE_AT_A_TIME

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample


class Ended(StoppingCriteria):
    """Stops when every answer of the batch has met an end token and at least `minimum` tokens were generated.

    The end tokens are never hidden from the scores, as `min_new_tokens` would: they may be an answer's first token.
    """

    def __init__(self, end_tokens: Iterable[int], prompt: int, minimum: int) -> None:
        self.end_tokens = frozenset(end_tokens)
        self.prompt = prompt
        self.minimum = minimum

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Any, **_: Any) -> Bool[Tensor, " batch"]:
        del scores  # transformers' signature
        answer = input_ids[:, self.prompt :]
        stop = False
        if answer.shape[1] >= self.minimum:
            stop = bool(torch.isin(answer, _ids(self.end_tokens, answer)).any(dim=1).all())
        return torch.full((len(input_ids),), stop, device=input_ids.device)


@contextmanager
def greedy(module: Any, pad_token_id: int | None) -> Iterator[None]:
    """Generate greedily, without end token or penalties: a checkpoint's own settings may sample or penalise."""
    before = module.generation_config
    module.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad_token_id)
    try:
        yield
    finally:
        module.generation_config = before


def answer_lengths(answers: Int[Tensor, "batch token"], end_tokens: Iterable[int]) -> Int[Tensor, " batch"]:
    """Number of tokens of each answer before its first end token; all of them where there is none."""
    ended = torch.isin(answers, _ids(end_tokens, answers))
    never = torch.ones_like(ended[:, :1])
    return torch.cat([ended, never], dim=1).int().argmax(dim=1)


def decoded(tokenizer: Any, answers: Int[Tensor, "batch token"], end_tokens: Iterable[int]) -> list[str]:
    """Each answer's text up to its first end token, without special tokens and surrounding blanks."""
    lengths = answer_lengths(answers, end_tokens).tolist()
    ids = [row[:length].tolist() for row, length in zip(answers, lengths, strict=True)]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]


def first_tokens(tokenizer: Any, answer: str) -> frozenset[int]:
    """Ids that may begin this answer: its first token with and without a leading blank, tokens of blanks left out.

    Tokenizers write a word at the start of a turn with or without a blank; which one a model uses is its training's.
    """
    found: set[int] = set()
    for form in (answer, f" {answer}"):
        with ONE_AT_A_TIME:
            ids = tokenizer.encode(form, add_special_tokens=False)
        found.update(next(([index] for index in ids if tokenizer.decode([index]).strip()), []))
    unknown = tokenizer.unk_token_id
    return frozenset(found - {unknown})


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(sorted(tokens), dtype=like.dtype, device=like.device)


class Margins:
    """Margin of each sample: logit of its right answer minus the best other answer's, at the answer's first token.

    Of several accepted answers (`Sample.answers`) the best counts.

    Letters: the others are the sample's other letters. Free form: the other answers of the samples given here, task by
    task, not all that the task could have; so margins can be compared only between runs over the same list of samples.
    Answers that begin with the same token as the right one are left out. NaN where nothing is left, as in a list whose
    samples all have one answer.
    """

    def __init__(self, tokenizer: Any, samples: Sequence[Sample]) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, frozenset[int]] = {}
        self.answers: dict[str, set[str]] = {}
        for sample in samples:
            if not sample.choices and sample.answer:
                self.answers.setdefault(sample.task, set()).add(sample.answer)

    def tokens(self, answer: str) -> frozenset[int]:
        """`first_tokens` of an answer, remembered."""
        if answer not in self.known:
            self.known[answer] = first_tokens(self.tokenizer, answer)
        return self.known[answer]

    def sides(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Token ids that begin the right answer, and those that begin another; empty where there is nothing to tell."""
        if not sample.answer:
            return [], []
        if sample.choices:
            others = {chr(ord("A") + index) for index in range(len(sample.choices))} - {sample.answer}
        else:
            others = self.answers.get(sample.task, set()) - {sample.answer}
        right = frozenset().union(*(self.tokens(answer) for answer in (sample.answer, *sample.answers)))
        wrong = frozenset().union(*(self.tokens(other) for other in others)) - right
        return (sorted(right), sorted(wrong)) if right and wrong else ([], [])

    def __call__(self, sample: Sample, logits: Float[Tensor, " vocabulary"]) -> float:
        """The margin in logits; NaN without an answer."""
        right, wrong = self.sides(sample)
        return float(logits[right].max() - logits[wrong].max()) if right else float("nan")
