"""What pages with charts and formulas load, written into the book's own folder.

A chart on a page: image, inert specification, and the place where the live chart will be drawn.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import altair as alt
import vl_convert as vlc
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from visualheads.errors import MissingDependencyError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BUNDLE = "vega-bundle.js"
LOADER = "offline_vega.js"
STYLE = "offline_vega.css"
MATHJAX = "sphinx-mathjax-offline"
MATHJAX_SCRIPT = "tex-mml-chtml.js"
MATHJAX_FONTS = "output/chtml/fonts/woff-v2"
VEGA_LITE = alt.SCHEMA_VERSION.lstrip("v").rsplit(".", 1)[0]
"""Major and minor version of Vega-Lite that Altair writes."""


def write(app: Sphinx) -> None:
    """Write bundle, loader, style sheet and MathJax into the built book's `_static`."""
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
    copy_mathjax(static / "mathjax")


def copy_mathjax(target: Path) -> None:
    """Copy the part of MathJax that HTML pages use (1.6 of the 24 MB in the package) into `target`.

    Raises MissingDependencyError where the package is not installed.
    """
    found = importlib.util.find_spec(MATHJAX)
    if found is None or found.origin is None:
        raise MissingDependencyError(f"{MATHJAX} is not installed, formulas need it; install visualheads[book].")
    source = Path(found.origin).parent / "static" / "mathjax"
    fonts = target / MATHJAX_FONTS
    fonts.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / MATHJAX_SCRIPT, target / MATHJAX_SCRIPT)
    for font in (source / MATHJAX_FONTS).iterdir():
        shutil.copyfile(font, fonts / font.name)


MIME = "application/vnd.vegalite.v5+json"
"""What JupyterLab draws too. Altair's own mime type ends in `.json`, which the notebook format refuses."""
IMAGE_SCALE = 1.5
NO_WORDS = "Vega-Lite chart"


def spec_nodes(spec: dict[str, Any], alt_text: str, image_uri: str) -> list[nodes.Node]:
    """The nodes of one chart; without scripts the image is what is seen."""
    text = json.dumps(spec, separators=(",", ":"), sort_keys=True).replace("</", "<\\/")
    label = html.escape(alt_text, quote=True)
    image = nodes.image(uri=image_uri, alt=alt_text, classes=["vega-fallback", "dark-light"])
    live = nodes.raw(
        "",
        f'<div class="vega-live" role="group" aria-label="{label}" hidden></div>'
        f'<script type="{MIME}" class="vega-spec">{text}</script>',
        format="html",
    )
    return [nodes.container("", image, live, classes=["vega-chart"])]


def png_of(spec: dict[str, Any]) -> tuple[str, bytes]:
    """File name (a hash of the specification) and image of a chart."""
    blob = json.dumps(spec, sort_keys=True).encode()
    return f"{hashlib.sha256(blob).hexdigest()[:24]}.png", vlc.vegalite_to_png(
        spec, vl_version=VEGA_LITE, scale=IMAGE_SCALE
    )


class VegaLiteMime:
    """Plug-in of MyST-NB: outputs of the type MIME become charts."""

    mime_priority_overrides: ClassVar = [(builder, MIME, 5) for builder in ("html", "dirhtml", "singlehtml")]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Node] | None:
        """The nodes of a chart, None for other outputs."""
        if inline or data.mime_type != MIME:
            return None
        spec = data.content
        name, png = png_of(spec)
        uri = renderer.write_file([name], png, overwrite=False, exists_ok=True)
        return spec_nodes(spec, spec.get("description") or NO_WORDS, uri)


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
        name, png = png_of(spec)
        out = Path(self.env.app.doctreedir) / "vega" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(png)
        uri = "/" + os.path.relpath(out, self.env.app.srcdir)
        alt_text = self.options.get("alt") or spec.get("description", NO_WORDS)
        figure = nodes.figure("", *spec_nodes(spec, alt_text, uri))
        if self.content:
            parsed, _ = self.parse_inline("\n".join(self.content), lineno=self.lineno)
            figure += nodes.caption("", "", *parsed)
        self.add_name(figure)
        self.set_source_info(figure)
        return [figure]
