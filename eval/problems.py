"""What is asked: a statement with a way to check an answer, and the files it is read from.

A file of problems is JSON Lines (optionally gzipped): one object per line. A table (`.csv`, `.tsv`)
with a line of names serves as well. The usual names of the fields are recognised in any case, so
that the published files of MATH-500, AIME and GSM8K load as they are; other names are mapped with
`fields`. A file is read whole or not at all: the first line that is not a problem stops the load
and is named as `path:line`.
"""

import codecs
import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import IO, Any

from .. import KitError

RECOGNISED: Mapping[str, tuple[str, ...]] = {
    "statement": ("problem", "question", "statement", "prompt"),
    "answer": ("expected_answer", "answer", "final_answer", "gold"),
    "id": ("id", "unique_id", "problem_id"),
    "level": ("level", "difficulty"),
    "source": ("source",),
    "subject": ("subject",),
}
"""What a problem needs, and the field names it is looked up under, the first one found winning."""

OTHER_FORMATS: Mapping[bytes, str] = {
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text, not UTF-8",
    b"\xfe\xff": "UTF-16 text, not UTF-8",
    b"PK\x03\x04": "a zip archive",
    b"SQLite format 3\0": "an SQLite database",
}
"""How files begin that are often mistaken for JSON Lines."""

TABLES: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables, and what parts their columns."""

SPLIT_NAMES = frozenset({"train", "test", "dev", "valid", "validation", "val", "data"})
"""File names that say nothing about what the file holds: its folder's name is used as well."""


class ProblemsError(KitError):
    """A file of problems cannot be used. The message starts with the place: path or path:line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        id: unique within its set.
        statement: the text shown to a model, without instructions about the format of the answer.
        answer: the gold answer, LaTeX or plain text; None where something else checks it.
        source: where it comes from, such as `tiny/gcd` or `math500`.
        level: how hard its source says it is, in the source's own words; empty where unknown.
        split: `train` or `test`.
    """

    id: str
    statement: str
    answer: str | None
    source: str
    level: str = ""
    split: str = "train"


def load_problems(
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    split: str = "train",
    source: str | None = None,
    limit: int | None = None,
    mapped_by: str | None = "--set problems.fields",
) -> list[Problem]:
    """Read a JSONL file (gzipped as well) of problems, in the order of the file.

    Args:
        path: one JSON object per line, in UTF-8; empty lines, a byte-order mark and Windows line
            ends are accepted.
        fields: names to use instead of the recognised ones, such as `{"answer": "solution_text"}`;
            its keys are those of `RECOGNISED`.
        split: what the problems are marked as.
        source: what the problems are marked with; by default the line's own `source`, else the
            file's name (its folder's where the file is called `test.jsonl`) and the `subject`.
        limit: read only so many problems from the front, at least 1.
        mapped_by: the option that reaches `fields`, for messages; None where there is none.

    Returns:
        The problems. One without an id of its own is called `NAME-LINE`. GSM8K's worked answers are
        cut to what follows the last `####`.

    Raises:
        ProblemsError: the file is missing, empty or not text, or a line is not a problem.
    """
    naming = Naming(str(path), set_name(path), _id_stem(path))
    return make_problems(
        read_rows(path),
        naming,
        fields=fields,
        split=split,
        source=source,
        limit=limit,
        mapped_by=mapped_by,
    )


@dataclass(frozen=True, slots=True)
class Naming:
    """What the rows of one set are called where they have no name of their own.

    Attributes:
        place: what messages start with: a path, or where else the rows come from.
        source: the set's name.
        id_stem: what ids made from row numbers start with.
        own_source: whether a row's own `source` goes before the set's name.
    """

    place: str
    source: str
    id_stem: str
    own_source: bool = True


def make_problems(
    rows: Iterable[tuple[int, dict[str, Any]]],
    naming: Naming,
    *,
    fields: Mapping[str, str] | None = None,
    split: str = "train",
    source: str | None = None,
    limit: int | None = None,
    mapped_by: str | None = None,
) -> list[Problem]:
    """Problems from rows of any origin; `load_problems` explains the arguments and errors.

    Args:
        rows: (number of the row, its fields).
    """
    names = _field_names(naming.place, fields or {})
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        try:
            problem = _problem(row, names, naming, number, split, source)
        except _NoField as absent:
            raise ProblemsError(f"{absent} {_way_out(absent, mapped_by)}") from absent
        if problem.id in seen:
            raise ProblemsError(
                f"{naming.place}:{number}: the id {problem.id!r} already stands on line "
                f"{seen[problem.id]}; ids must be unique within a file"
            )
        seen[problem.id] = number
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise ProblemsError(f"{naming.place}: the file holds no problems (it is empty)")
    return problems


def set_name(path: Path) -> str:
    """What a file of problems is called: `math500` for `math500/test.jsonl`, `aime24` for
    `aime/aime24.jsonl`.
    """
    stem = path.name.split(".")[0]
    parent = path.resolve().parent.name
    return parent if stem.lower() in SPLIT_NAMES and parent else stem


def _field_names(place: str, fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The names each part of a problem is looked up under, with the user's mapping laid over."""
    for part in fields:
        if part not in RECOGNISED:
            near = get_close_matches(part, RECOGNISED, 1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(RECOGNISED)}"
            )
            raise ProblemsError(f"{place}: problems.fields.{part}: no such part of a problem{hint}")
    return {
        part: (fields[part],) if part in fields else known for part, known in RECOGNISED.items()
    }


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line that is not empty as (line number from 1, object); tables likewise.

    Raises:
        ProblemsError: as `load_problems` says.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return _json_rows(path) if suffix not in TABLES else _table_rows(path, TABLES[suffix])


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table as (number of the row's last line, fields by the head's names)."""
    lines = (_decoded(path, number, line) for number, line in _lines(path))
    table = csv.DictReader(lines, delimiter=delimiter, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 26))
    try:
        for row in table:
            if None in row:
                raise ProblemsError(
                    f"{path}:{table.line_num}: more columns than the first line names "
                    f"({len(table.fieldnames or [])})"
                )
            yield table.line_num, row
    except csv.Error as error:
        raise ProblemsError(f"{path}:{table.line_num}: not a row of a table: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line that is not empty as (line number from 1, object)."""
    for number, line in _lines(path):
        text = _decoded(path, number, line).strip()
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            _refuse_other_formats(path, line)
            hint = ""
            if text in ("[", "{", "[{"):
                hint = f"; one document over many lines? {_ONE_PER_LINE}"
            raise ProblemsError(
                f"{path}:{number}: expected one JSON object per line, but this is not JSON "
                f"({_json_fault(error)}): {_short(text)}{hint}"
            ) from error
        if not isinstance(row, dict):
            what = f"an array of {len(row)}" if isinstance(row, list) else _kind(row)
            hint = f"; {_ONE_PER_LINE}" if isinstance(row, list) else ""
            raise ProblemsError(
                f"{path}:{number}: expected one JSON object per line, found {what}{hint}"
            )
        yield number, row


def _decoded(path: Path, number: int, line: bytes) -> str:
    """A line as text, without the mark that some editors put in front of a file."""
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        _refuse_other_formats(path, line)
        raise ProblemsError(
            f"{path}:{number}: not UTF-8 text (byte {line[error.start]:#04x} at position "
            f"{error.start}); convert the file, for example with iconv -t utf-8"
        ) from error


_ONE_PER_LINE = "turn it into lines with jq -c '.[]' (of an object, '.FIELD[]')"


def _refuse_other_formats(path: Path, line: bytes) -> None:
    """Say so where a file is of a format that is known by its first bytes."""
    for start, name in OTHER_FORMATS.items():
        if line.startswith(start):
            raise ProblemsError(
                f"{path}: this is {name}; a file of problems is JSON Lines in UTF-8, one object "
                "per line"
            )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the raw lines with their numbers; whatever the file system refuses is an error."""
    if not path.exists():
        raise ProblemsError(f"{path}: no such file{_nearest_file(path)}")
    if path.is_dir():
        found = ", ".join(sorted(p.name for p in path.glob("*.jsonl*"))[:5]) or "no .jsonl file"
        raise ProblemsError(f"{path}: this is a folder; name a file in it (it holds {found})")
    try:
        with _open(path) as lines:
            yield from enumerate(lines, start=1)
    except (OSError, EOFError, zlib.error) as error:
        raise ProblemsError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    """The file's lines, unpacked where its name or its first bytes say that it is gzipped."""
    with path.open("rb") as file:
        is_packed = path.suffix == ".gz" or file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_packed else path.open("rb")


def _problem(
    row: dict[str, Any],
    names: dict[str, tuple[str, ...]],
    naming: Naming,
    number: int,
    split: str,
    source: str | None,
) -> Problem:
    """Turn one object into a problem."""
    place = f"{naming.place}:{number}"
    statement = _required(row, "statement", names, place)
    if not statement.strip():
        raise ProblemsError(f"{place}: the statement is empty")
    answer = _required(row, "answer", names, place)
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    if not answer.strip():
        raise ProblemsError(f"{place}: the answer is empty")
    return Problem(
        id=_optional(row, "id", names, place) or f"{naming.id_stem}-{number}",
        statement=statement.strip(),
        answer=answer.strip(),
        source=source or _source(row, names, place, naming),
        level=_optional(row, "level", names, place),
        split=split,
    )


class _NoField(Exception):
    """A line lacks a part of a problem. `guess` is the field that was probably meant."""

    def __init__(self, message: str, part: str, guess: str | None) -> None:
        super().__init__(message)
        self.part, self.guess = part, guess


def _way_out(absent: _NoField, mapped_by: str | None) -> str:
    """What would do about a field that was not found."""
    name = absent.guess or "NAME"
    if mapped_by is None:
        return f"Rename the field {name!r} to {absent.part!r}"
    setting = f"{mapped_by.rpartition(' ')[2]}.{absent.part}={name}"
    return f"Map it with {mapped_by.rpartition(' ')[0]} {quote(setting)}"


def _find(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The field that a part is in: the first name, as it is written or in another case."""
    folded = {name.casefold(): name for name in reversed(row)}  # of several, the first one stays
    for name in names:
        if name in row:
            return name
        if (found := folded.get(name.casefold())) is not None:
            return found
    return None


def _required(row: dict[str, Any], part: str, names: dict[str, tuple[str, ...]], place: str) -> str:
    """The text of a field that every problem has."""
    name = _find(row, names[part])
    if name is not None:
        return _text(row[name], name, place)
    looked = " or ".join(repr(name) for name in names[part])
    near = [n for want in names[part] for n in get_close_matches(want, row, 1, 0.6)]
    hint = f"; did you mean {near[0]!r}?" if near else "."
    has = _short(", ".join(sorted(row)) or "no fields", 200)
    raise _NoField(
        f"{place}: no {part} (looked for {looked}); the line has {has}{hint}",
        part,
        near[0] if near else None,
    )


def _optional(row: dict[str, Any], part: str, names: dict[str, tuple[str, ...]], place: str) -> str:
    """The text of a field that a problem may have; empty where it is absent or null."""
    filled = {name: value for name, value in row.items() if value is not None}
    name = _find(filled, names[part])
    return "" if name is None else _text(filled[name], name, place).strip()


def _text(value: Any, name: str, place: str) -> str:
    """A JSON value as text: strings and numbers are, everything else is an error that names it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ProblemsError(f"{place}: {name} must be text or a finite number, got {value}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ProblemsError(f"{place}: {name} must be text or a number, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProblemsError(
            f"{place}: {name} holds half a character (a lone surrogate at {error.start}); "
            "write it as UTF-8 text"
        ) from error
    return value


def _source(
    row: dict[str, Any], names: dict[str, tuple[str, ...]], place: str, naming: Naming
) -> str:
    """The line's own source, else the set's name, with the subject behind a slash."""
    own = (_optional(row, "source", names, place) if naming.own_source else "") or naming.source
    subject = _optional(row, "subject", names, place)
    return f"{own}/{subject}" if subject else own


def _id_stem(path: Path) -> str:
    """What ids made from line numbers start with: unique across the sets of one folder."""
    stem, name = path.name.split(".")[0], set_name(path)
    return stem if stem == name else f"{name}-{stem}"


def _nearest_file(path: Path) -> str:
    """A hint at the file that was probably meant."""
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder} either)"
    near = get_close_matches(path.name, [p.name for p in folder.iterdir()], 1, 0.5)
    return f"; did you mean {folder / near[0]}?" if near else ""


def _json_fault(error: Exception) -> str:
    """Why JSON was refused, with the column."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: Any) -> str:
    """A JSON value in JSON's words, shortened."""
    kinds = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object"}
    kind = kinds.get(type(value), "a text" if isinstance(value, str) else "a number")
    return kind if value is None else f"{kind}: {_short(json.dumps(value, ensure_ascii=True))}"


def _short(text: str, length: int = 60) -> str:
    """Text of unknown origin, cut, and fit for a terminal."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in text[: length + 1])
    return text if len(text) <= length else text[: length - 3] + "..."
