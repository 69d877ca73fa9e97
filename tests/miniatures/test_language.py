"""The closed vocabulary and its tokenizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualheads.miniatures import language
from visualheads.tasks import task


def test_tokenizer_agrees_with_the_training_encoder_and_knows_every_prompt():

    tokenizer = language.build_tokenizer()
    unknown = tokenizer.unk_token_id
    forms = [("looktwice", "free"), ("looktwice", "letters"), ("pope", "free")]
    for name, form in (*forms, ("mmbench", "letters"), ("seedbench", "letters"), ("qbench", "letters")):
        for sample in task(name).samples(format=form, n=20):
            text = f"USER: {sample.question} ASSISTANT:"
            ids = tokenizer(text)["input_ids"]
            assert unknown not in ids
            assert ids == [language.vocabulary()[language.BOS], *language.encode(text)]
    with pytest.raises(KeyError):
        language.encode("quixotic")
    assert unknown in tokenizer("quixotic")["input_ids"]


@given(st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=1, max_size=5))
def test_words_told_together_embed_as_their_sum(places):
    table = torch.nn.Embedding(len(language.vocabulary()), 3)
    ids = torch.tensor([[language.join_ids(place) for place in places]])
    expected = torch.stack([table.weight[place].sum(0) for place in places])
    assert torch.allclose(language.embed(table, ids)[0], expected, atol=1e-5)
