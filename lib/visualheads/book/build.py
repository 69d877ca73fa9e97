"""The book is built: what changed is traced and run, then Jupyter Book, strictly; a failed build keeps the last one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from visualheads.book import page as inputs
from visualheads.book.catalogue import COMPARISONS, RESULTS, book_pages, model_pages, remove_outdated
from visualheads.book.run import Report, run_pages, silent
from visualheads.book.sphinx import provenance, reference
from visualheads.book.sphinx.switch import SIBLINGS
from visualheads.book.traces import run_full, trace_all
from visualheads.cards import cards
from visualheads.charts.display import MIME
from visualheads.errors import KernelError, ParameterError, VisualHeadsError, got
from visualheads.paths import slug_of

SUFFIXES = (".md", ".ipynb")


def written(root: Path, target: Path) -> Path:
    """Write the table of contents for the pages there are; return `target`."""
    told = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    siblings: dict[str, list[str]] = {}
    parts = []
    for part in told.get("parts", []):
        chapters = [new for entry in part["chapters"] for new in _expanded(root, entry, siblings)]
        parts += [{**part, "chapters": chapters}] if chapters else []
    told |= {"parts": parts, "meta": {SIBLINGS: siblings}}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target


def _expanded(root: Path, entry: dict[str, Any], siblings: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The entry where its page is there; of a pattern's pages the first, which gets `siblings` to switch to."""
    if "glob" in entry:
        found = _by_model(_pages(root, entry["glob"]))
        siblings.update({found[0]: found[1:]} if len(found) > 1 else {})
        return [{"file": file, **({"title": entry["title"]} if "title" in entry else {})} for file in found[:1]]
    there = any((root / f"{entry['file']}{suffix}").is_file() for suffix in SUFFIXES) if "file" in entry else True
    return [entry] if there else []


def _pages(root: Path, pattern: str) -> list[str]:
    """Documents without their suffix; pages that are running or failed are no documents."""
    found = [path for suffix in SUFFIXES for path in root.glob(f"{pattern}{suffix}")]
    names = (path for path in found if ".partial." not in path.name and not path.name.startswith("."))
    return [path.relative_to(root).with_suffix("").as_posix() for path in names]


def _by_model(documents: list[str]) -> list[str]:
    """Catalogue's order first, other models after it."""
    order = {slug_of(name): index for index, name in enumerate(cards())}
    return sorted(documents, key=lambda name: (order.get(Path(name).name, len(order)), name))


LANDING = re.compile(r"landing(-\d+)?")
"""Tags of the cells that the landing page shows too, in the order of their numbers, those without one last."""
LANDING_TEXT = "landing.txt"
NOTHING = "No model has been traced yet: run `make book`."


def write_landing(root: Path) -> None:
    """Write what the landing page includes: cells of the chapters with a tag LANDING, and their outputs."""
    results = root / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    tagged: list[tuple[str, dict[str, Any]]] = []
    for path in (results / f"{chapter.slug}.ipynb" for chapter in COMPARISONS):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else ()
        tagged += [(tag, cell) for cell in cells for tag in cell["metadata"].get("tags", ()) if LANDING.fullmatch(tag)]
    tagged.sort(key=lambda one: (one[0] == "landing", one[0]))
    pieces: list[str] = []
    for _, cell in tagged:
        pieces += _pieces(cell, results, len(pieces))
    _put(results / LANDING_TEXT, "\n\n".join(pieces or [NOTHING]) + "\n")


def _pieces(cell: dict[str, Any], results: Path, place: int) -> list[str]:
    """A cell as Markdown of the landing page: text and sentences as they are, charts as figures out of a file."""
    if cell["cell_type"] == "markdown":
        return [_from_outside("".join(cell["source"]).replace(":name: fig-", ":name: fig-landing-"))]
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if MIME in data:
            name = f"landing-{place}.json"
            spec = json.dumps(data[MIME], sort_keys=True)
            _put(results / name, spec.replace('"#claim-', '"results/claims.html#claim-'))
            caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
            found.append(f"```{{vegalite}} {RESULTS.name}/{name}\n:name: fig-landing-{place}\n{caption}\n```")
        elif "text/markdown" in data:
            found.append(_from_outside("".join(data["text/markdown"])))
    return found


def _from_outside(text: str) -> str:
    """A chapter's text with links to other chapters as seen from the landing page, a folder above them."""
    return re.sub(r"\]\((?=[\w-]+\.ipynb)", f"]({RESULTS.name}/", text)


def _put(path: Path, text: str) -> None:
    """Only when it changed: the book's hash is over contents, but editors and watchers look at times."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


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
    write_landing(root)
    html, stamp = root / BUILD / "html", root / BUILD / "inputs.txt"
    made_from = _book_hash(root)
    index = html / INDEX
    if not force and index.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        report("book is up to date")
        return index
    fresh = root / BUILD / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    toc = written(root, root / BUILD / "_toc.yml")
    _put(root / BUILD / "api.txt", reference.chapter())
    report("building the book")
    log = jupyter_book(root, fresh, toc)
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


def jupyter_book(root: Path, target: Path, toc: Path, strict: bool = True, builder: str = "html") -> str:
    """Run Jupyter Book with these contents into a folder; return its log.

    Raises VisualHeadsError with what tells most of the log when it fails, with `strict` on any warning.
    """
    arguments = ["build", ".", "--path-output", str(target), "--toc", str(toc), "--builder", builder]
    arguments += STRICT if strict else ()
    environment = {**os.environ, "PYTHONWARNINGS": "", "NO_COLOR": "1", provenance.ROOT: str(root)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    log = done.stdout + done.stderr
    (root / BUILD).mkdir(parents=True, exist_ok=True)
    (root / BUILD / "build.log").write_text(log, encoding="utf-8")
    if done.returncode:
        raise VisualHeadsError(
            f"the build failed (exit code {done.returncode}); all of it is in {BUILD / 'build.log'}:\n{_end(log)}"
        )
    return log


def _book_hash(root: Path) -> str:
    chapters = sorted(path for path in (root / "book").iterdir() if path.name != "_build")
    places = [root / "_config.yml", root / "_toc.yml", *chapters, inputs.LIBRARY]
    return f"{inputs.files_hash(places)} {json.dumps(provenance.everything(root))}"


def _end(log: str) -> str:
    lines = log.splitlines()
    telling = [line for line in lines if "WARNING" in line or "ERROR" in line]
    return "\n".join(telling[:LOG_LINES] or lines[-LOG_LINES:])
