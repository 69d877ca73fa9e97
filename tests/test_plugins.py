"""Benchmarks and adapters of others: entry points, and modules named on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.task_files import picture
from visualheads import plugins
from visualheads.errors import ParameterError

COUNTING = """
from visualheads.tasks import records
from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.records import Question, gather
from visualheads.tasks.registry import register


@register
class {name}(Benchmark):
    name = "{name}"
    title = "Counting"
    formats = ("free",)
    sources = "the project's page."

    def files(self, split):
        return [self.data / "counting.jsonl"]

    def read(self, split):
        return gather(records.json_records(self.files(split)[0]), question_of)


def question_of(record):
    texts = {{"plain": record.text("question")}}
    return Question(record.text("id"), record.text("image"), record.file_name("image"), texts, record.text("answer"))
"""
ADAPTER = """
from visualheads.models.adapters import Adapter, register

register(Adapter("PluginForConditionalGeneration", "model.language_model.layers", lambda *given: None))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "my data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(3):
        picture(number).save(folder / "images" / f"{number}.png")
        lines.append({"id": number, "image": f"{number}.png", "question": "How many dogs are there?", "answer": "2"})
    (folder / "counting.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package with a benchmark, an adapter and a broken module, as its entry points tell."""
    site = tmp_path / "site"
    told = site / "counting_package-1.0.dist-info"
    told.mkdir(parents=True)
    (site / "counting_package.py").write_text(COUNTING.format(name="counted"))
    (site / "adapter_package.py").write_text(ADAPTER)
    (site / "broken_package.py").write_text("1 / 0")
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-package\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(
        "[visualheads.tasks]\ncounted = counting_package\nbroken = broken_package\n"
        "[visualheads.adapters]\nplugin = adapter_package\n"
    )
    return site


def python(code: str, *paths: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    lib = Path(plugins.__file__).parents[1]
    told = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, lib])), plugins.VARIABLE: ""}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=told, capture_output=True, text=True, timeout=120)


def test_entry_points_of_packages_are_found(package: Path, data: Path) -> None:
    code = (
        "import visualheads as vh\n"
        f"print(vh.task_names()[-1], len(vh.task('counted', {str(data)!r}).samples()))\n"
        "from visualheads.models.adapters import supported\n"
        "print('PluginForConditionalGeneration' in supported())"
    )
    done = python(code, package, cwd=package)
    assert done.stdout.split("\n")[:2] == ["counted 3", "True"], done.stderr
    assert "broken" in done.stderr
    assert "division by zero" in done.stderr


def test_a_file_named_on_the_command_line(tmp_path: Path, data: Path) -> None:
    """The file is called as a module of the standard library, and child processes see it too."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "random.py").write_text(COUNTING.format(name="counting"))
    code = (
        "import sys, subprocess\n"
        "from visualheads.cli import main\n"
        "options = ['--task', 'counting', '--dry-run', '--import', 'own/random.py']\n"
        f"try:\n    main(['trace', 'mini-1.5-7B', '--data', {str(data)!r}, *options])\n"
        "finally:\n"
        "    child = 'import visualheads as vh; print(vh.task_names()[-1])'\n"
        "    subprocess.run([sys.executable, '-c', child], cwd='/', check=True)"
    )
    done = python(code, cwd=tmp_path)
    assert "samples" in done.stdout, done.stderr
    assert done.stdout.split()[-1] == "counting"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "a file that exists"),
        ("no_such_module_anywhere", None, "ModuleNotFoundError"),
        ("broken.py", "1 / 0", "division by zero"),
        ("syntax.py", "def", "SyntaxError"),
        ("twice.py", COUNTING.format(name="pope"), "registered already"),
    ],
)
def test_modules_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")
    if text is not None:
        Path(name).write_text(text)
    from visualheads.tasks import task_names

    before = task_names()
    with pytest.raises(ParameterError, match=message):
        plugins.use([name])
    assert plugins.named() == ()
    assert task_names() == before


@pytest.mark.long
def test_workers_import_what_the_command_named(tmp_path: Path, data: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING.format(name="counting"))
    code = (
        "import visualheads as vh\n"
        "from visualheads import plugins\n"
        "from distributed import LocalCluster\n"
        "from visualheads.tracing.jobs import TraceJob, run\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=':0') as cluster:\n"
        "        cluster.wait_for_workers(1)\n"
        "        plugins.use(['counting.py'])\n"
        f"        job = TraceJob('mini-1.5-7B', 'counting', {str(data)!r}, results={str(tmp_path)!r})\n"
        "        print(run(job, scheduler=cluster, progress=False).sizes['sample'])"
    )
    (tmp_path / "run.py").write_text(code)
    done = python("import runpy; runpy.run_path('run.py', run_name='__main__')", cwd=tmp_path)
    assert done.stdout.split()[-1:] == ["3"], done.stderr
