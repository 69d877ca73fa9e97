"""What `vh.look` returns: looks that show themselves, and can be saved as a page or as numbers."""

from __future__ import annotations

import html
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.errors import (
    HeadError,
    MissingDependencyError,
    ParameterError,
    SampleError,
    VisualHeadsError,
    checked,
    got,
)
from visualheads.explorer.answers import LABELS, STEERED, HeadChanger
from visualheads.explorer.capture import look_at
from visualheads.explorer.page import index_of, page, style, widget_script
from visualheads.store import files

if TYPE_CHECKING:
    from visualheads.explorer.look_data import Look
    from visualheads.interventions.modes import Reference
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

HEIGHT = 980
"""Of the frame in notebooks that show pages but no widgets, in pixels."""


HEAD = re.compile(r"L(\d+)H(\d+)")
"""A head's name: layer and head, from 0."""


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
            return look_at(self.model, sample, [int(content["position"])], self.max_new_tokens).row_json(0)
        heads = [(int(layer), int(head)) for layer, head in content["heads"]]
        layers, each, _ = self.model.shape
        for layer, head in heads:
            if not (0 <= layer < layers and 0 <= head < each):
                raise HeadError(got("head", (layer, head), f"layers 0 to {layers - 1}, heads 0 to {each - 1}"))
        changer = HeadChanger(self.model, sample, self.max_new_tokens, self.references)
        box = content.get("box")
        return changer.answer(content["mode"], heads, float(content["bias"]), None if box is None else tuple(box))


class Explorer:
    """Looks of one or several models and samples, shown together.

    Shows itself at the end of a notebook cell: as a live widget where `anywidget` is installed and the model is there,
    as a page in a frame elsewhere.

    Parameters
    ----------
    looks
        What is shown.
    kernel
        What a live widget asks again; None for stored looks.
    """

    def __init__(self, looks: Sequence[Look], kernel: Kernel | None = None) -> None:
        if not looks:
            raise ParameterError(got("looks", [], "at least one"))
        self.looks = list(looks)
        self.kernel = kernel

    def __repr__(self) -> str:
        models = {look.model["name"]: look.model for look in self.looks}
        shapes = ", ".join(f"{name} ({one['layers']} × {one['heads']} heads)" for name, one in models.items())
        return f"Explorer of {shapes} at {len(self.looks)} picture{'s' * (len(self.looks) != 1)}; .save('look.html')"

    def __add__(self, other: Explorer) -> Explorer:
        """Both together in one page, as for several models; without a kernel's answers."""
        return Explorer([*self.looks, *other.looks])

    def page(self, *, heads: str = "", measure: str = "") -> str:
        """Return the self-contained page. heads ("L3H5 L4H1") and measure are chosen first.

        Raises HeadError for a head that the model does not have.
        """
        self._check_heads(heads)
        first = {name: value for name, value in {"heads": heads, "measure": measure}.items() if value}
        return page(self.looks, first=first)

    def _check_heads(self, heads: str) -> None:
        layers, each = (min(look.model[name] for look in self.looks) for name in ("layers", "heads"))
        for name in heads.split():
            found = HEAD.fullmatch(name)
            if found is None or int(found[1]) >= layers or int(found[2]) >= each:
                allowed = f"L0H0 to L{layers - 1}H{each - 1}, with blanks between several"
                raise HeadError(got("heads", name, allowed))

    @checked
    def save(self, path: str | os.PathLike[str], **first: str) -> Path:
        """Write the page; return its path. `first` as in `page`."""
        target = Path(path)
        with files.refusals_told(target):
            files.write_file(target, self.page(**first).encode())
        return target

    def to_dataset(self) -> xr.Dataset:
        """Return the data behind the view of a single look: attention (model, sample, query, layer, head, key) …

        Raises ParameterError for several looks, whose tokens differ: take `.looks[i].to_dataset()`.
        """
        if len(self.looks) != 1:
            raise ParameterError(got("looks", len(self.looks), "one", "take explorer.looks[i].to_dataset()"))
        return self.looks[0].to_dataset()

    @checked
    def save_data(self, path: str | os.PathLike[str]) -> Path:
        """Write the data behind the view as NetCDF; return the path."""
        target = Path(path)
        with files.refusals_told(target):
            self.to_dataset().to_netcdf(target, engine="scipy")
        return target

    def widget(self) -> Any:
        """Return the live widget. Raises MissingDependencyError where `anywidget` is not installed."""
        return live_widget(self.looks, self.kernel)

    def _repr_html_(self) -> str:
        words, title = (html.escape(text, quote=True) for text in (self.page(), repr(self)))
        return f'<iframe srcdoc="{words}" style="width:100%;height:{HEIGHT}px;border:0" title="{title}"></iframe>'

    def _repr_mimebundle_(self, **_kwargs: Any) -> Any:
        if importlib.util.find_spec("anywidget") is not None:
            return self.widget()._repr_mimebundle_()
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}


def live_widget(looks: Sequence[Look], kernel: Kernel | None = None) -> Any:
    """Return an anywidget widget of looks.

    With a kernel it changes any heads on request, steering included, and gives the rows of any token.
    Raises MissingDependencyError where `anywidget` is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingDependencyError(
            "anywidget is not installed, live explorers need it; install visualheads[lab], or use .save('look.html')."
        ) from error

    class LookWidget(anywidget.AnyWidget):
        _esm = widget_script()
        _css = style()
        index = traitlets.Dict().tag(sync=True)
        looks = traitlets.Dict().tag(sync=True)
        modes = traitlets.List().tag(sync=True)
        steerable = traitlets.List().tag(sync=True)
        first = traitlets.Dict().tag(sync=True)
        choice = traitlets.Dict().tag(sync=True)

    made = LookWidget(
        index=index_of(looks),
        looks={look.key: look.to_json() for look in looks},
        modes=[list(labelled) for labelled in LABELS.items()] if kernel is not None else [],
        steerable=[STEERED] if kernel is not None else [],
    )
    if kernel is not None:
        made.on_msg(lambda _widget, content, _buffers: made.send(kernel.reply(content)))
    return made
