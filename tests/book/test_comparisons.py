"""Comparison pages: which join the book, what is traced for them, and every notebook's cells on made-up stores."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import vl_convert as vlc
import xarray as xr

from helpers.cells import displayed, run_cells
from helpers.model_datasets import model_dataset, several, stored
from visualheads import charts
from visualheads.analysis import models
from visualheads.book import catalogue, traces
from visualheads.book import page as inputs
from visualheads.charts import display
from visualheads.store.upkeep import pack
from visualheads.tracing.jobs import TraceJob

ROOT = Path(__file__).resolve().parents[2]
WIDEST = 688
LOADING = ("one_head", "rankings", "sinks")
"""Pages that run checkpoints, whose heads are not those of made-up stores: tested with one in test_steering_pages."""
PAGES = [one.slug for one in catalogue.COMPARISONS if one.slug not in LOADING]


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


@pytest.mark.parametrize("stores", ["many", "one"])
@pytest.mark.parametrize("slug", PAGES)
def test_cells_run_and_charts_fit_the_page(
    slug: str, stores: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if slug == "emergence" and not models.text_models():
        pytest.skip("no text-only checkpoint is shipped")
    words, drawn = displayed(monkeypatch), []
    monkeypatch.setattr(charts, "show", drawn.append)
    lists = {"lists": 6} if slug == "emergence" else {}
    run_cells(ROOT / "notebooks" / f"{slug}.ipynb", results=str(request.getfixturevalue(stores)), **lists)
    assert words and (drawn or slug == "catalogue")
    for chart in drawn:
        spec = display.spec_of(chart)
        svg = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
        width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
        assert width is not None and 100 < float(width[1]) <= WIDEST, spec["description"]
        assert len(spec["description"]) > 20
    assert not [told for told in words if re.search(r"\bnan\b|{{|}}", told)]


def test_pages_join_when_something_was_traced(one: Path, tmp_path: Path) -> None:
    assert catalogue.comparison_pages(tmp_path) == []
    shutil.copytree(one, tmp_path / catalogue.DATA_RESULTS)
    assert [page.slug for page in catalogue.comparison_pages(tmp_path)] == [one.slug for one in catalogue.COMPARISONS]
    assert catalogue.comparison_pages(tmp_path, full=True) == [], "nothing was traced in full"
    (tmp_path / catalogue.DATA_RESULTS / "mini-1.5-7B").rename(tmp_path / catalogue.DATA_RESULTS / "own-model")
    slugs = {page.slug for page in catalogue.comparison_pages(tmp_path)}
    assert "models" in slugs and not slugs & {"one_head", "rankings", "sinks", "removals"}, "miniatures only"


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
    kept, gone = (tmp_path / catalogue.RESULTS / f"{slug}.ipynb" for slug in ("models", "families"))
    other = tmp_path / catalogue.RESULTS / "of-another.ipynb"
    for path in (kept, gone, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    page = catalogue.model_page(tmp_path, "mini-1.5-7B")
    catalogue.remove_outdated(tmp_path, [replace(page, output=kept.resolve())])
    assert kept.is_file() and other.is_file() and not gone.exists()


def test_every_miniature_is_asked_the_benchmarks_it_was_trained_for() -> None:
    names = [card.name for card in catalogue.shipped()]
    pages = [page for page in catalogue.model_pages(ROOT) if page.parameters["model"] in names]
    jobs = traces.book_jobs(ROOT, names, pages)
    asked = {(job.model, job.task) for job in jobs if job.controls == ("",) and not job.untrained}
    paged = {page.parameters["model"] for page in pages}
    told = {name: traces.taught(name) if name in paged else ("looktwice",) for name in names}
    assert asked == {(name, task) for name, tasks in told.items() for task in tasks}
    fresh = {(job.model, job.task) for job in jobs if job.untrained}
    assert fresh == {(name, task) for name, task in asked if name == names[0]} | {
        (name, "looktwice")
        for name in paged  # where no null is shipped
    }
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
    jobs = traces.book_jobs(ROOT, ["mini-1.5-7B"], [page])
    assert [one for one in jobs if one.task == "looktwice"] == [job, job.white(), job.fresh_network()]


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
    with pytest.raises(KeyboardInterrupt):
        traces._stamp(job, "again")
    assert traces._stamps(job) == {"mini-1.5-7B/looktwice.zarr": "made"}


def test_the_traced_come_in_the_catalogues_order(many: Path) -> None:
    ds: xr.Dataset = models.traced(many)
    assert str(ds["model"].values[0]) == "mini-1.5-7B"
    table = models.model_table(ds).set_index("model")
    assert table.loc["mini-1.5-7B", "image_tokens"] == "64"
