"""A page of the book: a notebook template, its parameters checked before anything runs, its title and labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from visualheads.errors import ParameterError, got

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
    longest : start it before the others: nothing takes longer.
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
    longest: bool = False
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
