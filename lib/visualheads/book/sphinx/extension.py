"""Sphinx extension of the book: where its numbers come from, at the foot of every page, and repairs of the theme."""

from __future__ import annotations

import hashlib
import html
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visualheads.book import inputs
from visualheads.models.provenance import hash_weights

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = "VISUALHEADS_BOOK_ROOT"
PACKAGES = ("visualheads", "torch", "transformers", "nnsight", "xarray", "jupyter-book")
LATE = 900
SHORT = 12


def footer_text(root: Path) -> str:
    """Commit, checkpoints, data checksum and package versions; no clock time, so equal inputs give equal pages."""
    parts = [f"commit {commit(root)}"]
    folders = sorted(path.parent for path in (root / "data" / "miniatures").glob("*/config.json"))
    weights = [(folder.name, hash_weights(folder)[:SHORT]) for folder in folders]
    if weights:
        parts.append("checkpoints " + ", ".join(f"{name} {digest}" for name, digest in weights))
    scenes = root / "data" / "scenes"
    if scenes.is_dir():
        parts.append(f"data {inputs.files_hash([scenes])[:SHORT]}")
    parts.append(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    return " · ".join(parts)


def commit(root: Path) -> str:
    """The commit of the checkout, with `+` where files differ from it; `unknown` outside version control."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    head = _git(git, root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    changed = _git(git, root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+{hashlib.sha256(changed.encode()).hexdigest()[:4]}" if changed else head


def add_footer(app: Sphinx, config: Any) -> None:
    """Put the provenance into the theme's footer."""
    root = Path(os.environ.get(ROOT) or app.confdir)
    config.html_last_updated_fmt = None  # a clock time would make every build another book
    config.html_theme_options = {
        **config.html_theme_options,
        "extra_footer": f'<p class="provenance">{html.escape(footer_text(root))}</p>',
    }


def drop_unused_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """sphinx-thebe adds an inline script twice (an error on every page) and one from another host; no page uses it."""
    del app, page, template, doctree
    scripts = context.get("script_files", [])
    scripts[:] = [script for script in scripts if not _is_thebe(script)]


def _is_thebe(script: Any) -> bool:
    name = str(getattr(script, "filename", "") or "")
    body = str((getattr(script, "attributes", {}) or {}).get("body", ""))
    return "thebe" in f"{name} {body}".lower()


def _git(git: str, root: Path, *arguments: str) -> str:
    done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("config-inited", add_footer)
    app.connect("html-page-context", drop_unused_scripts, priority=LATE)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
