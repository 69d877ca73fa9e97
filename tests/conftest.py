"""What every test runs under: no network, one thread, no chance, a data folder of its own where it asks for one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# a GPU must not decide what they see: half precision, and other sums than those on CPUs
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# a data folder that the person running the tests has set must not decide what they see
os.environ.pop("VISUALHEADS_DATA", None)

import pytest  # noqa: E402  (the environment has to be set before torch is imported)
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from helpers.project import ROOT  # noqa: E402

LOOPBACK = ("127.", "::1", "localhost")

torch.set_num_threads(1)
settings.register_profile(
    "visualheads",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("visualheads")


class NetworkUsedError(RuntimeError):
    """A test tried to leave this machine."""


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Let sockets connect to this machine only."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def checked(original):
        def connected(self: socket.socket, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
                raise NetworkUsedError(f"a test opened a connection to {address[0]}:{address[1]}; tests run offline.")
            return original(self, address)

        return connected

    socket.socket.connect = checked(connect)
    socket.socket.connect_ex = checked(connect_ex)
    yield
    socket.socket.connect, socket.socket.connect_ex = connect, connect_ex


@pytest.fixture(autouse=True)
def _nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No full stores: tests know all that the library finds. Notebooks that run as processes of their own find them."""
    monkeypatch.setattr(
        "visualheads.studies.shipped.full_folder", lambda: Path(tmp_path_factory.getbasetemp(), "no-full-stores")
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that the library uses instead of the project's."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("VISUALHEADS_DATA", str(folder))
    return folder
