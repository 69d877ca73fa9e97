"""The book's Sphinx extension: charts and explorer that need no network, provenance, light pages.

extensions = ["visualheads.book.sphinx"]        # Sphinx configuration
[project.entry-points."myst_nb.mime_renderers"]  # pyproject.toml, for the outputs of notebooks
offline_vega = "visualheads.book.sphinx:VegaLiteMime"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visualheads.book.sphinx import figures, light, provenance, switch
from visualheads.book.sphinx.figures import VegaLiteDirective, VegaLiteMime
from visualheads.charts.display import MIME

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["MIME", "VegaLiteDirective", "VegaLiteMime", "setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part with Sphinx."""
    for part in (figures, provenance, switch, light):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
