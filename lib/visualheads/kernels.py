"""Kernels that start warm: what pages import is imported once per worker, and every page's kernel is forked from there.

Importing torch, transformers and Altair takes ten seconds, a third of what most pages take. A fork has all of it and
nothing else: no page sees what another one did.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import sys
from collections.abc import Sequence
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "visualheads-warm"
"""Of the entry point by which Jupyter finds the provisioner."""
LAUNCHER = "ipykernel_launcher"
PRELOADED = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "nnsight",
    "accelerate",
    "transformers.models.vipllava.modeling_vipllava",
    "transformers.models.llava_next.modeling_llava_next",
    "transformers.models.llava_next.processing_llava_next",
    "visualheads.charts",
    "visualheads.claims.gather",
    "visualheads.models",
    "visualheads.prose",
    "visualheads.tracing",
)
"""What takes long and starts no thread, so that it survives a fork."""


def use_warm_kernels() -> None:
    """Kernels that this process starts from now on are warm, where the system forks safely: on Linux."""
    if sys.platform == "linux":
        KernelProvisionerFactory.instance().default_provisioner_name = NAME


class WarmProvisioner(LocalProvisioner):
    """Jupyter's provisioner of local kernels, with a fork in place of a new interpreter for IPython's kernel."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel; see jupyter_client's `KernelProvisionerBase`."""
        if LAUNCHER not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        environment, self.cwd = dict(kwargs.get("env") or os.environ), kwargs.get("cwd") or os.getcwd()
        arguments = cmd[cmd.index(LAUNCHER) + 1 :]
        process = context.Process(target=_kernel, args=(arguments, environment, str(self.cwd)))
        process.start()
        self.process, self.pid = _Forked(process), process.pid  # pyright: ignore[reportAttributeAccessIssue]
        return self.connection_info


class _Forked:
    """A process as `subprocess.Popen` shows one: all that the provisioner asks of it."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self._process.pid and self.poll() is None:
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _kernel(arguments: Sequence[str], environment: dict[str, str], folder: str) -> None:
    """IPython's kernel in this process, until it is shut down, or its parent is gone."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # an interrupt of the book is not one of the page
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({**environment, "JPY_PARENT_PID": str(os.getppid())})
    IPKernelApp.launch_instance(list(arguments))
