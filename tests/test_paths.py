"""Where things lie: one name for a folder in stores, look-ups and pages; notebooks work in the project's folder."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.project import ROOT
from helpers.stores import fill, plan_for, stored, traced
from visualheads import paths
from visualheads.analysis import models
from visualheads.book import catalogue
from visualheads.book.page import KERNEL as KERNELSPEC
from visualheads.book.traces import page_job
from visualheads.cards import name_of
from visualheads.models import checkpoints
from visualheads.store import write
from visualheads.store.variables import UNTRAINED
from visualheads.tracing import jobs

CALL = "paths.enter_project()"
LOADED = ("adapter", "prompt", "system", "chat_template", "answer_prefix")
KERNEL = """
import asyncio, sys
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

async def main():
    manager = AsyncMappingKernelManager(root_dir=sys.argv[1])
    kernel = await manager.start_kernel(path="notebooks/page.ipynb")
    client = manager.get_kernel(kernel).client()
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    said = lambda message: message["msg_type"] == "stream" and print(message["content"]["text"], end="")
    for code in ("import os; print(os.getcwd())", sys.argv[2], "print(os.getcwd())"):
        await client.execute_interactive(code, output_hook=said, timeout=120)
    client.stop_channels()
    await manager.shutdown_all(now=True)

asyncio.run(main())
"""
"""Starts a kernel for a notebook as Jupyter's server does, runs code in it, and tells its folder before and after."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout, as far as its folders tell."""
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "_config.yml").touch()
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("{}/a/checkpoint-1000", "a-checkpoint-1000"),
        ("{}/b/checkpoint-1000/", "b-checkpoint-1000"),
        ("a/checkpoint-1000", "a-checkpoint-1000"),
        ("../{0.name}/a/../b/checkpoint-1000", "b-checkpoint-1000"),
        ("ft/mini-vip-7B", "ft-mini-vip-7B"),
        ("mini/1.5-7B", "mini-1.5-7B-folder"),
        ("data/miniatures/mini-1.5-7B", "mini-1.5-7B"),
        ("mini-1.5-7B", "mini-1.5-7B"),
        ("someone/a-model", "someone/a-model"),
    ],
)
def test_a_model_has_one_name_for_its_stores_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    folders = ("a/checkpoint-1000", "b/checkpoint-1000", "ft/mini-vip-7B", "mini/1.5-7B", "data/miniatures/mini-1.5-7B")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISUALHEADS_DATA", str(tmp_path / "data"))
    given = given.format(tmp_path)
    assert name_of(given) == checkpoints.resolve(given).name == name
    slug = paths.slug_of(name)
    assert Path(jobs.TraceJob(given, results="r").path) == Path("r", slug, "looktwice.zarr")
    page = catalogue.model_page(tmp_path, given)
    assert (page.slug, page.only, page.output.stem) == (slug,) * 3


def test_names_in_other_scripts_stay_apart() -> None:
    names = ("数据/模型", "数据/模型二", "data/modèle", "data/modéle")
    slugs = [paths.slug_of(name) for name in names]
    assert len(set(slugs)) == 4 and all(slug.isascii() and paths.slug_of(slug) == slug for slug in slugs)


def test_a_page_tells_all_that_its_model_is_loaded_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mine/base", "mine/lora"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    lines = [f'{name}: str = ""' for name in ("task", "data", "device", "dtype", *LOADED)]
    lines += ['model: str = ""', "n: int = 4", "seed: int = 0", "batch_tokens: int = 0", 'results: str = "r"']
    cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": dict(KERNELSPEC)})
    nbformat.write(notebook, tmp_path / "notebooks" / "model.ipynb")
    given = {"task": "looktwice", "adapter": "mine/lora", "system": "Be brief.", "answer_prefix": "It is"}
    page = catalogue.model_page(tmp_path, "mine/base", given)
    job = page_job(tmp_path, page)
    assert {name: getattr(job, name) or "" for name in LOADED} == {name: given.get(name, "") for name in LOADED}
    assert Path(job.path).parent.name == page.slug == page.only
    assert {Path("mine/base"), Path("mine/lora")} <= set(page.data)


def test_a_folder_named_as_a_miniature_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuned" / "mini-1.5-7B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tuned")
    assert name_of("./mini-1.5-7B") == checkpoints.resolve("./mini-1.5-7B").name == "tuned-mini-1.5-7B"


def test_pages_of_folders_read_their_own_stores(tmp_path: Path) -> None:
    """Two checkpoints of one name, and a fine-tune called as a miniature that other benchmarks were traced on."""
    results, folders = tmp_path / "results", ("a/checkpoint-1000", "b/checkpoint-1000", "ft/mini-vip-7B")
    stored(results, traced("mini-vip-7B", 2, 2, task="pope", conditions=("adversarial",), boxes=False), task="pope")
    names = []
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        names.append(checkpoints.resolve(tmp_path / folder).name)  # what `load` calls it, and a trace its `model`
        ds = traced(names[-1], 2, 2)
        job = jobs.TraceJob(str(tmp_path / folder), results=str(results))
        for one, kind in ((job, "trace"), (job.fresh_network(), UNTRAINED)):
            planned = dataclasses.replace(plan_for(ds), kind=kind)
            fill(write.create(one.path, planned), ds, planned)
    for name in names:
        seen = models.traced(results, models=[name])
        assert seen["model"].values.tolist() == [name]
        assert set(seen["task"].values) == {"looktwice"}
        control = models.untrained(results, models=[name])
        assert control is not None and control["model"].values.tolist() == [name]


@pytest.mark.parametrize("below", ["", "notebooks", "book/models"])
def test_notebooks_work_in_the_projects_folder(project: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (project / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project / below)
    paths.enter_project()
    assert Path.cwd() == project


def test_outside_a_project_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths.enter_project()
    assert Path.cwd() == tmp_path and paths.project_folder() is None


def test_a_kernel_of_jupyters_server_reaches_the_project(project: Path) -> None:
    pytest.importorskip("jupyter_server")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERNEL, str(project), f"from visualheads import paths\n{CALL}"],
        cwd=project.parent, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.split() == [str(project / "notebooks"), str(project)], ran.stderr


def test_every_notebook_with_results_goes_there_first() -> None:
    """Before anything reads or writes below the project: in the cell of imports, next to the parameters."""
    called = 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        parameters, imports = ("".join(cell["source"]) for cell in cells[:2])
        if '"data/results' in parameters:
            assert imports.splitlines()[-1].startswith(CALL), path.name
            called += 1
    assert called > 10
