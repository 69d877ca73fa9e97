"""Loading, wrapping, prompting, geometry against pixels and the model's own packing, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers.networks import (
    BUILDERS,
    IMAGE_TOKEN,
    Tiny,
    gradient,
    llava,
    picture,
    samples,
    seeded,
    text_config,
    wrapped,
)
from visualheads import paths
from visualheads.cards import DATA_VARIABLE, cards
from visualheads.errors import CheckpointError, ParameterError, SampleError, UnknownModelError, UnsupportedModelError
from visualheads.models import adapters, loading

KINDS = tuple(BUILDERS)
SIZES = [(64, 64), (90, 60), (60, 90), (200, 61), (61, 200), (333, 100), (48, 47)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A saved Llava checkpoint."""
    path = tmp_path_factory.mktemp("checkpoints") / "my-llava"
    module, processor = llava()
    module.save_pretrained(path)
    processor.save_pretrained(path)
    yield path


@pytest.fixture
def broken(folder, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def test_load_gives_what_was_saved(folder):
    model = loading.load(folder)
    module, _ = llava()
    assert model.name == model.identity["checkpoint"] == paths.slug_of(f"{folder.parent.name}/my-llava")
    assert model.shape == (3, 4, 2)
    assert model.dtype == torch.float32
    assert model.module.config._attn_implementation == "sdpa"
    assert model.identity["weights"]
    for (name, saved), (_, loaded) in zip(module.named_parameters(), model.module.named_parameters(), strict=True):
        assert torch.equal(saved, loaded), name
    assert model.prompt("how many ?") == wrapped("llava").prompt("how many ?")


def test_dtype_can_be_chosen_and_is_checked(folder):
    assert loading.load(folder, dtype="bfloat16").dtype == torch.bfloat16
    for wrong in ("float7", "float64", torch.float64, "int64", "qint8", "", 7):
        with pytest.raises(ParameterError, match=r"dtype: got .*allowed: float32, bfloat16, float16, auto"):
            loading.load(folder, dtype=wrong)


def test_weights_are_run_where_they_are_hashed(folder):
    with pytest.raises(ParameterError, match="remote: got True; allowed: False"):
        loading.load(folder, remote=True)


def test_a_folder_has_no_revisions(folder):
    with pytest.raises(ParameterError, match=r"revision: got 'main'.*my-llava, a folder"):
        loading.load(folder, revision="main")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "", 7, torch.device("cuda")])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(folder, monkeypatch, device):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    with pytest.raises(ParameterError, match=r"device: got '.*allowed: cpu, auto;"):
        loading.load(folder, device=device)
    assert loading.load(folder, device="cpu", validate=False).device.type == "cpu"


@pytest.mark.parametrize("kind", KINDS)
def test_wrap_validates_and_leaves_evaluation_mode(kind):
    module, processor = BUILDERS[kind](Tiny(layers=2))
    model = loading.wrap(module.train(), processor)
    assert not module.training
    assert len(model.layers) == len(model.attention) == model.shape.layers == 2
    assert model.adapter.class_name == type(module).__name__


def test_a_model_whose_attention_is_not_what_it_seems_is_refused():
    def uniform(module, query, key, value, mask, **_):
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return value.mean(2, keepdim=True).expand(-1, -1, query.shape[2], -1).transpose(1, 2).contiguous(), None

    module, processor = llava()
    ALL_ATTENTION_FUNCTIONS.register("uniform_for_test", uniform)
    try:
        module.model.language_model.config._attn_implementation = "uniform_for_test"
        with pytest.raises(UnsupportedModelError, match=r"cannot be read faithfully: layer 0"):
            loading.wrap(module, processor)
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["uniform_for_test"]


def test_a_model_that_ignores_what_is_written_is_refused():
    module, processor = llava()
    with torch.no_grad():
        for layer in module.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
    with pytest.raises(UnsupportedModelError, match="does not change its logits"):
        loading.wrap(module, processor)


def test_unknown_names_are_refused_with_suggestions():
    with pytest.raises(UnknownModelError, match=r"mini-1\.5-7B"):
        loading.load("mini-1.5-7b ")
    with pytest.raises(UnknownModelError, match="hub id"):
        loading.load("no such model")


def test_a_missing_miniature_tells_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(CheckpointError, match="make miniatures"):
        loading.load("mini-1.5-7B")


def test_a_miniature_is_found_by_name(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    shutil.copytree(folder, tmp_path / "miniatures" / "mini-1.5-7B")
    model = loading.load("mini-1.5-7B", validate=False)
    assert model.name == model.identity["checkpoint"] == "mini-1.5-7B"
    assert model.card is cards()["mini-1.5-7B"]
    assert loading.load(tmp_path / "miniatures" / "mini-1.5-7B", validate=False).card is model.card
    assert model.parameters == pytest.approx(sum(w.numel() for w in model.module.parameters()) / 1e9)


def test_a_model_to_be_converted_says_so():
    name = next(card.name for card in cards().values() if not (card.miniature or card.joined or card.hub_id))
    with pytest.raises(CheckpointError, match="visualheads convert"):
        loading.load(name)


def test_pickled_weights_are_refused(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights only.*pytorch_model\.bin.*convert"):
        loading.load(broken)


def test_no_weights_are_refused(broken):
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        loading.load(broken)


def test_truncated_weights_are_refused(broken):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        loading.load(broken)


def test_a_missing_shard_is_refused(broken):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks model-2\.safetensors"):
        loading.load(broken)


def test_missing_weights_are_refused(broken):
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    gone = next(name for name in weights if "q_proj" in name)
    save_file({n: w for n, w in weights.items() if n != gone}, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*q_proj"):
        loading.load(broken)


@pytest.mark.parametrize("text", ["", "[]", "{"], ids=["empty", "list", "cut"])
def test_a_broken_config_is_refused(broken, text):
    (broken / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        loading.load(broken)


def test_a_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a file"):
        loading.load(__file__)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        loading.load(tmp_path)


def test_an_unsupported_class_is_refused_with_the_list(tmp_path):
    module = seeded(LlamaForCausalLM, text_config(Tiny(), 40))
    module.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM has no adapter.*LlavaForConditionalGeneration"):
        loading.load(tmp_path)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM has no adapter"):
        loading.wrap(module, wrapped("llava").processor)


def test_a_checkpoint_with_code_of_its_own_is_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    config.pop("architectures")
    (broken / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(UnsupportedModelError, match="code of its own"):
        loading.load(broken)


def test_an_adapter_cannot_be_registered_twice():
    there = adapters.adapter_of("LlavaForConditionalGeneration")
    with pytest.raises(ParameterError, match="has an adapter already"):
        adapters.register(replace(there, token_map=lambda *given: there.token_map(*given)))
    assert adapters.adapter_of("LlavaForConditionalGeneration") is there


def test_without_a_chat_template_the_plain_form_is_used_and_told():
    module, processor = llava(template=None)
    with pytest.warns(UserWarning, match="no chat template; its prompts take the plain form"):
        model = loading.wrap(module, processor, validate=False)
    assert model.prompt("how many ?") == "USER: <image>\nhow many ? ASSISTANT:"
    assert len(model.image_positions(model.encode(samples(1)))[0]) == 16


def test_a_question_with_an_image_token_is_refused():
    with pytest.raises(SampleError, match=r"contains '<image>', a special token"):
        wrapped("llava").prompt(f"what is {IMAGE_TOKEN} ?")


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_padded_on_the_left_and_tokens_counted(kind):
    model, asked = wrapped(kind), samples(4)
    encoding = model.encode(asked)
    mask = encoding["attention_mask"]
    assert not mask.all() and mask[:, -1].all()
    for sample, row, positions in zip(asked, encoding["input_ids"], model.image_positions(encoding), strict=True):
        assert len(positions) == len(model.token_map(sample.image.size))
        assert (row[positions] == model.image_token_id).all()
        assert (positions.diff() == 1).all()


def packed_positions(model, image_size):
    """(x, y) in original pixels that each image token shows, by the processor's pixels and the model's own packing.

    The picture's red and green tell where a pixel came from; patch means are packed as if they were features.
    """
    width, height = image_size
    patch, grid = model.config.vision_config.patch_size, model.config.vision_config.image_size
    grid //= patch
    prepared = model.processor.image_processor(gradient(width, height), return_tensors="pt")
    pixels = prepared["pixel_values"].reshape(-1, 3, grid * patch, grid * patch)
    scale = torch.tensor(model.processor.image_processor.image_std)[:, None, None]
    colours = pixels * scale + torch.tensor(model.processor.image_processor.image_mean)[:, None, None]
    means = colours.reshape(-1, 3, grid, patch, grid, patch).mean((3, 5)).permute(0, 2, 3, 1).flatten(1, 2)
    if hasattr(model.module.model, "pack_image_features"):
        newline = torch.full((3,), torch.nan)
        (packed,), _ = model.module.model.pack_image_features([means], prepared["image_sizes"], "default", newline)
    else:
        packed = means[0]
    return packed


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_token_maps_agree_with_pixels_and_packing(kind, size):
    model = wrapped(kind, Tiny(layers=2, patch=10, grid=4))
    packed = packed_positions(model, size)
    token_map = model.token_map(size)
    assert len(packed) == len(token_map)
    newline = packed.isnan().any(1).numpy()
    assert (newline == (token_map.kind == "newline")).all()
    # patches that lie partly on padding are darker: blue, constant in the picture, tells them
    whole = token_map.is_patch & ~newline & ((packed[:, 2] - 128 / 255).abs() < 0.01).numpy()
    assert whole.sum() >= 4
    centre = (token_map.box[whole, :2] + token_map.box[whole, 2:]) / 2
    shown = packed[whole, :2].numpy() * np.array(size)
    extent = np.maximum((token_map.box[whole, 2:] - token_map.box[whole, :2]).max(0), 2)
    assert (np.abs(centre - shown) < 0.3 * extent).all()
    outside = token_map.is_patch & np.isnan(token_map.box).any(1)
    assert not whole[outside].any(), "patches on padding have no box"


def test_a_processor_that_resizes_without_cropping_is_followed():
    module, processor = llava(crop=False)
    model = loading.wrap(module, processor, validate=False)
    cropped = wrapped("llava").token_map((90, 60)).box
    assert model.token_map((90, 60)).box[0, 0] == 0
    assert cropped[0, 0] == pytest.approx(15, abs=1)


def test_sink_dimensions_are_found_from_the_model():
    module, processor = llava()
    plain = loading.wrap(module, processor, validate=False)
    assert plain.sink_dimensions == ()
    with torch.no_grad():
        module.model.language_model.embed_tokens.weight[1, 5] = 400.0  # the begin token, as massive activations are
    assert loading.wrap(module, processor, validate=False).sink_dimensions in ((), (5,))


def test_the_picture_builder_is_deterministic():
    assert np.array_equal(np.asarray(picture(3)), np.asarray(picture(3)))
