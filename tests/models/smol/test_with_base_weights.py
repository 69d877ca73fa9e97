"""The joined models themselves: they need the base weights (`visualheads weights smol`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visualheads as vh
from helpers.project import ROOT
from visualheads.cards import learned_file
from visualheads.miniatures.smol.evaluation import answered, perplexity
from visualheads.miniatures.smol.packing import ASK, as_pixels, prefix_ids
from visualheads.models.loading import untrained
from visualheads.models.smol.architecture import IMAGE_TOKENS
from visualheads.models.smol.base_weights import base_folder, is_prepared
from visualheads.models.smol.joined_model import export
from visualheads.store.schema import assert_valid
from visualheads.studies.stored_model import StoredModel

NAME = "smol-frozen"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not is_prepared(base_folder()) or not learned_file(NAME).is_file(),
        reason="needs the base weights: visualheads weights smol",
    ),
]
SCENES = ROOT / "data" / "smol" / "scenes"


@pytest.fixture(scope="module")
def model():
    return vh.load(NAME)


@pytest.fixture(scope="module")
def samples():
    return vh.task("looktwice", data=SCENES).samples(condition="visual-object", format="free", n=3)


def test_prompts_and_pictures_are_those_of_training(model, samples):
    encoding = model.encode(samples[:1])
    told = model.tokenizer(samples[0].question + ASK).input_ids
    assert encoding["input_ids"][0].tolist() == [*prefix_ids(model.tokenizer, IMAGE_TOKENS), *told]
    torch.testing.assert_close(encoding["pixel_values"][0], as_pixels(samples[0].open()))


def test_it_is_traced_like_any_other_model(model, samples):
    assert model.shape == (30, 9, 3) and model.dtype == torch.float32
    found = vh.trace(model, samples, query="last_prompt", progress=False)
    assert_valid(found)
    assert (found.n_image_tokens == IMAGE_TOKENS).all()
    right = answered(model.module, model.tokenizer, samples)
    assert [right[sample.id] for sample in samples] == found.correct.values[0].astype(bool).tolist()


def test_a_trace_made_anew_agrees_with_what_is_shipped(monkeypatch):
    monkeypatch.setattr("visualheads.studies.shipped.full_folder", lambda: ROOT / "data" / "full")
    shipped = StoredModel("smol-1.5").traces
    shipped = shipped.isel(sample=shipped["format"].values == "free").isel(sample=slice(0, None, 24))
    wanted = dict.fromkeys(shipped["sample"].values.astype(str))
    asked = {sample.id: sample for sample in vh.task("looktwice", data=SCENES).samples(format="free")}
    found = vh.trace(vh.load("smol-1.5"), [asked[name] for name in wanted], query="last_prompt", progress=False)
    assert found["prediction"].values.tolist() == shipped["prediction"].values.tolist()
    assert found["correct"].values.tolist() == shipped["correct"].values.tolist()
    for measure in ("image_weight", "region_weight", "concentration"):
        ours, theirs = found[measure].values, shipped[measure].sel(query="last_prompt").values
        np.testing.assert_allclose(ours, theirs, rtol=0.08, atol=2e-3, err_msg=measure)  # three bits are shipped


def test_an_exported_folder_computes_the_same(model, samples, tmp_path):
    again = vh.load(export(NAME, tmp_path / "folder"))
    encoding = model.encode(samples[:1])
    with torch.no_grad():
        ours, theirs = (one.module(**encoding).logits for one in (model, again))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_only_the_projector_of_the_untrained_control_differs(model):
    fresh = untrained(model, seed=1)
    assert fresh.module.model.language_model is model.module.model.language_model
    ours, theirs = (one.module.model.multi_modal_projector.linear_1.weight for one in (model, fresh))
    assert not torch.equal(ours, theirs)
    assert fresh.identity["weights"] != model.identity["weights"]


def test_the_language_model_still_reads_english(model):
    text = (ROOT / "data" / "smol" / "text.md").read_text(encoding="utf-8")
    found = perplexity(model.module.model.language_model, model.module.lm_head, model.tokenizer, text)
    assert np.isfinite(found) and 5 < found < 60
