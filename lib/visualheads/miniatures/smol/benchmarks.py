"""Test scenes of the emoji world in the official formats of LookTwice-QA, POPE and SEED-Bench, from seeds.

One folder, one set of pictures: all three benchmarks ask about them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visualheads.miniatures.benchmarks import KINDS, SEED_TYPES, look_record, seed_entry, xywh
from visualheads.miniatures.smol import questions
from visualheads.miniatures.smol.scenes import HELD_OUT_GROUND, Placed, Scene, draw_scene, is_held_out, render
from visualheads.miniatures.smol.sprites import CATEGORY, CLASSES, COLOURS, PAINTED, SpriteSheet

SCENES = 420
SPLITS = {"train": 10, "val": 10, "test": 400}
"""Scenes of each list; nothing is trained on any of them."""
ANSWERS = (1, 2, 3, 4, 5)
"""Numbers of asked objects, in turn."""
EVERY_HELD_OUT_PAIR, EVERY_HELD_OUT_GROUND = 4, 5
"""One scene in so many shows classes together, or a style of ground, that training never shows."""
QUALITY = 70
POPE_PICTURES, POPULAR = 200, 12
SEED_ITEMS = 60
SEED_KINDS = ("which", "colour", "number", "relation")
"""Kinds of questions; so many items of each as `SEED_ITEMS`."""
LETTERS = "ABCD"

README = Path(__file__).with_name("scenes.md")


@dataclass(frozen=True)
class TestScene:
    """A scene with the object that is asked about, and its number, which is its picture's name."""

    number: int
    scene: Scene
    asked: Placed

    @property
    def file(self) -> str:
        return f"{self.number}.jpg"


def draw_test_scene(number: int) -> TestScene:
    """Draw the test scene of this number: as many asked objects as is its turn, all classes of different kinds."""
    wanted = ANSWERS[number % len(ANSWERS)]
    pair = number % EVERY_HELD_OUT_PAIR == 0
    ground = HELD_OUT_GROUND if number // EVERY_HELD_OUT_PAIR % EVERY_HELD_OUT_GROUND == 0 else ""
    rng = random.Random(f"smol-test/{number}")
    while True:
        scene = draw_scene(rng, held_out_pairs=pair, ground=ground, distinct_categories=True)
        fitting = [name for name in scene.names if scene.count(name) == wanted]
        if fitting and is_held_out(scene.names) == pair:
            name = rng.choice(fitting)
            return TestScene(number, scene, rng.choice([thing for thing in scene.objects if thing.name == name]))


def write_test_scenes(folder: Path, sheet: SpriteSheet, number: int = SCENES) -> None:
    """Write pictures and question files.

    Parameters
    ----------
    folder : Path
        data/smol/scenes in the repository.
    sheet : SpriteSheet
        Objects; `scenes.use_sheet` has been called with it.
    number : int
        Number of scenes.
    """
    drawn = [draw_test_scene(index) for index in range(1, number + 1)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for each in drawn:
        render(each.scene, sheet).save(folder / "images" / each.file, quality=QUALITY, optimize=True)
    write_looktwice(folder, drawn)
    test = [each for each in drawn if each.number > SPLITS["train"] + SPLITS["val"]]
    write_pope(folder, test[:POPE_PICTURES])
    write_seedbench(folder, test)
    shutil.copyfile(README, folder / "README.md")


def write_looktwice(folder: Path, drawn: Sequence[TestScene]) -> None:
    """Write looktwiceqa_dataset.json and the lists of its three splits."""
    dataset = {str(each.number): [_record(each)] for each in drawn}
    lines = ",\n".join(
        f"{json.dumps(name)}:{json.dumps(told, separators=(',', ':'))}" for name, told in dataset.items()
    )
    (folder / "looktwiceqa_dataset.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    first = 0
    for split, size in SPLITS.items():
        numbers = [each.number for each in drawn[first : first + size]]
        (folder / f"looktwiceqa_{split}_imgs.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        first += size


def _record(each: TestScene) -> dict[str, Any]:
    name, scene = each.asked.name, each.scene
    asked = {
        "obj": questions.count_object(name),
        "super": questions.count_super(CATEGORY[name]),
        "general": questions.GENERAL,
    }
    return look_record(each.number, asked, scene.count(name), each.asked.box, name, CATEGORY[name]) | {
        "Objects": [{"name": thing.name, "BBox": xywh(thing.box)} for thing in scene.objects],
        "Ground": scene.ground,
        "Held_out_pair": is_held_out(scene.names),
    }


def write_pope(folder: Path, drawn: Sequence[TestScene]) -> None:
    """Write three files of JSON lines that share pictures and present objects; the absent ones are random, among the
    most frequent, or of a supercategory that is there (adversarial)."""
    seen = Counter(name for each in drawn for name in each.scene.names)
    popular = [name for name, _ in seen.most_common(POPULAR)]
    for condition in ("adversarial", "popular", "random"):
        rng = random.Random(f"smol-pope/{condition}")
        lines: list[str] = []
        for each in drawn:
            absent = [name for name in CLASSES if name not in each.scene.names]
            pool = {
                "adversarial": [name for name in absent if CATEGORY[name] in each.scene.categories],
                "popular": [name for name in absent if name in popular],
                "random": absent,
            }[condition]
            for name, label in ((each.asked.name, "yes"), (rng.choice(pool), "no")):
                record = {"question_id": len(lines) + 1, "image": each.file, "text": questions.exists(name)}
                lines.append(json.dumps({**record, "label": label}))
        (folder / f"coco_pope_{condition}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_seedbench(folder: Path, drawn: Sequence[TestScene]) -> None:
    """Write SEED-Bench.json: which object, which colour, how many, where; right letters take turns."""
    items: list[dict[str, Any]] = []
    for kind in SEED_KINDS:
        wanted = 0
        for each in drawn:
            if wanted == SEED_ITEMS:
                break
            turn = {"number": str(ANSWERS[wanted % len(ANSWERS)]), "relation": questions.SIDES[wanted % 4]}.get(kind)
            made = _seed_item(random.Random(f"smol-seed/{kind}/{each.number}"), kind, each, turn)
            if made is None:
                continue
            question, answer, others = made
            options = [*others[: wanted % 4], answer, *others[wanted % 4 :]]
            items.append(seed_entry(len(items) + 1, kind, each.file, question, options, LETTERS[wanted % 4]))
            wanted += 1
    titles = {KINDS[kind]["seedbench"][1]: SEED_TYPES[kind] for kind in SEED_KINDS}
    told = {"questions": items, "question_type": titles}
    (folder / "SEED-Bench.json").write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")


def _seed_item(rng: random.Random, kind: str, each: TestScene, turn: str | None) -> tuple[str, str, list[str]] | None:
    """Question, answer and three other options; None where the scene has no such question with the answer due."""
    scene = each.scene
    single = [thing for thing in scene.objects if scene.count(thing.name) == 1]
    if kind == "which":
        absent = [name for name in CLASSES if name not in scene.names]
        return questions.WHICH, each.asked.name, rng.sample(absent, 3)
    if kind == "number":
        answer = str(scene.count(each.asked.name))
        if answer != turn:
            return None
        return questions.count_object(each.asked.name), answer, questions.other_numbers(rng, int(answer))
    if kind == "colour":
        painted = [thing for thing in single if thing.name in PAINTED]
        if not painted:
            return None
        others = rng.sample([colour for colour in COLOURS if colour != painted[0].colour], 3)
        return questions.colour_of(painted[0].name), painted[0].colour, others
    pairs = [(one, other) for one in single for other in single if questions.side_of(one, other) == turn]
    if not pairs or turn is None:
        return None
    one, other = rng.choice(pairs)
    return questions.where(one.name, other.name), turn, [side for side in questions.SIDES if side != turn]
