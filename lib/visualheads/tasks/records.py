"""Reading official benchmark files: JSON, JSON lines and TSV, with the place of everything that is malformed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visualheads.errors import RecordError, VisualHeadsError

MAX_FIELD = 1 << 28
"""Longest TSV field read, in characters: base64 pictures exceed the csv module's default."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class MissingDataError(VisualHeadsError):
    """Files of a benchmark that are not in the data folder; the message lists them and where to get them."""


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` (paths below the folder) that is a file there, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_json(path: Path) -> Any:
    """The parsed file. Raises RecordError, with the line, where it is not JSON or not UTF-8."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise RecordError(f"this is not JSON ({error.msg}, column {error.colno})", path, error.lineno) from None
    except RecursionError:
        raise RecordError("this JSON is nested too deeply to be a benchmark file", path) from None


def read_text(path: Path) -> str:
    """The file as text. Raises RecordError where it is not UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RecordError(f"this is not UTF-8 text (byte {error.start})", path, line) from None
    except OSError as error:
        raise RecordError(f"the file cannot be read ({error.strerror})", path) from error


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RecordError]]:
    """(line number, record) of every line that is not empty; a RecordError in place of a line that is no object."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield number, RecordError(f"this line is not JSON ({error})", path, number)
            continue
        yield (
            number,
            record if isinstance(record, dict) else RecordError("this line is not a JSON object", path, number),
        )


def tsv_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str] | RecordError]]:
    """(line number, row by column name) of a TSV file with a header; a RecordError in place of a malformed row.

    Raises RecordError when a required column is missing.
    """
    text = io.StringIO(read_text(path), newline="")
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        reader = csv.reader(text, delimiter="\t")
        header = next(reader, [])
        lacking = [name for name in required if name not in header]
        if lacking:
            raise RecordError(f"the header lacks the column {', '.join(lacking)}; it has: {', '.join(header)}", path, 1)
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                yield start, _row(header, cells, path, start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise RecordError(f"this is not tab-separated text ({error})", path) from None
    finally:
        csv.field_size_limit(limit)


def text_of(record: Mapping[str, Any], names: Sequence[str], path: Path, line: int | None, place: str = "") -> str:
    """The first of the named fields as stripped text (numbers as digits), whatever the case of its name.

    Raises RecordError when there is none, or it is empty or no text.
    """
    lower = {str(key).lower(): value for key, value in record.items()}
    value = next((lower[name.lower()] for name in names if name.lower() in lower), None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    given = "is missing" if value is None else f"is {value!r:.60}, expected text"
    raise RecordError(f"{place}the field {names[0]!r} {given}", path, line)


def is_empty(value: str | None) -> bool:
    """True for a missing TSV cell or option: empty, "nan" or "none". Source: LLaVA's evaluation."""
    return value is None or value.strip().lower() in {"", "nan", "none"}


def picture_index(folder: Path, subfolders: Sequence[str]) -> dict[str, Path]:
    """Pictures in the subfolders, by file name with and without ending; the first subfolder that has a name wins."""
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
    """SHA-256 (64 hex digits) over the names and contents of the files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as stream:
            digest.update(f"{path.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _row(header: Sequence[str], cells: Sequence[str], path: Path, line: int) -> Mapping[str, str] | RecordError:
    if len(cells) != len(header):
        return RecordError(f"the row has {len(cells)} cells, the header {len(header)}", path, line)
    return dict(zip(header, cells, strict=True))
