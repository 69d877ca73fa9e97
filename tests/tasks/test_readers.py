"""Readers meet damaged, hostile and random files: one error that tells the place, or samples; nothing else."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.task_files import BUILDERS, as_base64, looktwice_record, mmbench, mmbench_rows, picture, write_looktwice
from visualheads.errors import RecordError, VisualHeadsError
from visualheads.tasks import task

MUTATED = 1_000_000
"""Mutated inputs of the long form, all readers together."""


def own_table(folder: Path) -> Path:
    folder.mkdir(parents=True)
    picture(0).save(folder / "0.png")
    lines = ["id,image,question,answer,choice_a,choice_b,box_x0,box_y0,box_x1,box_y1,condition"]
    lines += [f"{n},0.png,Which?,A,cat,dog,1,2,30,40,plain" for n in range(3)]
    (folder / "questions.csv").write_text("\n".join(lines))
    return folder / "questions.csv"


def own_lines(folder: Path) -> Path:
    folder.mkdir(parents=True)
    picture(0).save(folder / "0.png")
    lines = [{"id": n, "image": "0.png", "question": "Which?", "answers": ["2", "two"]} for n in range(3)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "questions.jsonl"


def small_mmbench(folder: Path) -> Path:
    """With pictures of a few bytes, so that most changes meet the table."""
    rows = mmbench_rows()
    for row in rows[:3]:
        row["image"] = as_base64(picture(0).resize((3, 2)))
    return mmbench(folder, rows[:4])


FILES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "looktwice": ("looktwice", BUILDERS["looktwice"], "looktwiceqa_dataset.json"),
    "looktwice list": ("looktwice", BUILDERS["looktwice"], "looktwiceqa_test_imgs.json"),
    "pope": ("pope", BUILDERS["pope"], "coco_pope_random.json"),
    "mmbench": ("mmbench", small_mmbench, "mmbench_dev_20230712.tsv"),
    "seedbench": ("seedbench", BUILDERS["seedbench"], "SEED-Bench.json"),
    "qbench": ("qbench", BUILDERS["qbench"], "llvisionqa_dev.json"),
    "table": ("table", own_table, ""),
    "lines": ("table", own_lines, ""),
}
"""(benchmark, builder of its data, the file to damage)"""

PIECES = (
    "[" * 2000,
    "9" * 5000,
    "1e400",
    "-1",
    "NaN",
    "null",
    "{}",
    "[]",
    '""',
    "true",
    "\\ud800",
    "\0",
    "\t",
    "\n",
    ",",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path, Path, bytes]]:
    """Reader → (benchmark, data, file, its content)."""
    made = {}
    for name, (benchmark, build, file) in FILES.items():
        data = build(tmp_path_factory.mktemp("data") / "there")
        path = data / file if file else data
        made[name] = (benchmark, data, path, path.read_bytes())
    return made


def read(benchmark: str, data: Path) -> None:
    """All that a run does with a file before it opens pictures; only our errors may come out."""
    try:
        made = task(benchmark, data)
        for split in made.splits:
            if not made.missing(split):
                reading = made.reading(split)
                assert all(len(str(error)) < 2000 for error in reading.bad)
        made.samples(n=2, skip_bad=True)
    except VisualHeadsError as error:
        assert len(str(error)) < 2000


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, doubled, or replaced by what readers stumble over."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice((0, 1, 4, 30)))
        kind = rng.randrange(4)
        if kind == 0:
            changed[start:stop] = rng.randbytes(stop - start)
        elif kind == 1:
            changed[start:stop] = rng.choice(PIECES).encode(errors="surrogatepass")
        elif kind == 2:
            changed[start:start] = changed[start:stop]
        else:
            del changed[start:stop]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_mutated_files(built: dict[str, Any], name: str) -> None:
    benchmark, data, path, content = built[name]
    rng = random.Random(name)
    for _ in range(40):
        path.write_bytes(mutated(content, rng))
        read(benchmark, data)
    path.write_bytes(content)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_a_million_mutated_inputs(built: dict[str, Any], name: str) -> None:
    """Every record of a file counts as an input: a file holds a thousand, each mutated by itself."""
    benchmark, data, path, content = built[name]
    rng = random.Random(name)
    for text in many(name, content, rng, MUTATED // len(FILES)):
        path.write_bytes(text)
        read(benchmark, data)
    path.write_bytes(content)


def many(name: str, content: bytes, rng: random.Random, count: int) -> Any:
    """Files of up to a thousand mutated records, until there were `count`."""
    for _ in range(0, count, 1000):
        if name in ("pope", "lines", "table", "mmbench"):
            head, *lines = content.splitlines(keepends=True)
            body = [_line(mutated(rng.choice(lines), rng)) for _ in range(1000)]
            yield b"".join([head, *body])
        else:
            yield from (mutated(content, rng) for _ in range(10))
            yield json.dumps(_records(name, json.loads(content), rng)).encode()


def _line(content: bytes) -> bytes:
    """One line of text: bytes that are no UTF-8, or an open quotation, would hide the records after it."""
    text = content.decode(errors="replace").replace("\r", " ").replace("\n", " ")
    return (text if text.count('"') % 2 == 0 else text.replace('"', "")).encode() + b"\n"


def _records(name: str, parsed: Any, rng: random.Random) -> Any:
    if name == "looktwice list":
        return [_value(entry, rng) for entry in parsed for _ in range(125)]
    if name == "looktwice":
        return {key: [_value(entry, rng) for entry in entries for _ in range(125)] for key, entries in parsed.items()}
    entries = parsed["questions"] if isinstance(parsed, dict) else parsed
    some = [_value(rng.choice(entries), rng) for _ in range(990)]
    return {**parsed, "questions": some} if isinstance(parsed, dict) else some


def _value(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts replaced by something else."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: _value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], _value(value[place], rng), *value[place + 1 :]]
    return rng.choice(
        (None, 0, -1, 1.5, 1e308, 10**400, float("nan"), True, "", " ", "A", "\0", "../x", "x" * 5000, [], {}, [[[]]])
    )


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("table", "mmbench")])
def test_random_values_in_records(built: dict[str, Any], name: str) -> None:
    benchmark, data, path, content = built[name]
    rng = random.Random(f"values of {name}")
    for _ in range(30):
        if name in ("pope", "lines"):
            text = "\n".join(json.dumps(_value(json.loads(line), rng)) for line in content.splitlines())
        else:
            text = json.dumps(_value(json.loads(content), rng))
        path.write_text(text)
        read(benchmark, data)
    path.write_bytes(content)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=2), max_size=2)
)
COLUMNS = ("id", "image", "question", "answer", "answers", "choice_a", "choice_b", "box_x0", "condition")


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(values=st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES), max_size=3))
def test_any_json_is_a_table_or_told(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "questions.json"
    path.write_text(json.dumps(values))
    read("table", path)


HOSTILE = {
    "an answer of 5,000 digits": {"Ans": "9" * 5000},
    "a number as the answer": {"Ans": 10**400},
    "a negative answer": {"Ans": "-3"},
    "a box beyond all numbers": {"BBox": {"x": 10**400, "y": 0, "w": 5, "h": 5}},
    "an infinite box": {"BBox": {"x": 0, "y": 0, "w": float("inf"), "h": 5}},
    "a box of text": {"BBox": {"x": "0", "y": 0, "w": 5, "h": 5}},
    "a box without sides": {"BBox": [0, 0, 5, 5]},
    "objects without names": {"Objects": [{"BBox": {"x": 0, "y": 0, "w": 5, "h": 5}}]},
    "objects that are none": {"Objects": [5]},
    "half a character": {"Obj_question": "How many \ud800?"},
    "a null character": {"Super_question": "How\0many?"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_records_are_counted(tmp_path: Path, kind: str) -> None:
    data = BUILDERS["looktwice"](tmp_path / "data")
    dataset = json.loads((data / "looktwiceqa_dataset.json").read_text())
    dataset["100"] = [looktwice_record("100", 1, **HOSTILE[kind])]
    write_looktwice(data, dataset)
    with pytest.raises(RecordError, match="picture '100', record 1"):
        task("looktwice", data).samples()
    samples = task("looktwice", data).samples("plain-object", skip_bad=True)
    assert (len(samples), len(samples.skipped)) == (7, 1)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name, field, file in (
        ("pope", "image", "coco_pope_random.json"),
        ("qbench", "img_path", "llvisionqa_dev.json"),
    ):
        data = BUILDERS[name](tmp_path / name)
        path = data / file
        path.write_text(path.read_text().replace(f'"{field}": "', f'"{field}": "{"x" * 5000}', 1))
        with pytest.raises(RecordError, match="too long for a file"):
            task(name, data).samples()
        assert len(task(name, data).samples(skip_bad=True).skipped) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"questions": ' + "9" * 5000 + "}", '{"a":' * 100_000])
@pytest.mark.parametrize(("name", "file"), [("seedbench", "SEED-Bench.json"), ("pope", "coco_pope_random.json")])
def test_deep_nesting_and_long_numbers(tmp_path: Path, name: str, file: str, text: str) -> None:
    data = BUILDERS[name](tmp_path / name)
    (data / file).write_text(text)
    with pytest.raises(RecordError, match=re.escape(file)):
        task(name, data).samples()


def test_cells_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visualheads.tasks.records.MAX_FIELD", 1000)
    data = mmbench(tmp_path / "mmbench", mmbench_rows())
    with pytest.raises(RecordError, match="not a table"):
        task("mmbench", data).samples()
