"""The pages about steering and sinks: their experiments in small, tables against hand-made truth, and their cells."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc
import xarray as xr

from helpers.cells import displayed
from helpers.model_datasets import model_dataset, stored
from helpers.networks import samples, wrapped
from visualheads import charts
from visualheads.analysis import sinks as sink_tables
from visualheads.analysis import steering
from visualheads.analysis import steering as steering_tables
from visualheads.analysis.models import _checkpoint_config
from visualheads.cards import miniature_folder
from visualheads.charts import display
from visualheads.errors import ModeError, ParameterError, SampleError
from visualheads.interventions import ablate, head_sets, sweeps
from visualheads.store import upkeep
from visualheads.studies import sinks as sink_finding
from visualheads.studies import sinks as sink_study
from visualheads.studies import steering as steered
from visualheads.studies.steering import candidates, ground
from visualheads.tracing.trace import trace

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"progress": False, "max_new_tokens": 1}
BOXES = {"car": [(8.0, 8.0, 22.0, 20.0)], "dog": [(2.0, 30.0, 12.0, 40.0), (14.0, 40.0, 20.0, 45.0)]}


def scenes(count: int = 2) -> list[Any]:
    return samples(count, boxes=BOXES)


def test_names_are_asked_of_every_kind_and_marked_ones_can_be_left_out() -> None:
    found = candidates(scenes(1), "name")
    assert [one.answer for one in found] == ["car", "dog"] and found[0].task == "toy-names"
    assert all("in the rectangle" in one.question for one in found)
    assert [one.answer for one in candidates(scenes(1), others=True)] == ["2"], "the box marks the car"
    assert steering.targets(scenes(1)[0]) == BOXES["car"] and steering.kind_of_box(samples(1)[0]) is None
    with pytest.raises(ParameterError, match="ask"):
        candidates(scenes(1), "colour")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SampleError, match="two kinds"):
        candidates(samples(1, boxes={"car": BOXES["car"]}), "name")
    with pytest.raises(SampleError):
        candidates(samples(1, boxes={"car": BOXES["car"], "bus": []}), "name")


def test_named_tokens_are_hidden_as_steering_away_hides_them() -> None:
    """A box that holds exactly these tokens, steered away from with a huge bias, is the same."""
    model, asked = wrapped("llava"), scenes(2)
    box = (8.0, 12.0, 40.0, 40.0)
    marks = {one.id: np.flatnonzero(model.token_map(one.open().size).in_box(box)).tolist() for one in asked}
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    hidden = ablate(model, asked, heads, "sink_removal", "after_image", tokens=marks, **QUIET)
    steer = sweeps.sweep(model, asked, [heads], "steer", "after_image", bias=-1e4, box=box, **QUIET).isel(set=0)
    np.testing.assert_allclose(hidden.kl, steer.kl, atol=1e-5)
    assert float(hidden.kl.min()) > 1e-7
    nothing = ablate(model, asked, heads, "sink_redistribution", tokens={}, **QUIET)
    assert float(nothing.kl.max()) < 1e-6, "no token, nothing changed"
    with pytest.raises(ParameterError, match="tokens"):
        ablate(model, asked, heads, "sink_removal", tokens={asked[0].id: [99]}, **QUIET)
    with pytest.raises(ParameterError, match="tokens"):
        ablate(model, asked, heads, "zero", tokens=marks, **QUIET)
    with pytest.raises(ModeError, match="tokens="):
        ablate(model, asked, heads, "sink_removal", **QUIET)


def test_several_rankings_are_grounded_in_one_pass() -> None:
    model, asked = wrapped("llava"), scenes(2)
    rng = np.random.default_rng(1)
    rankings = {name: xr.DataArray(rng.random((3, 4)), dims=("layer", "head")) for name in "ab"}
    found = ground(model, asked, rankings, most=2, **QUIET)
    alone = ground(model, asked, {"b": rankings["b"]}, most=2, rules=["gaussian"], **QUIET).isel(ranking=0, rule=0)
    np.testing.assert_allclose(found.iou.sel(ranking="b", rule="gaussian"), alone.iou, atol=1e-6)
    np.testing.assert_array_equal(found.hit.sel(ranking="b", rule="gaussian"), alone.hit)
    width, height = asked[0].open().size
    assert found.whole_iou[0, 0].item() == pytest.approx(14 * 12 / (width * height))
    assert found["map"].isel(sample=0, ranking=0).sum().item() == pytest.approx(2, abs=1e-4), "two heads, each 1"
    np.testing.assert_array_equal(steering.even_cells((20, 10), (2, 2))[1, 0], [0, 5, 10, 10])


def sink_model_traces(model: Any) -> xr.Dataset:
    return model_dataset(model.name, pattern=np.random.default_rng(0).random(model.shape[:2]))


def test_sink_dimensions_are_counted_beside_the_highest_activations() -> None:
    def dataset(known: str) -> xr.Dataset:
        highest = zip(sink_tables.OUTLIERS, (0.55, 1.7, 0.6), strict=True)
        values = {name: ("state", [0.2, value]) for name, value in highest}
        return xr.Dataset({**values, "sink_dimensions": ("model", np.array([known], dtype=object))})

    table = sink_tables.dimension_table({"a": dataset("7, 19"), "b": dataset("")}).set_index("model")
    assert table["dimensions"].to_dict() == {"a": 2, "b": 0} and table.loc["a", "names"] == "7, 19"
    assert table.loc["b", "both on one token"] == 0.55 and table.loc["b", "strength"] == 1.7


def test_both_criteria_are_held_against_one_token() -> None:
    model, asked = wrapped("llava"), scenes(2)
    found = sink_finding.find(model, asked).isel(model=0)
    highest = np.zeros((2, *(found.sizes[dim] for dim in ("part", "state", "outlier_dimension"))))
    chosen = found["outlier_dimension"].values
    for sample in asked:
        encoding = model.encode([sample])
        image = (encoding["input_ids"][0] == model.image_token_id).numpy()
        states = model.module(**encoding, output_hidden_states=True).hidden_states[:-1]
        for state, hidden in enumerate(states):
            size = np.abs(hidden[0].detach().double().numpy())
            strength = size / np.sqrt((size**2).mean(1, keepdims=True)) / (20 * np.sqrt(size.shape[1] / 4096))
            median = np.sort(size, axis=1)[:, [(size.shape[1] - 1) // 2]]
            lesser = np.minimum(strength, size / median / 20)
            for part, where in enumerate((image, ~image)):
                highest[0, part, state] = np.maximum(highest[0, part, state], lesser[where].max(0)[chosen])
                highest[1, part, state] = np.maximum(highest[1, part, state], strength[where].max(0)[chosen])
    np.testing.assert_allclose(found["both"], highest[0], rtol=1e-4)
    np.testing.assert_allclose(found["outlier"], highest[1], rtol=1e-4)
    assert bool((found["both"] <= np.minimum(found["outlier"], found["ratio"])).all())


def test_random_tokens_are_drawn_anew_for_every_picture_and_draw() -> None:
    sinks, allowed = np.arange(64) < 3, np.ones(64, bool)
    drawn = {
        (draw, picture): sink_finding.others(sinks, allowed, draw, picture) for draw in range(4) for picture in range(9)
    }
    assert all(len(set(found)) == 3 and min(found) >= 3 for found in drawn.values())
    assert len({tuple(found) for found in drawn.values()}) == len(drawn), "none is like another"
    np.testing.assert_array_equal(drawn[2, 5], sink_finding.others(sinks, allowed, 2, 5))
    assert sink_finding.others(sinks, np.arange(64) < 4, 0, 0).tolist() == [3], "as far as there are enough"


def test_no_two_pictures_of_a_study_share_their_random_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pictures than are in memory at a time; their random tokens do not begin again."""
    drawn, original = [], sink_finding.others
    monkeypatch.setattr(sink_finding, "CHUNK", 2)
    monkeypatch.setattr(sink_finding, "others", lambda *given: drawn.append(given[2:]) or original(*given))
    sink_finding.find(wrapped("llava"), scenes(5), seed=3)
    assert drawn == [(3, place) for place in range(5)]


def test_removal_draws_tokens_of_every_picture_with_a_sink_at_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = wrapped("llava"), scenes(3)
    found = sink_finding.find(model, asked)
    found["sink"][{"sample": 0}] = False
    seen, swept, sweep = [], [], sink_study.sweep
    original = sink_finding.others
    monkeypatch.setattr(sink_study, "others", lambda *given: seen.append(given) or original(*given))
    monkeypatch.setattr(
        sink_study, "sweep", lambda *given, **named: swept.append(named["tokens"]) or sweep(*given, **named)
    )
    sink_study.removal(model, asked, found, sink_model_traces(model), sink_study.Size(questions=3, seeds=2))
    assert [given[2:] for given in seen] == [(draw, place) for draw in (0, 1, 0, 1) for place in (1, 2)]
    random, background = found["patch"].values[0].astype(bool), found["background"].values[0].astype(bool)
    for allowed, tokens in zip((random, random, background, background), swept[1:5], strict=True):
        for place in (1, 2):
            chosen = tokens[asked[place].id]
            assert len(chosen) == int(found["sink"].values[0, place].sum())
            assert allowed[place, chosen].all() and not found["sink"].values[0, place, chosen].any()


def test_the_background_that_draws_most_stands_for_sinks() -> None:
    model, asked = wrapped("llava"), scenes(2)
    found = sink_finding.find(model, asked)
    assert str(found["definition"].values[0]) == sink_finding.BY_ATTENTION
    one = found.isel(model=0, sample=0)
    inside = np.any(
        [model.token_map(asked[0].open().size).in_box(box) for box in chain.from_iterable(BOXES.values())], axis=0
    )
    np.testing.assert_array_equal(one.background.values, ~inside)
    [marked] = np.flatnonzero(one.sink.values)
    assert one.drawn.values[marked] == pytest.approx(one.drawn.values[~inside].max())
    assert one.drawn.mean().item() == pytest.approx(1, abs=1e-4), "even shares are 1"
    assert bool((found.sink_share >= 0).all()) and bool((found.concentration_no_sink <= 1).all())
    assert found.sink_share.dims == ("model", "query", "layer", "head", "sample")
    told = trace(model, asked, query=found["query"].values.tolist(), progress=False)
    np.testing.assert_allclose(
        found["concentration"], told["concentration"].transpose(*found.sink_share.dims), atol=1e-6
    )
    size = sink_study.Size(questions=2, seeds=1)
    removed = sink_study.removal(model, asked, found, sink_model_traces(model), size)
    assert removed["kl"].dims == ("model", "mode", "tokens", "set", "sample")
    assert removed["tokens"].values.tolist() == ["sinks", "random 0", "background 0"]
    told = {asked[0].id: [int(marked)], asked[1].id: np.flatnonzero(found.sink.values[0, 1]).tolist()}
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    alone = ablate(model, asked, heads, "sink_redistribution", size.positions, tokens=told, progress=False)
    np.testing.assert_allclose(
        removed.kl.isel(set=0).sel(mode="sink_redistribution", tokens="sinks"), alone.kl, atol=1e-6
    )
    table = sink_tables.removal_table({"m": removed})
    assert set(table["tokens"]) == set(sink_tables.TOKENS.values()) and len(table) == 2 * 2 * 2 * 3
    assert set(table["positions"]) == {size.positions}
    none = found.assign(sink=found["sink"] & False)
    empty = sink_study.removal(model, asked, none, sink_model_traces(model), size)
    assert empty.sizes["sample"] == 0 and sink_tables.removal_table({"m": empty}).empty


def test_massive_dimensions_mark_the_tokens_where_a_model_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = wrapped("llava"), scenes(1)
    monkeypatch.setitem(model.__dict__, "sink_dimensions", tuple(range(32)))
    found = sink_finding.find(model, asked)
    assert str(found["definition"].values[0]) == sink_finding.MASSIVE
    highest = found["outlier"].sel(part="image tokens").max().item()
    assert bool(found["sink"].any()) == (highest > 1)


def steered_dataset(gain: float) -> xr.Dataset:
    """Twelve pictures; the top head moves the answers of a share `gain` of them, random heads of none."""
    sets = head_sets.protocol_sets(
        {"gaze": xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("layer", "head"))}, [1], ("all",), 2, bottom=False
    )
    moved = (np.arange(12) < gain * 12).astype(float)
    answers = np.stack([moved if order == "top" else 0 * moved for order in sets["order"].values])[None, None]
    coords = {name: ("set", values.values) for name, values in sets.coords.items() if values.dims == ("set",)}
    return xr.Dataset(
        {
            "correct": (("model", "bias", "set", "sample"), answers),
            "margin": (("model", "bias", "set", "sample"), 2 * answers),
            "clean_correct": (("model", "sample"), np.zeros((1, 12))),
            "clean_margin": (("model", "sample"), np.zeros((1, 12))),
        },
        {**coords, "model": ["m"], "bias": [4.0], "sample": [str(i) for i in range(12)],
         "image_id": ("sample", [str(i) for i in range(12)]),
         "condition": ("sample", np.array(["name, nothing marked"] * 12, dtype=object)),
         "positions": ("model", ["after_image"])},
    )  # fmt: skip


def test_a_planted_move_is_found_beyond_random_heads() -> None:
    table = steering_tables.steer_table({"m": steered_dataset(0.75)})
    top = table[(table["order"] == "top") & (table["measure"] == "accuracy")].iloc[0]
    assert top["estimate"] == pytest.approx(0.75) and top["excess"] == pytest.approx(0.75) and top["excess_lower"] > 0
    random = table[(table["order"] == "random") & (table["measure"] == "margin")].iloc[0]
    assert random["estimate"] == 0 and random["sets"] == 2 and np.isnan(random["excess"])
    chart = display.spec_of(charts.steered_answers(table))
    assert "top: 0.75" in chart["description"]


def test_nothing_run_is_said_in_words() -> None:
    empty = pd.DataFrame()
    for chart in (charts.steered_answers, charts.outliers, charts.sink_heads):
        assert len(display.spec_of(chart(empty))["description"]) > 20
    assert charts.examples({}, None, {}) and charts.marked_examples({}, {})


def test_what_is_kept_is_used_until_its_identity_changes(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> xr.Dataset:
        made.append(1)
        labels = np.array(["a", "b"], dtype=object)
        return xr.Dataset(
            {"x": ("sample", np.array([1.0, np.nan], np.float32)), "marked": ("sample", np.array([True, False]))},
            {"sample": labels, "task": ("sample", labels)},
        )

    path = tmp_path / "m" / "looktwice-x.zarr"
    first = upkeep.kept(path, "x", {"weights": "1", "size": (1, 2)}, make)
    again = upkeep.kept(path, "x", {"weights": "1", "size": [1, 2]}, make)
    xr.testing.assert_identical(first, again)
    xr.testing.assert_equal(first, make())
    assert "task" in first.coords and len(made) == 2
    upkeep.kept(path, "x", {"weights": "2", "size": (1, 2)}, make)
    assert len(made) == 3 and [one.name for one in path.parent.iterdir()] == [path.name]
    with pytest.raises(ParameterError, match=r"\.zarr"):
        upkeep.kept(tmp_path / "x.nc", "x", {}, make)


SMALL = {
    "rankings": {"questions": 2, "scenes": 1, "counts": (20,), "seeds": 1, "most": 2},
    "sinks": {"questions": 2, "seeds": 1},
}


@pytest.mark.long
def test_the_pages_run_on_a_shipped_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mini-1.5-7B"
    if not (miniature_folder(name) / "config.json").is_file():
        pytest.skip("the miniature is not there")
    config = _checkpoint_config(name)["text_config"]
    shape = (config["num_hidden_layers"], config["num_attention_heads"])
    traces = model_dataset(name, pattern=np.random.default_rng(0).random(shape))
    stored(tmp_path, traces)
    kept: list[Any] = []
    monkeypatch.setattr(charts, "show", kept.append)
    words = displayed(monkeypatch)
    for module, slug in ((steered, "rankings"), (sink_study, "sinks")):
        run, size = module.studied, module.Size(**SMALL[slug])

        def small(names: Any, results: Any, ds: xr.Dataset, small: bool, run: Any = run, size: Any = size) -> Any:
            return run(names, results, ds, size, small)

        monkeypatch.setattr(module, "studied", small)
        space: dict[str, Any] = {}
        for cell in nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, space)
            if "parameters" in cell.metadata.get("tags", ()):
                space.update(results=str(tmp_path), small=True)
    shown = [display.spec_of(one) for one in kept if not isinstance(one, str)]
    assert len(shown) == 7 and all(len(spec["description"]) > 40 for spec in shown)
    for spec in shown:
        svg = vlc.vegalite_to_svg(spec, vl_version=display.VEGA_LITE)
        width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
        assert width is not None and float(width[1]) <= 688, spec["description"]
    assert len(words) > 4 and not [one for one in words if re.search(r"\bnan\b", one)]
    stores = sorted(path.name for path in (tmp_path / name).glob("*-*.zarr"))
    assert stores == [f"looktwice-{kind}.zarr" for kind in ("grounding", "sink-removal", "sinks", "steering")]
