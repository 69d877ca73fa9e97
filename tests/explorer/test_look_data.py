"""A look as arrays, as JSON, as a Dataset, and several of them in a page or a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from helpers.looks import made_look
from visualheads import HeadError, ParameterError
from visualheads.explorer import Explorer
from visualheads.explorer.look_data import FORMAT, VERSION, asked_lift, choose_first, unpack
from visualheads.explorer.page import STATIC, add_model, fragment, index_of, page, read_look, write_folder

DOCUMENT = STATIC.with_name("FORMAT.md")


def keys_of(value: object) -> set[str]:
    """Every key of a JSON value that is not a name of something (a measure, a mode, a token)."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("measures", "effects", "texts", "provenance"):
                found |= {key} | keys_of(inner)
            else:
                found |= {key} | (keys_of(next(iter(inner.values()))) if inner else set())
    elif isinstance(value, list):
        for inner in value[:1]:
            found |= keys_of(inner)
    return found


def test_every_key_is_documented():
    words = set(re.findall(r"`(\w+)`", DOCUMENT.read_text())) | set(re.findall(r'"(\w+)"', DOCUMENT.read_text()))
    told = json.loads(json.dumps(made_look(sinks=True, tiles=(2, 2)).to_json(), allow_nan=False))
    assert keys_of(told) <= words, keys_of(told) - words
    assert keys_of(index_of([made_look(), made_look(sample="b")])) <= words
    assert f'"{FORMAT}"' in DOCUMENT.read_text() and f"version {VERSION}" in DOCUMENT.read_text()


def test_the_same_look_is_the_same_text():
    assert made_look().row_json(0) == made_look().row_json(0)


def test_the_first_head_looks_most_at_the_asked_region():
    look = made_look()
    assert look.gaze.shape == (4, 6)
    layer, head = look.first_head
    assert look.gaze[layer, head] == look.gaze.max()
    assert look.to_json()["first_head"] == layer * 6 + head


def test_looks_of_one_model_begin_with_the_head_that_looks_most_over_them():
    looks = [made_look(), made_look(sample="b", seed=1), made_look(sample="c", seed=2)]
    choose_first(looks)
    means = np.mean([look.gaze for look in looks], axis=0)
    assert {look.first_head for look in looks} == {divmod(int(means.argmax()), 6)}


def test_the_lift_of_the_first_head_is_that_of_its_attention(tmp_path: Path):
    look = made_look()
    told = read_look(write_folder([look], tmp_path)[1])
    weights, asked = look.attention[0][look.first_head][look.image], look.token_map.in_box(look.sample["box"])
    exact = weights[asked].sum() / weights[look.token_map.is_patch].sum() / asked.sum() * look.token_map.is_patch.sum()
    assert asked_lift(told) == pytest.approx(exact, rel=0.1)  # codes have four bits


def test_text_keys_come_before_the_query():
    look = made_look(rows=4)
    for index, row in enumerate(look.rows):
        assert unpack(look.row_json(index)["keys"]["positions"]).max() <= row.position


def test_newlines_have_no_column():
    told = made_look(tiles=(2, 2)).to_json()["token_map"]
    assert told["kind"].count("n") == 12
    columns = unpack(told["column"])
    assert (columns == 0).sum() == 12


def test_dataset_and_file(tmp_path: Path):
    explorer = Explorer([made_look()])
    ds = explorer.to_dataset()
    assert ds.attention.dims == ("model", "sample", "query", "layer", "head", "key")
    assert ds.attention.sum("key").values == pytest.approx(np.ones((1, 1, 3, 4, 6)), abs=1e-5)
    with xr.open_dataset(explorer.save_data(tmp_path / "look.nc"), engine="scipy") as stored:
        assert stored.attention.values == pytest.approx(ds.attention.values)
        assert str(stored.query_label.values[0]) == "the last prompt token"
    with pytest.raises(ParameterError, match="looks"):
        Explorer([made_look(), made_look(sample="b")]).to_dataset()
    with pytest.raises(ParameterError, match="at least one"):
        Explorer([])


def test_pages_hold_everything_and_name_no_address():
    text = page([made_look()])
    assert not re.search(r'(src|href)="?(https?:)?//', text)
    assert "https://" not in text
    assert text.count("<script") == 3
    hostile = made_look()
    hostile.sample["question"] = "</script><img src=x onerror=alert(1)>"
    assert "<img" not in page([hostile])


def test_heads_of_a_page_must_be_there(tmp_path: Path):
    explorer = Explorer([made_look()])
    assert 'data-heads="L3H5"' in explorer.page(heads="L3H5")
    for wrong in ("L4H0", "L0H6", "3.5"):
        with pytest.raises(HeadError, match="L0H0 to L3H5"):
            explorer.save(tmp_path / "x.html", heads=wrong)


def test_notebooks_show_a_frame_and_explorers_add_up():
    explorer = Explorer([made_look()]) + Explorer([made_look("other")])
    assert [model["name"] for model in index_of(explorer.looks)["models"]] == ["made", "other"]
    assert explorer._repr_html_().startswith("<iframe srcdoc=")
    assert "2 pictures" in repr(explorer)


def test_folders_have_a_script_for_each_look(tmp_path: Path):
    looks = [made_look(sample="a/b"), made_look(sample="a-b"), made_look("other")]
    written = write_folder(looks, tmp_path / "looks")
    assert len(set(written)) == 4 and all(path.exists() for path in written)
    text = written[1].read_text()
    told = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    assert told["sample"]["id"] == "a/b"


def test_a_model_s_looks_join_those_of_another_folder(tmp_path: Path):
    look = made_look("shipped", sample="a")
    write_folder([made_look("unwanted"), look, made_look("shipped", sample="b")], tmp_path / "source")
    (listing, *_) = write_folder([made_look("own")], tmp_path / "looks")
    first = read_look(add_model(tmp_path / "looks", tmp_path / "source", "shipped"))
    text = listing.read_text()
    models = json.loads(text[text.index(",") + 1 : text.rindex(")")])["models"]
    assert [model["name"] for model in models] == ["shipped", "own"]
    assert all((tmp_path / "looks" / sample["file"]).is_file() for model in models for sample in model["samples"])
    assert first["sample"] == look.sample and first["provenance"] == look.provenance
    weights = look.measures["image_weight"][0].reshape(-1)
    np.testing.assert_allclose(first["rows"][0]["measures"]["image_weight"], weights, rtol=1e-3)
    for mode, effect in look.effects.items():
        told = first["effects"][mode]["probability"].reshape(effect.probability.shape)
        np.testing.assert_array_equal(told, effect.probability)


def test_fragments_stand_in_any_page():
    assert fragment([made_look()], {"heads": "L0H0"}).startswith('<div data-explorer data-heads="L0H0">')
