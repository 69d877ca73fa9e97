"""LookTwice-QA: both releases, six conditions, letters, drawing, and every way a record can be wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.task_files import looktwice, looktwice_again, looktwice_record, picture, write_looktwice
from visualheads.errors import ImageError, ParameterError, RecordError
from visualheads.tasks import MissingDataError, task
from visualheads.tasks.looktwice import LookTwice
from visualheads.tasks.pictures import RED
from visualheads.tasks.sampling import Question, in_drawing_order

SIX = ("plain-general", "plain-object", "plain-super", "visual-general", "visual-object", "visual-super")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return looktwice(tmp_path / "data")


def red_pixels(sample: Any) -> int:
    return int((np.asarray(sample.open()) == RED).all(axis=2).sum())


def test_one_sample_field_by_field(tmp_path: Path) -> None:
    folder = looktwice(tmp_path / "one", [3])
    (sample,) = task("looktwice", folder).samples("visual-object")
    assert sample.id == "looktwice-100-1-visual-object-free-none"
    assert sample.question == (
        "How many dogs are there? The exemplary object is within the rectangle."
        "\nAnswer the question using a single word or phrase."
    )
    assert (sample.answer, sample.choices, sample.box) == ("3", None, (10.0, 12.0, 40.0, 32.0))
    labels = (sample.task, sample.condition, sample.control, sample.question_id, sample.image_id)
    assert labels == ("looktwice", "visual-object", "", "100-1", "100")
    assert red_pixels(sample) == 2 * (32 + 20)  # one pixel around 30 × 20
    (plain,) = task("looktwice", folder).samples("plain-super")
    assert plain.question == (
        "How many of these animals are there?\nAnswer the question using a single word or phrase."
    )
    assert plain.box == sample.box
    assert red_pixels(plain) == 0


def test_all_conditions_ask_the_same_questions(data: Path) -> None:
    looktwice_task = task("looktwice", data)
    assert looktwice_task.conditions == SIX
    samples = looktwice_task.samples(n=5, seed=3)
    assert Counter(sample.condition for sample in samples) == dict.fromkeys(SIX, 5)
    asked = [[sample.question_id for sample in samples if sample.condition == name] for name in SIX]
    assert all(each == asked[0] for each in asked)
    assert len({sample.id for sample in samples}) == 30
    alone = looktwice_task.samples("plain-super", n=5, seed=3)
    assert [sample.question_id for sample in alone] == asked[0]


def test_draws_are_seeded_and_nested(data: Path) -> None:
    looktwice_task = task("looktwice", data)
    six = [sample.id for sample in looktwice_task.samples("plain-object", n=6, seed=1)]
    assert six == [sample.id for sample in looktwice_task.samples("plain-object", n=6, seed=1)]
    assert six[:4] == [sample.id for sample in looktwice_task.samples("plain-object", n=4, seed=1)]
    assert any(
        six != [sample.id for sample in looktwice_task.samples("plain-object", n=6, seed=seed)] for seed in (2, 3, 4)
    )


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 1000), st.data())
def test_every_beginning_keeps_the_strata(strata: list[str], seed: int, draw: st.DataObject) -> None:
    questions = [Question(str(i), "", "", {}, "1", stratum=stratum) for i, stratum in enumerate(strata)]
    ordered = in_drawing_order(questions, seed)
    assert sorted(question.question_id for question in ordered) == sorted(
        question.question_id for question in questions
    )
    n = draw.draw(st.integers(1, len(strata)))
    taken = Counter(question.stratum for question in ordered[:n])
    for stratum, count in Counter(strata).items():
        assert abs(taken[stratum] - n * count / len(strata)) <= 3


def test_draws_within_a_stratum_are_random() -> None:
    questions = [Question(str(i), "", "", {}, "1") for i in range(100)]
    first = [{int(question.question_id) for question in in_drawing_order(questions, seed)[:50]} for seed in range(20)]
    late = [sum(number >= 50 for number in drawn) for drawn in first]
    assert all(10 <= count <= 40 for count in late)
    assert len({frozenset(drawn) for drawn in first}) == 20


def test_letters_by_field(data: Path) -> None:
    samples = task("looktwice", data).samples("plain-object", format="letters")
    for sample in samples:
        assert sample.format == "letters"
        assert sample.choices is not None
        lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", sample.choices, strict=True))
        assert sample.question == (
            f"How many dogs are there?{lines}\nAnswer with the option's letter from the given choices directly."
        )
        free = task("looktwice", data).samples("plain-object")
        truth = {other.question_id: other.answer for other in free}[sample.question_id]
        assert sample.choices["ABCD".index(sample.answer)] == truth


def test_letters_do_not_speak_of_the_rectangle_but_draw_it(data: Path) -> None:
    sample = task("looktwice", data).samples("visual-object", format="letters", n=1)[0]
    assert "rectangle" not in sample.question
    assert red_pixels(sample) > 0


@given(st.integers(1, 7), st.integers(0, 10_000))
def test_choices_hold_the_answer_once(answer: int, seed: int) -> None:
    choices = LookTwice.choices(_built(), _question(answer), "plain-object", seed)
    assert len(choices) == len(set(choices)) == 4
    assert choices.count(str(answer)) == 1
    assert all(1 <= int(choice) <= 7 for choice in choices)


def test_letters_and_distractors_are_balanced_over_seeds() -> None:
    drawn = [LookTwice.choices(_built(), _question(3), "plain-object", seed) for seed in range(4000)]
    letters = Counter(choices.index("3") for choices in drawn)
    assert all(abs(letters[place] - 1000) < 120 for place in range(4))  # 4 standard deviations
    others = Counter(choice for choices in drawn for choice in choices if choice != "3")
    assert all(abs(others[str(number)] - 2000) < 130 for number in (1, 2, 4, 5, 6, 7))


def _question(answer: int) -> Question:
    return Question("1", "1", "1", {"plain-object": "?"}, str(answer))


def _built() -> LookTwice:
    built = LookTwice.__new__(LookTwice)
    built.highest = 7
    return built


def test_large_answers_are_left_out_of_letters_and_counted(tmp_path: Path) -> None:
    folder = looktwice(tmp_path / "data", [1, 8, 9, 7])
    letters = task("looktwice", folder).samples("plain-object", format="letters")
    assert len(letters) == 2
    assert letters.left_out == {"answer not among 1…7": 2}
    assert len(task("looktwice", folder).samples("plain-object")) == 4
    assert len(task("looktwice", folder, highest=9).samples("plain-object", format="letters")) == 4


def test_same_choices_in_every_condition_and_other_ones_for_other_seeds(data: Path) -> None:
    looktwice_task = task("looktwice", data)
    by_question: dict[str, set[Any]] = {}
    for sample in looktwice_task.samples(format="letters", seed=5):
        by_question.setdefault(sample.question_id, set()).add(sample.choices)
    assert all(len(choices) == 1 for choices in by_question.values())
    other = {sample.question_id: sample.choices for sample in looktwice_task.samples("plain-object", "letters", seed=6)}
    assert any(by_question[question] != {choices} for question, choices in other.items())


def test_optional_objects_become_boxes(tmp_path: Path) -> None:
    folder = looktwice(tmp_path / "data", [2])
    objects = [
        {"name": "dog", "BBox": {"x": 10, "y": 12, "w": 30, "h": 20}},
        {"name": "dog", "BBox": {"x": 50, "y": 12, "w": 30, "h": 20}},
        {"name": "cat", "BBox": {"x": 0, "y": 40, "w": 10, "h": 10}},
    ]
    write_looktwice(folder, {"100": [looktwice_record("100", 2, Objects=objects)]})
    (sample,) = task("looktwice", folder).samples("plain-object")
    assert sample.boxes == {"dog": [(10, 12, 40, 32), (50, 12, 80, 32)], "cat": [(0, 40, 10, 50)]}


def test_lower_case_names_and_other_layouts_load(tmp_path: Path) -> None:
    folder = tmp_path / "vg"
    (folder / "VG_100K_2").mkdir(parents=True)
    picture(1).save(folder / "VG_100K_2" / "100.jpg")
    record = {key.lower(): value for key, value in looktwice_record("100", 4).items()}
    write_looktwice(folder, {"100": [{**record, "ans": 4}]})
    (sample,) = task("looktwice", folder).samples("visual-general")
    assert sample.answer == "4"
    assert sample.open().size == (96, 64)


def test_vip_llava_edition(tmp_path: Path) -> None:
    samples = task("looktwice", looktwice_again(tmp_path / "again")).samples("visual-object", seed=2)
    first = next(sample for sample in samples if sample.question_id == "pointQA_twice-0")
    assert (first.answer, first.image_id, first.box) == ("1", "200", (10, 12, 40, 32))
    assert len(samples) == 4
    assert first.open().size == (96, 64)


def test_box_is_cut_to_the_picture(tmp_path: Path) -> None:
    folder = looktwice(tmp_path / "data", [2])
    record = looktwice_record("100", 2, BBox={"x": 80, "y": -4, "w": 40, "h": 20})
    write_looktwice(folder, {"100": [record]})
    (sample,) = task("looktwice", folder).samples("visual-object")
    assert sample.box == (80, 0, 96, 16)


BAD_RECORDS = {
    "not an object": 3,
    "no question": looktwice_record("100", 1, Obj_question=""),
    "no answer": looktwice_record("100", 1, Ans=None),
    "answer no number": looktwice_record("100", 1, Ans="many"),
    "answer true": looktwice_record("100", 1, Ans=True),
    "no box": looktwice_record("100", 1, BBox=None),
    "empty box": looktwice_record("100", 1, BBox={"x": 1, "y": 1, "w": 0, "h": 5}),
    "box of texts": looktwice_record("100", 1, BBox={"x": "1", "y": 1, "w": 4, "h": 5}),
    "half a box": looktwice_record("100", 1, BBox={"x": 1, "y": 1}),
    "objects no list": looktwice_record("100", 1, Objects={}),
    "object without name": looktwice_record("100", 1, Objects=[{"BBox": {"x": 1, "y": 1, "w": 4, "h": 5}}]),
    "object without box": looktwice_record("100", 1, Objects=[{"name": "dog"}]),
}


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_bad_records_are_told_and_can_be_skipped(tmp_path: Path, record: Any) -> None:
    folder = looktwice(tmp_path / "data", [2, 3])
    write_looktwice(folder, {"100": [looktwice_record("100", 2), record, record], "101": [looktwice_record("101", 3)]})
    with pytest.raises(RecordError, match=r"looktwiceqa_dataset\.json.*picture '100', record 2.*1 more.*skip_bad=True"):
        task("looktwice", folder).samples("plain-object")
    samples = task("looktwice", folder).samples("plain-object", skip_bad=True)
    assert sorted(sample.question_id for sample in samples) == ["100-1", "101-1"]
    assert ["record 2" in samples.skipped[0].reason, "record 3" in samples.skipped[1].reason] == [True, True]


def test_bad_records_of_the_other_edition(tmp_path: Path) -> None:
    folder = looktwice_again(tmp_path / "again")
    path = folder / "pointQA_twice_test.json"
    entries = json.loads(path.read_text())
    entries[1]["bboxes"] = []
    entries[2]["id"] = entries[0]["id"]
    path.write_text(json.dumps([*entries, 7]))
    with pytest.raises(RecordError, match=r"record 2: bboxes.*2 more"):
        task("looktwice", folder).samples("plain-object")
    samples = task("looktwice", folder).samples("plain-object", skip_bad=True)
    assert (len(samples), len(samples.skipped)) == (2, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("looktwiceqa_dataset.json", '{"100": [\n{"Ans": 1,}]}', "line 2"),
        ("looktwiceqa_dataset.json", "[]", "expected an object"),
        ("looktwiceqa_dataset.json", '{"100": 4}', "no list of records"),
        ("looktwiceqa_dataset.json", "[" * 200_000, "nested too deeply"),
        ("looktwiceqa_test_imgs.json", "{}", "expected a list"),
        ("looktwiceqa_test_imgs.json", '["999"]', "'999' is not in the dataset"),
    ],
)
def test_malformed_files(data: Path, name: str, content: str, message: str) -> None:
    (data / name).write_text(content)
    with pytest.raises(RecordError, match=message):
        task("looktwice", data).samples("plain-object")


def test_bytes_that_are_no_text_are_located(data: Path) -> None:
    (data / "looktwiceqa_dataset.json").write_bytes(b'{\n"a": "\xff"}')
    with pytest.raises(RecordError, match="line 2: this is not UTF-8"):
        task("looktwice", data).samples("plain-object")


def test_unusable_pictures_are_told_and_can_be_skipped(data: Path) -> None:
    (data / "images" / "101.png").unlink()
    cut = data / "images" / "102.png"
    cut.write_bytes(cut.read_bytes()[:500])
    with pytest.raises(ImageError, match=r"101"):
        task("looktwice", data).samples("plain-object")
    samples = task("looktwice", data).samples("plain-object", skip_bad=True)
    assert len(samples) == 6
    assert sorted(skipped.where for skipped in samples.skipped) == ["question 101-1", "question 102-1"]
    assert len(task("looktwice", data).samples("plain-object", n=6, skip_bad=True)) == 6


def test_image_ids_cannot_leave_the_folder(data: Path) -> None:
    write_looktwice(data, {"../secret": [looktwice_record("x", 1)]})
    with pytest.raises(RecordError, match="leads out of the data folder"):
        task("looktwice", data).samples("plain-object")


def test_missing_files_are_listed_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"does not exist.*princetonvisualai/pointingqa"):
        task("looktwice", tmp_path / "none")
    empty = task("looktwice", tmp_path)
    with pytest.raises(
        MissingDataError, match=r"looktwiceqa_dataset\.json, looktwiceqa_test_imgs\.json.*Visual Genome"
    ):
        empty.samples()
    assert "looktwiceqa_val_imgs.json" in empty.missing("val")


def test_a_split_of_its_own(data: Path) -> None:
    (data / "looktwiceqa_val_imgs.json").write_text('["103", 104]')
    samples = task("looktwice", data).samples("plain-object", split="val")
    assert sorted(sample.image_id for sample in samples) == ["103", "104"]
    assert task("looktwice", data).missing("test") == ""
    with pytest.raises(MissingDataError, match="train"):
        task("looktwice", data).samples(split="train")


@pytest.mark.parametrize(
    "arguments",
    [
        {"condition": "visual"},
        {"condition": ()},
        {"condition": ("plain-object", "plain-object")},
        {"format": "words"},
        {"control": "black"},
        {"split": "dev"},
        {"n": 0},
        {"n": 2.0},
        {"n": True},
    ],
)
def test_wrong_arguments_name_the_allowed_ones(data: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="allowed"):
        task("looktwice", data).samples(**arguments)


def test_wrong_settings(data: Path) -> None:
    with pytest.raises(ParameterError, match="highest"):
        task("looktwice", data, highest=3)
    with pytest.raises(ParameterError, match="size"):
        task("looktwice", data, size=3)


def test_nothing_left_to_ask_is_an_error(tmp_path: Path) -> None:
    folder = looktwice(tmp_path / "data", [8])
    with pytest.raises(ParameterError, match="no question"):
        task("looktwice", folder).samples("plain-object", format="letters")


def test_files_hash_follows_the_content(data: Path) -> None:
    before = task("looktwice", data).files_hash()
    assert before == task("looktwice", data).files_hash()
    write_looktwice(data, {"100": [looktwice_record("100", 2)]})
    assert task("looktwice", data).files_hash() != before


def test_default_data_are_the_projects_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looktwice(tmp_path / "data" / "scenes" / "looktwice", [1, 2])
    for named in (tmp_path, tmp_path / "data"):
        monkeypatch.setenv("VISUALHEADS_DATA", str(named))
        assert len(task("looktwice").samples("plain-object")) == 2
    monkeypatch.setenv("VISUALHEADS_DATA", str(tmp_path / "none"))
    with pytest.raises(MissingDataError, match="none"):
        task("looktwice")
