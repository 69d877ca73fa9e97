"""A page of the book: its template and parameters, what it was made from, and the same bytes in every run."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from visualheads.cards import data_folder
from visualheads.errors import ParameterError, VisualHeadsError, got
from visualheads.store.read import PACKED, read_attrs
from visualheads.store.upkeep import last_changed
from visualheads.store.variables import UNTRAINED
from visualheads.store.write import todo
from visualheads.tasks import task

ONCE = ("fresh",)
"""Parameters of one run, which do not tell what a page shows: no later build repeats them."""


@dataclass(frozen=True)
class Page:
    """A notebook template and what to run it with.

    Parameters
    ----------
    template, output : the notebook, and where the executed page goes.
    slug, title : the page's name in labels, and its first heading.
    parameters : replace the defaults of the template's parameters cell.
    data : files and folders whose content decides the result, besides template, parameters and library.
    last : run it after all others: it reads what they keep among the results, sweeps and text lists too.
    stores : folder of results whose traces decide the page, by their identity and what of them is done.
    only, but : … only those of one model's folder, without those of the benchmark that the page traces itself.
    command : what a reader types to make the page again.
    """

    template: Path
    output: Path
    slug: str
    title: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Path, ...] = ()
    last: bool = False
    stores: Path | None = None
    only: str = ""
    but: str = ""
    command: str = ""

    @property
    def partial(self) -> Path:
        """Where the page is while it runs, and stays when it fails."""
        return self.output.with_name(f"{self.output.stem}.partial.ipynb")


HEADING = re.compile(r"^# .*", re.MULTILINE)
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `n: int = 64  # questions per condition`."""

    name: str
    kind: str
    default: Any
    help: str


def parameters_of(template: str | Path) -> dict[str, Parameter]:
    """The parameters of a template by name, as its cell tagged `parameters` declares them; none without that cell."""
    path = Path(template)
    if not path.is_file():
        raise ParameterError(got("template", str(path), "a notebook file"))
    from papermill.inspection import inspect_notebook  # quick pages must not pay for papermill's import

    return {
        name: Parameter(name, told["inferred_type_name"], _literal(told["default"]), told["help"])
        for name, told in inspect_notebook(str(path)).items()
    }


def checked(template: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters with the declared types. Raises ParameterError for unknown names and values of other types.

    Text is read as the declared type, so values may come from a command line: "64", "true", "none".
    """
    known = parameters_of(template)
    for name in given:
        if name not in known:
            lines = ", ".join(f"{p.name} ({p.kind}: {p.help})" for p in known.values())
            raise ParameterError(
                f"{got('parameter', name, known)}; parameters of {Path(template).name}: {lines or 'none'}"
            )
    return {name: _typed(known[name], value) for name, value in given.items()}


def adapted(page: Page) -> NotebookNode:
    """The template with the page's title as its first heading, labels of its own, and the command that makes it again.

    Labels are shared by the whole book: where a template makes several pages, `fig-heads` becomes `fig-<slug>-heads`.
    """
    notebook = nbformat.read(page.template, as_version=4)
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in notebook.cells]
    labels = [figure["name"] for figure in figures if "name" in figure]
    several = page.slug != page.template.stem
    new = {name: name.replace("fig-", f"fig-{page.slug}-", 1) if several else name for name in labels}
    for figure in figures:
        if "name" in figure:
            figure["name"] = new[figure["name"]]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for name, label in new.items() if cell.cell_type == "markdown" else ():
            cell.source = re.sub(rf"\b{re.escape(name)}(?![\w-])", label, cell.source)
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if first is not None and page.title:
        first.source = HEADING.sub(lambda _: f"# {page.title}", first.source, count=1)
    if page.command:
        notebook.cells.append(nbformat.v4.new_markdown_cell(f"*Make this page again:* `{page.command}`"))
    notebook.metadata["kernelspec"] = dict(KERNEL)
    return notebook


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _typed(parameter: Parameter, value: Any) -> Any:
    kinds = [kind.strip().strip("'\"") for kind in parameter.kind.split("|")]
    if isinstance(value, str) and kinds != ["None"]:
        value = _from_text(value, kinds)
    if kinds == ["str"] and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # a command line's -p data=2024 is read as a number
    allowed = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None), "list": list}
    types = [allowed[kind.split("[")[0]] for kind in kinds if kind.split("[")[0] in allowed]
    is_bool = isinstance(value, bool)
    if types and not any(isinstance(value, kind) and (not is_bool or kind is bool) for kind in types):
        raise ParameterError(got(f"parameter {parameter.name}", value, f"{parameter.kind}: {parameter.help}"))
    return value


def _from_text(value: str, kinds: list[str]) -> Any:
    if value.lower() in WORDS and ("bool" in kinds or value.lower() == "none"):
        return WORDS[value.lower()] if value.lower() != "none" or "None" in kinds else value
    for kind, convert in (("int", int), ("float", float)):
        if kind in kinds:
            try:
                return convert(value)
            except ValueError:
                continue
    if any(kind.startswith("list") for kind in kinds):
        return [part for part in value.split(",") if part]
    return value


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
TAGS_WITHOUT_OUTPUT = {"remove-output"}
KEPT_CELL_METADATA = {"tags", "mystnb"}
RECORD = "visualheads"
"""Key of the notebook's metadata under which a page tells what it was made from."""


def cleaned(notebook: NotebookNode, record: Mapping[str, Any]) -> NotebookNode:
    """The notebook with `record` in its metadata; equal inputs give equal bytes. Changes `notebook` itself."""
    ids: dict[str, str] = {}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index + 1:02d}"
        tags = set(cell.metadata.get("tags", ()))
        if "injected-parameters" in tags:
            tags.add("remove-cell")  # the command at the end of the page tells them
        kept = {key: value for key, value in cell.metadata.items() if key in KEPT_CELL_METADATA and key != "tags"}
        cell.metadata = NotebookNode({**kept, **({"tags": sorted(tags)} if tags else {})})
        if cell.cell_type == "code":
            cell.outputs = [] if tags & TAGS_WITHOUT_OUTPUT else [_steady(output, ids) for output in cell.outputs]
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    notebook.metadata = NotebookNode(
        {"kernelspec": notebook.metadata.get("kernelspec", {}), "language_info": language, RECORD: dict(record)}
    )
    return notebook


def _steady(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        text = UUID.sub(lambda match: ids.setdefault(match[0], f"00000000-0000-0000-0000-{len(ids):012d}"), value)
        return ADDRESS.sub("at 0x…", text)
    if isinstance(value, Mapping):
        return NotebookNode({key: _steady(item, ids) for key, item in value.items()})
    if isinstance(value, list):
        return [_steady(item, ids) for item in value]
    return value


LIBRARY = Path(__file__).resolve().parents[1]
RENDERING = ("book", "cli")
"""Rooms that turn pages into a book but decide no number and no chart on them …"""
ON_PAGES = ("book/text.py", "book/cost.py", "book/cost_sweeps.py")
"""… but for these, which notebooks call."""
WORDING = "analysis/claims/claims.yml"
"""Words of one page alone: that page names the file among its data."""
BIG = 8_000_000
"""Bytes from which a file counts by size and time of change instead of content: real benchmarks are gigabytes."""
TRACES = ("trace", UNTRAINED)
"""Kinds of the stores that pages compare."""
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}


def page_hash(page: Page, parameters: dict[str, Any]) -> str:
    """Hash of a page's code, title, parameters, data and of the rooms of the library that compute it.

    The words of the template do not count, nor do other notebooks.
    """
    digest = hashlib.sha256()
    told = [page.slug, page.title, page.command, {name: parameters[name] for name in sorted(parameters)}]
    told.append([(cell["source"], cell["metadata"]) for cell in _cells(page.template, code=True)])
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for path in (*_computing(), *(file for place in page.data for file in _files(place))):
        _add(digest, path)
    if page.stores is not None:
        told = stores_told(page.stores, page.last, page.only, page.but)
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def words_hash(page: Page) -> str:
    """Hash of the words of a page's template."""
    return hashlib.sha256(json.dumps(_cells(page.template, code=False)).encode()).hexdigest()


def _cells(template: Path, code: bool) -> list[Any]:
    cells = json.loads(template.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if (cell["cell_type"] == "code") == code]


def stores_told(results: Path, every: bool = False, only: str = "", but: str = "") -> dict[str, Any]:
    """What the traces of a folder of results are: identity and shards not done, by path; packed ones by size and time.

    every: all other stores too, such as sweeps, which pages make themselves; only: of one folder, but: without those
    whose name begins so.
    Raises StoreError for a damaged store.
    """
    told: dict[str, Any] = {}
    folder = only or "*"
    live = (path for path in sorted(results.glob(f"{folder}/*.zarr")) if not but or not path.name.startswith(but))
    for path in live:
        kind, *state = _state(path, tuple(last_changed(path)))
        if every or kind in TRACES:
            told[path.relative_to(results).as_posix()] = state
    for path in sorted(results.glob(f"{folder}/*{PACKED}")):
        told[path.relative_to(results).as_posix()] = last_changed(path)
    return told


@cache
def _state(path: Path, changed: tuple[int, ...]) -> tuple[Any, ...]:
    """Kind and identity of a store, and how many shards are left; every page asks for the same stores."""
    del changed  # what changed is another entry
    attrs = read_attrs(path)
    return attrs.get("kind"), attrs.get("identity"), len(todo(path)) if "shard" in attrs else 0


def files_hash(places: Iterable[Path]) -> str:
    """Hash of files and folders: names and contents."""
    digest = hashlib.sha256()
    for place in places:
        for path in _files(place):
            _add(digest, path)
    return digest.hexdigest()


def task_places(name: str, data: str | Path | None) -> tuple[Path, ...]:
    """What decides a benchmark's samples: the folder of the shipped scenes, or a given folder's annotation files.

    Pictures of a given folder do not count, as they do not in a store's identity: there may be a hundred thousand.
    """
    if not data:
        return (data_folder() / "scenes" / name,)
    try:
        return tuple(task(name, data=data).annotations())
    except VisualHeadsError:  # running the page tells what is wrong
        return ()


def recorded(output: Path) -> dict[str, Any]:
    """What an executed page tells about its making; empty where there is no such page."""
    if not output.is_file():
        return {}
    notebook = json.loads(output.read_text(encoding="utf-8"))  # without a check of its form, which takes a second
    return dict(notebook["metadata"].get(RECORD, {}))


def is_current(page: Page, parameters: dict[str, Any]) -> bool:
    """Whether the page is there and its outputs were made from what is there now; its words may be older ones."""
    return recorded(page.output).get("inputs") == page_hash(page, parameters)


def put_words(page: Page) -> None:
    """Put the template's words, where they changed, into the executed page; nothing is run."""
    told, words = recorded(page.output), words_hash(page)
    if told.get("words") == words:
        return
    notebook = adapted(page)
    ran = [cell for cell in nbformat.read(page.output, as_version=4).cells if cell.cell_type == "code"]
    cells = []
    for cell in notebook.cells:
        cells.append(ran.pop(0) if cell.cell_type == "code" else cell)
        while ran and "injected-parameters" in ran[0].metadata.get("tags", ()):
            cells.append(ran.pop(0))
    notebook.cells = cells
    nbformat.write(cleaned(notebook, {**told, "words": words}), page.partial)
    page.partial.rename(page.output)


def _computing() -> list[Path]:
    """The library's files that decide what a page shows."""
    named = {path: path.relative_to(LIBRARY).as_posix() for path in _files(LIBRARY)}
    return [
        path
        for path, name in named.items()
        if name in ON_PAGES or (name.partition("/")[0] not in RENDERING and name != WORDING)
    ]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    found = (path for path in place.rglob("*") if path.is_file() and not SKIPPED & set(path.parts))
    return sorted(path for path in found if path.suffix != ".pyc")


def _add(digest: Any, path: Path) -> None:
    stat = path.stat()
    digest.update(path.name.encode())
    if stat.st_size >= BIG:
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    else:
        digest.update(_content(path, stat.st_size, stat.st_mtime_ns))


@cache
def _content(path: Path, size: int, changed: int) -> bytes:
    """Hash of a file; every page asks for the same checkpoints and scenes."""
    del size, changed  # a file that changed is another entry
    return hashlib.sha256(path.read_bytes()).digest()
