"""The catalogue: the nine with the shapes of their checkpoints, both readings of two rows, newer families."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from visualheads.adapters import supported
from visualheads.catalog import CATALOGUE, DATA_VARIABLE, Card, cards, catalog

PAPER = {
    "1.5-7B": ("LlavaForConditionalGeneration", (32, 32, 32)),
    "1.5-13B": ("LlavaForConditionalGeneration", (40, 40, 40)),
    "1.6-vicuna-7B": ("LlavaNextForConditionalGeneration", (32, 32, 32)),
    "1.6-vicuna-13B": ("LlavaNextForConditionalGeneration", (40, 40, 40)),
    "1.6-mistral-7B": ("LlavaNextForConditionalGeneration", (32, 32, 8)),
    "vip-7B": ("VipLlavaForConditionalGeneration", (32, 32, 32)),
    "vip-13B": ("VipLlavaForConditionalGeneration", (40, 40, 40)),
    "vip-phi-3-3.8B": ("VipLlavaForConditionalGeneration", (32, 32, 32)),
    "vip-llama-3-8B": ("VipLlavaForConditionalGeneration", (32, 32, 8)),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_nine_have_the_shapes_of_their_checkpoints(name):
    card = cards()[name]
    assert (card.class_name, card.shape) == PAPER[name]
    assert card.paper_name == name
    assert card.original_id.split("/")[0] in ("liuhaotian", "mucai")


def test_each_of_the_nine_has_a_miniature_of_the_same_class_and_llm():
    known = cards()
    for name in PAPER:
        small = known[f"mini-{name}"]
        assert small.miniature and small.paper_name == name
        assert (small.class_name, small.llm, small.recipe) == (
            known[name].class_name, known[name].llm, known[name].recipe,
        )  # fmt: skip


def test_both_readings_of_the_converted_rows_are_there():
    originals = {card.original_id for card in cards().values()}
    for kind in ("vip-llava", "llava-1.5"):
        assert {f"mucai/{kind}-phi-3-mini-3.8B", f"mucai/{kind}-llama-3-8b"} <= originals


def test_there_are_sixteen_real_models_and_seven_newer_families():
    real = [card for card in cards().values() if not card.miniature]
    newer = {card.family for card in real} - {"LLaVA-1.5", "LLaVA-1.6", "ViP-LLaVA"}
    assert len(real) >= 16
    assert len(newer) >= 7


def test_names_are_unique_and_no_revision_is_invented():
    import yaml

    names = [entry["name"] for entry in yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names))
    assert next(iter(cards())) == "mini-1.5-7B"
    assert not any(card.revision for card in cards().values())


def test_every_class_has_an_adapter():
    assert {card.class_name for card in cards().values()} <= set(supported())


def test_the_table_tells_what_is_available(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "miniatures" / "mini-vip-7B").mkdir(parents=True)
    table = catalog()
    assert table.loc["mini-vip-7B", "available"]
    assert not table.loc["mini-1.5-7B", "available"]
    assert table.loc["1.5-7B", "available"]
    assert not table.loc["vip-phi-3-3.8B", "available"], "has to be converted first"
    assert table.loc["1.5-7B", "memory_gb"] == 14


def test_a_card_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="layrs"):
        Card(name="a", family="b", class_name="c", layrs=3)
