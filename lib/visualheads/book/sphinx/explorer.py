"""The explorer as a figure of the book: looks in a folder, copied beside the pages and loaded when they are chosen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from visualheads.book.sphinx.charts import captioned
from visualheads.explorer.page import element, page_script, style

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SCRIPT, STYLE = "explorer.js", "explorer.css"
LOOKS = "looks"
"""Folder in the book's `_static` that holds folders of looks."""
MARK = "vh-figure"
LATE = 900
"""Priority after the extensions that add scripts."""


class ExplorerDirective(SphinxDirective):
    """A numbered figure with the explorer of a folder of looks (`visualheads.explorer.page.write_folder`).

    ```{explorer} results/looks
    :name: fig-look
    :model: mini-1.5-7B
    :heads: L3H5
    :alt: what a reader without scripts is told
    Caption
    ```

    `model`, `sample`, `heads`, `token` and `measure` are chosen first, unless the reader chose others on another page.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        **dict.fromkeys(("name", "alt", "model", "sample", "heads", "token", "measure"), directives.unchanged),
        "class": directives.class_option,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure; an error at the directive's line where the folder holds no looks."""
        relative, path = self.env.relfn2path(self.arguments[0])
        folder = Path(path)
        if not (folder / "index.js").is_file():
            raise self.error(f"explorer: no looks (index.js) in {relative}; write them by write_folder")
        self.env.note_dependency(f"{relative}/index.js")
        name = relative.strip("/").replace("/", "-")
        shutil.copytree(folder, Path(self.env.app.outdir) / "_static" / LOOKS / name, dirs_exist_ok=True)
        up = "" if self.env.app.builder.name == "singlehtml" else "../" * self.env.docname.count("/")
        first = {
            key: self.options[key] for key in ("model", "sample", "heads", "token", "measure") if key in self.options
        }
        text = element(f"{up}_static/{LOOKS}/{name}", {**first, "remembers": "yes"}, self.options.get("alt", ""))
        figure = nodes.figure("", nodes.raw("", text, format="html"), classes=[MARK, *self.options.get("class", [])])
        return captioned(self, figure)


def write(app: Sphinx) -> None:
    """Write script and style sheet into the built book's `_static`."""
    if app.builder.format == "html":
        static = Path(app.outdir) / "_static"
        static.mkdir(parents=True, exist_ok=True)
        (static / SCRIPT).write_text(page_script(), encoding="utf-8")
        (static / STYLE).write_text(style(), encoding="utf-8")


def add_assets(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load script and style only on pages with an explorer."""
    del pagename, template, context
    if doctree is not None and any(MARK in found["classes"] for found in doctree.findall(nodes.figure)):
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, and what its pages load."""
    app.connect("builder-inited", write)
    app.connect("html-page-context", add_assets, priority=LATE)
    app.add_directive("explorer", ExplorerDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
