"""A JupyterLab of its own, with a notebook open in a headless browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat

from helpers.browser import Pages

WAIT = 300
"""Seconds for a server, a kernel or a model: continuous integration shares its processors."""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """JupyterLab over `folder`; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    environment = {
        **os.environ,
        **{f"JUPYTER{'' if name.startswith('LAB') else '_'}{name}": str(folder / ".jupyter" / name) for name in places},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("lib")),
    }
    settings = [
        f"ServerApp.root_dir={folder}",
        "ServerApp.token=",
        "ServerApp.password=",
        "LabApp.news_url=None",
        "LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager=readonly",
        "LabApp.expose_app_in_browser=True",
    ]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--{setting}" for setting in settings]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + WAIT
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            try:
                with urlopen(f"{address}/api", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def notebook(folder: Path, *cells: str) -> str:
    """Write a notebook of code cells; its name."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "look.ipynb")
    return "look.ipynb"


def run_all(pages: Pages, address: str, name: str) -> None:
    """Open a notebook and run all its cells."""
    pages.resize(1400, 1600)
    pages.driver.get(f"{address}/lab/tree/{name}?reset")
    until(pages, "return !!document.querySelector('.jp-Notebook .jp-CodeCell')")
    # on a slow machine Lab asks for the kernel before it knows which there are
    until(
        pages,
        "document.querySelector('.jp-Dialog .jp-mod-accept')?.click();"
        "return window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
    )
    pages.run("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def until(pages: Pages, script: str, *arguments: object) -> object:
    """Wait for a script to return something true; that."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(pages.driver, WAIT).until(lambda driver: driver.execute_script(script, *arguments))
