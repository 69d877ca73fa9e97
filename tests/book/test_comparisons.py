"""Comparison pages: which join the book, what is traced for them, and every notebook's cells on made-up stores."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import vl_convert as vlc
import xarray as xr

from helpers.model_datasets import model_dataset, several, stored
from visualheads import charts
from visualheads.analysis import models
from visualheads.book import catalogue, comparisons, inputs, traces
from visualheads.book.prose import comparison as text
from visualheads.book.prose import kinship as kin
from visualheads.book.prose import scale
from visualheads.charts import display
from visualheads.store.pack import pack
from visualheads.tracing.jobs import TraceJob

ROOT = Path(__file__).resolve().parents[2]
WIDEST = 688
LOADING = ("steering", "sinks")
"""Pages that run checkpoints, whose heads are not those of made-up stores: tested with one in test_steering_pages."""
PAGES = [one.slug for one in comparisons.COMPARISONS if one.slug not in LOADING]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of four models on two benchmarks."""
    results = tmp_path_factory.mktemp("many")
    stored(results, several(pictures=6))
    return results


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one model on one benchmark."""
    results = tmp_path_factory.mktemp("one")
    stored(results, model_dataset())
    return results


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """What cells show, kept instead of displayed."""
    kept: dict[str, list[Any]] = {"charts": [], "texts": []}
    monkeypatch.setattr(charts, "show", kept["charts"].append)
    monkeypatch.setattr(charts, "show_text", kept["texts"].append)
    yield kept


def run_cells(slug: str, results: Path) -> None:
    """A notebook's code cells, one after the other, in one namespace."""
    space: dict[str, Any] = {}
    for cell in nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
        if "parameters" in cell.metadata.get("tags", ()):
            space["results"] = str(results)
            if isinstance(space.get("lists"), int):
                space["lists"] = 6


@pytest.mark.parametrize("stores", ["many", "one"])
@pytest.mark.parametrize("slug", PAGES)
def test_cells_run_and_charts_fit_the_page(
    slug: str, stores: str, shown: dict[str, list[Any]], request: pytest.FixtureRequest
) -> None:
    results = request.getfixturevalue(stores)
    if slug == "emergence" and not models.text_models():
        pytest.skip("no text-only checkpoint is shipped")
    run_cells(slug, results)
    assert shown["charts"] and shown["texts"]
    for chart in shown["charts"]:
        spec = display.spec_of(chart)
        svg = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
        width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
        assert width is not None and 100 < float(width[1]) <= WIDEST, spec["description"]
        assert len(spec["description"]) > 20
    assert all(isinstance(words, str) for words in shown["texts"])
    assert not [words for words in shown["texts"] if re.search(r"\bnan\b", words)]


def test_a_missing_model_is_told_plainly(one: Path, shown: dict[str, list[Any]]) -> None:
    run_cells("scale", one)
    told = " ".join(shown["texts"])
    assert scale.NEEDS_RECIPE in told and scale.NEEDS_SIZE in told
    assert scale.NEEDS_RECIPE in json.dumps(display.spec_of(shown["charts"][0]))


def test_pages_join_when_they_have_something_to_show(many: Path, one: Path, tmp_path: Path) -> None:
    def slugs(results: Path) -> list[str]:
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        for slug in PAGES:
            shutil.copy(ROOT / "notebooks" / f"{slug}.ipynb", tmp_path / "notebooks")
        return [page.slug for page in comparisons.comparison_pages(tmp_path, str(results))]

    assert {"models", "conditions", "benchmarks", "scale"} <= set(slugs(many))
    assert "scale" not in slugs(one) and "families" not in slugs(one)
    assert slugs(tmp_path / "nothing") == []


def test_families_need_two_models_of_one_shape() -> None:
    told = comparisons.Traced({"1.5-7B": frozenset({"looktwice"})}, comparisons.descent(["1.5-7B"]))
    families = next(one for one in comparisons.COMPARISONS if one.slug == "families")
    assert not families.shows(told)
    names = ["1.5-7B", "1.6-vicuna-7B"]
    assert families.shows(comparisons.Traced(dict.fromkeys(names, frozenset({"pope"})), comparisons.descent(names)))


def test_a_page_is_stale_when_a_store_changes(tmp_path: Path) -> None:
    stored(tmp_path, model_dataset())
    before = inputs.stores_told(tmp_path)
    assert list(before) == ["mini-1.5-7B/looktwice.zarr.zip"]
    pack(model_dataset(seed=3), tmp_path / "mini-1.5-13B" / "pope.zarr.zip")
    assert inputs.stores_told(tmp_path) != before


def test_white_pictures_have_a_store_of_their_own() -> None:
    job = TraceJob("m", formats=("free", "letters"), results="r")
    assert job.path == "r/m/looktwice.zarr" and job.white().path == "r/m/looktwice-white.zarr"
    assert job.white().formats == ("free",) and job.white().controls == ("white",)


def test_pages_with_nothing_to_show_any_more_leave_the_book(tmp_path: Path) -> None:
    kept, gone = (tmp_path / comparisons.FOLDER / f"{slug}.ipynb" for slug in ("models", "families"))
    other = tmp_path / comparisons.FOLDER / "cost.ipynb"
    for path in (kept, gone, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    page = catalogue.cost_page(tmp_path)
    comparisons.remove_outdated(tmp_path, [replace(page, output=kept.resolve())])
    assert kept.is_file() and other.is_file() and not gone.exists()


def test_one_benchmark_and_one_model_are_no_comparison() -> None:
    benchmarks = next(one for one in comparisons.COMPARISONS if one.slug == "benchmarks")
    told = comparisons.Traced({"m": frozenset({"looktwice"})}, comparisons.descent([]))
    assert not benchmarks.shows(told)
    assert benchmarks.shows(replace(told, tasks={"m": frozenset({"looktwice", "pope"})}))


def test_every_miniature_is_asked_the_benchmarks_it_was_trained_for() -> None:
    names = [card.name for card in catalogue.shipped()]
    pages = catalogue.model_pages(ROOT)
    jobs = traces.book_jobs(ROOT, names, pages)
    asked = {(job.model, job.task) for job in jobs if job.controls == ("",) and not job.untrained}
    paged = {page.parameters["model"] for page in pages}
    told = {name: traces.taught(name) if name in paged else ("looktwice",) for name in names}
    assert asked == {(name, task) for name, tasks in told.items() for task in tasks}
    fresh = {(job.model, job.task) for job in jobs if job.untrained}
    assert fresh == {(name, task) for name, task in asked if name in paged}
    paths = [job.path for job in jobs]
    assert len(set(paths)) == len(paths)
    assert sum(job.controls == ("white",) for job in jobs) == len(pages)


def test_a_record_tells_what_a_miniature_was_trained_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "miniature_folder", lambda _name: tmp_path)
    assert traces.taught("mini-x") == ("looktwice",)
    (tmp_path / "training.json").write_text('{"benchmarks": {"pope": {}, "mmbench": {}}}')
    assert set(traces.taught("mini-x")) == {"looktwice", "pope", "mmbench"}


def test_a_page_with_its_own_parameters_is_traced_with_them() -> None:
    page = catalogue.model_page(ROOT, "mini-1.5-7B", {"n": 5, "seed": 3})
    job = traces.page_job(ROOT, page)
    assert (job.n, job.seed, job.task) == (5, 3, "looktwice")
    main, white, fresh, *others = traces.book_jobs(ROOT, ["mini-1.5-7B"], [page])
    assert main == job and white == job.white() and fresh == job.fresh_network()
    assert all(other.task != "looktwice" for other in others)


def test_a_done_trace_is_known_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TraceJob("mini-1.5-7B", formats=("free",), n=2, results=str(tmp_path))
    made = traces.made_from(job)
    assert not traces._is_done(job, made)
    Path(job.path).mkdir(parents=True)
    monkeypatch.setattr(traces, "pending", lambda _path: [])
    traces._stamp(job, made)
    assert traces._is_done(job, made) and not traces._is_done(job, "other")
    assert traces.made_from(TraceJob("mini-1.5-7B", formats=("free",), n=3, results=str(tmp_path))) != made


@pytest.mark.parametrize("damaged", ["", '{"mini-1.5-7B/looktwice.za', "[]"])
def test_a_record_that_was_cut_off_is_made_anew(tmp_path: Path, damaged: str) -> None:
    job = TraceJob("mini-1.5-7B", formats=("free",), n=2, results=str(tmp_path))
    (tmp_path / traces.STAMP).write_text(damaged)
    assert not traces._is_done(job, "made")
    traces._stamp(job, "made")
    assert json.loads((tmp_path / traces.STAMP).read_text()) == {"mini-1.5-7B/looktwice.zarr": "made"}


def test_a_kill_while_the_record_is_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TraceJob("mini-1.5-7B", formats=("free",), n=2, results=str(tmp_path))
    traces._stamp(job, "made")
    write = Path.write_bytes

    def killed(file: Path, raw: bytes) -> None:
        write(file, raw[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    monkeypatch.setattr(Path, "write_text", lambda file, text, **_: killed(file, text.encode()))
    with pytest.raises(KeyboardInterrupt):
        traces._stamp(job, "again")
    assert traces._stamps(job) == {"mini-1.5-7B/looktwice.zarr": "made"}


def test_the_traced_come_in_the_catalogues_order(many: Path) -> None:
    ds: xr.Dataset = models.traced(many)
    assert str(ds["model"].values[0]) == "mini-1.5-7B"
    assert "4 models" in text.compared(ds) and "in miniature" in text.compared(ds)
    table = models.model_table(ds).set_index("model")
    assert table.loc["mini-1.5-7B", "image_tokens"] == "64"
    assert "8 × 8 / 8" in kin.model_table(models.model_table(ds), pd.DataFrame(columns=["model", "group"]))
    assert len(models.paper_cards()) == 9 and "32 × 32 / 8" in kin.paper_table(models.paper_cards())
