"""Where models go and in which precision; that they make room for each other; what is told where memory is short."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from pathlib import Path

import nbformat
import pytest
import torch

from helpers.networks import llava, wrapped
from helpers.project import ROOT
from visualheads.book.page import parameters_of
from visualheads.errors import DeviceMemoryError, IdentityMismatch, ParameterError
from visualheads.models import devices
from visualheads.models import loading as models
from visualheads.studies import ablation
from visualheads.tracing import jobs, trace
from visualheads.tracing.jobs import TraceJob, estimate

CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llava checkpoint in half precision, as miniatures are shipped."""
    path = tmp_path_factory.mktemp("checkpoints") / "my-llava"
    module, processor = llava()
    module.half().save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch found two GPUs, which it asks for nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_no_test_sees_a_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()


@pytest.mark.usefixtures("gpus")
def test_devices_are_those_that_torch_finds() -> None:
    assert devices.checked_device("cuda:1") == torch.device("cuda:1")
    assert devices.checked_device(torch.device("cuda")).type == "cuda"
    with pytest.raises(ParameterError, match="allowed: cpu, cuda, cuda:0, cuda:1;"):
        devices.checked_device("cuda:2")


@pytest.mark.usefixtures("gpus")
def test_models_go_to_a_gpu_but_miniatures_only_when_told() -> None:
    assert devices.chosen_device(None).type == "cuda" and devices.chosen_device("auto") == "auto"
    assert devices.chosen_device(None, miniature=True) == devices.CPU
    assert devices.chosen_device("cuda:1", miniature=True) == torch.device("cuda:1")
    assert devices.chosen_dtype(None, CUDA) == "auto"
    assert devices.chosen_dtype(None, CUDA, miniature=True) == torch.float32
    assert devices.chosen_dtype("float16", devices.CPU, miniature=True) == torch.float16
    assert devices.chosen_dtype(torch.bfloat16, "auto") == torch.bfloat16


@pytest.mark.usefixtures("gpus")
def test_a_miniature_is_loaded_as_its_shipped_results_were_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUALHEADS_DATA", str(tmp_path))
    shutil.copytree(folder, tmp_path / "miniatures" / "mini-1.5-7B")
    model = models.load("mini-1.5-7B", validate=False)
    assert model.device == devices.CPU and model.dtype == torch.float32


@pytest.mark.usefixtures("gpus")
def test_estimates_place_as_load_does() -> None:
    for device, where in ((None, "float32 on cpu"), ("cuda", "float32 on cuda")):
        told = estimate(TraceJob("mini-1.5-7B", n=1, device=device))
        assert told["memory for weights"].endswith(where.split()[0])
        assert told["memory for a batch"].endswith(where.split()[-1])
    assert estimate(TraceJob("1.5-7B", n=1))["memory for weights"].endswith("bfloat16")
    with pytest.raises(ParameterError, match="revision: got 'main'"):
        estimate(TraceJob("mini-1.5-7B", n=1, revision="main"))


def test_without_a_gpu_auto_is_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    model = models.load(folder, device="auto", validate=False)
    assert model.device == devices.CPU and model.dtype == torch.float32


def test_every_notebook_that_loads_a_model_takes_device_and_precision() -> None:
    handed_on = {
        "vh.load(": "vh.load(model, device=device or None, dtype=dtype or None)",
        ".loaded()": '"device": device or None, "dtype": dtype or None',
    }
    loading = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = " ".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for call, words in handed_on.items():
            if call in code:
                loading.add(path.stem)
                assert {"device", "dtype"} <= set(parameters_of(path)), path.name
                assert words in code, path.name
    assert {"model", "your_model"} <= loading


def test_a_differing_full_store_is_made_again_only_by_what_makes_it_differently() -> None:
    assert "visualheads full" in ablation._to_agree(wrapped("llava"))
    assert "device='cpu' and dtype='float32'" in ablation._to_agree(wrapped("llava", dtype=torch.bfloat16))


@pytest.mark.usefixtures("gpus")
def test_a_model_that_does_not_fit_is_told_as_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(llava()[0])
    with monkeypatch.context() as patch:
        patch.setattr(kind, "to", out_of_memory)
        with pytest.raises(DeviceMemoryError, match=r"my-llava does not fit into the memory of cuda;.*'auto'"):
            models.load(folder, device="cuda")
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", out_of_memory)
        with pytest.raises(DeviceMemoryError, match=r"memory of all devices together; .*'bfloat16'\."):
            models.load(folder, device="auto")
    with monkeypatch.context() as patch:
        patch.setattr(models, "validate_capture", out_of_memory)
        with pytest.raises(DeviceMemoryError, match="my-llava does not fit into the memory of cpu"):
            models.load(folder, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForImageTextToText.from_config", out_of_memory)
        with pytest.raises(DeviceMemoryError, match="LlavaForConditionalGeneration, untrained does not fit"):
            models.untrained(wrapped("llava"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
    ],
    ids=["python", "torch", "another"],
)
def test_main_memory_too_is_told_and_other_errors_stay(error: Exception, told: bool) -> None:
    with pytest.raises(DeviceMemoryError if told else RuntimeError) as caught, devices.room_for("it", "cpu"):
        raise error
    assert told or caught.value is error


class Elsewhere:
    """A module that is moved about without moving anything, and tells who was still there when it came back."""

    def __init__(self) -> None:
        self.device = CUDA
        self.moves: list[str] = []
        self.network: weakref.ref[torch.nn.Module] = weakref.ref(torch.nn.Linear(1, 1))

    def to(self, device: torch.device) -> None:
        self.moves.append(device.type)
        self.device = device
        assert device.type == "cpu" or self.network() is None, "two networks on one device"


class Model:
    """What of a model the control needs."""

    def __init__(self) -> None:
        self.module = Elsewhere()


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("outcome", ["done", "memory", "another store"])
def test_a_model_waits_on_the_cpu_while_its_control_is_traced(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, job = Model(), TraceJob("mini-1.5-7B", n=1)

    def built(given: Model, seed: int, device: torch.device) -> torch.nn.Module:
        assert given.module.device == devices.CPU and device == CUDA and seed == job.seed
        network = torch.nn.Linear(1, 1)
        network.cycle = network  # as a traced model, which holds on to itself
        given.module.network = weakref.ref(network)
        return network

    def traced(network: torch.nn.Module, samples: list, path: str, **_: object) -> Traced:
        assert network is model.module.network() and path.endswith("-untrained.zarr") and samples
        if outcome == "memory":
            raise DeviceMemoryError("the network does not fit.")
        if outcome == "another store":
            raise IdentityMismatch("a store of another run")
        return Traced()

    monkeypatch.setattr(jobs, "untrained", built)
    monkeypatch.setattr(trace, "trace_to_store", traced)
    if outcome == "another store":
        with pytest.raises(IdentityMismatch):
            jobs.untrained_control(model, job)
    else:
        control, why = jobs.untrained_control(model, job)
        assert isinstance(control, Traced) == (outcome == "done")
        assert why == ("" if control is not None else "the network does not fit.")
    assert model.module.moves == ["cpu", "cuda"]


class Traced:
    """A store that was opened."""

    def load(self) -> Traced:
        return self


@pytest.mark.usefixtures("gpus")
def test_a_model_that_only_tells_a_shape_gives_its_device_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    monkeypatch.setattr(jobs, "load", lambda *_, **__: model)
    monkeypatch.setattr(jobs, "untrained", lambda given, seed, device: (given.module.device, seed, device))
    assert TraceJob("m", seed=3, untrained=True).loaded() == (devices.CPU, 3, CUDA)
    assert model.module.moves == ["cpu"]
    assert TraceJob("m").loaded() is model


def test_a_model_on_the_cpu_or_in_several_places_stays() -> None:
    module = Elsewhere()
    module.device = devices.CPU
    with devices.aside(module) as device:
        assert device == devices.CPU
    module.device, module.hf_device_map = CUDA, {"first": 0, "second": 1}
    with devices.aside(module) as device:
        assert device == CUDA
    assert module.moves == []


def test_the_page_of_a_model_leaves_its_control_to_one_function() -> None:
    cells = json.loads((ROOT / "notebooks" / "model.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "jobs.untrained_control(" in code and "loading.untrained(" not in code
