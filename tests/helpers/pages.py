"""Pages of a few cells: little to import, so that processes of the tests start quickly."""

from __future__ import annotations

from pathlib import Path

import nbformat

from visualheads.book.page import Page

SMALL = """\
n: int = 3  # how many
name: str = "a"  # whose
ratio: float = 0.5  # how much
deep: bool = False  # all layers
"""


def write_template(path: Path, body: str = "print(n, name)") -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("# A page\n\nSee {numref}`fig-loss`, not fig-loss-map."),
        nbformat.v4.new_code_cell(SMALL, metadata={"tags": ["parameters", "remove-cell"]}),
        nbformat.v4.new_code_cell(body, metadata={"mystnb": {"figure": {"name": "fig-loss", "caption": "A loss"}}}),
        nbformat.v4.new_code_cell("print('secret')", metadata={"tags": ["remove-output"]}),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def a_page(root: Path, body: str = "print(n, name)", **parameters: object) -> Page:
    return Page(
        template=write_template(root / "notebooks" / "t.ipynb", body),
        output=root / "book" / "models" / "one.ipynb",
        slug="one",
        title="One",
        parameters=parameters,
        command="visualheads page one",
    )
