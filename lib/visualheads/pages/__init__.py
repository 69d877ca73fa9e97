"""Pages of the book: notebooks run with parameters, kept byte-identical between runs, and the book built out of them.

page.py        what a page is: template, output, parameters
template.py    parameters checked and placeholders filled
run.py         papermill, several kernels side by side
clean.py       executed notebooks without times, ids and addresses
inputs.py      hashes that tell whether anything changed
contents.py    the table of contents of the pages that exist
plan.py        which pages there are
comparisons.py pages that compare models, and what each of them needs
traces.py      every miniature traced on every shipped benchmark, once, before the pages
landing.py     what the landing page takes from the runs
book.py        the strict build
extension.py   Sphinx extension: footer with provenance, faults of the theme
"""

from __future__ import annotations

from visualheads.pages.book import build_book, render_book
from visualheads.pages.page import Page
from visualheads.pages.plan import book_pages, model_page, run_model_page
from visualheads.pages.run import run_page, run_pages
from visualheads.pages.template import Parameter, parameters_of
from visualheads.places import slug_of

__all__ = [
    "Page",
    "Parameter",
    "book_pages",
    "build_book",
    "model_page",
    "parameters_of",
    "render_book",
    "run_model_page",
    "run_page",
    "run_pages",
    "slug_of",
]
