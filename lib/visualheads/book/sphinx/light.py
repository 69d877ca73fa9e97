"""What a built page does not use is taken out of it, so that the book is small and its pages open at once.

The theme brings a script with two thousand icons, its map files, texts in forty languages and the search index on every
page; Sphinx copies notebooks with their outputs.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import nbformat

from visualheads.errors import MissingDependencyError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MATHJAX = "sphinx-mathjax-offline"
MATHJAX_SCRIPT = "tex-mml-chtml.js"
MATHJAX_FONTS = "output/chtml/fonts/woff-v2"
ICONS = Path("scripts/fontawesome.js")
THEME_STYLE = Path("styles/pydata-sphinx-theme.css")
UNUSED = ("**/*.map", "**/*.LICENSE.txt", "scripts/fontawesome.js", "vendor", "locales", "sphinx-thebe.*", "*.html")
"""In the book's `_static`."""
SCRIPT = re.compile(r"[ \t]*(?:<script\b[^>]*>.*?</script>|<link\b[^>]*thebe[^>]*>)\n?", re.DOTALL)
ICON_CLASS = re.compile(r"\bfa-([a-z0-9-]+)")
ICON_RULE = re.compile(r"[^{}]*\.fa[srb]?\b[^{}]*\{[^{}]*\}|@font-face\s*\{[^}]*Font\\? ?Awesome[^}]*\}")
NOT_ICONS = re.compile(r"/\*!.*?\*/", re.DOTALL)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Take out of the built pages what they do not use."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = {path: path.read_text(encoding="utf-8") for path in out.rglob("*.html") if "_static" not in path.parts}
    write_icons(out / "_static", "".join(pages.values()))
    math = False
    for path, text in pages.items():
        has_math = 'class="math' in text
        math = math or has_math
        kept = partial(_kept, has_math=has_math, is_search=path.name == "search.html")
        path.write_text(SCRIPT.sub(kept, text), encoding="utf-8")
    static = out / "_static"
    for pattern in UNUSED if math else (*UNUSED, "mathjax"):
        for path in sorted(static.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (out / "_sources").rglob("*.ipynb*"):
        without_outputs(path)


def _kept(found: re.Match[str], has_math: bool, is_search: bool) -> str:
    """A script element where its page uses it, else nothing."""
    script = found[0]
    tag = script.partition(">")[0]
    body = script.partition(">")[2].lower()
    unused = (
        "fontawesome.js" in tag
        or "thebe" in f"{tag} {body}".lower()
        or body.startswith("kernelname")
        or (not has_math and ("mathjax" in tag or body.startswith("window.mathjax")))
        or (not is_search and any(name in tag for name in ("searchtools.js", "language_data.js", "searchindex.js")))
    )
    return "" if unused else script


def write_icons(static: Path, pages: str) -> None:
    """Write the icons that these pages show into a style sheet, in place of the theme's rules for all there are."""
    theme = static / THEME_STYLE
    if not (static / ICONS).is_file():
        return
    glyphs = (static / ICONS).read_text(encoding="utf-8")
    rules = [
        ".fa-solid { background: currentcolor; display: inline-block; height: 1em; vertical-align: -0.125em; }",
        ".fa-lg { font-size: 1.25em; }",
    ]
    for name in sorted(set(ICON_CLASS.findall(pages))):
        # regular glyphs stand before the solid ones
        found = re.findall(rf'[,{{]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]*)"\]', glyphs)
        if found:
            width, height, path = found[-1]
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="{path}"/></svg>'
            mask = f'url("data:image/svg+xml,{quote(svg, safe=" =:/")}") center / contain no-repeat'
            rules.append(f".fa-{name} {{ mask: {mask}; width: {int(width) / int(height):.3g}em; }}")
    text = theme.read_text(encoding="utf-8")
    theme.write_text(ICON_RULE.sub("", NOT_ICONS.sub("", text)) + "\n" + "\n".join(rules) + "\n", encoding="utf-8")


def without_outputs(path: Path) -> None:
    """Keep the code and words of a notebook that readers download."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def copy_mathjax(app: Sphinx) -> None:
    """Copy the part of MathJax that HTML pages use (1.6 of the 24 MB in the package) into the book.

    Raises MissingDependencyError where the package is not installed.
    """
    if app.builder.format != "html":
        return
    found = importlib.util.find_spec(MATHJAX)
    if found is None or found.origin is None:
        raise MissingDependencyError(f"{MATHJAX} is not installed, formulas need it; install visualheads[book].")
    source = Path(found.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = target / MATHJAX_FONTS
    fonts.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / MATHJAX_SCRIPT, target / MATHJAX_SCRIPT)
    for font in (source / MATHJAX_FONTS).iterdir():
        shutil.copyfile(font, fonts / font.name)


def setup(app: Sphinx) -> None:
    """Register both steps with Sphinx."""
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", lighten, priority=900)
