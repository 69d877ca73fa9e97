"""Figures of the book that need no network: interactive Vega-Lite charts, and the explorer.

A page holds the place of a chart and its words. The specification stands beside the pages as a script, compressed, and
is loaded when the chart comes near the reader's window, as is the one bundle of Vega that all charts share. The bundle
comes out of vl-convert, so it is the version that Altair validated against. The explorer is a figure too: looks in a
folder, copied beside the pages and loaded when they are chosen.
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
from visualheads.explorer.page import element, page_script, style

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BUNDLE = "vega-bundle.js"
LOADER = "charts.js"
STYLE = "charts.css"
EXPLORER_SCRIPT, EXPLORER_STYLE = "explorer.js", "explorer.css"
FOLDER, LOOKS = "charts", "looks"
"""In the book's `_static`: a script for each specification, and folders of looks."""
MARK, EXPLORER_MARK = "vega-chart", "vh-figure"
NO_WORDS = "Vega-Lite chart"
CHOSEN = ("model", "sample", "heads", "token", "measure")
"""What an explorer's directive may choose first."""
LATE = 900
"""Priority after the extensions that add scripts."""


def write(app: Sphinx) -> None:
    """Write bundle, scripts and style sheets into the built book's `_static`."""
    if app.builder.format != "html":
        return
    # In a function of its own: the bundle's top-level names must not become globals of the page.
    bundle = vlc.javascript_bundle(vl_version=VEGA_LITE)  # pyright: ignore[reportCallIssue]  (its stub lacks a default)
    texts = {BUNDLE: f"(function(){{{bundle}}})();", EXPLORER_SCRIPT: page_script(), EXPLORER_STYLE: style()}
    own = [path for path in Path(__file__).parent.iterdir() if path.suffix in (".js", ".css")]
    texts |= {path.name: path.read_text(encoding="utf-8") for path in own}
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (static / name).write_text(text, encoding="utf-8")


def add_assets(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load scripts and style only on pages with a chart, or with an explorer."""
    del pagename, template, context
    if doctree is None:
        return
    if any(MARK in found.astext() for found in doctree.findall(nodes.raw)):
        app.add_js_file(LOADER, loading_method="defer")
    if any(EXPLORER_MARK in found["classes"] for found in doctree.findall(nodes.figure)):
        app.add_js_file(EXPLORER_SCRIPT, loading_method="defer")
        app.add_css_file(EXPLORER_STYLE)


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
        **dict.fromkeys(("name", "alt", *CHOSEN), directives.unchanged),
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
        first = {key: self.options[key] for key in CHOSEN if key in self.options}
        text = element(f"{up}_static/{LOOKS}/{name}", {**first, "remembers": "yes"}, self.options.get("alt", ""))
        figure = nodes.figure(
            "", nodes.raw("", text, format="html"), classes=[EXPLORER_MARK, *self.options.get("class", [])]
        )
        return captioned(self, figure)


def captioned(directive: SphinxDirective, figure: nodes.figure) -> list[nodes.Node]:
    """A directive's figure with its name, and its content as the caption."""
    if directive.content:
        parsed, _ = directive.parse_inline("\n".join(directive.content), lineno=directive.lineno)
        figure += nodes.caption("", "", *parsed)
    directive.add_name(figure)
    directive.set_source_info(figure)
    return [figure]


def setup(app: Sphinx) -> None:
    """Register the directives, the scripts and the style sheets."""
    app.connect("builder-inited", write)
    app.connect("html-page-context", add_assets, priority=LATE)
    app.add_css_file(STYLE)
    app.add_directive("vegalite", VegaLiteDirective)
    app.add_directive("explorer", ExplorerDirective)
