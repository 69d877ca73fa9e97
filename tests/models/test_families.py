"""Every further family: prompt, image tokens, capture against its own eager attention, and a whole trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.families import FAMILIES, NEEDS_NUM2WORDS, family
from helpers.networks import picture, samples
from visualheads.errors import UnsupportedModelError
from visualheads.models.wrapper import greedy
from visualheads.store.schema import assert_valid
from visualheads.tracing.forward import run
from visualheads.tracing.trace import trace

# PaliGemma's processor in transformers 5.23 turns tensors into arrays in a way numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZES = [(64, 64), (90, 60), (60, 90), (200, 61), (61, 200), (48, 47)]
QUERIES = ("first_generated", "last_prompt")
NAMES = [pytest.param(name, marks=NEEDS_NUM2WORDS) if name == "smolvlm" else name for name in FAMILIES]


@pytest.mark.parametrize("name", NAMES)
def test_the_processor_makes_as_many_image_tokens_as_the_token_map_has(name):
    model = family(name)
    for size in SIZES:
        asked = samples(1, image=picture(0, *size), box=None)
        (positions,) = model.image_positions(model.encode(asked))
        token_map = model.token_map(size)
        assert len(positions) == len(token_map), size
        boxes = token_map.box[token_map.is_patch & ~np.isnan(token_map.box).any(1)]
        assert boxes.min() >= 0 and (boxes[:, 2:].max(0) <= size).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_equal_eager_attentions_in_a_padded_batch(name):
    model = family(name, "eager")
    encoding = model.encode(samples(2))
    assert not encoding["attention_mask"].all()
    with torch.no_grad(), greedy(model.module, 0):
        out = model.module.generate(**encoding, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)
    for chosen, tolerance in ((model, 1e-5), (family(name), 2e-4)):
        found = run(chosen, encoding, QUERIES, 2).rows
        for query, layers in zip(("last_prompt", "first_generated"), out.attentions, strict=True):
            for ours, theirs in zip(found[query].attention, layers, strict=True):
                held = theirs.shape[-1]
                torch.testing.assert_close(ours[..., -held:], theirs[:, :, -1].float(), atol=tolerance, rtol=0)
                assert not ours[..., :-held].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_trace_is_valid(name):
    model = family(name)
    found = trace(model, samples(3), query=QUERIES, keep=("mean_map",), max_new_tokens=2, progress=False)
    assert_valid(found)
    assert np.isfinite(found.image_weight).all()
    assert found.n_image_tokens.values.tolist() == [[len(model.token_map(s.image.size)) for s in samples(3)]]


def test_paligemma_2_on_sdpa_is_refused():
    from helpers.families import paligemma
    from visualheads.models.loading import wrap

    module, processor = paligemma(2, "eager")
    module.config.get_text_config()._attn_implementation = "sdpa"
    with pytest.raises(UnsupportedModelError, match="eager"):
        wrap(module, processor)
