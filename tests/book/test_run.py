"""Running pages: parameters, placeholders, equal bytes, kept partial pages, and what decides that nothing changed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import multiprocessing.context
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill.engines
import pytest

import visualheads as vh
from helpers.children import launch
from helpers.pages import a_page, write_template
from helpers.task_files import looktwice
from visualheads.book import build, catalogue, run, warm_kernels
from visualheads.book import build as landing
from visualheads.book import page as inputs
from visualheads.book import page as template
from visualheads.book import run as engine
from visualheads.book import run as running
from visualheads.book import traces as tracing
from visualheads.book.page import Page, parameters_of
from visualheads.book.run import run_page
from visualheads.book.sphinx import reference
from visualheads.errors import KernelError, ParameterError
from visualheads.tracing import jobs

ROOT = Path(__file__).resolve().parents[2]


def test_parameters_are_read_with_type_default_and_help(tmp_path: Path) -> None:
    found = parameters_of(write_template(tmp_path / "t.ipynb"))
    assert found["n"] == template.Parameter("n", "int", 3, "how many")
    assert list(found) == ["n", "name", "ratio", "deep"]


def test_every_shipped_template_declares_and_explains_its_parameters() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for parameter in parameters_of(path).values():
            assert parameter.kind != "None" and parameter.help, f"{path.name}: {parameter.name}"


def test_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"nam.*did you mean 'name'"):
        run_page(a_page(tmp_path, nam="b"), tmp_path)
    assert not (tmp_path / "book").exists()


@pytest.mark.parametrize(("given", "read"), [("12", 12), (12, 12)])
def test_text_from_a_command_line_gets_the_declared_type(tmp_path: Path, given: object, read: int) -> None:
    path = write_template(tmp_path / "t.ipynb")
    assert template.checked(path, {"n": given, "deep": "true", "ratio": "2", "name": "7"}) == {
        "n": read,
        "deep": True,
        "ratio": 2.0,
        "name": "7",
    }


@pytest.mark.parametrize("bad", [{"n": "many"}, {"n": 1.5}, {"n": True}, {"deep": "perhaps"}, {"ratio": "x"}])
def test_value_of_another_type_is_refused(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(bad))):
        template.checked(write_template(tmp_path / "t.ipynb"), bad)


def test_missing_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="notebook file"):
        parameters_of(tmp_path / "none.ipynb")


def test_a_page_has_its_title_its_labels_and_its_command(tmp_path: Path) -> None:
    page = a_page(tmp_path)
    notebook = template.adapted(page)
    assert notebook.cells[0].source == "# One\n\nSee {numref}`fig-one-loss`, not fig-loss-map."
    assert notebook.cells[2].metadata["mystnb"]["figure"] == {"name": "fig-one-loss", "caption": "A loss"}
    assert notebook.cells[-1].source == "*Make this page again:* `visualheads page one`"
    alone = template.adapted(dataclasses.replace(page, slug="t", command=""))
    assert "`fig-loss`" in alone.cells[0].source and alone.cells[-1].cell_type == "code"


def test_templates_show_no_placeholders_in_a_lab() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        shown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        shown += [str(cell.metadata.get("mystnb", "")) for cell in notebook.cells]
        assert shown[0].startswith("# ") and not [text for text in shown if "{{" in text], path.name


def test_no_cell_that_computes_leaves_the_page() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            tags = set(cell.metadata.get("tags", ()))
            assert "remove-input" not in tags and ("remove-cell" not in tags or "parameters" in tags), path.name


def test_two_runs_are_equal_bytes_and_a_third_is_skipped(tmp_path: Path) -> None:
    body = (
        "import uuid, IPython.display as d\nd.display(d.HTML(f'<i id={uuid.uuid4()}>{object()}</i>')); print(n, name)"
    )
    page = a_page(tmp_path, body, n=5)
    assert run_page(page, tmp_path)
    first = page.output.read_bytes()
    assert not run_page(page, tmp_path)
    assert run_page(page, tmp_path, force=True)
    assert page.output.read_bytes() == first
    notebook = nbformat.reads(first.decode(), as_version=4)
    assert "5 a" in first.decode()
    assert "secret" not in json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "papermill" not in json.dumps(notebook.metadata) and not page.partial.exists()
    injected = next(c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", []))
    assert "remove-cell" in injected.metadata["tags"]
    assert inputs.recorded(page.output)["parameters"] == {"n": 5}


def test_failing_cell_keeps_the_partial_page_and_the_last_whole_one(tmp_path: Path) -> None:
    page = a_page(tmp_path, "assert n < 4, 'n is too large'; print('fine')", n=3)
    run_page(page, tmp_path)
    whole = page.output.read_bytes()
    with pytest.raises(KernelError, match="n is too large") as caught:
        run_page(dataclasses.replace(page, parameters={"n": 4}), tmp_path)
    assert str(page.partial) in str(caught.value)
    assert page.partial.is_file() and page.output.read_bytes() == whole


def test_killed_kernel_is_told(tmp_path: Path) -> None:
    page = a_page(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(KernelError, match="kernel died"):
        run_page(page, tmp_path)
    assert nbformat.read(page.partial, as_version=4).cells


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels start cold")
def test_warm_kernels_know_what_was_preloaded_and_nothing_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_kernels, "PRELOADED", ("ipykernel.kernelapp", "wave"))
    monkeypatch.setattr(
        warm_kernels.KernelProvisionerFactory.instance(), "default_provisioner_name", "local-provisioner"
    )
    warm_kernels.use_warm_kernels()
    monkeypatch.setenv("GIVEN", "later")
    body = (
        "import os, sys\nprint('wave' in sys.modules, 'colorsys' in sys.modules, os.environ['GIVEN'], os.getcwd())\n"
        "import colorsys"
    )
    for _ in range(2):
        page = a_page(tmp_path, body)
        run_page(page, tmp_path, force=True)
        told = [output.text for cell in nbformat.read(page.output, 4).cells for output in cell.get("outputs", ())]
        assert told == [f"True False later {tmp_path}\n"]
    with pytest.raises(KernelError, match="kernel died"):
        run_page(a_page(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)
    with pytest.raises(KernelError, match="broken"):
        run_page(a_page(tmp_path, "raise ValueError('broken')"), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels start cold")
def test_a_warm_kernel_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path),))
    process.start()
    pid = int(waited(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()))
    process.kill()
    process.join()
    waited(lambda: not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")


def test_kernels_start_cold_where_none_can_be_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("AF_UNIX path too long")

    factory = warm_kernels.KernelProvisionerFactory.instance()
    monkeypatch.setattr(factory, "default_provisioner_name", "local-provisioner")
    warm_kernels.use_warm_kernels()
    monkeypatch.setattr(multiprocessing.context.ForkServerProcess, "start", refuse)
    page = a_page(tmp_path, "import multiprocessing; print(multiprocessing.parent_process())")
    run_page(page, tmp_path)
    assert "None" in page.output.read_text()


def waited(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What a condition gives once it holds."""
    for _ in range(int(seconds / 0.1)):
        if told := found():
            return told
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize(("seconds", "written"), [(engine.SAVE_EVERY, 2), (0.0, 2 + 2 * 5)])
def test_page_is_written_seldom_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, written: int
) -> None:
    times: list[int] = []
    original = papermill.engines.write_ipynb
    monkeypatch.setattr(engine, "SAVE_EVERY", seconds)
    monkeypatch.setattr(papermill.engines, "write_ipynb", lambda nb, path: (times.append(1), original(nb, path)))
    run_page(a_page(tmp_path, "print('fine')"), tmp_path)
    assert len(times) == written


def test_a_failing_page_stops_no_other(tmp_path: Path) -> None:
    good = a_page(tmp_path / "good")
    bad = a_page(tmp_path / "bad", "raise ValueError('broken')")
    said: list[str] = []
    with pytest.raises(KernelError, match="broken"):
        running.run_pages([bad, good], tmp_path, workers=1, report=said.append)
    assert good.output.is_file() and not bad.output.is_file()
    assert [line.partition(",")[0].rstrip(")") for line in said] == [
        "running One", "failed: One (1 of 2", "running One", "ran One (2 of 2",
    ]  # fmt: skip
    assert " left)" in said[1]


@pytest.mark.parametrize("change", ["template", "parameters", "data", "title"])
def test_a_changed_input_makes_a_page_stale(tmp_path: Path, change: str) -> None:
    data = tmp_path / "data.json"
    data.write_text("1")
    page = dataclasses.replace(a_page(tmp_path, n=2), data=(data,))
    record = {"inputs": inputs.page_hash(page, {"n": 2}), "words": inputs.words_hash(page), "parameters": {"n": 2}}
    notebook = nbformat.v4.new_notebook()
    page.output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(run.cleaned(notebook, record), page.output)
    assert inputs.is_current(page, {"n": 2})
    parameters = {"n": 2}
    if change == "template":
        write_template(page.template, "print(n)")
    elif change == "parameters":
        parameters = {"n": 3}
    elif change == "data":
        data.write_text("2")
    else:
        page = dataclasses.replace(page, title="Two")
    assert not inputs.is_current(page, parameters)


def test_changed_words_are_put_in_without_running_the_page(tmp_path: Path) -> None:
    page = a_page(tmp_path, n=2)
    run_page(page, tmp_path)
    text = page.template.read_text()
    page.template.write_text(text.replace("not fig-loss-map.", "not another."))
    assert page.template.read_text() != text
    assert not run_page(page, tmp_path), "nothing ran"
    put_in = page.output.read_text()
    assert "not another." in put_in
    assert run_page(page, tmp_path, force=True)
    assert page.output.read_text() == put_in


def test_a_changed_line_runs_its_own_page_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: code of another notebook, rendering, and words of claims change no other page's inputs."""
    library = tmp_path / "library"
    for name in ("book/run.py", "book/text.py", "analysis/effects.py", inputs.WORDING):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("1")
    monkeypatch.setattr(inputs, "LIBRARY", library)
    one, other = (
        Page(write_template(tmp_path / f"{name}.ipynb"), tmp_path / "x.ipynb", name, name) for name in ("one", "other")
    )
    claims = dataclasses.replace(other, data=(library / inputs.WORDING,))

    def changed(path: Path) -> list[bool]:
        before = [inputs.page_hash(page, {}) for page in (one, other, claims)]
        path.write_text(path.read_text().replace("print(n", "print( n") + " ")
        return [inputs.page_hash(page, {}) != was for page, was in zip((one, other, claims), before, strict=True)]

    assert changed(one.template) == [True, False, False]
    assert changed(library / "book" / "run.py") == [False, False, False]
    assert changed(library / inputs.WORDING) == [False, False, True]
    assert changed(library / "book" / "text.py") == changed(library / "analysis" / "effects.py") == [True, True, True]


def test_what_pages_call_of_the_book_is_there() -> None:
    assert all((inputs.LIBRARY / name).is_file() for name in (*inputs.ON_PAGES, inputs.WORDING))
    assert all((inputs.LIBRARY / name).is_dir() for name in inputs.RENDERING)


def test_model_page_of_a_hub_id_or_folder_has_its_own_name_and_command(tmp_path: Path) -> None:
    page = catalogue.model_page(tmp_path, "someone/a-model", {"n": 8, "data": "my folder"})
    assert page.output.name == "someone-a-model.ipynb"
    assert page.command == "visualheads page someone/a-model -p n=8 -p data='my folder'"
    assert page.parameters["model"] == "someone/a-model"


def test_model_page_refuses_the_name_as_parameter(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="model"):
        catalogue.run_model_page(tmp_path, "m", {"model": "x"})


def test_of_a_given_data_folder_only_annotations_are_read(tmp_path: Path) -> None:
    data = looktwice(tmp_path / "data")
    page = catalogue.model_page(tmp_path, "someone/a-model", {"data": str(data)})
    job = jobs.TraceJob("mini-1.5-7B", data=str(data), results=str(tmp_path))
    assert {path.name for path in page.data} == {"looktwiceqa_dataset.json", "looktwiceqa_test_imgs.json"}

    def told() -> tuple[str, str]:
        return inputs.page_hash(dataclasses.replace(page, template=data / "none"), {}), tracing.made_from(job)

    page.template.parent.mkdir()
    (data / "none").write_text('{"cells": []}')
    before = told()
    for picture in (data / "images").iterdir():
        picture.write_bytes(b"another picture")
    assert told() == before
    (data / "looktwiceqa_test_imgs.json").write_text("[]")
    assert not set(told()) & set(before)
    assert catalogue.model_page(tmp_path, "someone/a-model", {"data": str(tmp_path / "none")}).data == ()


def test_a_fresh_start_is_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[dict[str, Any]] = []

    def execute(source: Path, page: Page, parameters: dict[str, Any], _root: Path) -> None:
        ran.append(parameters)
        page.partial.write_bytes(source.read_bytes())

    monkeypatch.setattr(running, "_execute", execute)
    page = catalogue.model_page(tmp_path, "someone/a-model", {"n": 8, "fresh": True})
    page = dataclasses.replace(page, template=ROOT / "notebooks" / "model.ipynb")
    assert "fresh" not in page.command
    for _ in range(2):
        assert run_page(page, tmp_path), "even where nothing changed"
    assert all(parameters["fresh"] for parameters in ran)
    kept = inputs.recorded(page.output)["parameters"]
    assert kept == {"model": "someone/a-model", "n": 8}
    assert not run_page(dataclasses.replace(page, parameters=kept), tmp_path)


def test_contents_follow_the_catalogue(tmp_path: Path) -> None:
    models = tmp_path / "book" / "models"
    models.mkdir(parents=True)
    for name in ("zeta", "mini-1.5-7B", "alpha", "alpha.partial"):
        (models / f"{name}.ipynb").write_text("{}")
    (tmp_path / "_toc.yml").write_text((ROOT / "_toc.yml").read_text())
    (tmp_path / "book" / "run.md").write_text("# x")
    import yaml

    told = yaml.safe_load(build.written(tmp_path, tmp_path / "toc.yml").read_text())
    chapters = {part["caption"]: part["chapters"] for part in told["parts"]}
    assert chapters["Appendix"] == [{"file": "book/run"}]
    assert chapters["The idea"] == [{"file": "book/models/mini-1.5-7B", "title": "Model by model"}]
    assert "Verdicts" not in chapters


def test_landing_page_shows_only_what_was_run(tmp_path: Path) -> None:
    landing.write_landing(tmp_path)
    text = tmp_path / "book" / "results" / landing.LANDING_TEXT
    assert landing.NOTHING in text.read_text()
    sentence = nbformat.v4.new_output("display_data", {"text/markdown": "Three heads.", "text/plain": "x"})
    drawn = nbformat.v4.new_output("display_data", {landing.MIME: {"mark": "bar"}, "text/plain": "x"})
    cells = [
        nbformat.v4.new_code_cell("", metadata={"tags": ["landing-1"]}, outputs=[sentence]),
        nbformat.v4.new_code_cell("", outputs=[sentence]),
        nbformat.v4.new_code_cell(
            "", metadata={"tags": ["landing"], "mystnb": {"figure": {"caption": "A map."}}}, outputs=[drawn]
        ),
    ]
    page = tmp_path / "book" / "results" / "claims.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), page)
    landing.write_landing(tmp_path)
    told = text.read_text()
    assert told.count("Three heads.") == 1 and "{vegalite} results/landing-1.json" in told and "A map." in told
    assert json.loads((text.parent / "landing-1.json").read_text()) == {"mark": "bar"}


def test_the_api_chapter_names_all_that_is_public() -> None:
    text = reference.chapter()
    assert all(f":: visualheads.{name}\n" in text for name in vh.__all__ if callable(getattr(vh, name)))
    assert "visualheads.charts.head_map" in text and "visualheads.analysis.subset.subset" in text


def test_notebooks_are_shipped_without_outputs_and_functions() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None, path.name
                assert "def " not in cell.source, path.name
