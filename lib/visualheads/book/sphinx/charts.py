"""Interactive Vega-Lite charts that need no network.

A page holds the place of a chart and its words. The specification stands beside the pages as a script, compressed, and
is loaded when the chart comes near the reader's window, as is the one bundle of Vega that all charts share. The bundle
comes out of vl-convert, so it is the version that Altair validated against.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import vl_convert as vlc
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from visualheads.charts.display import MIME, VEGA_LITE

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BUNDLE = "vega-bundle.js"
LOADER = "charts.js"
STYLE = "charts.css"
FOLDER = "charts"
"""In the book's `_static`: a script for each specification."""
MARK = "vega-chart"
NO_WORDS = "Vega-Lite chart"
LATE = 900
"""Priority after the extensions that add scripts."""


def write(app: Sphinx) -> None:
    """Write bundle, loader and style sheet into the built book's `_static`."""
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    # In a function of its own: the bundle's top-level names must not become globals of the page.
    bundle = vlc.javascript_bundle(vl_version=VEGA_LITE)  # pyright: ignore[reportCallIssue]  (its stub lacks a default)
    (static / BUNDLE).write_text(f"(function(){{{bundle}}})();", encoding="utf-8")
    here = Path(__file__).parent
    for name in (LOADER, STYLE):
        shutil.copyfile(here / name, static / name)


def add_loader(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the loader only on pages with a chart."""
    del pagename, template, context
    if doctree is not None and any(MARK in found.astext() for found in doctree.findall(nodes.raw)):
        app.add_js_file(LOADER, loading_method="defer")


def chart(spec: dict[str, Any], alt_text: str, outdir: Path) -> nodes.raw:
    """Write a chart's script below `outdir`; return its place on the page."""
    blob = json.dumps(spec, separators=(",", ":"), sort_keys=True).encode()
    name = hashlib.sha256(blob).hexdigest()[:16]
    packed = base64.b64encode(gzip.compress(blob, mtime=0)).decode("ascii")
    script = outdir / "_static" / FOLDER / f"{name}.js"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'bookCharts.provide("{name}","{packed}");\n', encoding="utf-8")
    words = html.escape(alt_text, quote=True)
    return nodes.raw(
        "",
        f'<div class="{MARK}" data-chart="{name}"><div class="vega-live" role="group" aria-label="{words}"></div>'
        f"<noscript><p>{words}</p></noscript></div>",
        format="html",
    )


class VegaLiteMime:
    """Plug-in of MyST-NB: outputs of the type MIME become charts."""

    mime_priority_overrides: ClassVar = [(builder, MIME, 5) for builder in ("html", "dirhtml", "singlehtml")]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Node] | None:
        """The nodes of a chart, None for other outputs."""
        if inline or data.mime_type != MIME:
            return None
        outdir = Path(renderer.renderer.sphinx_env.app.outdir)
        return [chart(data.content, data.content.get("description") or NO_WORDS, outdir)]


class VegaLiteDirective(SphinxDirective):
    """A numbered figure out of a saved specification; the content is the caption.

    ```{vegalite} results/head-map.json
    :name: fig-head-map
    :alt: what a reader would see
    Caption
    ```
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged, "alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """The figure; an error at the directive's line where the file is missing or no JSON."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        try:
            spec = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise self.error(f"vegalite: cannot read the specification {relative}: {error}") from error
        alt_text = self.options.get("alt") or spec.get("description", NO_WORDS)
        return captioned(self, nodes.figure("", chart(spec, alt_text, Path(self.env.app.outdir))))


def captioned(directive: SphinxDirective, figure: nodes.figure) -> list[nodes.Node]:
    """A directive's figure with its name, and its content as the caption."""
    if directive.content:
        parsed, _ = directive.parse_inline("\n".join(directive.content), lineno=directive.lineno)
        figure += nodes.caption("", "", *parsed)
    directive.add_name(figure)
    directive.set_source_info(figure)
    return [figure]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, the scripts and the style sheet."""
    app.connect("builder-inited", write)
    app.connect("html-page-context", add_loader, priority=LATE)
    app.add_css_file(STYLE)
    app.add_directive("vegalite", VegaLiteDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
