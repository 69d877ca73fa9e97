"""The catalogue: the nine with the shapes of their checkpoints, both readings of two rows, newer families."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from helpers.task_files import looktwice
from visualheads.cards import CATALOGUE, DATA_VARIABLE, DEFAULT_MODEL, Card, cards, catalog, data_folder
from visualheads.cli import main
from visualheads.models.adapters import supported
from visualheads.models.conversion.configs import PROMPTS
from visualheads.tasks import task

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
    real = [card for card in cards().values() if not (card.miniature or card.joined)]
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


def test_checkpoints_and_scenes_lie_in_the_same_data_folder(tmp_path, monkeypatch):
    """Whether the variable names the data folder, the project around it, or either from the home folder."""
    looktwice(tmp_path / "data" / "scenes" / "looktwice", [1])
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for named in (tmp_path, tmp_path / "data", f"~/{tmp_path.name}", f"~/{tmp_path.name}/data"):
        monkeypatch.setenv(DATA_VARIABLE, str(named))
        assert data_folder() == tmp_path / "data"
        assert task("looktwice").data == data_folder() / "scenes" / "looktwice"


def test_a_card_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="layrs"):
        Card(name="a", family="b", class_name="c", layrs=3)


ASKED = {
    "hub_id", "revision", "class_name", "llm", "family", "parameters", "recipe", "layers", "heads", "kv_heads",
    "image_tokens", "prompt", "stop", "licence", "memory_gb", "differs", "preparation", "prepared",
}  # fmt: skip
CONVERTED = {"vip-phi-3-3.8B", "vip-llama-3-8B", "1.5-phi-3-3.8B", "1.5-llama-3-8B"}


def test_json_carries_every_field_of_every_card(capsys):
    with pytest.raises(SystemExit):
        main(["models", "--json"])
    listed = {card["name"]: card for card in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(cards())
    named = ASKED | {"name", "original_id", "paper_name", "vision", "available"}
    assert all(named <= set(card) for card in listed.values())
    unknown = {"revision", "licence"}
    for name in {*PAPER, *CONVERTED}:
        empty = {field for field in ASKED if not listed[name][field]}
        assert empty <= unknown | ({"hub_id"} if name in CONVERTED else set()), name
        assert listed[name]["memory_gb"] == 2 * listed[name]["parameters"]
    for card in listed.values():
        if not card["miniature"]:
            assert all(card[field] for field in ("class_name", "llm", "parameters", "layers", "image_tokens", "stop"))


ORIGINALS = {
    "1.5-7B": ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf"),
    "1.5-13B": ("liuhaotian/llava-v1.5-13b", "llava-hf/llava-1.5-13b-hf"),
    "1.6-vicuna-7B": ("liuhaotian/llava-v1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    "1.6-vicuna-13B": ("liuhaotian/llava-v1.6-vicuna-13b", "llava-hf/llava-v1.6-vicuna-13b-hf"),
    "1.6-mistral-7B": ("liuhaotian/llava-v1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf"),
    "vip-7B": ("mucai/vip-llava-7b", "llava-hf/vip-llava-7b-hf"),
    "vip-13B": ("mucai/vip-llava-13b", "llava-hf/vip-llava-13b-hf"),
    "vip-phi-3-3.8B": ("mucai/vip-llava-phi-3-mini-3.8B", ""),
    "vip-llama-3-8B": ("mucai/vip-llava-llama-3-8b", ""),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_papers_nine_name_checkpoints_tokens_features_and_preparation(name):
    card = cards()[name]
    assert (card.original_id, card.hub_id) == ORIGINALS[name]
    if name.startswith("1.6"):
        assert "2 928" in card.image_tokens
        assert (card.preparation, card.prepared) == ("tiles", "tiles")
    else:
        assert card.image_tokens == "576"
        assert card.preparation == "pad to square"
        assert card.prepared == ("crop" if card.hub_id else "pad to square")
        assert card.hub_id == "" or "crops" in card.differs
    several = "layers -2, -5, -8, -11, 6 concatenated, LayerNorm"
    assert card.vision == f"CLIP-L/14-336, {several if name.startswith('vip') else 'layer -2'}"
    assert card.recipe == {"1.5": "1.5", "1.6": "1.6", "vip": "ViP"}[name.split("-")[0]]


@pytest.mark.parametrize("name", sorted(CONVERTED))
def test_cards_to_be_converted_say_what_the_conversion_makes(name):
    card = cards()[name]
    form = PROMPTS["llava_phi_3" if "phi" in name else "llava_llama_3"]
    assert card.prompt == f"{form.start}{form.user[0]}<image>\n{{question}}{form.user[1]}{form.ask}"
    assert card.stop == form.stop
    assert "has to be converted" in card.differs


def test_every_prompt_has_one_picture_and_one_question():
    for card in cards().values():
        if card.prompt:
            assert card.prompt.count("<image>") == card.prompt.count("{question}") == 1, card.name
            assert card.prompt.index("<image>") < card.prompt.index("{question}"), card.name


def test_the_real_language_model_is_the_default_as_soon_as_it_sees_well_enough():
    scores = json.loads((data_folder() / "smol" / "smol-1.5.scores.json").read_text(encoding="utf-8"))
    right = scores["looktwice"]["plain-object"]["seen"]["accuracy"]
    assert ("smol-1.5" if right >= 0.6 else "mini-1.5-7B") == DEFAULT_MODEL
