"""Weights in 4 and 8 bits: what is accepted, what is refused and what it makes of the identity."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers as hf

import visualheads as vh
from helpers.families import save
from helpers.networks import Tiny, llava, samples
from visualheads.models import devices

BITS = {"4bit": hf.BitsAndBytesConfig(load_in_4bit=True), "8bit": hf.BitsAndBytesConfig(load_in_8bit=True)}
INSTALLED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes")


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(*llava(), tmp_path / "llava")


@pytest.mark.parametrize("bits", BITS)
def test_a_missing_package_is_named_with_its_command(folder, bits, monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda _name: None)
    with pytest.raises(vh.MissingDependencyError, match="pip install bitsandbytes"):
        vh.load(folder, quantization_config=BITS[bits])


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "quanto", "no such"])
def test_other_quantisations_are_one_clear_error(folder, method):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    with pytest.raises(vh.UnsupportedModelError, match=f"got '{method}'.*bitsandbytes.*unquantised"):
        vh.load(folder)


@pytest.mark.parametrize("asked", [{}, {"quant_method": "bitsandbytes"}, "4bit", 4, hf.GPTQConfig])
def test_settings_that_are_none_are_refused(folder, asked):
    with pytest.raises(vh.UnsupportedModelError, match="load_in_4bit"):
        vh.load(folder, quantization_config=asked)


def test_bits_and_settings_are_part_of_the_identity():
    settings = [BITS["4bit"], BITS["8bit"], hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")]
    found = [devices.bits_of(one.to_dict()) for one in settings]
    assert len(set(found)) == 3 and found[0].startswith("4bit-") and found[1].startswith("8bit-")
    assert devices.bits_of({}) == ""


def test_a_device_map_is_passed_on(folder):
    model = vh.load(folder, device_map={"": "cpu"})
    assert model.device.type == vh.load(folder, device_map="auto", validate=False).device.type == "cpu"
    with pytest.raises(vh.ParameterError, match="device_map"):
        vh.load(folder, device="cpu", device_map="auto")


@INSTALLED
@pytest.mark.parametrize("bits", BITS)
def test_a_quantised_model_is_traced(tmp_path, bits):
    folder = save(*llava(Tiny(head_dim=64)), tmp_path / "wide")  # bitsandbytes' blocks do not fit smaller layers
    settings = hf.BitsAndBytesConfig(
        **{f"load_in_{bits}": True},
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    plain, model = vh.load(folder), vh.load(folder, quantization_config=settings)
    assert model.identity["weights"] == f"{plain.identity['weights']}+{devices.bits_of(settings.to_dict())}"
    assert bool(vh.trace(model, samples(2), progress=False).image_weight.notnull().all())
