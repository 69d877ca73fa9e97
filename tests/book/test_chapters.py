"""The chapter “Extend it” and the notebook for one's own model: what they say works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import visualheads as vh
from helpers.command import run as command_line
from helpers.families import save
from helpers.networks import llava, picture
from helpers.project import ROOT
from visualheads import charts, plugins
from visualheads.book.page import parameters_of
from visualheads.cards import Card, miniature_folder
from visualheads.models import adapters, token_layouts
from visualheads.tasks import registry as tasks

NOTEBOOK = ROOT / "notebooks" / "your_model.ipynb"


MODEL, BENCHMARK = re.split(r"^## A benchmark$", (ROOT / "book" / "extend.md").read_text(encoding="utf-8"), flags=re.M)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(source: str, space: dict[str, Any]) -> None:
    exec(compile(source, "chapter", "exec"), space)


def test_add_a_model_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapters, "_ADAPTERS", dict(adapters._ADAPTERS))
    module, processor = llava()
    space: dict[str, Any] = {"module": module, "processor": processor}
    for source in blocks(MODEL, "python"):
        run(source, space)
    assert "MyVisionForConditionalGeneration" in adapters.supported()
    # the adapter written there is right for a plain LLaVA
    theirs, ours = space["token_map"](module.config, processor, (90, 60)), space["model"].token_map((90, 60))
    assert (theirs.box == ours.box).all() and len(theirs) == len(ours)


def test_the_card_in_add_a_model_is_valid():
    [text] = blocks(MODEL, "yaml")
    [entry] = yaml.safe_load(text)
    card = Card(**entry)
    assert card.class_name in adapters.supported()


def test_add_a_model_names_what_there_is():
    named = re.findall(r"^\| `(\w+)` \|", MODEL, re.MULTILINE)
    assert len(named) == 4 and all(hasattr(token_layouts, name) for name in named)
    fields = adapters.Adapter.__dataclass_fields__
    for field in ("layers", "token_map", "placeholder", "nested", "bidirectional", "softcap"):
        assert field in fields and f"`{field}`" in MODEL
    for path in re.findall(r"`((?:lib|tests|notebooks)/[\w./]+)`", MODEL):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"tests/[\w/]+\.py", "".join(blocks(MODEL, "bash"))):
        assert (ROOT / path).exists(), path


def test_add_a_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    tasks.task_names()  # all that there are are registered before the copy
    monkeypatch.setattr(tasks, "_REGISTERED", dict(tasks._REGISTERED))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-data"
    (folder / "images").mkdir(parents=True)
    records = [
        {"id": i, "image": f"{i}.png", "question": "How many cars are there?", "answer": str(i)} for i in (1, 2, 3)
    ]
    for record in records:
        picture(record["id"]).save(folder / "images" / record["image"])
    lines = [json.dumps(record) for record in records]
    (folder / "counting.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table, benchmark, usage = blocks(BENCHMARK, "python")
    traced, imported = blocks(BENCHMARK, "bash")
    (tmp_path / "counting.py").write_text(benchmark, encoding="utf-8")
    (tmp_path / "questions.csv").write_text(blocks(BENCHMARK, "text")[0], encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for name in ("cat", "dog"):
        picture(3).resize((320, 270)).save(tmp_path / "pictures" / f"{name}.jpg")
    monkeypatch.setenv(plugins.VARIABLE, "")
    for command in (traced, imported):
        code, out, err = command_line(capsys, *shlex.split(command)[1:])
        assert code == 0, err
        assert "samples" in out
    monkeypatch.syspath_prepend(tmp_path)
    space: dict[str, Any] = {}
    run(table, space)
    assert (space["samples"][0].answer, space["samples"][0].box) == ("cat", (120, 80, 310, 260))
    run(usage, space)
    samples, blank = space["samples"], space["blank"]
    assert len(samples) == len(blank) == 2
    assert samples[0].question.startswith("How many cars are there?\nAnswer the question using")
    assert [sample.image_id for sample in samples] == [sample.image_id for sample in blank]
    assert blank[0].open().getextrema() == ((255, 255),) * 3
    assert samples[0].open().size == (48, 36)
    (folder / "counting.jsonl").write_text("\n".join([*lines, '{"id": 4}']), encoding="utf-8")
    with pytest.raises(vh.RecordError, match=r"counting\.jsonl"):
        vh.task("counting", data=folder).samples()
    assert len(vh.task("counting", data=folder).samples(skip_bad=True)) == 3


def test_add_a_benchmark_names_what_there_is():
    from visualheads.tasks.benchmark import Benchmark
    from visualheads.tasks.table import CHOICES, COLUMNS

    columns, members = BENCHMARK.split("### What a subclass may say")
    cells = re.findall(r"^\| (`.+?) \|", columns, re.MULTILINE)
    assert set(re.findall(r"`(\w+)", " ".join(cells))) == set(COLUMNS) - set(CHOICES[2:])
    table = re.findall(r"^\| (`.+?) \|", members, re.MULTILINE)
    for name in re.findall(r"`(\w+)", " ".join(table)):
        assert hasattr(Benchmark, name), name
    for path in re.findall(r"`((?:lib|tests|notebooks)/[\w./]+)`", BENCHMARK):
        assert (ROOT / path).exists(), path


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_notebook(monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> dict[str, Any]:
    """The cells' own text, run one after another with these parameters."""
    assert set(parameters) <= set(parameters_of(NOTEBOOK))
    space: dict[str, Any] = {"shown": []}
    monkeypatch.setattr(charts, "show", space["shown"].append)
    for cell in code_cells():
        run("".join(cell["source"]), space)
        if "parameters" in cell["metadata"].get("tags", []):
            space |= parameters
    return space


def test_the_first_map_takes_ten_lines():
    first = next(cell for cell in code_cells() if "parameters" not in cell["metadata"].get("tags", []))
    lines = [line for line in "".join(first["source"]).splitlines() if line.strip()]
    assert len(lines) <= 10 and "sample_overlays" in lines[-1]


@pytest.mark.skipif(
    not (miniature_folder("mini-1.5-7B") / "config.json").is_file(), reason="the shipped miniature is not there"
)
def test_the_notebook_runs_as_it_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    space = run_notebook(monkeypatch, n=4)
    assert len(space["shown"]) == 2
    assert space["ds"].sizes["sample"] == 4
    assert vh.read_scores("your_heads.csv").sizes["head"] == space["loaded"].shape.heads


def test_the_notebook_runs_on_ones_own_model_pictures_and_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        picture(index, 60 + index, 40).save(f"{index}.png")
    lines = ["id,image,question,answer,box_x0,box_y0,box_x1,box_y1", "a,0.png,how many cars ?,two,5,5,30,20"]
    lines += [f"{n},{n}.png,how many cars ?,,,,," for n in (1, 2)]
    Path("questions.csv").write_text("\n".join(lines), encoding="utf-8")
    space = run_notebook(
        monkeypatch, model=str(save(*llava(), tmp_path / "model")), picture="0.png", question="how many cars ?",
        box="5, 5, 30, 20", table="questions.csv", scores="mine.json",
    )  # fmt: skip
    assert space["mine"].box == (5, 5, 30, 20)
    assert space["ds"].sizes["sample"] == 3
    assert space["ds"]["has_box"].values.tolist() == [True, False, False]
    assert (tmp_path / "mine.json").is_file()
