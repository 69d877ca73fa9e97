"""`vh.look` on small random models of every family: its row is the trace's, whatever the class."""

from __future__ import annotations

import numpy as np
import pytest

import visualheads as vh
from helpers.families import FAMILIES, family
from helpers.networks import samples
from visualheads.explorer.capture import look_at


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_row_that_makes_the_answer_is_the_traces(name: str):
    model = family(name)
    sample = samples(1)[0]
    look = look_at(model, sample, rows=4, max_new_tokens=3)
    ds = vh.trace(model, [sample], query="last_prompt", keep=("attention",), max_new_tokens=3)
    exact = np.nan_to_num(ds.attention.values[0, :, :, 0])
    assert look.attention[0][..., : look.prompt] == pytest.approx(exact[..., : look.prompt], abs=1e-4)
    assert look.attention[0].sum(-1) == pytest.approx(np.ones(look.attention.shape[1:3]), abs=1e-4)
    assert look.token_map is not None and len(look.token_map) == int(look.image.sum())
    assert look.to_json()["rows"][0]["position"] == look.prompt - 1
    effect = vh.look(model, sample, rows=1, max_new_tokens=2, progress=False).looks[0].effects
    assert set(effect) == {"mean", "image_knockout"}
