"""Numbers and foreign text as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|$~^&-])")


def escaped(text: str) -> str:
    """Text from a dataset or a model with everything that Markdown or HTML would read neutralised."""
    shown = SPECIAL.sub(lambda match: f"&#{ord(match[1])};", str(text))
    return " ".join(shown.split())


def code(text: str) -> str:
    """A name in the type of code, whatever it holds."""
    return f"<code>{escaped(text)}</code>"


def percent(value: float) -> str:
    """`83 %`, with one digit below ten percent."""
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def between(lower: float, upper: float, digits: int = 2) -> str:
    """An interval: `0.61 to 0.74`."""
    return f"{lower:z.{digits}f} to {upper:z.{digits}f}"


def counted(number: int, thing: str) -> str:
    """`1 head`, `3 heads`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def agreeing(number: int, one: str, several: str) -> str:
    """The form of a verb that goes with a number: `1 head looks`, `3 heads look`."""
    return one if number == 1 else several


def missing(needed: str, there: bool = False) -> str:
    """A sentence that says plainly what a page cannot show yet; nothing where it can."""
    return "" if there else f"```{{note}}\nNot shown yet: {needed}.\n```"


def listed(names: Sequence[str]) -> str:
    """`L1H6, L4H1 and L1H1`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
