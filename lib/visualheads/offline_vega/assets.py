"""What pages with charts and formulas load, written into the book's own folder."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import vl_convert as vlc

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
