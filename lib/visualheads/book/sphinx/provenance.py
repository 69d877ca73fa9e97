"""Where a book's numbers come from: version and data at the foot of every page, everything on one."""

from __future__ import annotations

import hashlib
import html
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from visualheads.book import page
from visualheads.models.provenance import hash_weights, version_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = "VISUALHEADS_BOOK_ROOT"
PACKAGES = ("visualheads", "torch", "transformers", "nnsight", "xarray", "jupyter-book")
DATA = ("data/scenes", "data/smol", "data/full")
"""What ships besides the miniatures: questions, the joined models, and the long measurements."""
SHORT = 12


def footer_text(root: Path) -> str:
    """Version and data checksum; no clock time and no commit, so equal inputs give equal pages."""
    scenes = root / "data" / "scenes"
    data = [f"data {page.files_hash([scenes])[:SHORT]}"] if scenes.is_dir() else []
    return " · ".join([f"visualheads {version_of('visualheads')}", *data])


def everything(root: Path) -> dict[str, str]:
    """Commit, package versions, data checksum and the hash of every shipped checkpoint, by name."""
    told = {"commit": commit(root)}
    told |= {name: version_of(name) or "not installed" for name in PACKAGES}
    for name in DATA:
        if (root / name).is_dir():
            told[name] = page.files_hash([root / name])[:SHORT]
    folders = sorted(path.parent for path in (root / "data" / "miniatures").glob("*/config.json"))
    return told | {folder.name: hash_weights(folder)[:SHORT] for folder in folders}


def commit(root: Path) -> str:
    """The commit of the checkout, with `+` where files differ from it; `unknown` outside version control."""
    git = shutil.which("git")
    head = _git(git, root, "rev-parse", "--short=12", "HEAD") if git else ""
    if not git or not head:
        return "unknown"
    changed = _git(git, root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+{hashlib.sha256(changed.encode()).hexdigest()[:4]}" if changed else head


def root_of(app: Sphinx) -> Path:
    """The project's folder, which the builder of the book names."""
    return Path(os.environ.get(ROOT) or app.confdir)


class ProvenanceDirective(SphinxDirective):
    """A list of what the book was made from: commit, packages, data, checkpoints."""

    def run(self) -> list[nodes.Node]:
        """Return the list."""
        self.env.note_reread()
        fields = [
            nodes.field("", nodes.field_name("", name), nodes.field_body("", nodes.literal("", value)))
            for name, value in everything(root_of(self.env.app)).items()
        ]
        return [nodes.field_list("", *fields)]


def add_footer(app: Sphinx, config: Any) -> None:
    """Put version and data into the theme's footer."""
    config.html_last_updated_fmt = None  # a clock time would make every build another book
    config.html_theme_options = {
        **config.html_theme_options,
        "extra_footer": f'<p class="provenance">{html.escape(footer_text(root_of(app)))}</p>',
    }


def _git(git: str, root: Path, *arguments: str) -> str:
    done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def setup(app: Sphinx) -> None:
    """Register directive and footer with Sphinx."""
    app.connect("config-inited", add_footer)
    app.add_directive("provenance", ProvenanceDirective)
