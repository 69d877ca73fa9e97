"""Sweeps: equal to the naive loop, whatever is shared; stored and resumed; protocols and what they say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.families import family
from helpers.networks import Tiny, llava, samples, wrapped
from visualheads.errors import DeviceMemoryError, HeadError, IdentityMismatch, ParameterError, StoreError
from visualheads.heads.losses import excess_loss, head_effects, losses
from visualheads.heads.ranking import rank
from visualheads.interventions import ablate, head_sets, mean_reference, steer, sweeps
from visualheads.interventions import engine as engine
from visualheads.interventions import text_model as text_model
from visualheads.models import devices
from visualheads.models.loading import wrap
from visualheads.store.combine import joined
from visualheads.store.schema import assert_valid
from visualheads.store.upkeep import pack

QUIET = {"progress": False, "max_new_tokens": 3}
SETS = {"low": [(0, 1), (2, 2)], "middle": [(1, 0)], "late": [(2, 1), (2, 3)], "again": [(1, 0)]}
VARIABLES = ("correct", "margin", "kl", "clean_correct", "clean_margin")


def equal(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in VARIABLES:
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=1e-4, err_msg=name)
    assert found.prediction.values.tolist() == expected.prediction.values.tolist()
    assert found.clean_prediction.values.tolist() == expected.clean_prediction.values.tolist()


@pytest.mark.parametrize("positions", ["all", "after_image"])
@pytest.mark.parametrize("mode", ["zero", "mean", "uniform", "uniform_released", "image_knockout", "boost", "steer"])
def test_a_sweep_equals_the_naive_loop(mode, positions):
    model, asked = wrapped("llava"), samples(5)
    reference = mean_reference(model, asked[:2], max_new_tokens=2) if mode == "mean" else None
    asked = samples(5, box=(14.0, 24.0, 26.0, 40.0))
    boxes = [sample.box for sample in asked] if mode == "steer" else None
    found = sweeps.sweep(model, asked, SETS, mode, positions, reference, box=boxes, batch_tokens=130, **QUIET)
    assert_valid(found)
    assert found["set"].values.tolist() == list(SETS)
    assert found.prediction.dims == ("model", "set", "sample")
    for name, heads in SETS.items():
        among = found.sel(set=name)
        assert sorted(map(list, heads)) == np.argwhere(among.heads.values[0]).tolist()
        if name == "again":
            continue
        if mode == "steer":
            alone = steer(model, asked, heads, boxes, positions=positions, batch_tokens=1, **QUIET)
        else:
            alone = ablate(model, asked, heads, mode, positions, reference, batch_tokens=1, **QUIET)
        equal(among, alone)


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl", "gemma3", "idefics3"])
def test_other_families_share_the_same(name):
    model, asked = family(name), samples(3)
    heads = {"both": [(0, 1), (1, 2)], "late": [(1, 0)]}
    for positions in ("all", "after_image"):
        found = sweeps.sweep(model, asked, heads, "uniform", positions, **QUIET)
        for label, pairs in heads.items():
            for sample in asked:
                alone = ablate(model, [sample], pairs, "uniform", positions, **QUIET)
                np.testing.assert_allclose(found.kl.sel(set=label, sample=[sample.id]), alone.kl, atol=1e-4)


def test_sliding_window_caches_are_shared_unharmed():
    module, processor = llava(Tiny(text="mistral", window=10))
    model, asked = wrap(module, processor, validate=False), samples(3)
    for positions in ("all", "after_image"):
        found = sweeps.sweep(model, asked, SETS, "zero", positions, **QUIET)
        for name, heads in SETS.items():
            alone = ablate(model, asked, heads, "zero", positions, **QUIET)
            np.testing.assert_allclose(found.margin.sel(set=name), alone.margin, atol=1e-4)
            assert found.prediction.sel(set=name).values.tolist() == alone.prediction.values.tolist()


@settings(max_examples=5)
@given(st.integers(1, 400), st.integers(0, 3))
def test_batches_do_not_matter(batch_tokens, seed):
    model, asked = wrapped("llava"), samples(3, question="how many cars ?")
    drawn = np.random.default_rng(seed).random((5, 3, 4)) < 0.3
    drawn[:, seed % 3, seed] = True  # none is empty
    marks = xr.DataArray(drawn, dims=("set", "layer", "head"))
    whole = sweeps.sweep(model, asked, marks, "zero", "after_image", **QUIET)
    equal(sweeps.sweep(model, asked, marks, "zero", "after_image", batch_tokens=batch_tokens, **QUIET), whole)


def test_pictures_are_seen_once_and_low_layers_are_not_run_again(monkeypatch):
    model, asked = wrapped("llava"), samples(2, question="how many cars ?", image=samples(1)[0].image)
    tower, layers = model.module.model.vision_tower, model.module.model.language_model.layers
    counts = {"tower": 0, "first": 0, "last": 0}

    def counted(name):
        def hook(*_):
            counts[name] += 1

        return hook

    hooks = [module.register_forward_hook(counted(name))
             for module, name in ((tower, "tower"), (layers[0].mlp, "first"), (layers[-1].mlp, "last"))]  # fmt: skip
    monkeypatch.setattr(text_model, "_CHECKED", {model})
    sets = {f"{i}": [(2, i)] for i in range(4)}
    sweeps.sweep(model, asked, sets, max_new_tokens=1, batch_tokens=10_000, progress=False)
    for hook in hooks:
        hook.remove()
    assert counts == {"tower": 2, "first": 1, "last": 2}


@contextmanager
def memory_for(model, rows: int, layer: int = -1) -> Iterator[list[int]]:
    """A layer that runs out of memory where more than so many rows meet; gives the sizes of all that were tried."""
    tried: list[int] = []

    def checked(_module, args):
        tried.append(len(args[0]))
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.module.model.language_model.layers[layer].mlp.register_forward_pre_hook(checked)
    try:
        yield tried
    finally:
        hook.remove()


@pytest.mark.parametrize("positions", ["all", "after_image"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_out_of_memory_halves_samples_and_sets(rows, positions):
    model, asked = wrapped("llava"), samples(4, question="how many cars ?")
    told: list[int] = []
    expected = sweeps.sweep(model, asked, SETS, "zero", positions, batch_tokens=10_000, **QUIET)
    with memory_for(model, rows) as tried:
        found = sweeps.sweep(model, asked, SETS, "zero", positions, batch_tokens=10_000, **QUIET)
        run = sweeps.Sweep.of(model, asked, SETS, "zero", positions, None, bias=None, box=None, batch_tokens=10_000,
                              max_new_tokens=3)  # fmt: skip
        run.job.run(advance=told.append)
    assert max(tried) > rows
    assert sum(told) == 4 and max(told) <= rows
    equal(found, expected)


def test_chosen_samples_keep_their_places():
    """A store that grows runs samples that do not follow one another, in any order."""
    model, asked = wrapped("llava"), samples(4)
    settings = {"bias": None, "box": None, "batch_tokens": None, "max_new_tokens": 3}
    job = sweeps.Sweep.of(model, asked, SETS, "zero", "all", None, **settings).job
    every, some = job.run(), job.run([3, 0])
    np.testing.assert_allclose(some.margin, every.margin[:, [3, 0]], atol=1e-5)
    assert some.clean_prediction.tolist() == every.clean_prediction[[3, 0]].tolist()


def test_a_clean_pass_that_fits_alone_is_halved_where_its_sets_do_not(monkeypatch):
    """What a batch of samples holds may be what a single changed row lacks."""
    model, asked, held = wrapped("llava"), samples(4, question="how many cars ?"), []
    original = engine.Batch.changed

    def crowded(self, rows, clean):
        held.append((len(self.owners), len(rows)))
        if len(self.owners) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, rows, clean)

    expected = sweeps.sweep(model, asked, SETS, batch_tokens=10_000, **QUIET)
    monkeypatch.setattr(engine.Batch, "changed", crowded)
    equal(sweeps.sweep(model, asked, SETS, batch_tokens=10_000, **QUIET), expected)
    assert (4, 1) in held and {owners for owners, _ in held} == {4, 2}


@pytest.mark.parametrize("mode", ["zero", "mean", "steer"])
def test_a_sample_that_is_too_large_alone_is_named(mode):
    model, asked = wrapped("llava"), samples(2, question="how many cars ?")
    with memory_for(model, 0), pytest.raises(DeviceMemoryError, match=r"sample 's0' alone does not fit .*bfloat16"):
        if mode == "steer":
            steer(model, asked, SETS["low"], **QUIET)
        else:
            ablate(model, asked, SETS["low"], mode, reference=asked if mode == "mean" else None, **QUIET)


@pytest.mark.parametrize("positions", ["all", "after_image"])
def test_caches_stay_within_their_bytes(positions, monkeypatch):
    """The clean pass as well; what is held at a time is counted together."""
    model, asked = wrapped("llava"), samples(5, question="how many cars ?")
    expected = sweeps.sweep(model, asked, SETS, "zero", positions, batch_tokens=10_000, **QUIET)
    passes: list[engine.Clean] = []
    sizes: list[int] = []
    clean, answers = engine.Batch.clean, engine.answers

    def spied(self):
        passes.append(clean(self))
        return passes[-1]

    def measured(model, logits, cache, *rest):
        said = answers(model, logits, cache, *rest)
        layers = [layer for one in (passes[-1].before, passes[-1].cache, cache) for layer in one.layers]
        tensors = [tensor for layer in layers if layer.is_initialized for tensor in (layer.keys, layer.values)]
        sizes.append(sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values()))
        return said

    monkeypatch.setattr(engine.Batch, "clean", spied)
    monkeypatch.setattr(engine, "answers", measured)
    most = {}
    for held in (10**9, 100_000):
        monkeypatch.setattr(devices, "CACHE_BYTES", {"cpu": held})
        equal(sweeps.sweep(model, asked, SETS, "zero", positions, batch_tokens=10_000, **QUIET), expected)
        most[held] = max(sizes)
        sizes.clear()
    assert 50_000 < most[100_000] <= 100_000 < most[10**9]


def test_a_store_is_resumed_and_of_one_run(tmp_path, monkeypatch):
    model, asked = wrapped("llava"), samples(5)
    path = sweeps.sweep_path(tmp_path, model.name, "toy", "zero")
    expected = sweeps.sweep(model, asked, SETS, **QUIET)
    runs = []
    original = engine.Job.run

    def stopped(self, part=slice(None), advance=lambda _count: None):
        runs.append(part)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return original(self, part, advance)

    monkeypatch.setattr(engine.Job, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep_to_store(model, asked, SETS, path, shard=2, **QUIET)
    partly = sweeps.open_sweeps(tmp_path, "zero")
    assert partly.sample.values.tolist() == ["s0", "s1"]
    found = sweeps.sweep_to_store(model, asked, SETS, path, shard=2, **QUIET)
    assert runs == [[0, 1], [2, 3], [2, 3], [4]]
    equal(found.load(), expected)
    assert_valid(found)
    np.testing.assert_array_equal(found.heads, expected.heads)
    assert "heads" in found.data_vars
    for change in ({"sets": {**SETS, "low": [(0, 2)]}}, {"mode": "uniform"}, {"positions": "after_image"}):
        told = {"sets": SETS, **change}
        with pytest.raises(IdentityMismatch, match=next(iter(change))):
            sweeps.sweep_to_store(model, asked, told.pop("sets"), path, shard=2, **told, **QUIET)


def test_a_set_has_its_heads_whichever_benchmark_ran_it():
    model, asked, others = wrapped("llava"), samples(2), samples(2, task="other")
    others = [type(sample)(**{**sample.__dict__, "id": f"o{index}"}) for index, sample in enumerate(others)]
    first = sweeps.sweep(model, asked, {"low": [(0, 0)]}, **QUIET)
    second = sweeps.sweep(model, others, {"low": [(0, 0)], "high": [(2, 1)]}, **QUIET)
    ds = joined([first, second])
    marked = np.argwhere(ds.heads.sel(set="high").isel(model=0).values).tolist()
    assert marked == [[2, 1]] and ds.sel(set="high").margin.notnull().sum() == 2
    clash = sweeps.sweep(model, others, {"low": [(1, 1)]}, **QUIET)
    with pytest.raises(StoreError, match=r"'low' of .* has other heads"):
        joined([first, clash])


def test_stored_sweeps_open_together(tmp_path):
    asked, others = samples(3), samples(2, task="other")
    others = [type(sample)(**{**sample.__dict__, "id": f"o{index}"}) for index, sample in enumerate(others)]
    first, second = wrapped("llava"), wrapped("vip_llava")
    for model, task, listed, sets in (
        (first, "toy", asked, SETS),
        (first, "other", others, SETS),
        (second, "toy", asked, {"late": [(2, 0)], "own": [(0, 0)]}),
    ):
        sweeps.sweep_to_store(model, listed, sets, sweeps.sweep_path(tmp_path, model.name, task, "zero"), **QUIET)
    ds = sweeps.open_sweeps(tmp_path, "zero")
    assert not ds.chunks, "lazily, labels that only some have make thousands of chunks"
    assert dict(ds.sizes) == {"model": 2, "set": 5, "layer": 3, "head": 4, "sample": 5}
    assert ds.task.values.tolist().count("other") == 2
    assert ds.sel(model=second.name, set="low").margin.isnull().all()
    assert not ds.sel(model=second.name, set="low").heads.any()
    assert ds.sel(model=first.name, set="low").margin.notnull().all()
    np.testing.assert_allclose(
        ds.sel(model=second.name, set="own").margin.dropna("sample"),
        ablate(second, asked, [(0, 0)], **QUIET).margin[0],
        atol=1e-5,
    )
    live = sweeps.sweep_path(tmp_path, second.name, "toy", "zero")
    pack(live, live.with_name(f"{live.name}.zip"), bits=23)
    shutil.rmtree(live)
    packed = sweeps.open_sweeps(tmp_path, "zero")
    np.testing.assert_allclose(packed.margin, ds.margin)
    np.testing.assert_array_equal(packed.heads, ds.heads)
    with pytest.raises(StoreError, match="no sweep of mode 'mean'"):
        sweeps.open_sweeps(tmp_path, "mean")
    with pytest.raises(ParameterError, match="mode"):
        sweeps.open_sweeps(tmp_path, "zeros")


def test_sweeps_in_which_other_things_were_done_are_not_joined(tmp_path):
    """Neither on the same samples, nor on others, where the numbers would be pooled unseen."""
    first, second = wrapped("llava"), wrapped("vip_llava")
    others = [type(sample)(**{**sample.__dict__, "id": f"o{index}"}) for index, sample in enumerate(samples(2))]
    sets = {"late": [(2, 0)]}
    paths = {}

    def stored(model, asked, task, **more):
        more = {"mode": "boost", **more}
        paths[task] = sweeps.sweep_path(tmp_path, model.name, task, more["mode"])
        return sweeps.sweep_to_store(model, asked, sets, paths[task], **{**QUIET, **more})

    def opened(mode="boost"):
        return sweeps.open_sweeps(tmp_path, mode)

    stored(first, samples(2), "toy", bias=2.0)
    stored(second, samples(2), "toy", bias=2.0)
    stored(first, others, "other", bias=2.0)
    assert dict(opened().sizes)["model"] == 2 and opened().margin.sel(model=first.name).notnull().all()
    for model, asked, more, told in (
        (first, samples(2), {"bias": 4.0}, r"differs: bias [24]\.0 against [24]\.0;"),
        (first, others[:1], {"bias": 4.0}, r"differs: bias [24]\.0 against [24]\.0;"),
        (second, others, {"bias": 4.0}, r"differs: bias [24]\.0 against [24]\.0;"),
        (second, others, {"bias": 2.0, "max_new_tokens": 2}, "max_new_tokens [23] against [23];"),
        (first, samples(2), {"bias": 2.0}, "both hold sample 's0'"),
    ):
        stored(model, asked, "again", **more)
        with pytest.raises(StoreError, match=told) as caught:
            opened()
        assert "vh.open_store" in str(caught.value) and str(paths["again"]) in str(caught.value)
        shutil.rmtree(paths["again"])
    box = (14.0, 24.0, 26.0, 40.0)
    stored(first, samples(2, box=box), "toy", mode="steer", box=box)
    stored(first, others, "other", mode="steer")
    with pytest.raises(StoreError, match="boxes"):
        opened("steer")
    reference = {"mode": "mean", "reference": mean_reference(first, samples(1), max_new_tokens=2)}
    stored(first, samples(2), "toy", **reference)
    stored(first, others, "other", **{**reference, "reference": mean_reference(first, others, max_new_tokens=2)})
    with pytest.raises(StoreError, match="reference"):
        opened("mean")


def test_what_is_joined_may_tell_nothing_of_its_making():
    first, second = (planted().assign_coords(model=[name]) for name in ("m", "n"))
    assert joined([first, second]).sizes["model"] == 2
    told = first.assign_coords(chosen_pictures=("model", [3]), note=("model", ["shipped"]))
    both = joined([told, second])
    np.testing.assert_array_equal(both["chosen_pictures"], [3, np.nan])
    assert both["note"].values.tolist() == ["shipped", ""]
    with pytest.raises(StoreError, match="the sweep of 8 samples by m and"):
        joined([first, first])


@pytest.mark.parametrize(
    ("sets", "message"),
    [({}, "none"), ({"a": []}, "set 'a'"), ({"a": [(0, 0)], "b": [(9, 9)]}, "set 'b'"),
     (xr.DataArray(np.ones((3, 4), bool), dims=("layer", "head")), "dims set")],
)  # fmt: skip
def test_wrong_sets_are_refused(sets, message):
    with pytest.raises(HeadError, match=message):
        sweeps.sweep(wrapped("llava"), samples(1), sets, **QUIET)


def test_boxes_are_for_steering_only():
    with pytest.raises(ParameterError, match="box"):
        sweeps.sweep(wrapped("llava"), samples(1), SETS, "zero", box=(0, 24, 5, 40), **QUIET)


def ranking(seed: int = 0, layers: int = 6, heads: int = 8) -> xr.DataArray:
    values = np.random.default_rng(seed).normal(size=(1, layers, heads))
    return xr.DataArray(values, dims=("model", "layer", "head"), coords={"model": ["m"]})


def test_counts_scale_with_the_number_of_heads():
    assert head_sets.scaled_counts(1024) == [1, 2, 5, 10, 20, 50, 100]
    assert head_sets.scaled_counts(64) == [1, 3, 6]
    assert head_sets.scaled_counts(1600) == [1, 2, 5, 10, 20, 50, 100], "large models are asked about the same numbers"
    with pytest.raises(ParameterError):
        head_sets.scaled_counts(0)


def test_the_protocol_has_top_bottom_and_matched_random_sets():
    scores = ranking()
    sets = head_sets.protocol_sets({"w": scores}, counts=[1, 5], stages=("late", "all"), seeds=3)
    assert sets.sizes["set"] == 2 * 2 * (1 + 1 + 3)
    values = scores.values[0]
    top = sets.sel(set="w late top 5")
    assert not top.values[:4].any()
    assert set(values[4:][top.values[4:]]) == set(np.sort(values[4:].ravel())[-5:])
    bottom = sets.sel(set="w all bottom 5")
    assert set(values[bottom.values]) == set(np.sort(values.ravel())[:5])
    for seed in range(3):
        random = sets.sel(set=f"w all random 5 #{seed}")
        whole = sets.sel(set="w all top 5")
        np.testing.assert_array_equal(random.sum("head"), whole.sum("head"))
        assert not (random.values & whole.values).any()
    assert sets["order"].values.tolist().count("random") == 12


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_random_controls_have_as_many_heads_per_layer(seed, draw):
    heads = np.random.default_rng(seed).random((5, 6)) < 0.6
    drawn = head_sets.matched_random(heads, seed=draw)
    np.testing.assert_array_equal(drawn.sum(1), heads.sum(1))
    others = (~heads).sum(1)
    np.testing.assert_array_equal((drawn & heads).sum(1), np.maximum(heads.sum(1) - others, 0))


def test_halves_share_no_picture():
    asked = [*samples(6), *[type(s)(**{**s.__dict__, "id": f"{s.id}b"}) for s in samples(6)]]
    first, second = head_sets.split_samples(asked)
    assert len(first) + len(second) == 12
    assert not {s.image_id for s in first} & {s.image_id for s in second}


def planted(kl: float = 0.1) -> xr.Dataset:
    """Three sets on eight samples of four pictures: the top set loses half the answers, its controls a quarter."""
    names = ["w all top 2", "w all random 2 #0", "w all random 2 #1"]
    clean = np.ones((1, 8))
    correct = np.ones((1, 3, 8))
    correct[0, 0, ::2] = 0
    correct[0, 1:, :2] = 0
    heads = np.zeros((1, 3, 2, 2), bool)
    heads[0, 0, 0] = heads[0, 1, 1] = heads[0, 2, 1] = True
    return xr.Dataset(
        {
            "correct": (("model", "set", "sample"), correct), "margin": (("model", "set", "sample"), correct * 2),
            "kl": (("model", "set", "sample"), np.full((1, 3, 8), kl)), "clean_correct": (("model", "sample"), clean),
            "clean_margin": (("model", "sample"), clean * 2), "heads": (("model", "set", "layer", "head"), heads),
        },
        {"model": ["m"], "set": names, "sample": [f"s{i}" for i in range(8)], "image_id": ("sample", list("aabbccdd")),
         "ranking": ("set", ["w"] * 3), "stage": ("set", ["all"] * 3), "order": ("set", ["top", "random", "random"]),
         "count": ("set", [2] * 3), "seed": ("set", [-1, 0, 1])},
    )  # fmt: skip


def test_losses_are_paired_and_against_matched_controls():
    ds = planted()
    assert losses(ds).loss_correct.mean("sample").values.tolist() == [[0.5, 0.25, 0.25]]
    np.testing.assert_allclose(losses(ds).kl, 0.1)
    excess = excess_loss(ds)
    assert excess["set"].values.tolist() == ["w all top 2"]
    assert excess.sel(bound="estimate").item() == pytest.approx(0.25)
    assert excess.sel(bound="lower").item() < 0.25 < excess.sel(bound="upper").item()
    with pytest.raises(ParameterError, match="of"):
        excess_loss(ds, "speed")
    with pytest.raises(ParameterError, match="protocol_sets"):
        excess_loss(ds.isel(set=[0]))


def test_effects_of_single_heads_are_a_ranking():
    model, asked = wrapped("llava"), samples(3)
    found = sweeps.sweep(model, asked, head_sets.single_heads(3, 4), **QUIET)
    effects = head_effects(found)
    assert effects.effect_margin.dims == ("model", "layer", "head", "sample")
    alone = ablate(model, asked, [(1, 2)], **QUIET)
    np.testing.assert_allclose(
        effects.effect_margin.isel(layer=1, head=2), alone.clean_margin - alone.margin, atol=1e-5
    )
    scores = rank(effects, "effect_kl", interval=True)
    assert scores.dims == ("model", "layer", "head", "bound")
    assert (scores.sel(bound="estimate") > 0).all()
    with pytest.raises(HeadError, match="exactly one"):
        head_effects(planted())
