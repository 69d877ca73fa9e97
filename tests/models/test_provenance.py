"""What identity is made of: hashes of weights, samples and pictures."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from PIL import Image

from visualheads.errors import CheckpointError, ImageError
from visualheads.models import provenance
from visualheads.tasks import Sample


def test_weights_are_hashed_by_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = provenance.hash_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert provenance.hash_weights(tmp_path) == one and len(one) == 16
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert provenance.hash_weights(tmp_path) != one
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        provenance.hash_weights(tmp_path / "none")


def test_linked_weights_of_a_hub_cache_are_not_read(tmp_path: Path) -> None:
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"one")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    first = provenance.hash_weights(folder)
    blob.write_bytes(b"another content, same name")
    assert provenance.hash_weights(folder) == first


def test_samples_are_hashed_by_what_is_asked() -> None:
    samples = [Sample(str(index), Image.new("RGB", (4, 4)), "?", "1") for index in range(3)]
    first = provenance.hash_samples(samples)
    assert provenance.hash_samples(list(samples)) == first
    assert provenance.hash_samples(samples[::-1]) != first
    pictures = [[Sample("a", Image.new("RGB", (4, 4), colour), "?", "1")] for colour in ("red", "blue")]
    assert provenance.hash_samples(pictures[0]) != provenance.hash_samples(pictures[1])


@pytest.mark.parametrize(
    "change",
    [{"image": Image.new("RGB", (8, 2), "red")}, {"question": "!"}, {"answer": "2"}, {"box": (0, 0, 2, 2)},
     {"boxes": {"dog": [(0, 0, 2, 2)]}}, {"condition": "plain"}, {"question_id": "q"}, {"image_id": "p"},
     {"task": "pope"}, {"control": "white"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_field_of_a_sample_is_part_of_its_hash(change: dict[str, Any]) -> None:
    sample = Sample("a", Image.new("RGB", (4, 4), "red"), "?", "1")
    assert provenance.hash_samples([dataclasses.replace(sample, **change)]) != provenance.hash_samples([sample])


def test_circumstance_has_its_keys() -> None:
    told = provenance.circumstance(device="cuda", attention="sdpa")
    assert told["device"] == "cuda" and told["attention"] == "sdpa" and told["xarray"] == xr.__version__


def test_a_picture_is_hashed_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    places = [tmp_path / "a.png", tmp_path / "b" / "c.png"]
    places[1].parent.mkdir()
    for place in places:
        Image.new("RGB", (4, 4), "red").save(place)
    first, other = (provenance.hash_sample(Sample("s", place, "?", "1")) for place in places)
    assert first == other
    before = places[0].stat()
    Image.new("RGB", (4, 4), "blue").save(places[0])  # edited in place
    os.utime(places[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert provenance.hash_sample(Sample("s", places[0], "?", "1")) != first
    assert provenance.hash_sample(Sample("s", places[1], "?", "1"), prompt="USER: ?") != first
    with pytest.raises(ImageError, match=r"none\.png"):
        provenance.hash_sample(Sample("s", tmp_path / "none.png", "?", "1"))
