"""What `vh.look` returns: looks that show themselves, and can be saved as a page or as numbers."""

from __future__ import annotations

import html
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.errors import HeadError, ParameterError, checked, got
from visualheads.explorer.page import page
from visualheads.store import files

if TYPE_CHECKING:
    from visualheads.explorer.kernel import Kernel
    from visualheads.explorer.look_data import Look

HEIGHT = 980
"""Of the frame in notebooks that show pages but no widgets, in pixels."""


HEAD = re.compile(r"L(\d+)H(\d+)")
"""A head's name: layer and head, from 0."""


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
        from visualheads.explorer.widget import widget

        return widget(self.looks, self.kernel)

    def _repr_html_(self) -> str:
        words, title = (html.escape(text, quote=True) for text in (self.page(), repr(self)))
        return f'<iframe srcdoc="{words}" style="width:100%;height:{HEIGHT}px;border:0" title="{title}"></iframe>'

    def _repr_mimebundle_(self, **_kwargs: Any) -> Any:
        if importlib.util.find_spec("anywidget") is not None:
            return self.widget()._repr_mimebundle_()
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}
