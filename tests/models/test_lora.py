"""LoRA: folders of adapter files, PeftModels in memory, and adapters that do nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import visualheads as vh
from helpers.families import LORA_TARGETS, save, save_tuned, tuned
from helpers.networks import llava, samples

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """(base model, adapter that names it)."""
    base = save(*llava(), tmp_path / "base")
    return base, save_tuned(base, tmp_path / "adapter")


def logits(model: vh.VisionLanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.module(**model.encode(samples(1)), logits_to_keep=1).logits


def test_an_adapter_folder_is_loaded_on_its_base(folders):
    base, adapter = folders
    plain, found, given = vh.load(base), vh.load(adapter), vh.load(base, adapter=adapter)
    expected = vh.wrap(tuned(llava()[0]), llava()[1])
    for model in (found, given):
        assert torch.allclose(logits(model), logits(expected), atol=1e-6)
        assert not torch.allclose(logits(model), logits(plain), atol=1e-3)
        assert model.identity["weights"].startswith(plain.identity["weights"] + "+")
    assert found.identity == given.identity and found.name == given.name != plain.name
    assert type(found.module).__name__ == "LlavaForConditionalGeneration"


def test_an_adapter_is_traced_and_ablated(folders):
    model = vh.load(folders[1])
    ds = vh.trace(model, samples(2), progress=False)
    assert ds.sizes["layer"] == 3 and bool(ds.image_weight.notnull().all())
    assert not bool((vh.ablate(model, samples(2), [(0, 0), (1, 2)], progress=False).kl == 0).all())


def test_another_adapter_has_another_identity():
    one, other = (vh.wrap(tuned(llava()[0], seed), llava()[1]).identity["weights"] for seed in (1, 2))
    assert one != other


def test_an_adapter_whose_keys_match_nothing_is_refused(folders):
    base, adapter = folders
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name.replace("language_model", "nothing"): weight for name, weight in weights.items()}, file)
    with pytest.raises(vh.CheckpointError, match="matrices do not belong"):
        vh.load(base, adapter=adapter)


def test_an_adapter_that_matches_in_part_is_refused(folders):
    base, adapter = folders
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name.replace("layers.1", "layers.7"): weight for name, weight in weights.items()}, file)
    with pytest.raises(vh.CheckpointError, match="matrices do not belong"):
        vh.load(base, adapter=adapter)


def test_an_untrained_adapter_is_refused(folders):
    base, adapter = folders
    fresh = peft.get_peft_model(llava()[0], peft.LoraConfig(r=2, target_modules=LORA_TARGETS))
    with pytest.raises(vh.CheckpointError, match="does not change the logits"):
        vh.wrap(fresh, llava()[1])
    fresh.save_pretrained(adapter)
    with pytest.raises(vh.CheckpointError, match="does not change the logits"):
        vh.load(base, adapter=adapter)


def test_another_kind_of_adapter_is_refused_by_name(folders):
    base, adapter = folders
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_type": "PREFIX_TUNING"}))
    with pytest.raises(vh.UnsupportedModelError, match="PREFIX_TUNING"):
        vh.load(base, adapter=adapter)


def test_what_is_missing_is_named(folders, tmp_path, monkeypatch):
    base, adapter = folders
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "base_model_name_or_path": "no such place"}))
    with pytest.raises(vh.CheckpointError, match=r"names the base model 'no such place'.*adapter="):
        vh.load(adapter)
    with pytest.raises(vh.ParameterError, match="a folder with adapter_config"):
        vh.load(base, adapter=tmp_path)
    with pytest.raises(vh.ParameterError, match="is an adapter itself"):
        vh.load(adapter, adapter=adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(vh.CheckpointError, match=r"no adapter_model\.safetensors"):
        vh.load(base, adapter=adapter)
    (adapter / "adapter_model.bin").rename(adapter / "adapter_model.safetensors")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(vh.MissingDependencyError, match=r"peft.*pip install 'visualheads\[lora\]'"):
        vh.load(base, adapter=adapter)
