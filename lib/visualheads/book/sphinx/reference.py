"""The chapter “API reference”: written from the public names there are, its docstrings read by autodoc."""

from __future__ import annotations

import inspect
from importlib import import_module

import visualheads

MODULES = (
    "analysis.subset", "analysis.models", "analysis.head_tables", "analysis.scores", "analysis.benchmarks",
    "analysis.effects", "analysis.rankings_vs_effects", "analysis.lineage", "analysis.emergence",
    "analysis.sinks", "analysis.steering", "analysis.claims", "charts", "book.text",
)  # fmt: skip
"""Modules whose functions notebooks may call; all others are the library's own."""


def chapter() -> str:
    """The generated part of the chapter: every public name in full, then the public modules as tables."""
    lines = ["```{eval-rst}"]
    for name in visualheads.__all__:
        found = getattr(visualheads, name)
        if callable(found):
            kind = "autoclass" if inspect.isclass(found) else "autofunction"
            lines += [f".. {kind}:: visualheads.{name}", ""]
    lines += ["```", "", "## Public modules", ""]
    for module in MODULES:
        lines += [f"### visualheads.{module}", "", _summary(module), "", "```{eval-rst}", ".. autosummary::", ""]
        lines += [f"   visualheads.{module}.{name}" for name in public_names(module)]
        lines += ["```", ""]
    return "\n".join(lines)


def public_names(module: str) -> list[str]:
    """The functions and classes of a module without a leading underscore: its own, or those it says are public."""
    found = import_module(f"visualheads.{module}")
    names = getattr(found, "__all__", None) or [
        name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__
    ]
    return sorted(name for name in names if not name.startswith("_") and callable(getattr(found, name)))


def _summary(module: str) -> str:
    return (import_module(f"visualheads.{module}").__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
