"""The project's own files: dependency lists agree, notebooks are stripped, modules keep to their layer."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers.project import ROOT
from visualheads.cards import DEFAULT_MODEL

PACKAGE = ROOT / "lib" / "visualheads"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text) for text in (*PROJECT["dependencies"], *(t for texts in EXTRAS.values() for t in texts))
]
OUTSIDE = [requirement for requirement in REQUIREMENTS if requirement.name != PROJECT["name"]]

LONGEST_MODULE = 300
"""Lines of code: blank lines, comments and docstrings do not count."""
LARGEST_FILE = 10 * 2**20
SIZES = (
    ("", "", 80e6),
    ("data/miniatures", ".safetensors", 38e6),
    ("data/scenes", "", 8e6),
    ("data/full", "", 8e6),
    ("data/smol", "", 20e6),
)
"""(folder, ending, bytes): what files may have together, so that a clone is quick and a small machine takes it."""
TARGETS = ["book", "test", "test-book", "test-long", "lab", "serve", "model", "miniatures", "check", "clean"]
RENDERED = ("_build", "models", "results")

ROOMS = {
    "errors": "",
    "plugins": "errors",
    "paths": "errors",
    "cards": "errors paths",
    "tasks": "errors paths cards plugins",
    "models": "errors paths cards tasks plugins",
    "store": "errors paths cards tasks models",
    "heads": "errors paths cards tasks models store",
    "tracing": "errors paths cards tasks models store heads plugins",
    "interventions": "errors paths cards tasks models store heads tracing",
    "analysis": "errors paths cards tasks models store heads tracing interventions",
    "miniatures": "errors paths cards tasks models store heads tracing interventions analysis",
    "studies": "errors paths cards tasks models store heads tracing interventions analysis miniatures",
    "charts": "errors paths cards tasks models store heads tracing interventions analysis miniatures studies",
    "explorer": "errors paths cards tasks models store heads tracing interventions analysis studies charts",
    "book": "*",
    "cli": "*",
}
"""What each room may import, for type checkers too."""
PURE = ("heads", "analysis", "charts")
"""Rooms that load neither nnsight nor transformers."""


def tracked() -> list[Path]:
    """The files that git knows or would take in; without git, everything outside hidden folders."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    inside = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [ROOT / path for path in inside if not any(part.startswith(".") for part in path.parts)]


def pins() -> dict[str, str]:
    """Name → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line is name==version"
    return {canonicalize_name(name): version for name, version in pairs}


def module_name(path: Path) -> str:
    """`tasks.pope` for lib/visualheads/tasks/pope.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, typing_too: bool = False) -> set[str]:
    """Full names of what a file imports; imports for type checkers only do not count unless asked for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(ast.walk(node))
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports(path: Path) -> set[str]:
    """First component inside the package of everything it imports from itself."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("visualheads.")}
    return found - {"__version__"}


@pytest.mark.parametrize("requirement", OUTSIDE, ids=lambda requirement: requirement.name)
def test_dependencies_are_bounded_below_and_above(requirement):
    operators = {clause.operator for clause in requirement.specifier}
    assert "==" in operators or {">=", "<"} <= operators, "give a lower and an upper bound"


@pytest.mark.parametrize("requirement", OUTSIDE, ids=lambda requirement: requirement.name)
def test_constraints_lie_within_the_bounds(requirement):
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)
    assert "+" not in version, "a local version is of one platform"


def test_constraints_take_the_oldest_python_promised():
    oldest = next(clause.version for clause in SpecifierSet(PROJECT["requires-python"]) if clause.operator == ">=")
    pinned = pins()
    same = [d for d in distributions() if pinned.get(canonicalize_name(d.metadata["Name"])) == d.version]
    too_new = {
        f"{d.metadata['Name']} {d.version}"
        for d in same
        if not SpecifierSet(d.metadata.get("Requires-Python") or "").contains(f"{oldest}.0")
    }
    assert same and not too_new


def test_the_dev_extra_is_all_extras():
    [requirement] = [Requirement(text) for text in EXTRAS["dev"]]
    assert requirement.extras == set(EXTRAS) - {"dev"}


def test_environment_file_only_points_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    python, pip, lines = environment["dependencies"]
    assert pip == "pip"
    assert lines == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    name, version = python.split("=")
    assert name == "python"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)


def test_versions_agree():
    import visualheads

    assert visualheads.__version__ == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= set(citation)
    [paper] = citation["references"]
    assert paper["type"] == "conference-paper"
    assert paper["authors"][0]["family-names"] == "Bi"
    assert {"type": "other", "value": "arXiv:2412.18108"} in paper["identifiers"]


def test_everything_imported_is_a_declared_dependency():
    """A package that another one happens to bring may go with its next release."""
    declared = {canonicalize_name(requirement.name) for requirement in OUTSIDE} | {PROJECT["name"]}
    providers = packages_distributions()
    missing = {}
    for path in MODULES:
        for name in {name.split(".")[0] for name in imports(path, typing_too=True)} - set(sys.stdlib_module_names):
            if name != "visualheads" and not declared & {canonicalize_name(one) for one in providers.get(name, [])}:
                missing.setdefault(name, []).append(module_name(path))
    assert not missing


def test_the_makefile_has_the_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    assert set(TARGETS) <= targets
    documented = set(re.findall(r"^([a-z-]+):.*## ", text, flags=re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY:(.*)$", text, flags=re.MULTILINE)[0].split())
    assert documented == phony


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("target", "left"), [("clean", ["1.5-7B"]), ("clean-all", [])])
def test_make_clean_keeps_the_traces_of_real_models(tmp_path: Path, target: str, left: list[str]):
    shutil.copy(ROOT / "Makefile", tmp_path)
    results = tmp_path / "data" / "results"
    for name in ("1.5-7B", "mini-1.5-7B", "mini-llama-3-8B-text-untrained", "cost"):
        (results / name / "looktwice.zarr").mkdir(parents=True)
    (results / "traced.json").write_text("{}", encoding="utf-8")
    for name in ("book/_build", "book/models", "book/results", ".venv", "data/full/mini-1.5-7B"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", target], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in results.glob("*")) == left
    assert not any((tmp_path / "book").iterdir())
    assert (tmp_path / "data" / "full" / "mini-1.5-7B").is_dir()
    assert (tmp_path / ".venv").is_dir() == (target == "clean")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_model_passes_on_what_it_documents():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [documented] = re.findall(r"^model:.*## .*\[(.*)\]", text, flags=re.MULTILINE)
    given = [f"{name}17" for name in documented.split()]
    told = subprocess.run(
        ["make", "-n", "model", "MODEL=m", *given], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "UNTRAINED=17" in given
    assert all(f'-p "{name.lower()}"' in told for name in given)


def test_continuous_integration_runs_what_a_person_types():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    ran = re.findall(r"^timed make (\S+)$", script, re.MULTILINE)
    assert ran == ["check", "test", "book", "test-book", "test-long"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["book"]["steps"]
    assert any(step.get("run") == "bash .ci/run" for step in steps)
    assert workflow["jobs"]["book"]["timeout-minutes"] <= 60


def test_a_failed_or_overlong_run_leaves_its_log_and_its_book():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    [left] = [step for step in workflow["jobs"]["book"]["steps"] if "success()" in step.get("if", "")]
    assert left["if"] == "${{ !success() }}", "one that ran out of time is cancelled, not failed"
    kept = left["with"]["path"].split()
    assert kept == ["book/**/*.partial.ipynb", "book/_build/build.log", "book/_build/html"]
    assert "github.event_name" in workflow["concurrency"]["group"], "the weekly run must not stop a push"


def test_readme_gives_the_two_commands_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make book" in text
    assert "make test" in text
    assert f'vh.load("{DEFAULT_MODEL}")' in text, "examples take the default model"
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_notebooks_are_stripped():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert cells, path.name
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), f"{path.name} carries outputs"


def test_notebooks_hold_no_algorithm():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        for cell in cells:
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 5, f"{path.name}: move {node.name} to lib/"


def test_no_file_is_large():
    large = [path.relative_to(ROOT) for path in tracked() if path.stat().st_size > LARGEST_FILE]
    assert not large


@pytest.mark.parametrize(("folder", "ending", "most"), SIZES)
def test_what_is_shipped_stays_small(folder: str, ending: str, most: float):
    found = [path for path in tracked() if path.is_relative_to(ROOT / folder) and path.name.endswith(ending)]
    sizes: dict[str, int] = {}
    for path in found:
        place = "/".join(path.relative_to(ROOT).parts[:-1][:2])
        sizes[place] = sizes.get(place, 0) + path.stat().st_size
    largest = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in sorted(sizes, key=sizes.__getitem__)[-5:])
    assert 0 < sum(sizes.values()) < most, f"the largest folders: {largest}"


def test_nothing_is_fetched_by_a_reader():
    """No page, script or module names a content delivery network."""
    hosts = re.compile(r"cdn\.jsdelivr|unpkg\.com|cdnjs|googleapis|esm\.sh|polyfill\.io")
    texts = [path for path in tracked() if path.suffix in (".py", ".md", ".yml", ".js", ".css", ".html", ".ipynb")]
    named = [
        path.relative_to(ROOT)
        for path in texts
        if path != Path(__file__).resolve() and hosts.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not [path for path in named if path.parts[0] in ("lib", "book", "notebooks", "_config.yml")]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_are_short(path):
    text = path.read_text(encoding="utf-8")
    words = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    assert sum(place not in words and not re.match(r"\s*(#|$)", line) for place, line in lines) <= LONGEST_MODULE


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_load_no_models(room):
    """Also not through what they import."""
    modules = [f"visualheads.{module_name(path)}" for path in MODULES if module_name(path).split(".")[0] == room]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {modules!r}]; "
    code += "sys.exit(', '.join({'nnsight', 'transformers'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_rooms_import_only_from_those_above(path):
    room = module_name(path).split(".")[0]
    allowed = ROOMS.get(room, "*").split()
    strange = {name.split(".")[1] for name in imports(path, typing_too=True) if name.startswith("visualheads.")}
    assert room in ("cli", "__main__") or "cli" not in strange
    assert allowed == ["*"] or strange <= {room, *allowed, "__version__"}, strange - {room, *allowed}


def test_no_module_imports_itself_in_a_circle():
    known = {module_name(path): path for path in MODULES}
    graph = {}
    for name, path in known.items():
        named = {
            one.removeprefix("visualheads.") for one in imports(path, typing_too=True) if one.startswith("visualheads.")
        }
        graph[name] = {one if one in known else one.rpartition(".")[0] for one in named} & known.keys() - {name}
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)  # raises CycleError, which names the circle


def test_only_the_command_line_imports_typer():
    users = {module_name(path).split(".")[0] for path in MODULES if "typer" in {n.split(".")[0] for n in imports(path)}}
    assert users == {"cli"}


def test_lazy_names_are_those_that_type_checkers_see():
    import visualheads

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (alias.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {(name, f"visualheads.{module}") for name, module in visualheads._MODULE_OF.items()}
    assert set(visualheads.__all__) == {*visualheads._MODULE_OF, "__version__"}


def documented(text: str) -> dict[str, set[str]]:
    """Names under each numpydoc heading of a docstring."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", text, flags=re.MULTILINE)
    return {
        heading: {
            name.strip(" *") for line in re.findall(r"^\S.*", body, re.M) for name in line.split(" : ")[0].split(",")
        }
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def public() -> dict[str, Any]:
    """What the chapter “API reference” names, and what it is."""
    import visualheads
    from visualheads.book.sphinx.reference import MODULES, public_names

    top = {name: getattr(visualheads, name) for name in visualheads.__all__}
    modules = {
        f"{name}.{one}": getattr(import_module(f"visualheads.{name}"), one)
        for name in MODULES
        for one in public_names(name)
    }
    return {name: found for name, found in {**top, **modules}.items() if callable(found)}


@pytest.mark.parametrize("found", [pytest.param(found, id=name) for name, found in public().items()])
def test_public_names_have_numpydoc_docstrings(found: Any):
    """A sentence, then every parameter, what is returned; of classes their parameters or attributes."""
    text = inspect.getdoc(found) or ""
    assert re.match(r".+\.(\n\n|$)", text), "one sentence on the first line"
    parts = documented(text)
    if not inspect.isclass(found):
        signature = inspect.signature(found)
        assert parts.get("Parameters", set()) == set(signature.parameters)
        assert "Returns" in parts or signature.return_annotation in ("None", None)
    elif not issubclass(found, Exception):
        assert parts.get("Parameters") or parts.get("Attributes")
