"""What tests let other processes do: little to import, so that these start quickly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from visualheads.errors import RecordError


def worked(job: str) -> str:
    """The job in capitals; "die" takes the process along, "refuse" raises."""
    if job == "die":
        os._exit(9)
    if job == "refuse":
        raise RecordError("no object", "file.json", 3)
    return job.upper()


def process(_job: str) -> int:
    """Which process works."""
    return os.getpid()


def traced(job: Any) -> None:
    """In place of `trace_one`."""
    worked(job.model)


def protocol_run(model: str, work: str, force: bool) -> None:
    """In place of `run_one`."""
    worked(model)


def page_run(page: Any, root: Any, warm: bool) -> None:
    """In place of `_run_one`."""
    worked(page.title)


def launch(root: str) -> None:
    """Run the page in `root` with a warm kernel that has little to import."""
    from helpers.pages import a_page
    from visualheads.book import warm_kernels
    from visualheads.book.run import run_page

    warm_kernels.PRELOADED = ("ipykernel.kernelapp",)
    warm_kernels.use_warm_kernels()
    body = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    run_page(a_page(Path(root), body), root)
