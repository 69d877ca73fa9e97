"""A table of one's own questions, from files as spreadsheets and scripts write them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from helpers.task_files import picture
from visualheads.errors import ParameterError, RecordError
from visualheads.tasks import MissingDataError, Samples, task
from visualheads.tasks.records import FREE_SUFFIX, LETTERS_SUFFIX

HEADER = "id,image,question,answer,answers,choice_a,choice_b,choice_c,box_x0,box_y0,box_x1,box_y1,condition"


def table(folder: Path, text: str, name: str = "questions.csv", encoding: str = "utf-8") -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(3):
        picture(number).save(folder / "pictures" / f"{number}.png")
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def drawn(folder: Path, text: str, name: str = "questions.csv", **asked: Any) -> Samples:
    return task("table", table(folder, text, name)).samples(**asked)


def row(folder: Path, line: str) -> Samples:
    return drawn(folder, f"{HEADER}\n{line}\n")


def test_the_smallest_table(tmp_path: Path) -> None:
    [one] = drawn(tmp_path, "id,image,question\n1,pictures/0.png,What is it?\n")
    assert one.question == "What is it?" + FREE_SUFFIX
    assert (one.task, one.condition, one.answer, one.box, one.choices) == ("table", "plain", "", None, None)
    assert (one.question_id, one.image_id) == ("1", "pictures/0.png")
    assert one.open().tobytes() == picture(0).tobytes()


def test_a_row_with_everything(tmp_path: Path) -> None:
    [one] = row(tmp_path, '7,pictures/1.png,"How many, exactly?",2,two|a pair,,,,10,12,40,32,counting')
    assert one.question == "How many, exactly?" + FREE_SUFFIX
    assert (one.answer, one.answers) == ("2", ("two", "a pair"))
    assert (one.box, one.condition) == ((10, 12, 40, 32), "counting")


@pytest.mark.parametrize("answer", ["B", "b", "dog"])
def test_choices_are_asked_with_letters(tmp_path: Path, answer: str) -> None:
    built = task("table", table(tmp_path, f"{HEADER}\n1,pictures/0.png,Which?,{answer},,cat,dog,,,,,,\n"))
    assert built.formats == ("letters", "free")
    [letters], [free] = built.samples(), built.samples(format="free")
    assert letters.question == "Which?\nA. cat\nB. dog" + LETTERS_SUFFIX
    assert (letters.answer, letters.choices, free.answer) == ("B", ("cat", "dog"), "dog")


def test_rows_without_choices_are_counted_in_the_letter_format(tmp_path: Path) -> None:
    text = f"{HEADER}\n1,pictures/0.png,Which?,B,,cat,dog,,,,,,\n2,pictures/1.png,What?,,,,,,,,,,\n"
    built = task("table", table(tmp_path, text))
    assert built.formats == ("free", "letters")
    assert len(built.samples()) == 2
    assert built.samples(format="letters").left_out == {"no choices": 1}


def test_conditions_of_one_question_are_paired(tmp_path: Path) -> None:
    lines = [f"{n},pictures/{n}.png,{q},2,,,,,,,,,{c}" for n in (0, 1, 2) for q, c in (("How many?", "a"), ("N?", "b"))]
    built = task("table", table(tmp_path, "\n".join([HEADER, *lines])))
    assert built.conditions == ("a", "b")
    samples = built.samples(n=2, seed=3)
    assert [sample.condition for sample in samples] == ["a", "a", "b", "b"]
    assert [sample.question_id for sample in samples[:2]] == [sample.question_id for sample in samples[2:]]
    [white] = built.samples("a", n=1, control="white")
    assert set(white.open().tobytes()) == {255}
    assert built.samples("b", control="swapped")


def test_excel_tsv_and_json_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "image": f"pictures/{n}.png", "question": "How many; or few?", "answer": "2"} for n in (0, 1)
    ]
    columns = list(rows[0])
    lines = [columns, *([entry[name] for name in columns] for entry in rows)]
    texts = {
        "a.csv": "\r\n".join(",".join(f'"{cell}"' for cell in line) for line in lines),
        "b.tsv": "\n".join("\t".join(line) for line in lines) + "\n\t\t\t\n",
        "c.csv": "\n".join(";".join(f'"{cell}"' for cell in line) for line in lines) + "\n;;;\n",
        "d.jsonl": "\n".join(json.dumps(entry) for entry in rows),
        "e.json": json.dumps([{name.title(): value for name, value in entry.items()} for entry in rows], indent=1),
        "f.jsonl": "\n".join(json.dumps({**entry, "id": int(entry["id"]), "answers": ["two"]}) for entry in rows),
    }
    expected = drawn(tmp_path, texts["a.csv"], "a.csv")
    for name, text in texts.items():
        samples = drawn(tmp_path, text, name)
        assert [(sample.id, sample.question, sample.answer) for sample in samples] == [
            (sample.id, sample.question, sample.answer) for sample in expected
        ]
    table(tmp_path, texts["a.csv"], "g.csv", encoding="utf-8-sig")
    assert len(task("table", tmp_path / "g.csv").samples()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,pictures/0.png,What?,2", "4 cells, the header 13"),
        (",pictures/0.png,What?,,,,,,,,,,", "the field 'id'"),
        ("1,,What?,,,,,,,,,,", "the field 'image'"),
        ("1,https://a.org/0.png,What?,,,,,,,,,,", "is an address; download it"),
        ("1,pictures/0.png, ,,,,,,,,,,", "the field 'question'"),
        ("1,../0.png,What?,,,,,,,,,,", "leads out of the data folder"),
        ("1,/etc/0.png,What?,,,,,,,,,,", "leads out of the data folder"),
        ("1,pictures/0.png,What?,,,cat,,,,,,,", "the choices"),
        ("1,pictures/0.png,What?,,,cat,cat,,,,,,", "the choices"),
        ("1,pictures/0.png,What?,,,cat,,dog,,,,,", "the choices"),
        ("1,pictures/0.png,What?,C,,cat,dog,,,,,,", "neither a letter nor a choice"),
        ("1,pictures/0.png,What?,A,,B,A,,,,,,", "both a letter and the text"),
        ("1,pictures/0.png,What?,,,,,,1,2,3,,", "the box"),
        ("1,pictures/0.png,What?,,,,,,1,2,3,x,", "the box"),
        ("1,pictures/0.png,What?,,,,,,9,2,3,4,", "the box"),
        ("1,pictures/0.png,What?,,,,,,1,2,nan,4,", "the box"),
        ("1,pictures/0.png,What?,,,,,,1,2,inf,4,", "the box"),
        ("0,pictures/0.png,Other?,,,,,,,,,,", "occurs again in the same condition"),
        ("0,pictures/1.png,What?,,,,,,,,,,b", "occurs again with another picture"),
        ("0,pictures/0.png,What?,5,,,,,,,,,b", "occurs again with another answer"),
    ],
)
def test_bad_rows_are_told_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    text = f"{HEADER}\n0,pictures/0.png,What?,,,,,,,,,,\n{line}\n"
    with pytest.raises(RecordError, match=f"line 3: .*{message}"):
        drawn(tmp_path, text)
    left = drawn(tmp_path, text, skip_bad=True)
    assert (len(left), len(left.skipped)) == (1, 1)


def test_a_quote_left_open_swallows_no_rows(tmp_path: Path) -> None:
    for lines in (
        ('1,pictures/0.png,"What?', "2,pictures/1.png,Who?"),
        ('1,pictures/0.png,"What"?', "2,pictures/1.png,"),
    ):
        with pytest.raises(RecordError, match="line 2: this is not a table"):
            drawn(tmp_path, "\n".join(["id,image,question", *lines]))
    text = 'id,image,question\n1,pictures/0.png,"What"?\n2,pictures/1.png,Who?\n'
    assert [one.question_id for one in drawn(tmp_path, text, skip_bad=True)] == ["2"]


def test_one_picture_has_one_name(tmp_path: Path) -> None:
    names = ("pictures/0.png", "./pictures/0.png", "pictures//0.png", "pictures\\0.png")
    lines = "\n".join(f"{n},{name},What?" for n, name in enumerate(names))
    assert {one.image_id for one in drawn(tmp_path, f"id,image,question\n{lines}\n")} == {"pictures/0.png"}


def test_columns_that_are_not_used_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drawn(tmp_path, "id,image,question,anwser,note\n1,pictures/0.png,What?,2,x\n")
    assert "'anwser' (meant 'answer'?), 'note'" in caplog.text


def test_files_that_are_no_table(tmp_path: Path) -> None:
    for data in (None, tmp_path, tmp_path / "none.csv"):
        with pytest.raises(MissingDataError, match="id, image, question"):
            task("table", data)
    with pytest.raises(RecordError, match="lacks the column image"):
        drawn(tmp_path, "id,question\n1,What?\n")
    with pytest.raises(RecordError, match="names a column twice"):
        drawn(tmp_path, "id,image,question,question\n1,a,b,c\n")
    with pytest.raises(RecordError, match="line 2: this is not UTF-8"):
        task("table", table(tmp_path, "id,image,question\n1,é,b\n", encoding="latin-1"))
    with pytest.raises(ParameterError, match="no question"):
        drawn(tmp_path, "id,image,question\n")


def test_the_hash_follows_the_file(tmp_path: Path) -> None:
    text = "id,image,question\n1,pictures/0.png,What?\n"
    before = task("table", table(tmp_path, text)).files_hash()
    assert task("table", table(tmp_path, text + "2,pictures/1.png,What?\n")).files_hash() != before
