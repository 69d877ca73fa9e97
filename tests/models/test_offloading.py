"""Models in several places: layers on a disk, as accelerate lays them there, and devices that must not be mixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from helpers.networks import llava, samples
from visualheads.errors import UnsupportedModelError
from visualheads.interventions import MODES, ablate, steer
from visualheads.interventions import text_model as text_model
from visualheads.interventions.modes import ChosenHeads
from visualheads.models.attention_call import AttentionCall
from visualheads.models.devices import in_places
from visualheads.models.loading import untrained, weights_hash, wrap
from visualheads.tracing.trace import trace

LAYERS = tuple(f"model.language_model.layers.{index}" for index in range(3))
PARTS = (
    "model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens", *LAYERS,
    "model.language_model.norm", "model.language_model.rotary_emb", "lm_head",
)  # fmt: skip
QUIET = {"progress": False, "max_new_tokens": 3}
HEADS = [(0, 1), (2, 3)]


def partly_on_disk(folder: Path, parts: Sequence[str]) -> tuple[Any, Any]:
    """The small LLaVA with these parts on a disk, from where they are fetched whenever they run."""
    module, processor = llava()
    places = {part: "disk" if part in parts else "cpu" for part in PARTS}
    return dispatch_model(module, places, offload_dir=str(folder), skip_keys="past_key_values"), processor


@pytest.mark.parametrize("parts", [("lm_head",), (LAYERS[1], "lm_head")], ids=["head", "layer and head"])
def test_layers_on_a_disk_change_nothing(tmp_path: Path, parts: Sequence[str]) -> None:
    plain = wrap(*llava(), name="m", validate=False)
    model = wrap(*partly_on_disk(tmp_path, parts), name="m")
    assert model.module.lm_head.weight.is_meta
    assert model.identity == plain.identity
    asked = samples(3)
    np.testing.assert_array_equal(trace(model, asked, **QUIET).margin, trace(plain, asked, **QUIET).margin)
    for found, known in (
        [ablate(one, asked, HEADS, positions="after_image", **QUIET) for one in (model, plain)],
        [steer(one, asked, HEADS, bias=2.0, **QUIET) for one in (model, plain)],
    ):
        np.testing.assert_allclose(found.kl, known.kl, atol=1e-6)
        assert (found.prediction == known.prediction).all() and float(found.kl.max()) > 0
    assert model.module.lm_head.weight.is_meta, "what was fetched is given back"


def test_the_control_of_a_model_in_several_places(tmp_path: Path) -> None:
    model = wrap(*partly_on_disk(tmp_path, (LAYERS[0],)), name="m", validate=False)
    assert in_places(model.module) and not in_places(llava()[0])
    control = untrained(model, seed=3)
    assert control.identity == untrained(wrap(*llava(), name="m", validate=False), seed=3).identity
    assert not in_places(control.module) and control.device.type == "cpu"


def test_the_control_is_spread_as_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    spread: list[dict[str, Any]] = []
    monkeypatch.setattr("accelerate.dispatch_model", lambda _module, device_map, **_options: spread.append(device_map))
    module, processor = llava()
    module.hf_device_map = {"model": 0, "lm_head": 1, "other": "disk"}
    assert untrained(wrap(module, processor, validate=False)).device.type == "cpu", "drawn where there is room"
    assert spread == [{"model": 0, "lm_head": 1, "other": "cpu"}]


def test_a_module_without_weights_is_refused() -> None:
    module, processor = llava()
    with pytest.raises(UnsupportedModelError, match=r"has no weights: .*meta device"):
        wrap(module.to("meta"), processor, validate=False)


def test_the_hash_of_what_is_in_memory_is_unchanged(tmp_path: Path) -> None:
    whole = weights_hash(llava()[0])
    assert weights_hash(partly_on_disk(tmp_path, PARTS)[0]) == whole


def test_the_language_model_alone_may_answer_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrap(*llava(), validate=False)
    encoding = model.encode(samples(1))
    answered = model.module(**encoding, logits_to_keep=1).logits[:, -1].detach()

    class Elsewhere:
        """Logits that can be subtracted from none before they are brought there."""

        def float(self) -> Elsewhere:
            return self

        def to(self, device: torch.device) -> torch.Tensor:
            assert device == answered.device
            return answered

    monkeypatch.setattr(text_model, "forward", lambda *_: SimpleNamespace(logits=Elsewhere()))
    text_model.check_alone(model, encoding, SimpleNamespace(kwargs={}))


@pytest.mark.parametrize("mode", ["sink_removal", "sink_redistribution"])
def test_sinks_found_on_one_device_are_hidden_on_another(mode: str) -> None:
    """The meta device stands for a GPU: it has shapes alone, and torch's rule that operations mix no devices."""
    sinks = torch.ones(3, 1, 5, dtype=torch.bool)
    with torch.device("meta"):
        tensors = [torch.ones(1, heads, 5, 4) for heads in (4, 2, 2)]
        image, place = torch.ones(1, 5, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    call = AttentionCall(*tensors, None, 0.5)
    found = MODES[mode].change(ChosenHeads(place, place, 5, image, sinks[1].to(image.device) & image, call))
    assert found.shape == (2, 5, 4) and found.is_meta
