"""Sphinx extension: interactive Vega-Lite charts that need no network.

A page holds each chart as an image with the chart's specification beside it as inert JSON. One bundle of Vega, shared
by all pages, comes out of vl-convert (so it is the version Altair validated against); a small loader replaces the
images by live charts, redraws them when the page turns dark or narrow, and leaves the images where scripts are off.
MathJax is served from the book as well.

    extensions = ["visualheads.book.sphinx"]        # Sphinx configuration
    [project.entry-points."myst_nb.mime_renderers"]  # pyproject.toml, for the outputs of notebooks
    offline_vega = "visualheads.book.sphinx:VegaLiteMime"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes

from visualheads.book.sphinx import vega
from visualheads.book.sphinx.vega import MIME, VegaLiteDirective, VegaLiteMime

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["MIME", "VegaLiteDirective", "VegaLiteMime", "setup"]

LATE = 900
"""Priority after the extensions that add scripts."""


def add_scripts(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the bundle (0.9 MB) only on pages with a chart."""
    del pagename, template, context
    if doctree is None:
        return
    if any("vega-chart" in found.get("classes", ()) for found in doctree.findall(nodes.container)):
        app.add_js_file(vega.BUNDLE, loading_method="defer")
        app.add_js_file(vega.LOADER, loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, the scripts and the style sheet."""
    app.connect("builder-inited", vega.write)
    app.connect("html-page-context", add_scripts, priority=LATE)
    app.add_css_file(vega.STYLE)
    app.add_directive("vegalite", VegaLiteDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
