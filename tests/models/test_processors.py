"""Processors from folders: every class, incomplete and old files, what is filled in and what is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

import visualheads as vh
from helpers.families import FAMILIES, save
from helpers.networks import BUILDERS, Tiny, clip_config, llava, llava_next, samples, seeded, text_config, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

ALL = {**FAMILIES, **{name: (lambda how, make=make: make(implementation=how)) for name, make in BUILDERS.items()}}
LLAVA_FILES = ("processor_config.json", "preprocessor_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(*llava(), tmp_path_factory.mktemp("saved") / "llava")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it, whose files may be changed."""
    return Path(shutil.copytree(saved, tmp_path / "llava"))


def rewrite(file: Path, drop: tuple[str, ...] = (), **changes: object) -> None:
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in settings.items() if name not in drop}))


def as_written_by_4(folder: Path, **extra: object) -> dict[str, object]:
    """Replace processor_config.json by the preprocessor_config.json alone that transformers 4.x wrote."""
    nested = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    settings = {**nested, **extra}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return settings


@pytest.mark.parametrize("name", ALL)
def test_every_class_loads_from_what_save_pretrained_wrote(name, tmp_path):
    assert "torchvision" not in sys.modules
    with torch.random.fork_rng(devices=[]):
        module, processor = ALL[name]("eager" if name == "paligemma2" else "sdpa")
    model = vh.load(save(module, processor, tmp_path / name), validate=False)
    here = vh.wrap(module, processor, validate=False)
    ours, theirs = model.encode(samples(2)), here.encode(samples(2))
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])), key
    assert model.identity["processor"] == here.identity["processor"]
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("drop", [("patch_size",), ("vision_feature_select_strategy",),
                                  ("num_additional_image_tokens",), ("image_token",),
                                  ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")],
                         ids=lambda names: "+".join(names))  # fmt: skip
def test_what_a_processor_leaves_out_is_filled_from_the_config(folder, drop):
    rewrite(folder / "processor_config.json", drop)
    model = vh.load(folder)
    assert len(model.image_positions(model.encode(samples(1)))[0]) == 16


@pytest.mark.parametrize("build", [llava, llava_next])
@pytest.mark.parametrize("kind", ["LlavaProcessor", "LlavaNextProcessor", "SiglipProcessor", None])
def test_a_processor_of_transformers_4_alone_is_enough(tmp_path, build, kind):
    folder = save(*build(), tmp_path / "old")
    expected = vh.load(folder, validate=False).encode(samples(1))
    settings = as_written_by_4(folder, processor_class=kind, feature_extractor_type="CLIPFeatureExtractor")
    (folder / "preprocessor_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    found = vh.load(folder).encode(samples(1))
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_only_a_feature_extractor_type_is_enough(folder):
    as_written_by_4(folder, image_processor_type=None, feature_extractor_type="CLIPFeatureExtractor")
    rewrite(folder / "preprocessor_config.json", ("image_processor_type",))
    assert vh.load(folder).token_map((48, 36)).grid_shape == (4, 4)


def test_a_fast_image_processor_is_read_without_torchvision(folder):
    as_written_by_4(folder, image_processor_type="CLIPImageProcessorFast")
    assert type(vh.load(folder).processor.image_processor).__name__ == "CLIPImageProcessorPil"


def test_a_qwen_of_transformers_4_loads_with_its_old_sizes(tmp_path):
    folder = save(*FAMILIES["qwen2.5-vl"]("sdpa"), tmp_path / "qwen")
    as_written_by_4(folder, min_pixels=16 * 256, max_pixels=64 * 256, processor_class="Qwen2_5_VLProcessor",
                    image_processor_type="Qwen2VLImageProcessor")  # fmt: skip
    rewrite(folder / "preprocessor_config.json", ("size", "patch_size", "merge_size"))
    model = vh.load(folder)
    (sample,) = samples(1)
    assert len(model.image_positions(model.encode([sample]))[0]) == len(model.token_map(sample.image.size))


def test_a_tower_without_class_token_is_told_apart(tmp_path):
    """SigLIP: no class token, all features; what LLaVA's converters leave out of the processor."""
    words = tokenizer()
    tower = hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=6,
        vision_use_head=False,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=tower, text_config=text_config(Tiny(), len(words)), image_token_index=4,
        vision_feature_select_strategy="full", image_seq_length=16,
    )  # fmt: skip
    pictures = hf.SiglipImageProcessorPil(size={"height": 24, "width": 24})
    processor = hf.LlavaProcessor(pictures, words, chat_template=words.chat_template)
    folder = save(seeded(hf.LlavaForConditionalGeneration, config), processor, tmp_path / "siglip")
    assert len(vh.load(folder).token_map((48, 36))) == 16
    nested = json.loads((folder / "processor_config.json").read_text())
    nested["image_processor"]["do_resize"] = False
    (folder / "processor_config.json").write_text(json.dumps(nested))
    with pytest.raises(vh.UnsupportedModelError, match="do_resize=False; set it to True"):
        vh.load(folder)


def test_a_processor_that_contradicts_its_model_is_told_and_overruled(folder):
    rewrite(folder / "processor_config.json", patch_size=14, num_additional_image_tokens=0)
    with pytest.warns(UserWarning) as told:
        model = vh.load(folder)
    assert sorted(str(one.message).split("says ")[1].split(",")[0] for one in told) == [
        "num_additional_image_tokens=0", "patch_size=14",
    ]  # fmt: skip
    assert len(model.image_positions(model.encode(samples(1)))[0]) == 16


def test_a_processor_in_memory_is_filled_too():
    module, processor = llava()
    processor.patch_size = processor.vision_feature_select_strategy = None
    assert len(vh.wrap(module, processor).token_map((48, 36))) == 16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: setattr(p.image_processor, "do_resize", False), "do_resize=False"),
        (lambda p: setattr(p.image_processor, "size", {"shortest_edge": 90}), "24 × 24|image tokens|90"),
        (lambda p: setattr(p.image_processor, "crop_size", {"height": 36, "width": 36}), "36 × 36 pixels"),
        (lambda p: setattr(p, "num_additional_image_tokens", 5), "makes 20 image tokens"),
        (lambda p: setattr(p, "vision_feature_select_strategy", "full"), "makes 17 image tokens"),
    ],
    ids=["resize", "size", "crop", "tokens", "strategy"],
)
def test_what_is_set_on_a_loaded_processor_works_or_is_named(change, told):
    module, processor = llava()
    change(processor)
    try:
        model = vh.wrap(module, processor)
    except vh.VisualHeadsError as error:
        assert any(part in str(error) for part in told.split("|"))
    else:
        (sample,) = samples(1)
        assert len(model.image_positions(model.encode([sample]))[0]) == len(model.token_map(sample.image.size))


def test_padding_and_truncation_left_in_a_tokenizer_do_no_harm(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    words["padding"] = {
        "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(words))
    rewrite(folder / "tokenizer_config.json", padding_side="right", model_max_length=8)
    found, expected = vh.load(folder), vh.wrap(*llava())
    assert torch.equal(found.encode(samples(3))["input_ids"], expected.encode(samples(3))["input_ids"])


@pytest.mark.parametrize(("names", "part"), [(LLAVA_FILES, "image processor"), (("tokenizer.json",), "tokenizer")])
def test_a_missing_part_is_named_and_nobody_is_sent_to_the_network(folder, names, part):
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(vh.CheckpointError, match=f"has no {part}.*save_pretrained") as told:
        vh.load(folder)
    assert "http" not in str(told.value) and "connection" not in str(told.value)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_damaged_part_is_one_error_without_network(folder, name, text):
    (folder / name).write_text(text)
    try:
        vh.load(folder)
    except vh.VisualHeadsError as error:
        assert "http" not in str(error) and "connection" not in str(error)


def test_a_missing_package_is_named_with_its_command(folder, monkeypatch):
    def needs(*_args: object, **_settings: object) -> None:
        raise ImportError("LlamaTokenizer requires the SentencePiece library but it was not found. pip install x")

    monkeypatch.setattr(hf.AutoTokenizer, "from_pretrained", needs)
    with pytest.raises(vh.MissingDependencyError, match=r"tokenizer of .* needs the package .*`pip install"):
        vh.load(folder)


class TunedConfig(hf.LlavaConfig):
    model_type = "tuned_llava"


class TunedLlava(hf.LlavaForConditionalGeneration):
    config_class = TunedConfig


def test_subclasses_are_found_along_their_base_classes(tmp_path):
    module, processor = llava()
    module.__class__ = TunedLlava
    assert vh.wrap(module, processor).name == "TunedLlava"
    folder = save(module, processor, tmp_path / "tuned")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["TunedLlava"]
    assert type(vh.load(folder).module) is hf.LlavaForConditionalGeneration


def test_a_registered_class_of_ones_own_is_built(tmp_path):
    words = tokenizer()
    config = TunedConfig(
        vision_config=clip_config(Tiny()), text_config=text_config(Tiny(), len(words)), image_token_index=4
    )
    _, processor = llava()
    folder = save(seeded(TunedLlava, config), processor, tmp_path / "own")
    hf.AutoConfig.register("tuned_llava", TunedConfig, exist_ok=True)
    hf.AutoModelForImageTextToText.register(TunedConfig, TunedLlava, exist_ok=True)
    assert type(vh.load(folder).module) is TunedLlava
