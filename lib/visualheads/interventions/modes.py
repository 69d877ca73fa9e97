"""What can be done to a head: the modes, where in the prompt they act, and what they need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from visualheads.errors import ModeError, ParameterError, got

if TYPE_CHECKING:
    from visualheads.interventions.reference import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Box

ALL, AFTER_IMAGE = "all", "after_image"
POSITIONS = (ALL, AFTER_IMAGE)
"""Every position, or those after the last image token: the question, the prompt's end and what is generated."""

BIAS = 4.0
"""Added to attention scores by default where a mode adds something: a key's odds grow 55-fold."""

VERSION = "1"
"""Part of a sweep's identity: raised whenever a mode below changes its numbers."""


@dataclass(frozen=True)
class Mode:
    """One way to change a head: what is done to it, where that is from, and what it works on.

    kind        code (the authors' released code), standard (the ablation literature), literature (a named paper), ours
    attention   whether it needs the queries, keys and values of the attention call, or only replaces the output
    biased      whether it takes a bias
    sinks       whether it works on visual sink tokens, which only models with sink dimensions have
    """

    name: str
    operation: str
    kind: Literal["code", "standard", "literature", "ours"]
    attention: bool = True
    biased: bool = False
    sinks: bool = False


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("uniform_released", "all scores 0 after the causal mask: uniform over every key, future included", "code"),
        Mode("uniform", "uniform over the visible keys", "ours"),
        Mode("zero", "the head's slice of the output projection's input becomes 0", "standard", attention=False),
        Mode("mean", "that slice becomes its mean over a reference set, per class of position", "standard", False),
        Mode("image_knockout", "the image keys are hidden from the head", "standard"),
        Mode("boost", "a bias is added to the scores of all image keys", "literature", biased=True),
        Mode("steer", "a bias is added to the scores of the image keys in a box", "literature", biased=True),
        Mode("sink_removal", "visual sink tokens are hidden from the head", "ours", sinks=True),
        Mode(
            "sink_redistribution",
            "the attention on visual sink tokens goes to the other image tokens, in proportion to what they have",
            "literature",
            sinks=True,
        ),
    )
}
"""Sources: the paper's code (uniform_released), Kang et al. ICLR 2025 (sink_redistribution), PAI (boost), Gaze Heads
(steer). In `uniform_released` the causal mask is overruled: in a prompt of n keys every row, row 0 included, gives 1/n
to every key, so that a “removed” head leaks the rest of the prompt to every position. `uniform` has no such leak."""


@dataclass(frozen=True)
class Intervention:
    """What is done to the chosen heads, and where.

    mode        a name of MODES
    positions   "all" or "after_image"
    bias        added to scores by the modes "boost" and "steer"; natural logarithm of the factor on a key's odds
    reference   what mode "mean" puts in
    boxes       sample id → box (left, top, right, bottom; original pixels) whose tokens mode "steer" biases; samples
                that are not in it are steered to the whole picture
    tokens      sample id → the image tokens (0 for the picture's first) that the modes on sinks take for sinks in every
                layer, none in samples that are not in it; None: the model's own visual sinks, layer by layer
    Raises ModeError for an unknown mode, ParameterError for other values out of range.
    """

    mode: str
    positions: str = ALL
    bias: float | None = None
    reference: Reference | None = None
    boxes: Mapping[str, Box] = field(default_factory=dict, hash=False)
    tokens: Mapping[str, Sequence[int]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ModeError(got("mode", self.mode, MODES))
        if self.positions not in POSITIONS:
            raise ParameterError(got("positions", self.positions, POSITIONS))
        if MODES[self.mode].biased:
            bias = BIAS if self.bias is None else float(self.bias)
            if not math.isfinite(bias):
                raise ParameterError(got("bias", self.bias, "a finite number"))
            object.__setattr__(self, "bias", bias)
        elif self.bias is not None:
            biased = [mode.name for mode in MODES.values() if mode.biased]
            raise ParameterError(got("bias", self.bias, f"None in mode {self.mode!r}", f"use {' or '.join(biased)}"))
        if self.tokens is not None and not MODES[self.mode].sinks:
            working = [mode.name for mode in MODES.values() if mode.sinks]
            raise ParameterError(got("tokens", "image tokens", f"None in mode {self.mode!r}", f"use {working}"))
        if (self.mode == "mean") != (self.reference is not None):
            raise ParameterError(
                got(
                    "reference", self.reference,
                    f"{'a list of samples' if self.mode == 'mean' else 'None'} in mode {self.mode!r}",
                    "only mode 'mean' replaces outputs by their mean over a reference set",
                )
            )  # fmt: skip

    @property
    def operation(self) -> Mode:
        """The mode's description."""
        return MODES[self.mode]


def check_possible(model: VisionLanguageModel, intervention: Intervention) -> None:
    """Raise ModeError where this model cannot have the mode, ParameterError for a reference set of another model."""
    if intervention.operation.sinks and intervention.tokens is None and not model.sink_dimensions:
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
