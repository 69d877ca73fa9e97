"""Model cards and the records they are written from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoConfig

from visualheads.cards import miniature_folder
from visualheads.miniatures import architectures, card, evaluation

SHIPPED = [name for name in architectures.MINIATURES if (miniature_folder(name) / "training.json").is_file()]


def record_of(name: str) -> dict[str, Any]:
    return json.loads((miniature_folder(name) / "training.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", list(architectures.MINIATURES))
def test_shipped_cards_are_what_the_code_writes(name: str):
    recipe = architectures.miniature(name)
    folder = miniature_folder(name)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(folder)
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == card.model_card(recipe, config, record)


def test_cards_say_which_intervals_are_too_narrow():
    record = json.loads((miniature_folder("mini-1.5-7B") / "training.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(miniature_folder("mini-1.5-7B"))
    told = " ".join(card.model_card(architectures.MINIATURES["mini-1.5-7B"], config, record).split())
    assert "which take prompts as independent" in told and "they are too narrow" in told
    assert told.index("All conditions and formats together") < told.index("too narrow") < told.index("All five")
    assert "several prompts ask about one" in " ".join(str(evaluation.score.__doc__).split())


def test_cards_tell_why_a_limit_is_passed():
    record = record_of("mini-1.5-7B")
    scores, benchmarks = record["scores"], record["benchmarks"]
    scores["visual-general/free"] |= {"seen": scores["visual-general/free"]["seen"] | {"accuracy": 0.75, "n": 40}}
    scores["visual-general/free"]["one_off"] = 9
    scores["visual-object/free"]["seen"]["accuracy"] = 0.9
    scores["visual-general/letters"].pop("one_off", None)
    for name, low, high in (("pope", 0.28, 0.36), ("qbench", 0.5, 0.6)):
        benchmarks[name]["blind"] |= {"low": low, "high": high}
        benchmarks[name] |= {"question_only": {"accuracy": 0.3}, "chance": 0.25}
    missed = ("visual-general/free", "visual-general/letters", "pope blind", "qbench blind")
    record["targets"] = [{"what": what, "wanted": 0.8, "found": 0.75, "reached": False} for what in missed]
    config = AutoConfig.from_pretrained(miniature_folder("mini-1.5-7B"))
    told = card.model_card(architectures.MINIATURES["mini-1.5-7B"], config, record).split("Not reached:")[1]
    counted, letters, blind, seeing = [line for line in told.split("\n") if line.startswith("* ")][:4]
    assert "9 of 10 wrong answers" in counted and "of the same pictures, 90.0 %" in counted
    assert "28.0 to 36.0" in blind and "(" not in letters
    assert "(" not in seeing, "this one does see without eyes"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_records_tell_what_their_figures_are_over(name: str) -> None:
    record = record_of(name)
    assert "asked" in record, "a record of an earlier version: evaluate the checkpoint again and write its card anew"
    for told in record["stages"].values():
        for figure, answers in told["answers"].items():
            right = told["curve"][-1][figure] * answers
            assert right == pytest.approx(round(right), abs=1e-3), "a share of so many answers"
    assert record["trainable"] and set(record["asked"]) == {"text", "tuning"}
    assert card.above(record)["which"][0] == 2, "a kind that is learned"
