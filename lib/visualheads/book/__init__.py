"""Pages of the book: notebooks run with parameters, kept byte-identical between runs, and the book built out of them.

page.py        what a page is: template, output, parameters
template.py    parameters checked and placeholders filled
run.py         papermill, several kernels side by side
engine.py      papermill's engine, which writes a running page seldom
pool.py        jobs in processes of their own
clean.py       executed notebooks without times, ids and addresses
inputs.py      hashes that tell whether anything changed
contents.py    the table of contents of the pages that exist
plan.py        which pages there are
comparisons.py pages that compare models, and what each of them needs
traces.py      every miniature traced on every shipped benchmark, once, before the pages
protocols.py   the full protocol of every miniature (FULL=1)
landing.py     what the landing page takes from the runs
book.py        the strict build
extension.py   Sphinx extension: footer with provenance, faults of the theme

Nothing is imported here: a process that only runs pages then starts without torch.
"""

from __future__ import annotations

from visualheads.errors import require

require("papermill", "nbformat", "nbclient", "jupyter_book", "altair", extra="book")
