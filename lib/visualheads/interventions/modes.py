"""What can be done to a head: the modes, where in the prompt they act, what they need, what a changed head puts out.

Each mode carries its function, pure torch on the inputs of one layer's attention call. These work on pairs (row of the
batch, head): only what is changed is computed. Memory stays bounded: attention rows are made in pieces, and uniform
attention is a running mean that needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visualheads.errors import ModeError, ParameterError, checked_name, checked_number, got
from visualheads.models.attention_call import AttentionCall
from visualheads.tasks.sample import checked_box

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box

PIECE = 2**24
"""Attention weights held at a time: 64 MB in float32."""

IMAGE, TEXT, LAST, GENERATED = range(4)
CLASSES = ("image", "text", "last prompt", "generated")
"""Classes of positions over which mode "mean" averages, in this order."""


@dataclass(frozen=True, eq=False)
class ChosenHeads:
    """The chosen heads of one layer in one pass over a batch of unpadded prompts, and what they may be changed by.

    row, head   (pair) the row of the batch, and the query head
    queries     queries of the pass; those from `first` on are changed
    start       position of the pass's first query in its prompt
    image       (row, token) image tokens of the prompts
    marked      (row, token) image tokens that the mode works on
    call        what the attention function was given; None in modes that do not read it
    bias        what the mode adds to scores
    means       (class, head, feature) mean outputs over a reference set, in the order of CLASSES
    """

    row: Int[Tensor, " pair"]
    head: Int[Tensor, " pair"]
    queries: int
    image: Bool[Tensor, "row token"]
    marked: Bool[Tensor, "row token"]
    call: AttentionCall | None = None
    start: int = 0
    first: int = 0
    bias: float = 0.0
    means: Float[Tensor, "kind head feature"] | None = None

    @property
    def attention(self) -> AttentionCall:
        """The attention call of a mode that reads it."""
        assert self.call is not None
        return self.call

    def pieces(self, size: int) -> Iterator[ChosenHeads]:
        """The pairs, so many at a time."""
        for start in range(0, len(self.row), size):
            yield replace(self, row=self.row[start : start + size], head=self.head[start : start + size])

    def over_keys(self, marks: Bool[Tensor, "row token"]) -> Bool[Tensor, "row key"]:
        """Marks of the prompts' tokens over the keys in the cache: generated ones unmarked, a sliding cache's last."""
        total = self.start + self.queries
        marks = marks.to(self.attention.key.device)
        return torch.nn.functional.pad(marks, (0, total - marks.shape[1]))[:, total - self.attention.shape[3] :]

    def scores(self) -> Float[Tensor, "pair query key"]:
        """Scores before the mask and the softmax."""
        call = self.attention
        query = call.query[self.row, self.head, self.first :].float()
        scores = query @ call.key[self.row, self._group()].float().mT * call.scaling
        return call.softcap * torch.tanh(scores / call.softcap) if call.softcap else scores

    def values(self) -> Float[Tensor, "pair key feature"]:
        """What the heads read."""
        return self.attention.value[self.row, self._group()].float()

    def _group(self) -> Int[Tensor, " pair"]:
        """The key-value head that each query head reads."""
        return self.head // (self.attention.query.shape[1] // self.attention.key.shape[1])


Outputs = Float[Tensor, "pair query feature"]
Change = Callable[[ChosenHeads], Outputs]
"""A mode's function: what the heads put out instead, at the changed queries."""
Weigh = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(scores, visible keys, marked keys, image keys), each (pair, query, key) or broadcast over query → weights."""


def zero(chosen: ChosenHeads) -> Outputs:
    """Nothing."""
    return torch.zeros((), device=chosen.row.device)


def reference_mean(chosen: ChosenHeads) -> Outputs:
    """The head's mean output over a reference set, per class of position."""
    assert chosen.means is not None
    image = chosen.image.cpu()
    classes = torch.full((len(image), chosen.queries - chosen.first), GENERATED)
    if chosen.start < image.shape[1]:
        classes = position_classes(image)[:, chosen.start + chosen.first : chosen.start + chosen.queries]
    device = chosen.row.device
    return chosen.means.to(device)[classes.to(device)[chosen.row], chosen.head[:, None]]


def uniform_over_all(chosen: ChosenHeads) -> Outputs:
    """The mean of the head's values over every key, seen or not: what the released code leaves of a removed head."""
    return chosen.values().mean(dim=1, keepdim=True).expand(-1, chosen.queries - chosen.first, -1)


def uniform_over_visible(chosen: ChosenHeads) -> Outputs:
    """The mean of the head's values over the keys that each query sees."""
    call = chosen.attention
    _, _, queries, keys = call.shape
    unlimited = call.window is None or keys <= call.window
    if call.mask is None and call.causal and unlimited:
        counted = torch.arange(keys - queries + 1, keys + 1, device=call.value.device)[chosen.first :, None]
        return chosen.values().cumsum(dim=1)[:, keys - queries + chosen.first :] / counted
    return _attended(chosen, even)


def even(scores: Tensor, visible: Tensor, _marked: Tensor, _image: Tensor) -> Tensor:
    """The same weight for every visible key."""
    seen = visible.to(scores.dtype)
    return seen / seen.sum(-1, keepdim=True).clamp_min(1)


def hidden(scores: Tensor, visible: Tensor, marked: Tensor, _image: Tensor) -> Tensor:
    """Weights without the marked keys; a query that sees nothing else keeps what it sees."""
    others = visible & ~marked
    return _softmax(scores, torch.where(others.any(-1, keepdim=True), others, visible))


def biased(bias: float) -> Weigh:
    """Weights with `bias` added to the scores of the marked keys."""
    return lambda scores, visible, marked, _image: _softmax(scores + bias * marked.to(scores.dtype), visible)


def redistributed(scores: Tensor, visible: Tensor, marked: Tensor, image: Tensor) -> Tensor:
    """Weights whose share on the marked keys goes to the other image keys, in proportion to what they have.

    Where these have nothing, nothing is moved. Source: visual attention redistribution, Kang et al., ICLR 2025.
    """
    weights = _softmax(scores, visible)
    freed = (weights * marked).sum(-1, keepdim=True)
    receivers = weights * (image & ~marked)
    held = receivers.sum(-1, keepdim=True)
    moved = weights * ~marked + receivers / held.clamp_min(torch.finfo(held.dtype).tiny) * freed
    return torch.where(held > 0, moved, weights)


def position_classes(image: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """The class of each position of unpadded prompts: image, text, last prompt token."""
    classes = torch.where(image, IMAGE, TEXT)
    classes[:, -1] = LAST
    return classes


def attending(weigh: Weigh) -> Change:
    """A change that gives the heads' outputs under other weights."""
    return lambda chosen: _attended(chosen, weigh)


def pushed(chosen: ChosenHeads) -> Outputs:
    """The head's output with a bias on the scores of the marked tokens."""
    return _attended(chosen, biased(chosen.bias))


def _attended(chosen: ChosenHeads, weigh: Weigh) -> Outputs:
    """The heads' outputs under other weights."""
    call = chosen.attention
    wanted = torch.arange(chosen.first, chosen.queries, device=call.query.device)
    visible = call.visible(wanted)
    marked, image = chosen.over_keys(chosen.marked), chosen.over_keys(chosen.image)
    outputs = []
    for piece in chosen.pieces(max(1, PIECE // (len(wanted) * call.shape[3]))):
        keys = (visible[piece.row], marked[piece.row][:, None], image[piece.row][:, None])
        outputs.append(weigh(piece.scores(), *keys) @ piece.values())
    return torch.cat(outputs)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)


ALL, AFTER_IMAGE, LAST_PROMPT = "all", "after_image", "last_prompt"
POSITIONS = (ALL, AFTER_IMAGE, LAST_PROMPT)
"""Every position; those after the last image token (the question, the prompt's end and what is generated); the last
prompt token, which gives the answer, and what is generated."""

BIAS = 4.0
"""Added to attention scores by default where a mode adds something: a key's odds grow 55-fold."""

VERSION = "1"
"""Part of a sweep's identity: raised whenever a mode below changes its numbers."""


@dataclass(frozen=True)
class Mode:
    """One way to change a head: what is done to it, and what it works on.

    change      the function that gives what the heads put out instead
    attention   whether that reads the attention call, or only replaces the output
    tokens      which image tokens it works on: all; those that meet a box (all without one); visual sinks, which only
                models with sink dimensions have
    biased      whether it takes a bias
    positions   where it may act, the default first
    """

    name: str
    change: Change
    attention: bool = True
    tokens: Literal["image", "box", "sinks"] = "image"
    biased: bool = False
    positions: tuple[str, ...] = POSITIONS


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("uniform_released", uniform_over_all),
        Mode("uniform", uniform_over_visible),
        Mode("zero", zero, attention=False),
        Mode("mean", reference_mean, attention=False),
        Mode("image_knockout", attending(hidden)),
        Mode("edge_knockout", attending(hidden), tokens="box", positions=(LAST_PROMPT,)),
        Mode("boost", pushed, biased=True),
        Mode("steer", pushed, tokens="box", biased=True),
        Mode("sink_removal", attending(hidden), tokens="sinks"),
        Mode("sink_redistribution", attending(redistributed), tokens="sinks"),
    )
}
"""uniform_released     all scores 0 after the causal mask: uniform over every key, future included
uniform              uniform over the visible keys
zero                 the head's slice of the output projection's input becomes 0
mean                 that slice becomes its mean over a reference set, per class of position
image_knockout       the image keys are hidden from the head
edge_knockout        the image keys (or those in a box) are hidden from the head's last prompt query
boost                a bias is added to the scores of all image keys
steer                a bias is added to the scores of the image keys in a box
sink_removal         visual sink tokens are hidden from the head
sink_redistribution  the attention on visual sink tokens goes to the other image tokens, in proportion to what they have

Sources: the paper's code (uniform_released), Geva et al. 2023 (edge_knockout), Kang et al. ICLR 2025
(sink_redistribution), PAI (boost), Gaze Heads (steer). In `uniform_released` the causal mask is overruled: in a prompt
of n keys every row, row 0 included, gives 1/n to every key, so that a “removed” head leaks the rest of the prompt to
every position. `uniform` has no such leak."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean outputs of every head over a reference set: means (class, layer, head, feature), in the order of CLASSES.

    counts    positions of each class that were averaged
    identity  checkpoint and weights of the model, and the hash of the samples
    """

    means: Float[Tensor, "kind layer head feature"]
    counts: Int[Tensor, " kind"]
    identity: dict[str, str]

    def check_model(self, model: VisionLanguageModel) -> None:
        """Raise ParameterError unless this reference was made with the same weights as `model`."""
        own = weights_identity(model)
        made = {key: self.identity[key] for key in own}
        if made != own or tuple(self.means.shape[1:3]) != tuple(model.shape[:2]):
            raise ParameterError(
                f"the reference set was run through another model ({made['checkpoint']!r}, weights {made['weights']!r})"
                f" than {own['checkpoint']!r}, weights {own['weights']!r}; make it with "
                "mean_reference(model, samples) of this model, or give the samples themselves."
            )


def weights_identity(model: VisionLanguageModel) -> dict[str, str]:
    """Checkpoint and weights of a model."""
    return {key: model.identity[key] for key in ("checkpoint", "weights")}


@dataclass(frozen=True)
class Intervention:
    """What is done to the chosen heads, and where.

    Parameters
    ----------
    mode : str
        A name of `MODES`.
    positions : str
        "all", "after_image" or "last_prompt"; "": the mode's default.
    bias : float, optional
        Added to scores by the modes "boost" and "steer"; natural logarithm of the factor on a key's odds.
    reference : Reference, optional
        What mode "mean" puts in.
    boxes : mapping of str to Box
        Sample id → box (left, top, right, bottom; original pixels) whose tokens the modes on boxes work on; of samples
        that are not in it, the whole picture's.
    tokens : mapping of str to sequence of int, optional
        Sample id → the image tokens (0 for the picture's first) that the modes on sinks take for sinks in every layer,
        none in samples that are not in it. By default the model's own visual sinks, layer by layer.

    Raises
    ------
    ModeError
        For an unknown mode.
    ParameterError
        For other values out of range.
    """

    mode: str
    positions: str = ""
    bias: float | None = None
    reference: Reference | None = None
    boxes: Mapping[str, Box] = field(default_factory=dict, hash=False)
    tokens: Mapping[str, Sequence[int]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        checked_name("mode", self.mode, MODES, ModeError)
        possible = MODES[self.mode].positions
        asked = possible[0] if self.positions == "" else self.positions
        object.__setattr__(self, "positions", checked_name(f"positions of mode {self.mode!r}", asked, possible))
        if not isinstance(self.boxes, Mapping):
            raise ParameterError(got("boxes", self.boxes, "{sample id: box}"))
        object.__setattr__(self, "boxes", {name: checked_box(box, name) for name, box in self.boxes.items()})
        if MODES[self.mode].biased:
            object.__setattr__(self, "bias", BIAS if self.bias is None else checked_number("bias", self.bias))
        told = {"bias": self.bias, "box": self.boxes or None, "tokens": self.tokens}
        working = {
            "bias": [mode.name for mode in MODES.values() if mode.biased],
            "box": [mode.name for mode in MODES.values() if mode.tokens == "box"],
            "tokens": [mode.name for mode in MODES.values() if mode.tokens == "sinks"],
        }
        for name, value in told.items():
            if value is not None and self.mode not in working[name]:
                fix = f"use {' or '.join(working[name])}"
                raise ParameterError(got(name, value, f"None in mode {self.mode!r}", fix))
        if (self.mode == "mean") != (self.reference is not None):
            needed = "a list of samples" if self.mode == "mean" else "None"
            fix = "only mode 'mean' replaces outputs by their mean over a reference set"
            raise ParameterError(got("reference", self.reference, f"{needed} in mode {self.mode!r}", fix))

    @property
    def operation(self) -> Mode:
        """The mode's description."""
        return MODES[self.mode]


def check_possible(model: VisionLanguageModel, intervention: Intervention) -> None:
    """Raise ModeError where this model cannot have the mode, ParameterError for a reference set of another model."""
    if intervention.operation.tokens == "sinks" and intervention.tokens is None and not model.sink_dimensions:
        raise ModeError(
            f"mode {intervention.mode!r} is not possible in {model.name!r}: no sink dimension of its residual stream "
            "was found between the layers of its second half in a short text, so no sink tokens are known; choose a "
            "mode that does not work on sinks, or name the image tokens to be taken for sinks (tokens=)."
        )
    if intervention.reference is not None:
        intervention.reference.check_model(model)


def image_sees_question(model: VisionLanguageModel) -> ModeError:
    """The error where in a bidirectional prompt the image tokens see the question: positions cannot be told apart."""
    return ModeError(
        f"positions='after_image' is not possible in {type(model.module).__name__}: its prompt sees itself both ways, "
        "so that the image tokens read what comes after them; use positions='all'."
    )
