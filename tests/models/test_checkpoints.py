"""Config and weights that do not belong together, or are damaged: one CheckpointError each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import visualheads as vh
from helpers.families import save
from helpers.networks import Tiny, llava
from visualheads.models import checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(*llava(), tmp_path_factory.mktemp("saved") / "llava")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "llava"))


def configured(folder: Path, place: str, value: object) -> Path:
    """The folder with one field of config.json changed, such as `text_config.hidden_size`."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    part: Any = config
    *parents, name = place.split(".")
    for parent in parents:
        part = part[parent]
    part[name] = value
    file.write_text(json.dumps(config))
    return folder


def with_weights(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


FAULTS = [
    ("text_config.num_attention_heads", 5), ("text_config.num_attention_heads", 0),
    ("text_config.num_attention_heads", -4), ("text_config.num_attention_heads", "four"),
    ("text_config.num_attention_heads", 4.0), ("text_config.num_attention_heads", True),
    ("text_config.num_key_value_heads", 3), ("text_config.num_key_value_heads", 8),
    ("text_config.num_key_value_heads", 0), ("text_config.hidden_size", 0), ("text_config.hidden_size", 48),
    ("text_config.hidden_size", 10**12), ("text_config.hidden_size", None), ("text_config.hidden_size", [32]),
    ("text_config.intermediate_size", -1), ("text_config.intermediate_size", 65),
    ("text_config.num_hidden_layers", 2), ("text_config.num_hidden_layers", 4),
    ("text_config.num_hidden_layers", 10**9), ("text_config.num_hidden_layers", 0),
    ("text_config.vocab_size", 0), ("text_config.vocab_size", 10**6), ("text_config.vocab_size", "many"),
    ("text_config.head_dim", 0), ("text_config.head_dim", 16), ("text_config.rms_norm_eps", 0),
    ("text_config.rms_norm_eps", "tiny"), ("text_config.rms_norm_eps", -1e-6),
    ("vision_config.patch_size", 0), ("vision_config.patch_size", -6), ("vision_config.patch_size", 5),
    ("vision_config.patch_size", 1000), ("vision_config.patch_size", "6"), ("vision_config.image_size", 0),
    ("vision_config.image_size", 48), ("vision_config.image_size", 10**10), ("vision_config.num_hidden_layers", 10**9),
    ("vision_config.num_hidden_layers", 1), ("vision_config.hidden_size", 0), ("vision_config.num_attention_heads", 3),
    ("vision_config.num_channels", 1), ("vision_feature_layer", 99), ("vision_feature_layer", "last"),
    ("image_token_index", -1), ("image_token_index", 10**6), ("image_token_index", "<image>"),
    ("image_token_index", 1.5),
    ("text_config", []), ("vision_config", "clip"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:the processor of")
@pytest.mark.parametrize(("place", "value"), FAULTS, ids=lambda part: str(part)[:40])
def test_a_fault_in_the_config_is_one_error_that_names_the_field(folder, place, value):
    with pytest.raises(vh.CheckpointError) as told:
        vh.load(configured(folder, place, value))
    assert place.split(".")[-1].removesuffix("_index") in str(told.value)


@pytest.mark.parametrize(("place", "value"), [("model_type", "nothing"), ("model_type", 5), ("model_type", None),
                                              ("text_config.model_type", "nothing"),
                                              ("vision_config.model_type", "nothing")], ids=str)  # fmt: skip
def test_an_unknown_kind_is_one_error(folder, place, value):
    configured(folder, place, value)
    with pytest.raises((vh.CheckpointError, vh.UnsupportedModelError)):
        vh.load(folder)


def test_nothing_is_built_where_sizes_differ(folder, monkeypatch):
    from transformers import AutoModelForImageTextToText

    def built(*_args: object, **_settings: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", built)
    for place, value in (("text_config.num_hidden_layers", 2), ("text_config.vocab_size", 900)):
        configured(folder, place, value)
        with pytest.raises(vh.CheckpointError, match="different models"):
            vh.load(folder)


def test_weights_of_a_larger_model_are_refused(tmp_path):
    """A config of two layers on the weights of eight is another model."""
    large = save(*llava(Tiny(layers=8)), tmp_path / "large")
    small = save(*llava(Tiny(layers=2)), tmp_path / "small")
    shutil.copy(large / "model.safetensors", small / "model.safetensors")
    with pytest.raises(vh.CheckpointError, match="num_hidden_layers is 2, its weights have 8"):
        vh.load(small)


def test_weights_that_the_config_has_no_place_for_are_refused(folder):
    with_weights(folder, lambda weights: weights.update(other=torch.ones(3, 3)))
    with pytest.raises(vh.CheckpointError, match=r"has 1 weights that its config\.json has no place for \(other"):
        vh.load(folder)


def test_buffers_of_older_versions_do_no_harm(folder):
    def older(weights: dict[str, torch.Tensor]) -> None:
        name = next(name for name in weights if "position_embedding" in name)
        weights[name.replace("position_embedding.weight", "position_ids")] = torch.arange(17)[None]

    assert vh.load(with_weights(folder, older)).shape == (3, 4, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["o_proj", "embed_tokens", "multi_modal_projector.linear_1.bias"])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, value, part):
    def damage(weights: dict[str, torch.Tensor]) -> None:
        name = next(name for name in weights if part in name)
        weights[name].view(-1)[3] = value

    with pytest.raises(vh.CheckpointError, match=f"{part}.*NaN or infinite"):
        vh.load(with_weights(folder, damage))


def test_matrices_of_zeros_are_refused_by_name(folder):
    def empty(weights: dict[str, torch.Tensor]) -> None:
        weights[next(name for name in weights if "q_proj" in name)].zero_()

    with pytest.raises(vh.CheckpointError, match=r"q_proj\.weight.*all zeros"):
        vh.load(with_weights(folder, empty))


def test_a_header_that_promises_too_much_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes((2**40).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(vh.CheckpointError, match=r"model\.safetensors"):
        vh.load(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}',
                                   '{"weight_map": {"a": "../other.safetensors"}}', '{"weight_map": {}}'])  # fmt: skip
def test_a_damaged_index_is_one_error(folder, index):
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(vh.CheckpointError, match=r"model\.safetensors\.index\.json"):
        vh.load(folder)


def test_a_folder_is_resolved_before_anything_is_read(folder):
    assert checkpoints.resolve(folder).folder == folder
