"""`vh.look` on a shipped model: its numbers are those of `vh.trace` and `vh.ablate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import visualheads as vh
from helpers.project import ROOT
from visualheads.explorer.answers import LABELS, REFERENCE_CONDITION, REFERENCE_SAMPLES, REFERENCE_TASK, white
from visualheads.explorer.capture import _known_map, look_at

PICTURE = ROOT / "data" / "scenes" / "looktwice" / "images" / "335.jpg"


@pytest.fixture(scope="module")
def model() -> vh.VisionLanguageModel:
    return vh.load("mini-1.5-7B")


@pytest.fixture(scope="module")
def samples() -> list[vh.Sample]:
    return vh.task("looktwice").samples(condition="visual-object", n=2)


@pytest.fixture(scope="module")
def explorer(model, samples):
    return vh.look(model, samples, effects="all", progress=False)


def test_rows_are_those_of_a_trace(model, samples, explorer):
    ds = vh.trace(model, samples[:1], query=("last_prompt", "first_generated"), keep=("attention",))
    look = explorer.looks[0]
    assert look.rows[0].position == look.prompt - 1
    traced = ds.attention.sel(query="last_prompt").values[0, :, :, 0]
    assert look.attention[0][..., : look.prompt] == pytest.approx(traced[..., : look.prompt], abs=1e-5)
    generated = next(index for index, row in enumerate(look.rows) if row.position == look.prompt)
    traced = ds.attention.sel(query="first_generated").values[0, :, :, 0]
    assert look.attention[generated][..., : look.prompt + 1] == pytest.approx(traced[..., : look.prompt + 1], abs=1e-5)
    for name in ("image_weight", "image_log_odds", "concentration"):
        exact = ds[name].sel(query="last_prompt").values[0, :, :, 0]
        assert look.measures[name][0] == pytest.approx(exact, abs=1e-4), name
    assert look.answers.text == str(ds.prediction.values[0, 0])


def test_the_white_picture_has_the_same_prompt_and_answer(model, samples, explorer):
    look = explorer.looks[0]
    ds = vh.trace(model, [white(samples[0])], query="last_prompt")
    change = look.measures["image_weight"][0] - ds.image_weight.values[0, :, :, 0]
    assert look.measures["white_change"][0] == pytest.approx(change, abs=1e-4)


@pytest.mark.parametrize("mode", ["mean", "image_knockout"])
def test_effects_are_those_of_ablation(model, samples, explorer, mode):
    look = explorer.looks[0]
    layer, head = look.first_head
    reference = None
    if mode == "mean":
        shipped = vh.task(REFERENCE_TASK).samples(condition=REFERENCE_CONDITION, n=REFERENCE_SAMPLES)
        reference = vh.mean_reference(model, shipped, max_new_tokens=1)
    done = vh.ablate(model, samples[:1], [(layer, head)], mode=mode, reference=reference)
    effect = look.effects[mode]
    assert np.isfinite(effect.probability).all(), "all heads were tried"
    first = effect.texts[int(effect.first[layer, head])].strip()
    assert str(done.prediction.values[0, 0]).startswith(first)
    before = np.array([p for _, _, p in look.answers.top])
    after = effect.probability[layer, head]
    bound = float((before * np.log(before / after)).sum())
    assert bound == pytest.approx(float(done.kl.values[0, 0]), abs=0.02)


def test_only_asked_rows_are_kept(model, samples):
    look = look_at(model, samples[0], rows=1)
    assert [row.position for row in look.rows] == [look.prompt - 1]
    look = look_at(model, samples[0], rows=[70, look.prompt])
    assert [row.position for row in look.rows] == [70, look.prompt]
    assert [row.kind for row in look.rows] == ["prompt", "generated"]
    with pytest.raises(vh.ParameterError, match="rows"):
        look_at(model, samples[0], rows=[4000])


def test_top_and_no_effects(model, samples):
    assert vh.look(model, samples[:1], rows=1, effects="none", progress=False).looks[0].effects == {}
    effect = vh.look(model, samples[:1], rows=1, progress=False).looks[0].effects["mean"]
    assert np.isfinite(effect.probability[..., 0]).sum() == 24


def test_an_own_model_is_averaged_over_its_white_picture(model, samples, monkeypatch):
    monkeypatch.setattr("visualheads.explorer.answers.is_shipped", lambda _model: False)
    look = vh.look(model, samples[:1], rows=1, progress=False).looks[0]
    assert "white picture" in look.effects["mean"].description


def test_a_picture_and_a_question(model, tmp_path: Path):
    explorer = vh.look(model, PICTURE, "How many apples are there?", rows=2, effects="none", progress=False)
    assert explorer.looks[0].sample["id"] == "335.jpg" and explorer.looks[0].sample["box"] is None
    assert explorer.save(tmp_path / "look.html").stat().st_size < 1e6
    assert explorer.to_dataset().sizes["query"] == 2


@pytest.mark.parametrize(
    ("image", "question", "error", "words"),
    [
        ("nowhere.jpg", "How many?", vh.ImageError, "nowhere.jpg"),
        (PICTURE, " ", vh.SampleError, "question"),
        (PICTURE, None, vh.SampleError, "question"),
        ([], None, vh.SampleError, "at least one"),
    ],
)
def test_bad_input_is_named(model, image, question, error, words):
    with pytest.raises(error, match=words):
        vh.look(model, image, question, progress=False)


def test_broken_pictures_and_settings(model, samples, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(PICTURE.read_bytes()[:400])
    with pytest.raises(vh.ImageError, match=r"broken\.jpg"):
        vh.look(model, tmp_path / "broken.jpg", "How many?", progress=False)
    for settings in ({"effects": "some"}, {"rows": 0}, {"rows": []}, {"rows": [-1]}, {"rows": True}):
        with pytest.raises(vh.ParameterError, match=next(iter(settings))):
            vh.look(model, samples, progress=False, **settings)


def test_an_unknown_layout_is_told(model, samples, monkeypatch):
    assert _known_map(model, (96, 96), 64)[1] == ""
    token_map, note = _known_map(model, (96, 96), 65)
    assert token_map is None and "64 tokens, the prompt 65" in note

    def refuse(_self, _size):
        raise vh.ParameterError("no layout")

    monkeypatch.setattr(type(model), "token_map", refuse)
    token_map, note = _known_map(model, (96, 96), 64)
    assert token_map is None and "no layout" in note


def test_stored_maps_can_be_explored(model, samples):
    ds = vh.trace(model, samples, query=("last_prompt", "first_generated"), keep=("maps",), heads=[(1, 2), (3, 4)])
    explorer = vh.explore(ds, samples, model=model)
    assert len(explorer.looks) == 2
    look = explorer.looks[0]
    assert np.isfinite(look.attention[:, 1, 2]).all() and np.isnan(look.attention[:, 0, 0]).all()
    maps = ds.maps.sel(query="last_prompt").values[0, 0, 0]
    assert look.attention[0, 1, 2].reshape(maps.shape) == pytest.approx(maps)
    assert look.measures["image_weight"].shape == (2, 8, 8)
    others = vh.task("looktwice").samples(condition="plain-object", n=1)
    ds = vh.trace(model, [*samples, *others], query=("first_generated", "last_prompt"), keep=("mean_map",))
    means = vh.explore(ds)
    assert [one.sample["id"] for one in means.looks] == ["visual-object, free", "plain-object, free"]
    assert means.looks[0].rows[0].label == "the last prompt token"
    exact = ds.image_weight.sel(query="last_prompt").values[0, :, :, :2].mean(-1)
    assert means.looks[0].measures["image_weight"][0] == pytest.approx(exact)
    ds = vh.trace(model, samples, query="last_prompt", keep=("maps",), heads=[(1, 2)])
    assert means.looks[0].picture is None and np.isfinite(means.looks[0].attention).all()
    with pytest.raises(vh.ParameterError, match="mean_map"):
        vh.explore(ds.drop_vars("maps"))
    with pytest.raises(vh.ParameterError, match="most"):
        vh.explore(ds, most=0)


def test_a_kernel_answers(explorer):
    ask = {
        "number": 1,
        "sample": explorer.kernel.samples[0].id,
        "heads": [[1, 2], [3, 4]],
        "bias": 4.0,
        "box": [0, 0, 40, 40],
    }
    for mode in LABELS:
        told = explorer.kernel.reply({**ask, "kind": "answer", "mode": mode})
        assert told["number"] == 1 and len(told["result"]["top"]) == 5 and told["result"]["note"]
    row = explorer.kernel.reply({**ask, "kind": "row", "position": 0})["result"]
    assert row["position"] == 0 and row["codes"]["shape"] == [64, 32]
    for wrong in (
        {"mode": "explode"},
        {"heads": [[99, 0]]},
        {"sample": "nobody"},
        {"mode": "steer", "box": [500, 500, 600, 600]},
    ):
        told = explorer.kernel.reply({**ask, "kind": "answer", "mode": "mean", **wrong})
        assert "result" not in told and told["error"]
