"""Head lists: ours survive the way to a file and back; others' layouts are read; damage is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visualheads.errors import DiskFullError, HeadError, RecordError, StoreError
from visualheads.heads.lists import export_scores, read_scores

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def ranking_of(values: np.ndarray, model: str = "mini", bounds: bool = False) -> xr.DataArray:
    dims = ("model", "layer", "head", "bound") if bounds else ("model", "layer", "head")
    coords: dict[str, object] = {
        "model": [model],
        "layer": np.arange(values.shape[1]),
        "head": np.arange(values.shape[2]),
    }
    if bounds:
        coords["bound"] = ["lower", "estimate", "upper"]
    return xr.DataArray(values, dims=dims, coords=coords, name="detection")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
@examples
@given(hnp.arrays(float, (1, 3, 4), elements=st.floats(-1e6, 1e6)))
def test_a_ranking_survives_the_file(tmp_path_factory: pytest.TempPathFactory, suffix: str, values: np.ndarray):
    path = tmp_path_factory.mktemp("lists") / f"detection{suffix}"
    ranking = ranking_of(values)
    xr.testing.assert_identical(read_scores(export_scores(ranking, path)), ranking)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_intervals_and_missing_heads_survive(tmp_path: Path, suffix: str):
    values = np.random.default_rng(0).random((1, 3, 4, 3)).cumsum(axis=-1)
    values[0, 1, 2] = np.nan
    ranking = ranking_of(values, bounds=True)
    path = export_scores(ranking, tmp_path / f"detection{suffix}")
    xr.testing.assert_identical(read_scores(path, shape=(3, 4)), ranking)


def test_the_file_lists_the_best_head_first(tmp_path: Path):
    path = export_scores(ranking_of(np.array([[[0.1, 0.9], [0.5, np.nan]]])), tmp_path / "list.json")
    content = json.loads(path.read_text())
    assert [(line["layer"], line["head"]) for line in content["scores"]] == [(0, 1), (1, 0), (0, 0)]
    assert (content["by"], content["model"], content["layers"], content["heads"]) == ("detection", "mini", 2, 2)
    csv = export_scores(ranking_of(np.array([[[0.1, 0.9]]])), tmp_path / "list.csv").read_text()
    assert csv == "model,layer,head,score,lower,upper\nmini,0,1,0.9,,\nmini,0,0,0.1,,\n"


def test_layer_head_layout_is_averaged(tmp_path: Path):
    """SparseMM and Retrieval_Head: one list of scores per "layer-head", on one line."""
    path = tmp_path / "llama-2-7b.json"
    path.write_text('{"0-0": [0.0, 0.5], "16-19": [1.0, 0.9, 0.95], "3-1": [0]}')
    ranking = read_scores(path, shape=(32, 32))
    assert ranking.shape == (1, 32, 32)
    assert float(ranking[0, 16, 19]) == pytest.approx(0.95)
    assert float(ranking[0, 0, 0]) == pytest.approx(0.25)
    assert int(np.isfinite(ranking).sum()) == 3
    assert ranking.model.values.tolist() == ["llama-2-7b"]
    assert read_scores(path).shape == (1, 17, 20)


def test_ranked_list_layout(tmp_path: Path):
    """gaze-heads: a list of layer, head, score."""
    path = tmp_path / "gaze_head_ranking.json"
    path.write_text(json.dumps([{"layer": 5, "head": 10, "score": 0.15}, {"layer": 0, "head": 14, "score": 0.09}]))
    ranking = read_scores(path, shape=(36, 32), model="qwen")
    assert float(ranking.sel(model="qwen", layer=5, head=10)) == 0.15
    assert ranking.name == "gaze_head_ranking"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"0-0": [1]', r"line 1: not JSON"),
        ("a.json", '\n\n{"0-0": }', r"line 3: not JSON"),
        ("a.json", "5", "head scores"),
        ("a.json", "[]", "no head in the file"),
        ("a.json", '{"0_0": [1]}', "layer-head"),
        ("a.json", '{"0-0": []}', "no score"),
        ("a.json", '{"0-0": ["high"]}', "finite number"),
        ("a.json", '{"0-0": [NaN]}', "finite number"),
        ("a.json", '[{"layer": 0, "head": 0}]', "layer, head and score"),
        ("a.json", '[{"layer": -1, "head": 0, "score": 1}]', "whole number"),
        ("a.json", '[{"layer": 1.5, "head": 0, "score": 1}]', "whole number"),
        ("a.json", '[{"layer": 0, "head": 99999999, "score": 1}]', "whole number"),
        ("a.json", '{"format": "visualheads-head-scores", "version": 9, "scores": []}', "version"),
        ("a.csv", "layer,score\n0,1\n", "columns"),
        ("a.csv", "layer,head,score\n0,0,1\n0,x,1\n", "line 3"),
        ("a.csv", "layer,head,score\n0,0,nan\n", "finite number"),
        ("a.csv", "model,layer,head,score\na,0,0,1\nb,0,1,1\n", "one model"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, message: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as error:
        read_scores(path)
    assert str(path) in str(error.value)


SETS = {
    "qrhead.yaml": 'attn_head_set: "1-2,0-3" # two heads\nmodel_base_class: "Llama"\n',
    "set.yml": "attn_head_set: 1-2,0-3\n",
    "set.txt": "1-2, 0-3\n",
    "lines.txt": "1-2\n0-3\n",
    "plain.json": "1-2,0-3",
    "texts.json": '["1-2", "0-3"]',
    "pairs.json": "[[1, 2], [0, 3]]",
}


@pytest.mark.parametrize("name", SETS)
def test_sets_without_scores(tmp_path: Path, name: str):
    (tmp_path / name).write_text(SETS[name])
    ranking = read_scores(tmp_path / name, shape=(2, 5))
    assert ranking.dims == ("model", "layer", "head")
    expected = np.zeros((2, 5))
    expected[1, 2] = expected[0, 3] = 1
    np.testing.assert_array_equal(ranking.isel(model=0).values, expected)
    with pytest.raises(HeadError, match="2 × 4"):
        read_scores(tmp_path / name, shape=(1, 4))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "heads: [1, 2]", "attn_head_set"),
        ("a.yaml", "attn_head_set: [1-2", "not YAML"),
        ("a.yaml", "- 3", "attn_head_set"),
        ("a.txt", "1-2,3", "'layer-head'"),
        ("a.txt", "1-2,3-99999", "99999"),
        ("a.txt", "", "no head"),
        ("a.json", "[[1, 2, 3]]", "'layer-head'"),
        ("a.json", '[["1", "2"]]', "layer"),
        ("a.json", '["1-2", "1-2"]', "listed twice"),
        ("a.json", "9" * 5000, "not a head list"),
        ("a.json", "[" * 100000, "not a head list"),
    ],
)
def test_sets_that_cannot_be_read_are_named(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises((RecordError, HeadError), match=message):
        read_scores(tmp_path / name)


def test_missing_and_binary_files(tmp_path: Path):
    with pytest.raises(RecordError, match="existing file"):
        read_scores(tmp_path / "none.json")
    (tmp_path / "weights.json").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(RecordError, match="UTF-8"):
        read_scores(tmp_path / "weights.json")


def test_lists_of_another_model_are_refused(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('{"31-31": [1]}')
    with pytest.raises(HeadError, match="use a list of the same model"):
        read_scores(path, shape=(8, 8))
    path.write_text('[{"layer": 0, "head": 0, "score": 1}, {"layer": 0, "head": 0, "score": 2}]')
    with pytest.raises(HeadError, match="listed twice"):
        read_scores(path)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str):
    path = export_scores(ranking_of(np.ones((1, 2, 2))), tmp_path / "new" / f"list{suffix}")
    before = path.read_bytes()

    def full(file: Path, raw: bytes) -> None:
        with file.open("wb") as opened:
            opened.write(raw[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFullError, match="no space left"):
            export_scores(ranking_of(np.zeros((1, 2, 2))), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        export_scores(ranking_of(np.ones((1, 2, 2))), tmp_path / "file" / f"list{suffix}")


def test_only_one_model_is_exported(tmp_path: Path):
    with pytest.raises(HeadError, match="one model"):
        export_scores(xr.concat([ranking_of(np.ones((1, 2, 2)), name) for name in "ab"], "model"), tmp_path / "a.json")
    with pytest.raises(HeadError, match=r"\.json, \.csv"):
        export_scores(ranking_of(np.ones((1, 2, 2))), tmp_path / "a.txt")
