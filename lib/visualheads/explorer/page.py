"""The explorer as files: one self-contained page, or a folder of scripts that a book loads one by one."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visualheads.explorer.look_data import data_address, pack, unpack

if TYPE_CHECKING:
    from visualheads.explorer.look_data import Look

STATIC = Path(__file__).parent / "static"
STYLE, PAGE_STYLE = "explorer.css", "page.css"
IMPORT = re.compile(r'^import\s+\{[^}]*\}\s+from\s+"\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class|let)\b)", re.MULTILINE)

THUMBNAIL = 144
"""Longest edge of the small pictures of a gallery."""
INDEX_FORMAT = "visualheads.look-index"
INDEX_VERSION = 1
ON_REGION = (
    "Share of attention on the asked region, from the last prompt token; of the pictures here, the highest first."
)
ON_PICTURE = "Share of attention on the picture, from the last prompt token; of the pictures here, the highest first."


def index_of(looks: Sequence[Look]) -> dict[str, Any]:
    """Return what a page knows before any look is opened: models, their samples, and where each head looks most."""
    models: dict[str, list[Look]] = {}
    for look in looks:
        models.setdefault(look.model["name"], []).append(look)
    return {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "models": [_model(name, members) for name, members in models.items()],
    }


def page(looks: Sequence[Look], *, first: Mapping[str, str] | None = None, title: str = "") -> str:
    """Return one HTML page that holds everything: it opens from a file and asks no network for anything.

    Parameters
    ----------
    looks
        What the page holds.
    first
        What is chosen first: `heads` ("L3H5 L4H1"), `token`, `measure`.
    title
        Of the window; by default the first question.
    """
    title = title or f"{looks[0].model['name']}: {looks[0].sample['question']}"
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style(PAGE_STYLE)}{style()}</style>\n</head>\n<body>\n"
        f"<main>\n{fragment(looks, first)}</main>\n<script>\n{page_script()}</script>\n</body>\n</html>\n"
    )


def fragment(looks: Sequence[Look], first: Mapping[str, str] | None = None) -> str:
    """Return the explorer's element with all its data in it; the page brings script and style."""
    parts = [f'<script type="application/json" data-index>{_inert(index_of(looks))}</script>\n']
    for look in looks:
        key = html.escape(look.key, quote=True)
        parts.append(f'<script type="application/json" data-look="{key}">{_inert(look.to_json())}</script>\n')
    words = html.escape(f"{looks[0].sample['question']} This page needs JavaScript.")
    without = f'<p class="vh-without">{words}</p>\n'
    return f"<div data-explorer{_attributes(first)}>\n{without}{''.join(parts)}</div>\n"


def write_folder(looks: Sequence[Look], folder: Path) -> list[Path]:
    """Write looks as scripts that a page loads when they are chosen; return the paths, the index first.

    A page opened from a folder may not fetch files but may load scripts, so each look is a script that hands over its
    JSON. Pages show them by `element(folder)`, with the explorer's script and style sheet (`page_script`, `style`).
    """
    index = index_of(looks)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken: set[str] = set()
    names = iter([sample for model in index["models"] for sample in model["samples"]])
    ordered = [look for model in index["models"] for look in looks if look.model["name"] == model["name"]]
    for sample, look in zip(names, ordered, strict=True):
        name = f"{_safe(look.model['name'])}/{_safe(str(look.sample['id']))}"
        while f"{name}.js" in taken:  # ids that differ only in signs that files cannot have
            name += "-"
        sample["file"] = f"{name}.js"
        taken.add(sample["file"])
        path = folder / sample["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_provided(sample["file"], look.to_json()), encoding="utf-8")
        written.append(path)
    listing = folder / "index.js"
    listing.write_text(_provided("index", index), encoding="utf-8")
    return [listing, *written]


def add_model(folder: Path, source: Path, name: str) -> Path:
    """Put one model's looks from another folder of `write_folder` before those in `folder`; return its first look."""
    listing = folder / "index.js"
    index = _handed_over(listing)
    told = next(model for model in _handed_over(source / "index.js")["models"] if model["name"] == name)
    for sample in told["samples"]:
        path = folder / sample["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((source / sample["file"]).read_bytes())
    index["models"].insert(0, told)
    listing.write_text(_provided("index", index), encoding="utf-8")
    return folder / told["samples"][0]["file"]


def read_look(path: Path) -> dict[str, Any]:
    """Return what a script of `write_folder` hands over: a look in its format (FORMAT.md), packed arrays as arrays."""
    return {key: _unpacked(value) for key, value in _handed_over(path).items()}


def element(folder: str, first: Mapping[str, str] | None = None, alt_text: str = "") -> str:
    """Return the HTML of an explorer whose looks are loaded from `folder`, an address relative to the page.

    Parameters
    ----------
    first
        What is chosen first: `model`, `sample`, `heads` ("L3H5 L4H1"), `token`, `measure`. With `remembers`, what a
        reader chose on another page of the book comes before it.
    alt_text
        What is told where scripts are off.
    """
    told = f'<p class="vh-without">{html.escape(alt_text)}</p>' if alt_text else ""
    return f'<div data-explorer data-folder="{html.escape(folder, quote=True)}"{_attributes(first)}>{told}</div>\n'


def _model(name: str, looks: Sequence[Look]) -> dict[str, Any]:
    first = looks[0]
    asked = all(look.sample.get("box") is not None and look.token_map is not None for look in looks)
    return {
        "name": name,
        "title": first.model.get("title", name),
        "layers": first.model["layers"],
        "heads": first.model["heads"],
        "samples": [
            {
                "id": look.sample["id"],
                "question": look.sample["question"],
                "answer": look.answers.text if look.answers else "",
                "thumbnail": data_address(look.picture, THUMBNAIL) if look.picture and len(looks) > 1 else None,
            }
            for look in looks
        ],
        "gallery": {
            "label": ON_REGION if asked else ON_PICTURE,
            "values": pack(np.stack([look.gaze.reshape(-1) for look in looks]), "f2"),
        }
        if len(looks) > 1
        else None,
    }


def _attributes(first: Mapping[str, str] | None) -> str:
    return "".join(f' data-{name}="{html.escape(str(value), quote=True)}"' for name, value in (first or {}).items())


def _inert(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _provided(name: str, value: Any) -> str:
    return f"visualheads.provide({json.dumps(name)},{_inert(value)});\n"


def _handed_over(path: Path) -> dict[str, Any]:
    """The JSON of a script that `_provided` made."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return unpack(value) if "shape" in value else {key: _unpacked(one) for key, one in value.items()}
    return [_unpacked(one) for one in value] if isinstance(value, list) else value


def _safe(name: str) -> str:
    """A file name of a model or sample."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "unnamed"


@cache
def style(name: str = STYLE) -> str:
    """Return a style sheet: the explorer's, or that of a page of its own."""
    return (STATIC / name).read_text(encoding="utf-8")


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
