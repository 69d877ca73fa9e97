"""`--dry-run`: the real architecture without weights, for catalogued models, folders and what cannot be reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.families import save
from helpers.networks import llava, samples
from visualheads.cards import cards
from visualheads.cli import main
from visualheads.errors import CheckpointError, ImageError, ParameterError
from visualheads.tasks.sample import LazyImage
from visualheads.tracing.jobs import TraceJob, estimate


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> list:
    """Jobs draw these forty samples of known sizes, in two conditions."""
    drawn = [replace(sample, id=f"s{i}") for i, sample in enumerate(samples(8) * 5)]
    monkeypatch.setattr(TraceJob, "samples", property(lambda _self: drawn))
    return drawn


def test_a_model_of_the_nine_by_hand(some: list):
    told = estimate(TraceJob("1.5-7B", device="cuda", dtype="bfloat16", batch_tokens=1000, results="r"))
    assert told["class"] == "LlavaForConditionalGeneration"
    assert told["layers × heads / kv heads"] == "32 × 32 / 32"
    assert told["parameters"] == "7.063 billion"
    assert told["image tokens"].startswith("576 here; in general 576 of 336 × 336")
    assert told["memory for weights"] == "14.1 GB in bfloat16"
    # per token: keys and values 2·32·4096·2, states (3·11008 + 6·4096)·2, rows 32·32·2·4 bytes; times 1000 tokens
    batch = 1000 * (524_288 + 115_200 + 8_192) / 1e9
    assert batch == pytest.approx(0.648, abs=0.001)
    assert told["memory for a batch"] == "about 0.65 GB for 1,000 tokens together on cuda"
    assert told["memory"] == "about 14.8 GB"
    assert (told["samples"], told["shards"]) == ("40", "1 of up to 128 samples")
    # float32 in 1 shard of 2 conditions on 24 × 24: 2·576 · 32·32 heads · 2 rows · 4 bytes = 9.4 MB of maps
    assert told["disk"].endswith(", 9 MB of it mean maps")
    assert told["store"].startswith("r")


@pytest.mark.parametrize("name", [card.name for card in cards().values() if card.paper_name and not card.miniature])
def test_each_of_the_nine_is_told_offline(some: list, name: str):
    card, told = cards()[name], estimate(TraceJob(name, device="cpu", dtype="float16"))
    assert told["layers × heads / kv heads"] == "{} × {} / {}".format(*card.shape)
    assert told["configuration"] == "blueprints.yml"
    tokens = "2,928 of 672 × 672" if card.recipe == "1.6" else "576 of 672 × 672"
    assert tokens in told["image tokens"]
    assert float(told["memory for weights"].split()[0]) == pytest.approx(2 * card.parameters, rel=0.1)
    if not card.hub_id:
        assert "to be converted" in told["model"]


def test_anyres_tokens_are_told_as_a_range(some: list):
    told = estimate(TraceJob("1.6-mistral-7B"))["image tokens"]
    assert " to " in told and " on average" in told


def test_a_folder_is_read_from_its_own_configuration(some: list, tmp_path: Path):
    module, processor = llava()
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    told = estimate(TraceJob(str(tmp_path), device="cpu"))
    assert told["layers × heads / kv heads"] == "3 × 4 / 2"
    count = sum(weight.numel() for weight in module.parameters())
    assert told["parameters"] == f"{count / 1e9:.4g} billion"
    assert told["image tokens"].startswith("16 here")
    assert told["memory for weights"].endswith("in float32")
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="truncated"):
        estimate(TraceJob(str(tmp_path)))


def test_what_cannot_be_reached_is_told_from_its_card(some: list):
    told = estimate(TraceJob("qwen2-vl-7B"))
    assert told["configuration"] == "not to be had offline; facts of its card"
    assert told["layers × heads / kv heads"] == "28 × 28 / 4"
    assert told["memory for weights"] == "14 GB in 16 bit"
    assert told["disk"].endswith("and the mean maps")
    unknown = estimate(TraceJob("nobody/knows"))
    assert unknown["layers × heads / kv heads"] == "unknown without it"
    assert unknown["disk"] == "unknown"


def test_a_wrong_dtype_and_a_missing_picture_are_named(some: list):
    with pytest.raises(ParameterError, match="float7"):
        estimate(TraceJob("1.5-7B", dtype="float7"))
    some[0] = type(some[0])(id="gone", image=LazyImage(path="no/such.jpg"), question="how many ?", answer="")
    with pytest.raises(ImageError, match=r"no/such\.jpg"):
        estimate(TraceJob("1.5-7B"))


def test_the_command_line_prints_it_without_loading_or_writing(some: list, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(TraceJob, "skipped", ())
    with pytest.raises(SystemExit) as ended:
        main(["trace", "vip-llama-3-8B", "--dry-run", "--out", str(tmp_path / "results")])
    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "VipLlavaForConditionalGeneration" in out and "32 × 32 / 8" in out and "8.372 billion" in out
    assert not list(tmp_path.iterdir())


def test_the_processor_is_tried_not_only_the_config(some: list, tmp_path: Path):
    folder = save(*llava(), tmp_path / "mine")
    assert estimate(TraceJob(str(folder), device="cpu"))["class"] == "LlavaForConditionalGeneration"
    (folder / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match="has no image processor"):
        estimate(TraceJob(str(folder), device="cpu"))
