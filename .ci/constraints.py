"""Write constraints.txt: the exact versions, in this environment, of all that pyproject.toml asks for in the end.

make constraints
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST_PYTHON = PROJECT["requires-python"].removeprefix(">=") + ".0"
HEADER = """\
# The exact versions everything was tested with (Linux, Python 3.11). Written by `make constraints`; do not edit.
"""


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Name → installed version of the requirements and of all that they require here, extras included."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, "") for requirement in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{requirement} is not installed here; run `make check` once, then this again.") from None
        needed = found.metadata.get("Requires-Python") or ""
        if not SpecifierSet(needed).contains(OLDEST_PYTHON):
            raise SystemExit(
                f"{name} {found.version} needs Python {needed}, and the project promises "
                f"{OLDEST_PYTHON}; install an older {name} here, then run this again."
            )
        versions[name] = Version(found.version).public  # torch's +cpu is not for everybody
        for asked in ("", *requirement.extras):
            if (name, asked) not in seen:
                seen.add((name, asked))
                queue += [(Requirement(text), asked) for text in found.requires or ()]
    return versions


def main() -> None:
    versions = closure([Requirement(f"{PROJECT['name']}[{','.join(PROJECT['optional-dependencies'])}]")])
    versions.pop(canonicalize_name(PROJECT["name"]))
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
