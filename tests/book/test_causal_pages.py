"""Pages about causes: what is gathered for the claims, the tables and charts of ablation, and the pages' cells."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc

from helpers.cells import displayed
from helpers.model_datasets import model_dataset, questions, stored
from helpers.networks import samples, wrapped
from helpers.planted import Planted, always, effects_of, pattern, swept, world
from visualheads import charts
from visualheads.analysis import claims, rankings_vs_effects
from visualheads.analysis import effects as causes
from visualheads.book import catalogue
from visualheads.book import page as inputs
from visualheads.cards import miniature_folder
from visualheads.charts import display
from visualheads.charts.effects import MEASURES, _long
from visualheads.errors import SampleError
from visualheads.heads.losses import excess_loss
from visualheads.studies import ablation, shipped
from visualheads.studies import evidence as gathering

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one model on one benchmark."""
    results = tmp_path_factory.mktemp("traced")
    stored(results, model_dataset())
    return results


def test_an_empty_folder_makes_every_claim_untestable(tmp_path: Path) -> None:
    found = gathering.gather(tmp_path)
    assert found.sources.empty and found.evidence.traces is None
    verdicts = claims.verdict_table(claims.judge(found.evidence))
    assert len(verdicts) == 14 and set(verdicts["verdict"]) == {claims.NOT_TESTABLE}
    assert verdicts["reason"].str.len().min() > 10


def test_what_is_gathered_names_its_stores(traced: Path) -> None:
    found = gathering.gather(traced)
    assert found.sources["store"].tolist() == ["mini-1.5-7B/looktwice.zarr.zip"]
    assert found.sources["used"].all()
    assert found.evidence.traces is not None and found.evidence.text == {}


def test_every_claim_is_told_with_its_rule_and_reason(traced: Path) -> None:
    judged = claims.judge(gathering.gather(traced).evidence)
    table = claims.verdict_table(judged)
    chart = display.spec_of(charts.verdicts(table))
    assert "14 claims" in chart["description"] and "claim 5 not testable here" in chart["description"]


def test_the_claims_page_is_made_last_and_depends_on_every_store(traced: Path, tmp_path: Path) -> None:
    shutil.copytree(traced, tmp_path / catalogue.DATA_RESULTS)
    [page] = [one for one in catalogue.comparison_pages(tmp_path) if one.slug == "claims"]
    assert page.last and page.stores == (tmp_path / catalogue.DATA_RESULTS).resolve()
    assert page.data[-1].name == "claims.yml" and page.data[-1].is_file(), "its words count, for this page alone"
    assert inputs.stores_told(traced, every=True) == inputs.stores_told(traced)
    assert not [one for one in catalogue.COMPARISONS if one.last and one.slug == "conditions"]


def test_losses_are_told_beside_their_random_controls() -> None:
    table = causes.loss_table({"zero": swept(0.25, samples=40)})
    top = table[(table["measure"] == "accuracy") & (table["order"] == "top")].iloc[0]
    random = table[(table["measure"] == "accuracy") & (table["order"] == "random")].iloc[0]
    assert top["estimate"] == pytest.approx(0.25) and top["lower"] < 0.25 < top["upper"]
    assert random["estimate"] == 0 and random["sets"] == 2 and top["count"] == 2
    spec = display.spec_of(charts.loss_curves(table))
    assert "top 2 of late: 0.250" in spec["description"]
    drawn = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
    assert f">{MEASURES['accuracy']}<" in drawn, "what is lost stands above the curves"
    assert "No heads were removed yet" in display.spec_of(charts.loss_curves(table.iloc[:0]))["description"]


def test_top_sets_are_told_beyond_their_random_controls() -> None:
    """By hand: of 40 answers the top set loses 10, the controls none and 5: 10/40 − (0 + 5/40) / 2."""
    sweep = swept(0.25, samples=40)
    sweep["correct"][0, 2, :5] = 0
    table = causes.beyond_random({"zero": sweep}, causes.loss_table({"zero": sweep})).set_index(["measure", "order"])
    row = table.loc[("accuracy", "top")]
    assert row["excess"] == pytest.approx(0.25 - 0.0625) and 0 < row["excess_lower"] < row["excess"]
    assert row["excess"] < row["excess_upper"] < 0.35
    same = excess_loss(sweep).isel(model=0, set=0)
    assert [row[name] for name in causes.EXCESS] == [float(same.sel(bound=b)) for b in ("estimate", "lower", "upper")]
    assert table.loc[("kl", "top"), "excess"] == pytest.approx(0.25)
    assert table.drop(index="top", level="order")[list(causes.EXCESS)].isna().all(axis=None)
    alone = {"zero": sweep.isel(set=[0])}
    assert causes.beyond_random(alone, causes.loss_table(alone))["excess"].isna().all()


def test_a_heads_place_is_the_share_that_lies_below_it() -> None:
    """By hand: of 1, 2, 2 and 4 none, one, one and three of four lie below; a head without a score does not count."""
    table = pd.DataFrame({
        "model": ["m"] * 5, "layer": 0, "head": range(5), "name": [f"L0H{i}" for i in range(5)], "stage": "late",
        "effect": [5.0, 1.0, 2.0, 3.0, 4.0], "gaze": [1.0, 2.0, 2.0, 4.0, np.nan],
    })  # fmt: skip
    found = _long(table).set_index("ranking")
    assert found.loc["gaze", "above"].tolist() == [0, 0.25, 0.25, 0.75]
    assert found.loc["effect on the margin", "above"].tolist() == [0.8, 0, 0.2, 0.4, 0.6]


def test_the_ranking_that_is_the_effect_is_found() -> None:
    values = pattern(3)
    traces = world({"m": Planted(weight=always(values), noise=0.001)})
    found = rankings_vs_effects.ranking_agreement(traces, effects_of(values, noise=0.001)).set_index("ranking")
    assert found.loc["image_weight", "spearman"] > 0.99
    assert found.loc["image_weight", "ceiling"] > 0.99 and abs(found.loc["concentration", "spearman"]) < 0.6
    assert "sink_free" not in found.index
    heads = causes.head_tables(traces, effects_of(values))
    assert len(heads) == 24 and heads["effect"].notna().all()
    assert "matters most" in display.spec_of(charts.effect_map(heads))["description"]


def test_without_effects_the_pages_say_so() -> None:
    traces = world({"m": Planted()})
    assert rankings_vs_effects.ranking_agreement(traces, None).empty
    assert "single heads" in display.spec_of(charts.effect_map(causes.head_tables(traces, None)))["description"]


def test_heads_are_judged_on_other_pictures_than_they_are_chosen_on() -> None:
    traces = model_dataset()
    judged = [one for one in questions() if one.image_id in ("0", "1")]
    left = ablation.other_pictures(traces, judged)
    assert set(left["image_id"].values) == set(traces["image_id"].values) - {"0", "1"}
    with pytest.raises(SampleError, match="every traced picture is also judged"):
        ablation.other_pictures(traces, questions())


def test_a_reduced_sweep_is_kept_and_resumed(tmp_path: Path) -> None:
    model, asked = wrapped("llava"), samples(3, task="looktwice")
    traces = model_dataset(model.name, pattern=np.random.default_rng(0).random(model.shape[:2]))
    sets = ablation.sets_of(traces, seeds=2)
    first = ablation.run(model, asked, sets, tmp_path, "looktwice")
    path = next(tmp_path.glob("*/looktwice.zero-all.zarr"))
    before = path.stat().st_mtime_ns
    again = ablation.run(model, asked, sets, tmp_path, "looktwice")
    assert path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first["margin"], again["margin"])
    other = ablation.run(model, asked[:2], sets, tmp_path, "looktwice")
    assert other.sizes["sample"] == 2
    assert gathering.removed(tmp_path)["zero, all"].sizes["sample"] == first.sizes["sample"]


@pytest.mark.long
def test_pages_about_removed_heads_run_on_a_shipped_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mini-1.5-7B"
    if not (miniature_folder(name) / "config.json").is_file():
        pytest.skip("the miniature is not there")
    config = json.loads((miniature_folder(name) / "config.json").read_text(encoding="utf-8"))["text_config"]
    shape = (config["num_hidden_layers"], config["num_attention_heads"])
    stored(tmp_path, model_dataset(name, pattern=np.random.default_rng(0).random(shape)))
    kept: list[Any] = []
    monkeypatch.setattr(charts, "show", kept.append)
    words = displayed(monkeypatch)
    monkeypatch.setattr(shipped, "full_folder", lambda: tmp_path / "full")
    few = {"n": 4, "judged": 2, "controls": 1, "stages": "late", "full": False, "untrained": False}
    for slug, given in (("model", {"model": name, **few}), ("removals", {})):
        space: dict[str, Any] = {}
        for cell in nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, space)
            if "parameters" in cell.metadata.get("tags", ()):
                space.update(given, results=str(tmp_path))
    shown = [display.spec_of(one) for one in kept if not isinstance(one, str)]
    assert len(shown) == 9 and not [spec["description"] for spec in shown if len(spec["description"]) <= 20]
    for spec in shown:
        svg = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
        width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
        assert width is not None and float(width[1]) <= 688
    assert words and not [one for one in words if re.search(r"\bnan\b", one)]
