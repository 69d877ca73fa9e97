"""Reading benchmark files – JSON, JSON lines, CSV and TSV – with the place of everything that is malformed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from visualheads.errors import ImageError, RecordError, VisualHeadsError, shown
from visualheads.tasks.pictures import ADDRESS
from visualheads.tasks.sample import LETTERS, NO_TEXT, Box

MAX_FIELD = 1 << 28
"""Longest cell read, in characters: base64 pictures exceed the csv module's default."""
LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes that a file's name, and its path, can have on the systems in use."""
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class MissingDataError(VisualHeadsError):
    """Files of a benchmark that are not in the data folder; the message lists them and where to get them."""


@dataclass(frozen=True)
class Record:
    """One record of a benchmark file, and where it stands: its methods raise RecordErrors that say so.

    Parameters
    ----------
    fields
        Its values by name; names are compared without regard to case.
    path, line
        The file, and the line in it where the format has lines.
    number
        Its number in a list, from 1.
    place
        What leads messages where there are no lines, such as "record 3: ".
    """

    fields: Mapping[str, Any]
    path: Path
    line: int | None = None
    number: int = 0
    place: str = ""

    def error(self, message: str) -> RecordError:
        """Return a RecordError with this record's place."""
        return RecordError(self.place + message, self.path, self.line)

    def get(self, *names: str) -> Any:
        """Return the first of the named fields that is there, or None."""
        return next((self.fields[name.lower()] for name in names if name.lower() in self.fields), None)

    def need(self, *names: str) -> Any:
        """Return the first of the named fields. Raises RecordError when there is none."""
        value = self.get(*names)
        if value is None:
            raise self.error(f"the field {names[0]!r} is missing")
        return value

    def text(self, *names: str) -> str:
        """Return the first of the named fields as stripped text, numbers as digits.

        Raises RecordError when there is none, or it is empty or no text.
        """
        value = self.need(*names)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip() and not NO_TEXT.search(value):
            return value.strip()
        raise self.error(f"the field {names[0]!r} is {shown(value, 60)}, expected text")

    def optional(self, *names: str) -> str:
        """Return the first of the named fields as stripped text; "" for a missing or empty one."""
        value = self.get(*names)
        return "" if value is None or (isinstance(value, str) and not value.strip()) else self.text(*names)

    def label(self, *names: str) -> str:
        """Return the first of the named fields as text, whatever its type; "" where there is none."""
        value = self.get(*names)
        return "" if value is None else str(value)

    def file_name(self, *names: str) -> str:
        """Return a field that names a file. Raises RecordError where that leads out of the folder or is too long."""
        name = self.text(*names)
        if ADDRESS.match(name):
            raise self.error(f"the picture {shown(name)} is an address; download it and name the file")
        try:
            inside("", name)
        except ImageError as error:
            raise self.error(str(error)) from None
        return name

    def letter(self, letters: str) -> str:
        """Return the field `answer` as one of the letters, whatever its case; "" where it is empty.

        Raises RecordError for anything else.
        """
        answer = self.label("answer").strip().upper()
        if is_empty(answer):
            return ""
        if answer not in tuple(letters):
            raise self.error(f"the answer is {shown(self.get('answer'), 40)}, expected one of {', '.join(letters)}")
        return answer


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of `names` (paths below the folder) that is a file there, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_json(path: Path) -> Any:
    """Return the parsed file. Raises RecordError, with the line, where it is not JSON or not UTF-8."""
    return _parsed(read_text(path), path)


def read_text(path: Path) -> str:
    """Return the file as text. Raises RecordError where it is not UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RecordError(f"this is not UTF-8 text (byte {error.start}); save it as UTF-8", path, line) from None
    except OSError as error:
        raise RecordError(f"the file cannot be read ({error.strerror})", path) from error


def json_records(path: Path) -> Iterator[Record | RecordError]:
    """Yield the records of a file of JSON lines, or of one JSON list; a RecordError in place of what is no object.

    Raises RecordError where a list as a whole is not JSON.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from listed(_parsed(text, path), path)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield as_record(_strict(line), path, line=number)
        except (ValueError, RecursionError) as error:
            yield RecordError(f"this line is not JSON ({error})", path, number)


def listed(entries: Any, path: Path, expected: str = "a list of records") -> Iterator[Record | RecordError]:
    """Yield the records of a parsed JSON list. Raises RecordError for what is no list."""
    if not isinstance(entries, list):
        raise RecordError(f"expected {expected}", path)
    for number, entry in enumerate(entries, start=1):
        yield as_record(entry, path, number=number, place=f"record {number}: ")


def as_record(
    value: Any, path: Path, line: int | None = None, number: int = 0, place: str = ""
) -> Record | RecordError:
    """Return a JSON object as a Record, or a RecordError for anything else."""
    if not isinstance(value, Mapping):
        return RecordError(f"{place}expected a JSON object, got {shown(value, 60)}", path, line)
    return Record({str(name).strip().lower(): field for name, field in value.items()}, path, line, number, place)


def rows(path: Path, required: Sequence[str], delimiter: str = "\t") -> Iterator[Record | RecordError]:
    """Yield the rows of a TSV or CSV file with a header; a RecordError in place of a malformed row.

    Raises RecordError when a required column is missing, or named twice.
    """
    text = io.StringIO(read_text(path), newline="")
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        reader = csv.reader(text, delimiter=delimiter, strict=True)  # else a quote left open swallows the rows below
        header = [name.strip().lower() for name in next(reader, [])]
        lacking = [name for name in required if name.lower() not in header]
        if lacking:
            raise RecordError(f"the header lacks the column {', '.join(lacking)}; it has: {', '.join(header)}", path, 1)
        if len(set(header)) < len(header):
            raise RecordError(f"the header names a column twice: {', '.join(header)}", path, 1)
        start = reader.line_num + 1
        while (cells := _next_row(reader, path, start)) is not None:
            if isinstance(cells, RecordError):
                yield cells
            elif not any(cell.strip() for cell in cells):
                pass  # spreadsheets leave empty rows
            elif len(cells) == len(header):
                yield Record(dict(zip(header, cells, strict=True)), path, start)
            else:
                yield RecordError(f"the row has {len(cells)} cells, the header {len(header)}", path, start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise RecordError(f"this is not a table ({error})", path) from None
    finally:
        csv.field_size_limit(limit)


def _next_row(reader: Any, path: Path, line: int) -> list[str] | RecordError | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        found = RecordError(f"this is not a table ({error}); is a quotation mark left open?", path, line)
        if "end of data" in str(error):  # all rows below belong to the open cell
            raise found from None
        return found


def is_empty(value: str | None) -> bool:
    """Return True for a missing cell: empty, "nan" or "none". Source: LLaVA's evaluation."""
    return value is None or value.strip().lower() in {"", "nan", "none"}


def inside(folder: str | Path, name: str) -> Path:
    """Return the file `name` of a record, inside `folder`.

    Names are judged as text: links that the user has put into the data folder are followed. Raises ImageError for a
    name that leads out of the folder or is too long for a file.
    """
    parts = PurePosixPath(str(name).replace("\\", "/"))
    outward = parts.is_absolute() or PureWindowsPath(str(name)).drive or ".." in parts.parts
    if outward or not parts.parts or "\0" in str(name):
        raise ImageError(
            f"the picture name {shown(name)} leads out of the data folder {os.fspath(folder)!r} or is empty; "
            "records must name files below that folder."
        )
    sizes = [len(part.encode(errors="replace")) for part in parts.parts]
    if max(sizes) > LONGEST_NAME or sum(sizes) > LONGEST_PATH:
        raise ImageError(f"the picture name {shown(name)} is too long for a file; allowed: {LONGEST_NAME} bytes.")
    return Path(folder) / parts


def picture_index(folder: Path, subfolders: Sequence[str]) -> dict[str, Path]:
    """Return pictures in the subfolders by file name with and without ending; the first that has a name wins."""
    found: dict[str, Path] = {}
    for name in subfolders:
        if not (folder / name).is_dir():
            continue
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in PICTURE_ENDINGS:
                found.setdefault(path.name, path)
                found.setdefault(path.stem, path)
    return found


def hash_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 (64 hex digits) of the files' names and contents, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as stream:
            digest.update(f"{path.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _strict(text: str) -> Any:
    """JSON without a name that stands twice in one object: one of its values would be lost."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {max(names, key=names.count)!r} occurs twice in one object")
    return found


def _parsed(text: str, path: Path) -> Any:
    try:
        return _strict(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"this is not JSON ({error.msg}, column {error.colno})", path, error.lineno) from None
    except ValueError as error:
        raise RecordError(f"this is not JSON ({error})", path) from None
    except RecursionError:
        raise RecordError("this JSON is nested too deeply to be a benchmark file", path) from None


@dataclass(frozen=True)
class Question:
    """One question of a benchmark file before it is worded for a condition and a format.

    Parameters
    ----------
    picture
        Its name in the data folder, or base64 text.
    texts
        Condition → question without instructions; a condition that is missing is not asked.
    answer, answers
        The free-form answer, and further accepted ones.
    options
        Given choices, or () where a benchmark has none.
    stratum
        Draws keep the shares of the strata.
    box, boxes
        As in `Sample`.
    """

    question_id: str
    image_id: str
    picture: str = field(repr=False)
    texts: Mapping[str, str]
    answer: str
    options: tuple[str, ...] = ()
    stratum: str = ""
    box: Box | None = None
    boxes: Mapping[str, Sequence[Box]] | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a file gave: its questions, its malformed records, and how many questions were left out, by reason."""

    questions: tuple[Question, ...]
    bad: tuple[RecordError, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def gather(records: Iterable[Record | RecordError], question_of: Callable[[Record], Question | str]) -> Reading:
    """Return the questions of records in file order; malformed records, and ids that occur twice, apart.

    Parameters
    ----------
    records
        What `records.json_records`, `listed` or `rows` yield.
    question_of
        The question of a record, or why it is left out; raises RecordError for a malformed one.
    """
    questions: dict[str, Question] = {}
    bad: list[RecordError] = []
    left_out: Counter[str] = Counter()
    for record in records:
        if isinstance(record, RecordError):
            bad.append(record)
            continue
        try:
            question = question_of(record)
            if isinstance(question, str):
                left_out[question] += 1
            elif question.question_id in questions:
                raise record.error(f"the question id {shown(question.question_id, 60)} occurs twice")
            else:
                questions[question.question_id] = question
        except RecordError as error:
            bad.append(error)
    return Reading(tuple(questions.values()), tuple(bad), dict(left_out))


RECTANGLE = " The exemplary object is within the rectangle."
"""Said in the visual conditions, free form only (paper code)."""

FREE_SUFFIX = "\nAnswer the question using a single word or phrase."
"""Ends every free-form question (paper code)."""

LETTERS_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
"""Ends every question with choices (paper code)."""


def free_form(question: str, marked: bool = False) -> str:
    """The question, the sentence about the rectangle where the box is drawn (`marked`), and the free-form suffix.

    Source: paper code.
    """
    return question + (RECTANGLE if marked else "") + FREE_SUFFIX


def with_letters(question: str, choices: Sequence[str]) -> str:
    """The question, one line `A. …` for each choice, and the letter suffix.

    The paper's code does not say the sentence about the rectangle here, drawn or not; neither do we. Source: paper
    code.
    """
    lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return question + lines + LETTERS_SUFFIX


def short_answer(question: str) -> str:
    """The question with the free-form suffix, unless it ends with it already: as LLaVA's edition of POPE does."""
    return question if question.endswith(FREE_SUFFIX) else question + FREE_SUFFIX


def with_hint(question: str, hint: str) -> str:
    """An MMBench question below its hint, where it has one. Source: LLaVA's evaluation."""
    return f"{hint}\n{question}" if hint else question
