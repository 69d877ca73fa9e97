"""Chat templates of a checkpoint are programs: what is refused, and how long one may run when it is first tried."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes

from visualheads.errors import CheckpointError

LONGEST = 200_000
"""Characters: the longest known templates, with tools and many languages, have a tenth of it."""
SECONDS = 2.0
"""More than a thousand times what a template takes for one question."""
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""transformers' own tag, which marks the assistant's part."""


def check_template(template: str) -> None:
    """Refuse a template that is broken or multiplies texts; it is not run.

    Raises
    ------
    CheckpointError
    """
    if len(template) > LONGEST:
        raise CheckpointError(f"the chat_template has {len(template)} characters; {LONGEST} are allowed.")
    parser = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = parser.parse(GENERATION.sub("", template))
    except jinja2.TemplateError as error:
        raise CheckpointError(f"the chat_template is no Jinja template ({error}); fetch or write it again.") from error
    for kind in (nodes.Mul, nodes.Pow):
        for found in tree.find_all(kind):
            raise CheckpointError(
                f"the chat_template multiplies (line {found.lineno}), which can fill any memory; remove that."
            )


@contextmanager
def rendering() -> Iterator[None]:
    """Around the first rendering of a template: its faults become CheckpointError, and it has to end in SECONDS.

    Templates run in transformers' sandbox, which leaves them loops and macros; a trace function counts their time.
    """
    before = sys.gettrace()
    sys.settrace(_watch(time.monotonic() + SECONDS))
    try:
        yield
    except (jinja2.TemplateError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
            MemoryError) as error:  # fmt: skip
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the chat_template fails ({type(error).__name__}: {told})") from error
    finally:
        sys.settrace(before)


def _watch(until: float) -> Any:
    def lines(_frame: FrameType, _event: str, _argument: object) -> Any:
        if time.monotonic() > until:
            raise OverflowError(f"it did not end in {SECONDS:g} seconds")
        return lines

    def calls(frame: FrameType, _event: str, _argument: object) -> Any:
        return lines if frame.f_code.co_filename == "<template>" else None

    return calls
