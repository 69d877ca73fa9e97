"""Kernels that start warm: what pages import is imported once per worker, and every page's kernel is forked from there.

Importing torch, transformers and Altair takes ten seconds, a third of what most pages take. A fork has all of it and
nothing else: no page sees what another one did, and the project's own modules are read when a page starts. Functions
registered with `atexit` are not called in such kernels.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from visualheads.paths import read_table

NAME = "visualheads-warm"
LAUNCHER = "ipykernel_launcher"
PRELOADED: list[str] = read_table(__file__, "kernels.yml")["preloaded"]


def use_warm_kernels() -> None:
    """Kernels that this process starts from now on are warm, where the system forks safely: on Linux."""
    if sys.platform == "linux":
        factory = KernelProvisionerFactory.instance()
        factory.provisioners[NAME] = EntryPoint(NAME, f"{__name__}:{WarmProvisioner.__name__}", factory.GROUP_NAME)
        factory.default_provisioner_name = NAME


def end_with_parent() -> None:
    """End this process, started by multiprocessing, when the one that started it is gone, killed ones included."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class WarmProvisioner(LocalProvisioner):
    """Jupyter's provisioner of local kernels, with a fork in place of a new interpreter for this one's own kernel."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, a cold one where none can be forked; see jupyter_client's `KernelProvisionerBase`."""
        if cmd[0] != sys.executable or LAUNCHER not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        environment, folder = dict(kwargs.get("env") or os.environ), str(kwargs.get("cwd") or os.getcwd())
        arguments = cmd[cmd.index(LAUNCHER) + 1 :]
        process = context.Process(target=_kernel, args=(arguments, environment, folder))
        try:
            process.start()
        except (OSError, EOFError):  # a temporary folder of a long name, or no memory for what is preloaded
            return await super().launch_kernel(cmd, **kwargs)
        self.process, self.pid, self.cwd = _Forked(process), process.pid, folder  # pyright: ignore[reportAttributeAccessIssue]
        self.pgid = process.pid
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
    """IPython's kernel in this process, until it is shut down or the process that asked for it is gone."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # an interrupt of the book is not one of the page
    end_with_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    IPKernelApp.launch_instance(list(arguments))
