"""The shipped scenes in LookTwice-QA's format."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from helpers.project import ROOT
from visualheads.miniatures import benchmarks, world

SCENES = ROOT / "data" / "scenes"


def test_shipped_scenes_are_what_the_code_makes_and_meet_their_promises():
    folder = SCENES / "looktwice"
    records = json.loads((folder / "looktwiceqa_dataset.json").read_text())
    test = json.loads((folder / "looktwiceqa_test_imgs.json").read_text())
    assert len(test) >= 300
    for index in (0, 17, len(test) - 1):
        scene, name = benchmarks.scene_with_question("test", index)
        assert records[str(test[index])] == [benchmarks.record(scene, name, test[index])]
    asked = [records[str(image)][0] for image in test]
    answers = Counter(record["Ans"] for record in asked)
    assert max(answers.values()) / len(asked) <= 0.3
    assert np.mean([len({o["name"] for o in record["Objects"]}) > 1 for record in asked]) >= 0.7
    assert len({record["Obj_type"] for record in asked}) >= 30
    for record in asked:  # one answer must be right for the object and for the supercategory question
        names = [o["name"] for o in record["Objects"]]
        assert record["Ans"] == names.count(record["Obj_type"])
        assert record["Ans"] == sum(world.CATEGORY[name] == record["Supercategory"] for name in names)
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) < 4_000_000


def test_writing_scenes_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "SPLITS", {"train": 1, "val": 1, "test": 3})
    for name in ("a", "b"):
        benchmarks.write_looktwice(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 10
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_shipped_scenes_are_small_enough():
    assert sum(path.stat().st_size for path in SCENES.rglob("*") if path.is_file()) < 8_000_000
