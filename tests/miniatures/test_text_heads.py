"""Heads of a text-only model on lists in words: the rows are the model's own, the places are those of the words."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualheads.errors import CheckpointError, ParameterError
from visualheads.miniatures import language
from visualheads.miniatures.text_heads import STORE, list_questions, text_heads, trace_lists
from visualheads.store.read import open_store


def tiny(attention: str = "sdpa", kv_heads: int = 2):
    """A random Llama of two layers over the miniatures' vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(language.vocabulary()), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=kv_heads, pad_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_asked_places_hold_the_asked_word_and_only_they(seed: int) -> None:
    (question,) = list_questions(1, seed=seed)
    token = language.vocabulary()[question.name]
    *listed, named = [place for place, index in enumerate(question.ids) if index == token]
    assert listed == list(question.asked) and named > max(question.others, default=0), "the question names it last"
    assert question.answer == str(len(question.asked))
    assert question.ids[-1] == language.vocabulary()[language.ASSISTANT]


def test_a_checkpoint_with_other_ids_reads_the_same_words() -> None:
    other = {word: index + 3 for word, index in language.vocabulary().items()}
    (here,), (there,) = list_questions(1, seed=1), list_questions(1, seed=1, vocabulary=other)
    assert there.ids == tuple(index + 3 for index in here.ids)
    assert (there.asked, there.answer) == (here.asked, here.answer)


def test_rows_are_those_of_eager_attention() -> None:
    questions = list_questions(3, fillers=8)
    ds = trace_lists(tiny(), questions, "tiny")
    eager = tiny("eager")
    for index, question in enumerate(questions):
        with torch.no_grad():
            rows = eager(torch.tensor([question.ids]), output_attentions=True).attentions
        expected = np.array([[row[0, head, -1, list(question.asked)].sum() for head in range(4)] for row in rows])
        np.testing.assert_allclose(ds["asked_weight"].values[0, :, :, index], expected, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint."""
    folder = tmp_path / "tiny-text"
    tiny().save_pretrained(folder)
    language.build_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("before", [0, 5])
def test_a_store_that_was_not_finished_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """A kill before the first numbers are written, whoever writes them."""
    results, store = tmp_path / "results", tmp_path / "results" / "tiny-text" / STORE
    if before:
        text_heads(folder, results, n=before)

    killed = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr("visualheads.store.upkeep.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            text_heads(folder, results, n=4)
    assert store.exists() == bool(before)
    if before:
        assert open_store(store).sizes["sample"] == before
    assert text_heads(folder, results, n=4)["asked_weight"].notnull().all()
    assert [path.name for path in store.parent.iterdir()] == [STORE]


def test_results_are_kept_and_made_anew_for_other_lists(folder: Path, tmp_path: Path) -> None:
    first = text_heads(folder, tmp_path / "results", n=4)
    store = tmp_path / "results" / "tiny-text" / "text-lists.zarr"
    before = (store / "zarr.json").stat().st_mtime_ns
    again = text_heads(folder, tmp_path / "results", n=4)
    np.testing.assert_array_equal(first["asked_weight"], again["asked_weight"])
    assert (store / "zarr.json").stat().st_mtime_ns == before
    assert text_heads(folder, tmp_path / "results", n=5).sizes["sample"] == 5
    fresh = text_heads(folder, tmp_path / "results", n=4, untrained=True)
    assert str(fresh["model"].values[0]) == "tiny-text-untrained"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="n"):
        list_questions(0)
    with pytest.raises(CheckpointError):
        text_heads(tmp_path, tmp_path)
