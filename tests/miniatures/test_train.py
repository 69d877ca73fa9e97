"""A miniature through all its stages, and what is not trained again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import visualheads as vh
from visualheads.errors import CheckpointError
from visualheads.miniatures import architectures, fitting, tower, train, training
from visualheads.store.read import open_store

SMOKED = (
    "mini-1.6-mistral-7B",  # of the recipe that also trains its tower
    pytest.param("mini-1.5-7B", marks=pytest.mark.long),
    pytest.param("mini-vip-phi-3-3.8B", marks=pytest.mark.long),
)


@pytest.fixture(scope="module")
def smoked(tmp_path_factory) -> Path:
    """Where miniatures go through all stages, each when it is first asked for."""
    return tmp_path_factory.mktemp("smoke")


def smoke(folder: Path, name: str) -> Path:
    """The miniature's checkpoint, from a few steps of every stage."""
    if not (folder / "out" / name).exists():
        train.train(name, target=folder / "out", work=folder / "work", smoke=True)
    return folder / "out" / name


@pytest.mark.parametrize("name", SMOKED)
def test_smoke_training_ends_in_ordinary_checkpoints(smoked, name):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    folder = smoke(smoked, name)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    wanted = {"1.5": "Llava", "1.6": "LlavaNext", "vip": "VipLlava"}[architectures.miniature(name).recipe]
    assert type(model).__name__ == f"{wanted}ForConditionalGeneration"
    assert type(processor).__name__ == ("LlavaNextProcessor" if wanted == "LlavaNext" else "LlavaProcessor")
    assert next(model.parameters()).dtype == torch.float16
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == "USER: <image>\nHow many cars are there? ASSISTANT:"
    text_name = architectures.miniature(name).text
    text = AutoModelForCausalLM.from_pretrained(smoked / "out" / text_name)
    assert text.config.num_hidden_layers == model.config.text_config.num_hidden_layers
    record = json.loads((folder / train.TRAINING_RECORD).read_text())
    assert list(record["stages"]) == ["tower", text_name, "alignment", "tuning"]


@pytest.mark.parametrize("name", SMOKED)
def test_the_stages_train_what_the_recipe_says(smoked, name):
    smoke(smoked, name)
    work, recipe = smoked / "work", architectures.miniature(name).recipe
    before = train.load_moment(name, work / f"{name}-alignment-0.pt").state_dict()
    aligned = train.load_moment(name, work / f"{name}-tuning-0.pt").state_dict()
    tuned = torch.load(work / f"{name}-tuning.pt", weights_only=True)["model"]

    def changed(old, new):
        return {key.split(".")[1] for key in old if not torch.equal(old[key], new[key].to(old[key].dtype))}

    adapter = {"multi_modal_projector", *(["image_newline"] if recipe == "1.6" else [])}
    assert changed(before, aligned) == adapter
    aligned = {key: value.half() for key, value in aligned.items()}
    found = changed(aligned, {key: value.half() for key, value in tuned.items()})
    assert found >= {*adapter, "language_model"}
    assert ("vision_tower" in found) == (recipe == "1.6")


@pytest.mark.long
def test_miniatures_share_tower_and_language_model(smoked):
    names = ("mini-1.5-7B", "mini-vip-7B")
    for name in names:
        smoke(smoked, name)
    kept = {path.name for path in (smoked / "work").glob("*.pt")}
    assert {"tower.pt", f"{architectures.miniature(names[0]).text}.pt"} <= kept
    one, other = (torch.load(smoked / "work" / f"{name}-alignment-0.pt", weights_only=True) for name in names)
    shared = [key for key in one if "vision_tower" in key or "language_model" in key]
    assert shared and all(torch.equal(one[key], other[key]) for key in shared)


@pytest.mark.long
def test_moments_are_traced_in_the_order_of_time(smoked):
    name = "mini-1.6-mistral-7B"
    folder = smoke(smoked, name)
    ds = open_store(train.trace_moments(name, folder, smoked / "work", n=1))
    assert ds["training_step"].values.tolist() == [-2, 0, 4]
    assert ds["model"].values.tolist() == [f"{name}@adapter-0", f"{name}@aligned-0", f"{name}@final-4"]
    assert ds.sizes["sample"] == len(train.CONDITIONS) and not set(train.DERIVED) & set(ds)
    with pytest.raises(CheckpointError, match="no snapshots"):
        train.trace_moments("mini-1.5-13B", folder, smoked / "work", n=1)


def test_a_shipped_text_model_is_not_trained_again(tmp_path):
    name, schedule = (
        "mini-mistral-7B-text",
        fitting.Schedule(steps=2, batch=2, rate=3e-3, warm_up=1, report_every=1, tested=4),
    )
    model, progress = training.train_text(name, schedule, tmp_path / "first", "cpu")
    train.save_text(name, model, tmp_path / name, schedule, progress)
    train.reuse_text(name, tmp_path / name, tmp_path / "again", schedule)
    reported: list[str] = []
    again, known = training.train_text(
        name, schedule, tmp_path / "again", "cpu", lambda *told: reported.append(told[0])
    )
    assert not reported and known.curve == progress.curve and known.seconds == progress.seconds
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float()), key
    train.reuse_text(
        name, tmp_path / name, tmp_path / "other", fitting.Schedule(steps=3, batch=2, rate=3e-3, warm_up=1)
    )
    train.reuse_text(name, tmp_path / "nowhere", tmp_path / "other", schedule)
    assert not (tmp_path / "other").exists()


def test_the_tower_of_a_shipped_miniature_is_not_trained_again(tmp_path, root):
    shipped = root / "data" / "miniatures"
    told = json.loads((shipped / "mini-1.5-7B" / "training.json").read_text())["stages"]["tower"]
    schedule = training.TrainingPlan().tower
    train.reuse_tower(shipped, tmp_path, schedule)
    reported: list[str] = []
    trained, progress = tower.train_tower(schedule, tmp_path, 0, "cpu", lambda *done: reported.append(done[0]))
    assert not reported and progress.curve == told["curve"] and progress.seconds == told["seconds"]
    frozen = vh.load("mini-vip-7B").module.model.vision_tower.state_dict()
    assert all(torch.equal(frozen[key], value) for key, value in trained.state_dict().items())
    for where, other in ((shipped, replace(schedule, rate=0.5)), (tmp_path, schedule)):
        train.reuse_tower(where, tmp_path / "other", other)
    assert not (tmp_path / "other").exists()


def test_what_is_trained_is_told_by_its_record(tmp_path: Path):
    name, plan = "mini-1.5-7B", training.TrainingPlan()
    folder = tmp_path / name
    folder.mkdir()
    assert not train.is_trained(name, tmp_path)
    stages = {
        str(i): {key: getattr(schedule, key) for key in ("steps", "batch", "rate", "warm_up")}
        for i, schedule in enumerate(train.schedules_of(name, plan))
    }
    (folder / "training.json").write_text(json.dumps({"stages": stages, "benchmarks": {}}))
    assert not train.is_trained(name, tmp_path), "without its weights"
    (folder / "model.safetensors").write_bytes(b"")
    assert train.is_trained(name, tmp_path)
    stages["3"]["steps"] += 1
    (folder / "training.json").write_text(json.dumps({"stages": stages, "benchmarks": {}}))
    assert not train.is_trained(name, tmp_path), "of another plan"
