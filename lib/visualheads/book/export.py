"""What leaves the book: one page as a single file, all of it as a PDF."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

import yaml

from visualheads.book.build import INDEX, checked_root, jupyter_book, written
from visualheads.errors import VisualHeadsError
from visualheads.paths import BROWSERS, browser_program

STYLE = re.compile(r'<link\b[^>]*?rel="stylesheet"[^>]*?>')
PRELOAD = re.compile(r'<link\b[^>]*?rel="(?:preload|index|search|next|prev)"[^>]*?>\s*')
SCRIPT = re.compile(r'<script\b[^>]*?\bsrc="([^"]+)"[^>]*></script>')
PICTURE = re.compile(r'(<img\b[^>]*?\bsrc=")(?!data:)([^"]+)"')
ADDRESS = re.compile(r'(?:href|src)="([^"]+)"')
URL = re.compile(r"url\((['\"]?)(?!data:|#)([^'\")]+)\1\)")
IMPORT = re.compile(r"""@import\s+(?:url\()?['"]?([^'")]+)['"]?\)?\s*;""")
CHART = re.compile(r'data-chart="(\w+)"')
LOOKS = re.compile(r'data-folder="([^"]+)"')
PRINTING = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=600000")
"""Virtual time, so that all charts are drawn before the page is printed."""
ALONE = """<style>
.bd-sidebar-primary, .sidebar-toggle, .search-button, .prev-next-area, .page-switch, .dropdown-download-buttons,
.dropdown-source-buttons, .breadcrumb { display: none !important; }
</style>"""
"""What has no use on a page that stands alone."""


def export_page(page: Path, target: Path, root: str | Path = ".") -> Path:
    """Write an executed page as one HTML file that asks no network for anything.

    Parameters
    ----------
    page
        The executed notebook, inside the project's folder.
    target
        The file to write.
    root
        The project's folder.

    Returns
    -------
    Path
        `target`.
    """
    root = checked_root(root)
    name = page.relative_to(root).with_suffix("").as_posix()
    with tempfile.TemporaryDirectory() as folder:
        contents = Path(folder) / "_toc.yml"
        contents.write_text(yaml.safe_dump({"format": "jb-book", "root": name}), encoding="utf-8")
        log = jupyter_book(root, Path(folder), contents, strict=False)  # its links lead to pages that are not there
        made = Path(folder) / "_build" / "html" / f"{name}.html"
        if not made.is_file():
            raise VisualHeadsError(f"Jupyter Book ended without {made.name}; the end of its log:\n{log[-2000:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(in_one_file(made), encoding="utf-8")
    return target


def export_pdf(target: Path, root: str | Path = ".") -> Path:
    """Print the whole book, as one page, with Chromium.

    Parameters
    ----------
    target
        The file to write.
    root
        The project's folder, in which the book's pages have been run.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    VisualHeadsError
        Where there is no Chromium, or it or Jupyter Book fails.
    """
    root = checked_root(root)
    browser = browser_program()
    if browser is None:
        raise VisualHeadsError(
            f"The PDF is printed by Chromium, and none of {', '.join(BROWSERS)} was found; install it."
        )
    with tempfile.TemporaryDirectory() as folder:
        contents = written(root, Path(folder) / "_toc.yml")
        log = jupyter_book(root, Path(folder), contents, strict=False, builder="singlehtml")
        single = Path(folder) / "_build" / "singlehtml"
        # its addresses are as seen from the top
        page = (single / INDEX).rename(single / INDEX.name)
        printed = Path(folder) / "book.pdf"
        command = [browser, *PRINTING, f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not printed.is_file():
            raise VisualHeadsError(
                f"{browser} printed nothing; the end of what it says:\n{(log + done.stderr)[-2000:]}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(printed, target)
    return target


def in_one_file(page: Path) -> str:
    """The HTML of a built page with its styles, scripts, pictures, charts and looks inside."""
    text = PRELOAD.sub("", page.read_text(encoding="utf-8"))
    here = page.parent
    scripts: list[str] = []

    def style(found: re.Match[str]) -> str:
        address = ADDRESS.search(found[0])
        return f"<style>\n{_sheet(_local(here, address[1]))}</style>" if address else ""

    def script(found: re.Match[str]) -> str:
        code = _local(here, found[1]).read_text(encoding="utf-8")
        if " defer" not in found[0]:
            return _element(code)
        scripts.append(code)
        return ""

    text = STYLE.sub(style, text)
    text = SCRIPT.sub(script, text)
    text = PICTURE.sub(lambda found: f'{found[1]}{_data_address(_local(here, found[2]))}"', text)
    names = CHART.findall(text)
    static = next((up / "_static" for up in page.parents if (up / "_static").is_dir()), here)
    if names:
        scripts.append((static / "vega-bundle.js").read_text(encoding="utf-8"))
        scripts += [(static / "charts" / f"{name}.js").read_text(encoding="utf-8") for name in dict.fromkeys(names)]
    for folder in dict.fromkeys(LOOKS.findall(text)):
        looks = _local(here, html.unescape(folder))
        scripts += [path.read_text(encoding="utf-8") for path in sorted(looks.rglob("*.js"))]
    body = "".join(map(_element, scripts))
    return text.replace("</head>", f"{ALONE}\n</head>", 1).replace("</body>", f"{body}</body>", 1)


def _local(folder: Path, address: str) -> Path:
    return (folder / unquote(address.partition("?")[0])).resolve()


def _element(code: str) -> str:
    """A script whose text cannot end the element it stands in."""
    safe = code.replace("</script", "<\\/script")
    return f"<script>\n{safe}\n</script>\n"


def _sheet(path: Path) -> str:
    """A style sheet with those that it imports, and its pictures, inside."""
    text = IMPORT.sub(lambda found: _sheet(_local(path.parent, found[1])), path.read_text(encoding="utf-8"))
    return URL.sub(lambda found: _css_url(path.parent, found), text)


def _css_url(folder: Path, found: re.Match[str]) -> str:
    path = _local(folder, found[2])
    return f'url("{_data_address(path)}")' if path.is_file() else 'url("data:,")'


def _data_address(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
