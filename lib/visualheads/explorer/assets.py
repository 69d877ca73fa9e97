"""The explorer's scripts and style sheet: plain modules, put together for pages that may not load them one by one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
STYLE = "explorer.css"
IMPORT = re.compile(r'^import\s+\{[^}]*\}\s+from\s+"\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class|let)\b)", re.MULTILINE)


@cache
def style() -> str:
    """Return the style sheet."""
    return (STATIC / STYLE).read_text(encoding="utf-8")


@cache
def page_script() -> str:
    """Return everything a page needs as one classic script: browsers load no modules from a folder's files."""
    return f"(() => {{\n{_joined('page.js')}}})();\n"


@cache
def widget_script() -> str:
    """Return everything the widget needs as one module."""
    return f"{_joined('widget.js')}\nexport default {{ render }};\n"


def _joined(entry: str) -> str:
    """The modules that `entry` imports, those first that others need, without their import and export words."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        text = (STATIC / name).read_text(encoding="utf-8")
        for found in IMPORT.finditer(text):
            add(found.group(1))
        done[name] = EXPORT.sub("", IMPORT.sub("", text))

    add(entry)
    return "\n".join(f"// {name}\n{text}" for name, text in done.items())
