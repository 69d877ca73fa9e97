"""Building the book: run what changed, then Jupyter Book, strictly; a failed build leaves the last good book in "
"place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from visualheads.errors import KernelError, ParameterError, VisualHeadsError, got
from visualheads.pages import contents, extension, inputs, landing
from visualheads.pages.comparisons import remove_outdated
from visualheads.pages.plan import MODELS, RESULTS, book_pages, model_pages
from visualheads.pages.protocols import run_full
from visualheads.pages.run import Report, run_pages, silent
from visualheads.pages.traces import trace_all

RUN = "from jupyter_book.cli.main import main; main()"
"""Jupyter Book of this environment, whatever PATH says; the package cannot be run with -m."""
BUILD = Path("book/_build")
INDEX = Path("book/index.html")
STRICT = ("-W", "-n", "--keep-going")
LOG_LINES = 40


def build_book(
    root: str | Path = ".", full: bool = False, workers: int | None = None, force: bool = False, report: Report = silent
) -> Path:
    """Trace what is missing, run the pages whose inputs changed, build the book if anything changed; return its index.

    full: all questions are traced, and the full protocol of removed heads is run where it is not shipped.

    Pages that ran are in the book even if others failed; then KernelError tells which, after the build.
    """
    root = checked_root(root)
    failures = trace_all(root, model_pages(root, full, force), full, workers, report)
    if full:
        failures += run_full(root, workers=workers, report=report)
    pages = book_pages(root, full, force)
    remove_outdated(root, pages)
    try:
        run_pages(pages, root, workers, force, report)
    except KernelError as error:
        failures.append(str(error))
    index = render_book(root, force, report)
    if failures:
        raise KernelError("\n\n".join(failures))
    return index


def render_book(root: str | Path = ".", force: bool = False, report: Report = silent) -> Path:
    """Build the book out of the chapters and the pages that are there; return the path of its index page.

    Raises VisualHeadsError with the end of the log when the strict build fails: any warning is a failure.
    """
    root = checked_root(root)
    landing.write(root, root / RESULTS)
    html, stamp = root / BUILD / "html", root / BUILD / "inputs.txt"
    made_from = _book_hash(root)
    index = html / INDEX
    if not force and index.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        report("book is up to date")
        return index
    fresh = root / BUILD / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    toc = contents.written(root, root / BUILD / "_toc.yml")
    report("building the book")
    log = _jupyter_book(root, fresh, toc)
    made = fresh / "_build" / "html"
    if not (made / INDEX).is_file():
        raise VisualHeadsError(f"Jupyter Book ended without {INDEX}; the end of its log:\n{_end(log)}")
    shutil.rmtree(html, ignore_errors=True)
    made.rename(html)
    shutil.rmtree(fresh, ignore_errors=True)
    stamp.write_text(made_from, encoding="utf-8")
    return index


def checked_root(root: str | Path) -> Path:
    """The project's folder. Raises ParameterError where it holds no book."""
    root = Path(root).resolve()
    if not (root / "_config.yml").is_file() or not (root / "_toc.yml").is_file():
        raise ParameterError(got("root", str(root), "the project's folder, with _config.yml and _toc.yml"))
    return root


def _jupyter_book(root: Path, fresh: Path, toc: Path) -> str:
    arguments = ["build", ".", "--path-output", str(fresh), "--toc", str(toc), *STRICT]
    environment = {**os.environ, "PYTHONWARNINGS": "", "NO_COLOR": "1", extension.ROOT: str(root)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    log = done.stdout + done.stderr
    (root / BUILD / "build.log").write_text(log, encoding="utf-8")
    if done.returncode:
        raise VisualHeadsError(
            f"the strict build failed (exit code {done.returncode}); all of it is in "
            f"{BUILD / 'build.log'}:\n{_end(log)}"
        )
    return log


def _book_hash(root: Path) -> str:
    chapters = sorted(path for path in (root / "book").iterdir() if path.name != "_build")
    generated = [root / MODELS, root / RESULTS]
    places = [
        root / "_config.yml",
        root / "_toc.yml",
        *(p for p in chapters if p not in generated),
        *generated,
        inputs.LIBRARY,
    ]
    return f"{inputs.files_hash(places)} {extension.footer_text(root)}"


def _end(log: str) -> str:
    lines = log.splitlines()
    telling = [line for line in lines if "WARNING" in line or "ERROR" in line]
    return "\n".join(telling[:LOG_LINES] or lines[-LOG_LINES:])
