"""A page: a template run with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ONCE = ("fresh",)
"""Parameters of one run, which do not tell what a page shows: no later build repeats them."""


@dataclass(frozen=True)
class Page:
    """A notebook template and what to run it with.

    template     path of the template
    output       where the executed page goes
    slug, title  fill {{slug}} and {{title}}: labels are shared by the whole book, so every page needs its own
    parameters   replace the defaults of the template's parameters cell
    data         files and folders whose content decides the result, besides template, parameters and library
    products     files that running the page writes besides itself
    longest      start it before the others: nothing takes longer
    last         run it after all others: it reads what they keep among the results, sweeps and text lists too
    stores       folder of results whose traces decide the page, by their identity and what of them is done
    only, but    … only those of one model's folder, without those of the benchmark that the page traces itself
    command      fills {{command}}: what a reader types to make the page again
    """

    template: Path
    output: Path
    slug: str
    title: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Path, ...] = ()
    products: tuple[Path, ...] = ()
    longest: bool = False
    last: bool = False
    stores: Path | None = None
    only: str = ""
    but: str = ""
    command: str = ""

    @property
    def partial(self) -> Path:
        """Where the page is while it runs, and stays when it fails."""
        return self.output.with_name(f"{self.output.stem}.partial.ipynb")

    @property
    def placeholders(self) -> dict[str, str]:
        """What is filled into Markdown cells and captions."""
        return {"slug": self.slug, "title": self.title, "command": self.command}
