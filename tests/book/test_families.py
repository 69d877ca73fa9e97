"""Every class that the catalogue names: a small model through prompt, trace and all that the model page computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import visualheads as vh
from helpers.cells import displayed
from helpers.families import FAMILIES, NEEDS_NUM2WORDS, family
from helpers.networks import BUILDERS, Tiny, llava_next
from helpers.project import ROOT
from visualheads import charts
from visualheads.book.page import Page
from visualheads.book.run import run_page
from visualheads.cards import cards
from visualheads.models.loading import wrap
from visualheads.tasks.looktwice import LookTwice
from visualheads.tracing import jobs

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]
CONDITIONS = ("plain-object", "visual-object", "visual-general")
"""Enough for every figure and sentence of the page; the shipped miniature's page has all six."""
TEMPLATE = ROOT / "notebooks" / "model.ipynb"
SMALL = {
    "llava": lambda: wrap(*BUILDERS["llava"](Tiny(layers=3)), validate=False),
    "llava_next": lambda: wrap(*BUILDERS["llava_next"](Tiny(layers=3)), validate=False),
    "vip_llava": lambda: wrap(*BUILDERS["vip_llava"](Tiny(layers=3)), validate=False),
    **{name: (lambda name=name: family(name)) for name in FAMILIES},
}
QUICK = ("llava", "qwen2.5-vl")
"""One class with a fixed number of image tokens, one whose number depends on the picture."""
MARKS = {"smolvlm": [NEEDS_NUM2WORDS, pytest.mark.long], **{name: [] for name in QUICK}}
NAMES = [pytest.param(name, marks=MARKS.get(name, [pytest.mark.long])) for name in SMALL]


def cells() -> list[tuple[list[str], str]]:
    """(tags, source) of the template's code cells."""
    notebook = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    found = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [(cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in found]


def test_every_class_of_the_catalogue_is_built_small():
    built = {type(SMALL[name]().module).__name__ for name in SMALL if name != "smolvlm"}
    assert {card.class_name for card in cards().values()} - {"SmolVLMForConditionalGeneration"} <= built
    assert "smolvlm" in SMALL


@pytest.mark.parametrize("name", NAMES)
def test_prompt_trace_and_page_of_every_class(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page's own cells, run here one after another on a small model of the class."""
    model = SMALL[name]()
    shown: list[Any] = []
    monkeypatch.setattr(jobs.TraceJob, "loaded", lambda _job: model)
    monkeypatch.setattr(charts, "show", shown.append)
    words = displayed(monkeypatch)
    monkeypatch.setattr(LookTwice, "conditions", CONDITIONS)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for tags, source in cells():
        exec(compile(source, f"{TEMPLATE.name}: {source[:40]!r}", "exec"), space)
        if "parameters" in tags:
            space |= {"model": name, "n": 2, "heads": 2}
    ds = space["ds"]
    vh.assert_valid(ds)
    assert isinstance(ds, xr.Dataset)
    assert (ds.sizes["layer"], ds.sizes["head"]) == model.shape[:2]
    assert len(shown) == 6 and all(one is not None for one in shown) and all(text.strip() for text in words)
    assert (tmp_path / "data" / "results").is_dir()


@pytest.mark.long
def test_the_page_of_a_class_beyond_the_shipped_miniature_runs_as_a_notebook(tmp_path: Path):
    module, processor = llava_next()
    folder = tmp_path / "next"
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    page = Page(
        template=TEMPLATE, output=tmp_path / "book" / "models" / "next.ipynb", slug="next", title="Next",
        parameters={"model": str(folder), "n": 2, "heads": 2, "results": str(tmp_path / "results")},
        command="visualheads page next",
    )  # fmt: skip
    assert run_page(page, tmp_path)
    assert page.output.is_file()
