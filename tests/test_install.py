"""The library alone, as `pip install visualheads` leaves it: what it does without its extras, and what it says."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.networks import llava
from helpers.project import ROOT

EXTRAS = ("book", "train", "lab", "cluster", "test", "check")

WITHOUT = "import sys; sys.modules.update(dict.fromkeys(ABSENT))\n"
"""A module that is None in sys.modules cannot be imported."""

OWN_CHECKPOINT = """
from PIL import Image

import visualheads as vh

model = vh.load(FOLDER)
pictures = [Image.new("RGB", (60, 40), (40 * i, 90, 30)) for i in range(3)]
samples = [vh.Sample(str(i), picture, "How many cars are there?", "2") for i, picture in enumerate(pictures)]
ds = vh.trace(model, samples)
vh.assert_valid(ds)
vh.rank(ds, by="image_weight")
assert vh.ablate(model, samples, [(0, 0)], mode="zero").sizes["sample"] == 3
vh.trace_to_store(model, samples, STORE)
assert vh.open_store(STORE).sizes["sample"] == 3
"""


def brought_by(names: Iterable[str]) -> set[str]:
    """These distributions and all that they require."""
    seen, left = set(), list(names)
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            with contextlib.suppress(PackageNotFoundError):
                needs = [Requirement(text) for text in requires(name) or ()]
                left += [canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return seen


def packages_of_extras() -> list[str]:
    """Import names that no plain installation brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    plain, further = (
        {canonicalize_name(Requirement(text).name) for text in texts} for texts in (project["dependencies"], extras)
    )
    named = further - brought_by(plain)
    return sorted(
        name for name, providers in packages_distributions().items() if named & set(map(canonicalize_name, providers))
    )


def run(code: str, **names: object) -> subprocess.CompletedProcess[str]:
    told = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    return subprocess.run([sys.executable, "-c", told + code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.long
def test_an_own_checkpoint_is_traced_without_any_extra(tmp_path: Path):
    module, processor = llava()
    module.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    absent = packages_of_extras()
    assert {"altair", "papermill", "distributed", "fontawesomefree"} <= set(absent)
    done = run(
        WITHOUT + OWN_CHECKPOINT,
        ABSENT=absent,
        FOLDER=str(tmp_path / "model"),
        STORE=str(tmp_path / "results" / "m.zarr"),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import visualheads.charts", "book"),
        ("from visualheads.cli import main; main(['book', '--force'])", "book"),
        ("from visualheads.cli import main; main(['scenes', '--out', 'x'])", "train"),
    ],
)
def test_what_is_missing_is_told_with_the_command(code: str, extra: str, tmp_path: Path):
    done = run(WITHOUT + code, ABSENT=packages_of_extras())
    assert done.returncode != 0
    assert f"pip install 'visualheads[{extra}]'" in done.stderr


def test_the_wheel_holds_what_the_library_reads():
    import visualheads.models.blueprints as blueprints
    from visualheads import cards

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["visualheads"]
    package = Path(cards.__file__).parent
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    other = {path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert {Path(blueprints.BLUEPRINTS), package / "catalog.yml"} <= shipped
    assert not other - shipped, json.dumps(sorted(map(str, other - shipped)))
