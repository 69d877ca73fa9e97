"""POPE, MMBench, SEED-Bench and Q-Bench from official files; controls and the registry for all five."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command import run
from helpers.task_files import (
    BUILDERS,
    as_base64,
    looktwice,
    mmbench,
    mmbench_rows,
    picture,
    pope,
    qbench,
    seedbench,
)
from visualheads.errors import ImageError, ParameterError, RecordError, UnknownTaskError
from visualheads.tasks import Benchmark, MissingDataError, task, task_names
from visualheads.tasks.looktwice import LookTwice
from visualheads.tasks.pictures import RED
from visualheads.tasks.registry import register

PAGE = Path(__file__).resolve().parents[2] / "book" / "extend.md"
FREE = "\nAnswer the question using a single word or phrase."
LETTERS = "\nAnswer with the option's letter from the given choices directly."


def test_registry() -> None:
    assert task_names() == ("looktwice", "pope", "mmbench", "seedbench", "qbench", "table")
    with pytest.raises(UnknownTaskError, match="did you mean 'mmbench'"):
        task("mmbensh")
    assert register(LookTwice) is LookTwice  # a cell that is run again
    with pytest.raises(ParameterError, match="registered already"):
        register(type("Other", (LookTwice,), {}))
    for wrong in (3, type("NotOne", (), {"name": "other"}), type("Named", (LookTwice,), {"name": "a b"})):
        with pytest.raises(ParameterError, match="register"):
            register(wrong)  # type: ignore[type-var]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_task_gives_valid_samples_in_every_format_and_control(tmp_path: Path, name: str) -> None:
    built = task(name, BUILDERS[name](tmp_path / name))
    ids: list[str] = []
    for format in built.formats:
        for control in (None, "white", "shuffled", "swapped"):
            samples = built.samples(format=format, control=control, n=2)
            ids += [sample.id for sample in samples]
            for sample in samples:
                assert (sample.task, sample.format, sample.control) == (name, format, control or "")
                assert sample.condition in built.conditions
                assert sample.open().mode == "RGB"
                assert sample.id == f"{name}-{sample.question_id}-{sample.condition}-{format}-{control or 'none'}"
    assert len(set(ids)) == len(ids)
    assert len(built.files_hash()) == 64
    right = built.samples(n=2)
    assert set(built.score(right, [sample.answer for sample in right]).values()) == {1.0} or name == "pope"


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_missing_is_listed(tmp_path: Path, name: str) -> None:
    message = task(name, tmp_path).missing()
    assert "lacks" in message
    assert "Where to get it" in message
    with pytest.raises(MissingDataError, match="Where to get it"):
        task(name, tmp_path).samples()


@pytest.mark.parametrize("name", BUILDERS)
def test_controls_keep_question_and_answer(tmp_path: Path, name: str) -> None:
    built = task(name, BUILDERS[name](tmp_path / name))
    normal = built.samples(n=3, seed=4)
    for control in ("white", "shuffled", "swapped"):
        changed = built.samples(n=3, seed=4, control=control)
        for one, other in zip(normal, changed, strict=True):
            assert (one.question, one.answer, one.choices, one.image_id) == (
                other.question,
                other.answer,
                other.choices,
                other.image_id,
            )
            assert one.open().tobytes() != other.open().tobytes()


def test_controls_of_a_marked_picture(tmp_path: Path) -> None:
    built = task("looktwice", looktwice(tmp_path / "data"))

    def red(sample: Any) -> Any:
        return (np.asarray(sample.open()) == RED).all(axis=2)

    (normal,) = built.samples("visual-object", n=1)
    (white,) = built.samples("visual-object", n=1, control="white")
    (shuffled,) = built.samples("visual-object", n=1, control="shuffled")
    assert (np.asarray(white.open()) == 255).all()
    assert white.box == normal.box
    np.testing.assert_array_equal(red(shuffled), red(normal))
    (plain,) = built.samples("plain-object", n=1, control="shuffled")
    differs = (np.asarray(plain.open()) != np.asarray(shuffled.open())).any(axis=2)
    assert not (differs & ~red(normal)).any()


def test_swapped_picture_brings_its_own_box(tmp_path: Path) -> None:
    built = task("looktwice", looktwice(tmp_path / "data", [1, 2, 3], per_image=1))
    originals = {str(sample.image): sample for sample in built.samples("visual-object")}
    swapped = built.samples("visual-object", control="swapped", seed=9)
    for sample in swapped:
        assert Path(sample.image.path).stem != sample.image_id  # type: ignore[union-attr]
        assert originals[str(sample.image)].box == sample.box
    per_condition = [
        [sample.image.path for sample in built.samples(name, control="swapped", seed=9)]  # type: ignore[union-attr]
        for name in built.conditions
    ]
    assert all(paths == per_condition[0] for paths in per_condition)


def test_swapping_needs_a_second_picture(tmp_path: Path) -> None:
    built = task("looktwice", looktwice(tmp_path / "data", [1, 2], per_image=2))
    with pytest.raises(ParameterError, match="second picture"):
        built.samples("plain-object", control="swapped")


def test_swapping_with_unusable_pictures(tmp_path: Path) -> None:
    built = task("looktwice", looktwice(tmp_path / "data", [1, 2, 3]))
    (tmp_path / "data" / "images" / "101.png").write_bytes(b"")
    samples = built.samples("plain-object", control="swapped", skip_bad=True)
    assert len(samples) == 2
    assert all("101" not in Path(sample.image.path).stem for sample in samples)  # type: ignore[union-attr]
    with pytest.raises(ImageError):
        built.samples("plain-object", control="swapped")


# POPE


def test_pope_by_field(tmp_path: Path) -> None:
    built = task("pope", pope(tmp_path / "pope"))
    samples = built.samples("adversarial")
    assert Counter(sample.answer for sample in samples) == {"Yes": 3, "No": 3}
    one = next(sample for sample in samples if sample.question_id == "2")
    assert one.question == "Is there a adversarial in the image?" + FREE
    assert one.image_id == "COCO_val2014_000000000000"
    with pytest.raises(ParameterError, match="letters"):
        built.samples(format="letters")


def test_pope_conditions_are_paired_and_balanced(tmp_path: Path) -> None:
    samples = task("pope", pope(tmp_path / "pope", 20)).samples(n=10)
    by_condition: dict[str, list[str]] = {}
    for sample in samples:
        by_condition.setdefault(sample.condition, []).append(sample.question_id)
    assert len(by_condition) == 3
    assert len({tuple(asked) for asked in by_condition.values()}) == 1
    answers = Counter(sample.answer for sample in samples if sample.condition == "random")
    assert abs(answers["Yes"] - answers["No"]) <= 2


def test_pope_files_that_disagree_stay_apart(tmp_path: Path) -> None:
    folder = pope(tmp_path / "pope", 4)
    path = folder / "coco_pope_random.json"
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "label": "no"})
    path.write_text("\n".join(lines))
    samples = task("pope", folder).samples()
    assert len(samples) == 12
    assert len({sample.id for sample in samples}) == 12
    changed = [sample for sample in samples if sample.condition == "random" and sample.question_id.startswith("1")]
    assert [(sample.question_id, sample.answer) for sample in changed] in ([("1", "No")], [("1.2", "No")])


def test_pope_scores_come_with_the_task(tmp_path: Path) -> None:
    built = task("pope", pope(tmp_path / "pope"))
    samples = built.samples("popular")
    figures = built.score(samples, ["Yes"] * 6)
    assert figures == {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "yes_rate": 1.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: this line is not JSON"),
        ("[]", "line 3: expected a JSON object"),
        ('{"question_id": 9, "image": "a.jpg", "text": "?", "label": "perhaps"}', "line 3: the label is 'perhaps'"),
        ('{"question_id": 9, "image": "a.jpg", "label": "no"}', "line 3: the field 'text' is missing"),
        (
            '{"question_id": 1, "image": "a.jpg", "text": "?", "label": "no"}',
            "line 3: the question id '1' occurs twice",
        ),
    ],
)
def test_pope_bad_lines(tmp_path: Path, line: str, message: str) -> None:
    folder = pope(tmp_path / "pope")
    path = folder / "coco_pope_random.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(RecordError, match=message):
        task("pope", folder).samples()
    samples = task("pope", folder).samples(skip_bad=True)
    assert Counter(sample.condition for sample in samples) == {"adversarial": 6, "popular": 6, "random": 5}
    assert message in samples.skipped[0].reason


# MMBench


def test_mmbench_rounds(tmp_path: Path) -> None:
    built = task("mmbench", mmbench(tmp_path / "mmbench"))
    samples = built.samples()
    assert samples.left_out == {"rotated copy of another row": 1}
    assert Counter(sample.condition for sample in samples) == {"round-1": 4, "round-2": 4, "round-3": 2, "round-4": 1}
    rounds = [sample for sample in samples if sample.question_id == "1"]
    assert [sample.choices for sample in rounds] == [
        ("cat", "dog", "cow", "hen"),
        ("dog", "cow", "hen", "cat"),
        ("cow", "hen", "cat", "dog"),
        ("hen", "cat", "dog", "cow"),
    ]
    assert [sample.answer for sample in rounds] == ["B", "A", "D", "C"]
    assert rounds[1].question == "Which is it?\nA. dog\nB. cow\nC. hen\nD. cat" + LETTERS


def test_mmbench_hint_pictures_and_free_form(tmp_path: Path) -> None:
    built = task("mmbench", mmbench(tmp_path / "mmbench"))
    free = {sample.question_id: sample for sample in built.samples(format="free")}
    assert len(free) == 4
    assert free["2"].question == "Look closely.\nTwice.\nWhich colour?" + FREE
    assert (free["2"].answer, free["3"].answer) == ("red", "above")
    assert free["3"].question == "Where?" + FREE
    assert free["4"].open().tobytes() == picture(0).tobytes()
    assert free["4"].image_id == free["1"].image_id != free["2"].image_id


def test_mmbench_scores(tmp_path: Path) -> None:
    built = task("mmbench", mmbench(tmp_path / "mmbench"))
    samples = built.samples()
    always_a = built.score(samples, ["A"] * len(samples))
    assert always_a == {"accuracy": pytest.approx(4 / 11), "circular": 0.0}
    right = built.score(samples, [sample.answer for sample in samples])
    assert right == {"accuracy": 1.0, "circular": 1.0}


def test_mmbench_pictures_above_the_csv_default(tmp_path: Path) -> None:
    large = as_base64(picture(5, (400, 300)))
    assert len(large) > 131072
    rows = [dict(mmbench_rows()[0], image=large)]
    (sample,) = task("mmbench", mmbench(tmp_path / "mmbench", rows)).samples("round-1")
    assert sample.open().size == (400, 300)
    assert large not in repr(sample)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "D"}, "line 4: the options are"),
        ({"answer": "E"}, "line 4: the answer is 'E', expected one of A, B, C, D"),
        ({"B": ""}, "line 4: the options are"),
        ({"B": "red"}, "line 4: the options are"),
        ({"question": ""}, "line 4: the field 'question'"),
        ({"image": ""}, "line 4: the field 'image'"),
        ({"index": "1"}, "line 4: the question id '1' occurs twice"),
    ],
)
def test_mmbench_bad_rows(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    rows = mmbench_rows()[:3]
    folder = mmbench(tmp_path / "mmbench", [rows[0], dict(rows[2], hint="a\nb"), dict(rows[1], hint="", **changes)])
    # the second row spans lines 3 and 4, so the third stands on line 5
    message = message.replace("line 4", "line 5")
    with pytest.raises(RecordError, match=message):
        task("mmbench", folder).samples()
    samples = task("mmbench", folder).samples("round-1", skip_bad=True)
    assert (len(samples), len(samples.skipped)) == (2, 1)


def test_mmbench_malformed_files(tmp_path: Path) -> None:
    folder = mmbench(tmp_path / "mmbench")
    path = folder / "mmbench_dev_20230712.tsv"
    whole = path.read_text()
    path.write_text(whole + "5\tshort\n")
    with pytest.raises(RecordError, match="the row has 2 cells, the header 10"):
        task("mmbench", folder).samples()
    path.write_text("index\tquestion\n")
    with pytest.raises(RecordError, match="line 1: the header lacks the column A, B, image"):
        task("mmbench", folder).samples()
    rows = [dict(mmbench_rows()[0], image="@@@@")]
    with pytest.raises(ImageError, match="base64"):
        task("mmbench", mmbench(tmp_path / "bad", rows)).samples()


def test_mmbench_test_split_has_no_answers(tmp_path: Path) -> None:
    folder = mmbench(tmp_path / "mmbench", [dict(mmbench_rows()[0], answer="")])
    (folder / "mmbench_dev_20230712.tsv").rename(folder / "mmbench_test_20230712.tsv")
    built = task("mmbench", folder)
    samples = built.samples(split="test")
    assert [sample.answer for sample in samples] == [""] * 4
    with pytest.raises(MissingDataError, match="mmbench_dev"):
        built.samples()
    (folder / "MMBench_TEST_EN.tsv").write_text("")
    with pytest.raises(MissingDataError, match="several test files"):
        task("mmbench", folder).samples(split="test")


# SEED-Bench and Q-Bench


def test_seedbench_by_field(tmp_path: Path) -> None:
    built = task("seedbench", seedbench(tmp_path / "seed"))
    samples = built.samples()
    assert samples.left_out == {"not about one picture: video": 1}
    one = next(sample for sample in samples if sample.question_id == "502")
    assert one.question == "What is shown?\nA. a dog\nB. a cat\nC. a cow\nD. a hen" + LETTERS
    assert (one.answer, one.image_id) == ("C", "2_9")
    free = next(sample for sample in built.samples(format="free") if sample.question_id == "502")
    assert (free.answer, free.question) == ("a cow", "What is shown?" + FREE)


def test_seedbench_pictures_without_ending(tmp_path: Path) -> None:
    folder = seedbench(tmp_path / "seed", 1)
    (folder / "SEED-Bench-image" / "0_9.jpg").rename(folder / "SEED-Bench-image" / "0_9")
    assert task("seedbench", folder).samples()[0].open().size == (96, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "record 2: the answer is 'E'"),
        ({"choice_c": None}, "record 2: the field 'choice_c'"),
        ({"choice_c": "a dog"}, "record 2: the options are"),
        ({"question_id": "500"}, "record 2: the question id '500' occurs twice"),
        ({"data_id": ""}, "record 2: the field 'data_id'"),
    ],
)
def test_seedbench_bad_records(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = seedbench(tmp_path / "seed")
    path = folder / "SEED-Bench.json"
    content = json.loads(path.read_text())
    content["questions"][1].update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message):
        task("seedbench", folder).samples()
    assert len(task("seedbench", folder).samples(skip_bad=True)) == 3
    path.write_text("[]")
    with pytest.raises(RecordError, match="expected an object"):
        task("seedbench", folder).samples()


def test_qbench_by_field(tmp_path: Path) -> None:
    built = task("qbench", qbench(tmp_path / "qbench"))
    one = next(sample for sample in built.samples() if sample.question_id == "2")
    assert one.question == "How sharp is it?\nA. blurry\nB. sharp\nC. noisy" + LETTERS
    assert (one.answer, one.choices, one.image_id) == ("B", ("blurry", "sharp", "noisy"), "1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct_ans": "loud"}, "record 2: correct_ans is 'loud'"),
        ({"candidates": "blurry"}, "record 2: candidates"),
        ({"candidates": ["sharp"]}, "record 2: candidates"),
        ({"candidates": ["sharp", "sharp"]}, "record 2: candidates"),
        ({"question": 5.5}, None),
        ({"img_path": None}, "record 2: the field 'img_path'"),
    ],
)
def test_qbench_bad_records(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    folder = qbench(tmp_path / "qbench")
    path = folder / "llvisionqa_dev.json"
    content = json.loads(path.read_text())
    content[1].update(changes)
    path.write_text(json.dumps(content))
    if message is None:
        assert len(task("qbench", folder).samples()) == 4
        return
    with pytest.raises(RecordError, match=message):
        task("qbench", folder).samples()
    assert len(task("qbench", folder).samples(skip_bad=True)) == 3
    path.write_text("{}")
    with pytest.raises(RecordError, match="expected a list"):
        task("qbench", folder).samples()


@pytest.mark.parametrize(("name", "field"), [("qbench", "img_path"), ("pope", "image"), ("seedbench", "data_id")])
def test_pictures_outside_the_folder_are_refused(tmp_path: Path, name: str, field: str) -> None:
    folder = BUILDERS[name](tmp_path / name)
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace(f'"{field}": "', f'"{field}": "../../'))
    with pytest.raises(RecordError, match="leads out of the data folder"):
        task(name, folder).samples()


def test_the_page_names_what_a_subclass_may_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("### What a subclass may say")[1]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name.strip("` ").split("(")[0] for cell in cells for name in cell.split(", `")}
    assert {"files", "read", "picture", "conditions", "score"} <= named
    assert not [name for name in named if not hasattr(Benchmark, name)]
    assert not hasattr(Benchmark, "answers"), "margins are over the answers of the traced list"


# Editions and folders as other people have them


def pope_list(folder: Path, edition: str, sub: str, pictures: str) -> Path:
    """GQA's and A-OKVQA's editions: one JSON list a file."""
    (folder / sub).mkdir(parents=True, exist_ok=True)
    (folder / pictures).mkdir(parents=True)
    for number in range(2):
        picture(number).save(folder / pictures / f"24057{number}.jpg", quality=95)
    for condition in ("random", "popular", "adversarial"):
        entries = [
            {
                "question_id": n + 1,
                "image": f"24057{n // 2}.jpg",
                "text": f"Is there a {condition} {n}?",
                "label": label,
            }
            for n, label in enumerate(("yes", "no", "yes", "no"))
        ]
        (folder / sub / f"{edition}_pope_seem_{condition}.json").write_text(json.dumps(entries, indent=4))
    return folder


@pytest.mark.parametrize(
    ("edition", "sub", "pictures"),
    [
        ("gqa", ".", "images"),
        ("gqa", "output/seem/gqa", "gqa/images"),
        ("gqa", "gqa", "images/gqa"),
        ("aokvqa", "output/seem/aokvqa", "val2014"),
        ("aokvqa", "aokvqa", "images/val2014"),
    ],
)
def test_pope_editions(tmp_path: Path, edition: str, sub: str, pictures: str) -> None:
    built = task("pope", pope_list(tmp_path, edition, sub, pictures))
    samples = built.samples()
    assert samples.split == edition
    assert Counter(sample.condition for sample in samples) == dict.fromkeys(built.conditions, 4)
    assert {sample.id.split("-")[1] for sample in samples} == {edition}
    assert all(sample.open().size == (96, 64) for sample in samples)
    with pytest.raises(MissingDataError, match="coco_pope_adversarial"):
        built.samples(split="coco")


def test_pope_takes_the_papers_edition_where_several_are(tmp_path: Path) -> None:
    folder = pope_list(pope(tmp_path / "pope"), "gqa", "gqa", "gqa/images")
    built = task("pope", folder)
    assert built.samples().split == "coco"
    assert built.samples(split="gqa").split == "gqa"
    ids = [sample.id for split in ("coco", "gqa") for sample in built.samples(split=split)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("place", ["coco", "output/coco"])
def test_pope_in_other_folders(tmp_path: Path, place: str) -> None:
    folder = pope(tmp_path / "pope")
    (folder / place).mkdir(parents=True)
    for path in list(folder.glob("*.json")):
        path.rename(folder / place / path.name)
    assert len(task("pope", folder).samples()) == 18


SEED_2 = {
    "question_id": "5_0",
    "question": "How many towels?",
    "choice_a": "One",
    "choice_b": "Two",
    "choice_c": "Three",
    "choice_d": "Four",
    "answer": "a",
    "data_source": "cc3m",
    "data_type": "Single Image",
    "data_id": "14_25",
    "question_type_id": 5,
}


@pytest.mark.parametrize("root", ["", "image"])
def test_seedbench_2(tmp_path: Path, root: str) -> None:
    for name in ("cc3m-image/14_25", "SEED-Bench-2-image/task14/a_1.png"):
        (tmp_path / root / name).parent.mkdir(parents=True)
        picture(0).save(tmp_path / root / name, "PNG")
    several = {**SEED_2, "data_id": ["a.png", "b.png"]}
    entries = [
        SEED_2,
        {**SEED_2, "question_id": "14_0", "data_id": "task14/a_1.png"},
        {**several, "question_id": "17_0", "data_type": "Multiple Images"},
        {**several, "question_id": "19_0", "data_type": "Video"},
        {**several, "question_id": "19_1", "data_type": "Video"},
        {**several, "question_id": "25_0", "data_type": "Image Generation"},
    ]
    (tmp_path / "SEED-Bench_v2_level1_2_3.json").write_text(json.dumps({"questions": entries}))
    samples = task("seedbench", tmp_path).samples()
    assert {sample.id.split("-")[1]: sample.answer for sample in samples} == {"5_0": "A", "14_0": "A"}
    assert all(sample.open().size == (96, 64) for sample in samples)
    assert samples.left_out == {
        "not about one picture: multiple images": 1,
        "not about one picture: video": 2,
        "not about one picture: image generation": 1,
    }


@pytest.mark.parametrize("folder", ["images", "images_llvisionqa", "LLVisionQA_images", "."])
def test_qbench_folders(tmp_path: Path, folder: str) -> None:
    built = qbench(tmp_path / "qbench")
    if folder != "images":
        (built / folder).mkdir(exist_ok=True)
        for path in list((built / "images").iterdir()):
            path.rename(built / folder / path.name)
    assert {sample.open().size for sample in task("qbench", built).samples()} == {(96, 64)}


def test_qbench_answers_that_read_none(tmp_path: Path) -> None:
    folder = qbench(tmp_path / "qbench", 1)
    path = folder / "llvisionqa_dev.json"
    [entry] = json.loads(path.read_text())
    path.write_text(json.dumps([{**entry, "candidates": ["blur", "None"], "correct_ans": "None"}]))
    [one] = task("qbench", folder).samples()
    assert (one.answer, one.choices) == ("B", ("blur", "None"))


@pytest.mark.parametrize(
    ("cells", "choices", "answer"),
    [
        ({"A": "None", "B": "One", "C": "", "D": "", "answer": "b"}, ("None", "One"), "B"),
        ({"A": "None", "B": "One", "C": "Two", "D": "", "answer": "A"}, ("None", "One", "Two"), "A"),
        ({"A": "One", "B": "Two", "C": "None", "D": "", "answer": "C"}, ("One", "Two", "None"), "C"),
        ({"A": "One", "B": "Two", "C": "Three", "D": "None", "answer": "d"}, ("One", "Two", "Three", "None"), "D"),
        ({"A": "One", "B": "Two", "C": "None", "D": "None", "answer": "A"}, ("One", "Two"), "A"),
        ({"A": "One", "B": "Two", "C": "nan", "D": "nan", "answer": "a"}, ("One", "Two"), "A"),
    ],
)
def test_mmbench_cells_that_read_none(
    tmp_path: Path, cells: dict[str, str], choices: tuple[str, ...], answer: str
) -> None:
    rows = [{**mmbench_rows()[0], **cells}]
    [first, *_] = task("mmbench", mmbench(tmp_path / "mmbench", rows)).samples("round-1")
    assert (first.choices, first.answer) == (choices, answer)


def test_a_dry_run_counts_what_a_run_would_stop_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = seedbench(tmp_path / "seed", 6)
    for number in (0, 1, 2):
        (folder / "SEED-Bench-image" / f"{number}_9.jpg").unlink()
    path = folder / "SEED-Bench.json"
    content = json.loads(path.read_text())
    content["questions"][3]["answer"] = "E"
    path.write_text(json.dumps(content))
    asked = ("trace", "mini-1.5-7B", "--task", "seedbench", "--data", folder, "--out", tmp_path / "results")
    code, out, err = run(capsys, *asked, "--dry-run")
    assert code == 0
    assert "4 skipped: 3 unusable pictures, 1 malformed records" in err
    assert "1 left out: not about one picture: video" in err
    assert "stops at the first" in err
    assert re.search(r"samples\s+│ 2 ", out)
    assert run(capsys, *asked)[0] == 2
    assert not (tmp_path / "results").exists()
    for number in (4, 5):
        (folder / "SEED-Bench-image" / f"{number}_9.jpg").unlink()
    code, out, err = run(capsys, *asked, "--dry-run")
    assert code == 2
    assert "6 skipped, the first of them" in err
