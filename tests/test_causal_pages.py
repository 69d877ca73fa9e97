"""Pages about causes: what is gathered for the claims, the tables and charts of ablation, and the pages' cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from planted import swept
from synthetic_models import model_dataset, stored
from visualheads import charts, claims
from visualheads.charts import display
from visualheads.claims import gather as gathering
from visualheads.pages import comparisons, inputs
from visualheads.prose import claims as text

ROOT = Path(__file__).resolve().parents[1]


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
    assert "no claim can be judged" in text.sources(found.sources)


def test_what_is_gathered_names_its_stores(traced: Path) -> None:
    found = gathering.gather(traced)
    assert found.sources["store"].tolist() == ["mini-1.5-7B/looktwice.zarr.zip"]
    assert found.sources["used"].all() and found.sources["task"].tolist() == ["looktwice"]
    assert found.evidence.traces is not None and not found.evidence.sweeps and found.evidence.effects is None
    assert "no heads were removed" in text.sources(found.sources)


def test_every_claim_is_told_with_its_rule_and_reason(traced: Path) -> None:
    judged = claims.judge(gathering.gather(traced).evidence)
    told = text.each(judged)
    for one in judged:
        assert f"### {one.claim.number}. " in told
    assert told.count("* Rule, fixed beforehand") == told.count("* Control") == 14
    assert "nan" not in told.split()
    table = claims.verdict_table(judged)
    chart = display.spec_of(charts.verdicts(table))
    assert "14 claims" in chart["description"] and "claim 5 not testable here" in chart["description"]
    assert "in miniature" in text.counts(table)


def test_a_sweep_decides_claim_five() -> None:
    evidence = claims.Evidence(sweeps={"zero, all": swept(0.0)})
    [verdict] = claims.judge(evidence, [5])
    assert verdict.finding.verdict == claims.SUPPORTED
    assert "in miniature" in text.counts(claims.verdict_table([verdict]))


def test_the_claims_page_is_made_last_and_depends_on_every_store(traced: Path) -> None:
    [page] = [one for one in comparisons.comparison_pages(ROOT, str(traced)) if one.slug == "claims"]
    assert page.last and page.stores == traced
    assert inputs.stores_told(traced, every=True) == inputs.stores_told(traced)
    assert not [one for one in comparisons.COMPARISONS if one.last and one.slug == "conditions"]
