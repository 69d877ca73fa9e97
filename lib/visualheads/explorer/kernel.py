"""What a running kernel answers that data do not hold: any heads changed, and the row of any token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from visualheads.errors import HeadError, SampleError, VisualHeadsError, got
from visualheads.explorer.answers import HeadChanger
from visualheads.explorer.sampled import added_row

if TYPE_CHECKING:
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample


@dataclass(frozen=True, eq=False)
class Kernel:
    """A model and its samples, asked again by an explorer that is shown.

    Parameters
    ----------
    model, samples
        What is asked.
    max_new_tokens
        Longest answer.
    references
        Means of removed heads that were made already.
    """

    model: VisionLanguageModel
    samples: Sequence[Sample]
    max_new_tokens: int
    references: dict[str, Reference] = field(default_factory=dict)

    def reply(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to what a page asks; errors are told to its reader."""
        try:
            return {"number": content["number"], "result": self._result(content)}
        except VisualHeadsError as error:
            return {"number": content["number"], "error": str(error)}

    def _result(self, content: dict[str, Any]) -> dict[str, Any]:
        sample = next((one for one in self.samples if one.id == content["sample"]), None)
        if sample is None:
            raise SampleError(got("sample", content["sample"], [one.id for one in self.samples]))
        if content["kind"] == "row":
            return added_row(self.model, sample, int(content["position"]), self.max_new_tokens)
        heads = [(int(layer), int(head)) for layer, head in content["heads"]]
        layers, each, _ = self.model.shape
        for layer, head in heads:
            if not (0 <= layer < layers and 0 <= head < each):
                raise HeadError(got("head", (layer, head), f"layers 0 to {layers - 1}, heads 0 to {each - 1}"))
        changer = HeadChanger(self.model, sample, self.max_new_tokens, self.references)
        box = content.get("box")
        return changer.answer(content["mode"], heads, float(content["bias"]), None if box is None else tuple(box))
