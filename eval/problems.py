"""What is asked: a statement with a way to check an answer, and the files it is read from.

A file of problems is JSON Lines (optionally gzipped): one object per line. The usual names of the
fields are recognised, so that the published files of MATH-500, AIME and GSM8K load as they are;
other names are mapped with `fields`. A file is read whole or not at all: the first line that is not
a problem stops the load and is named as `path:line`.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

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
) -> list[Problem]:
    """Read a JSONL file (`.gz` as well) of problems, in the order of the file.

    Args:
        path: one JSON object per line, in UTF-8; empty lines, a byte-order mark and Windows line
            ends are accepted.
        fields: names to use instead of the recognised ones, such as `{"answer": "solution_text"}`;
            its keys are those of `RECOGNISED`.
        split: what the problems are marked as.
        source: what the problems are marked with; by default the line's own `source`, else the
            file's name (its folder's where the file is called `test.jsonl`) and the `subject`.
        limit: read only so many problems from the front, at least 1.

    Returns:
        The problems. One without an id of its own is called `NAME-LINE`. GSM8K's worked answers are
        cut to what follows the last `####`.

    Raises:
        ProblemsError: the file is missing, empty or not text, or a line is not a problem.
    """
    names = _field_names(path, fields or {})
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, row in _rows(path):
        problem = _problem(row, names, path, number, split, source)
        if problem.id in seen:
            raise ProblemsError(
                f"{path}:{number}: the id {problem.id!r} already stands on line {seen[problem.id]};"
                " ids must be unique within a file"
            )
        seen[problem.id] = number
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise ProblemsError(f"{path}: the file holds no problems (it is empty)")
    return problems


def set_name(path: Path) -> str:
    """What a file of problems is called: `math500` for `math500/test.jsonl`, `aime24` for
    `aime/aime24.jsonl`.
    """
    stem = path.name.split(".")[0]
    parent = path.resolve().parent.name
    return parent if stem.lower() in SPLIT_NAMES and parent else stem


def _field_names(path: Path, fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The names each part of a problem is looked up under, with the user's mapping laid over."""
    for part in fields:
        if part not in RECOGNISED:
            near = get_close_matches(part, RECOGNISED, 1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(RECOGNISED)}"
            )
            raise ProblemsError(f"{path}: problems.fields.{part}: no such part of a problem{hint}")
    return {
        part: (fields[part],) if part in fields else known for part, known in RECOGNISED.items()
    }


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line that is not empty as (line number from 1, object)."""
    for number, line in _lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ProblemsError(
                f"{path}:{number}: not UTF-8 text (byte {line[error.start]:#04x} at position "
                f"{error.start}); convert the file, for example with iconv -t utf-8"
            ) from error
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProblemsError(
                f"{path}:{number}: expected one JSON object per line, but this is not JSON "
                f"({_json_fault(error)}): {_short(text)}"
            ) from error
        if not isinstance(row, dict):
            what = f"an array of {len(row)}" if isinstance(row, list) else _kind(row)
            hint = "; turn it into lines with jq -c '.[]'" if isinstance(row, list) else ""
            raise ProblemsError(
                f"{path}:{number}: expected one JSON object per line, found {what}{hint}"
            )
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the raw lines with their numbers; whatever the file system refuses is an error."""
    if not path.exists():
        raise ProblemsError(f"{path}: no such file{_nearest_file(path)}")
    if path.is_dir():
        found = ", ".join(sorted(p.name for p in path.glob("*.jsonl*"))[:5]) or "no .jsonl file"
        raise ProblemsError(f"{path}: this is a folder; name a file in it (it holds {found})")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield from enumerate(lines, start=1)
    except (OSError, EOFError, zlib.error) as error:
        raise ProblemsError(f"{path}: cannot be read: {error}") from error


def _problem(
    row: dict[str, Any],
    names: dict[str, tuple[str, ...]],
    path: Path,
    number: int,
    split: str,
    source: str | None,
) -> Problem:
    """Turn one object into a problem."""
    place = f"{path}:{number}"
    statement = _required(row, "statement", names, place)
    if not statement.strip():
        raise ProblemsError(f"{place}: the statement is empty")
    answer = _required(row, "answer", names, place)
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    if not answer.strip():
        raise ProblemsError(f"{place}: the answer is empty")
    return Problem(
        id=_optional(row, "id", names, place) or f"{_id_stem(path)}-{number}",
        statement=statement.strip(),
        answer=answer.strip(),
        source=source or _source(row, names, place, path),
        level=_optional(row, "level", names, place),
        split=split,
    )


def _required(row: dict[str, Any], part: str, names: dict[str, tuple[str, ...]], place: str) -> str:
    """The text of a field that every problem has."""
    name = next((name for name in names[part] if name in row), None)
    if name is not None:
        return _text(row[name], name, place)
    looked = " or ".join(repr(name) for name in names[part])
    near = [n for want in names[part] for n in get_close_matches(want, row, 1, 0.6)]
    guess = near[0] if near else "NAME"
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ProblemsError(
        f"{place}: no {part} (looked for {looked}); the line has "
        f"{', '.join(sorted(row)) or 'no fields'}{hint} "
        f"Map it with --set problems.fields.{part}={guess}"
    )


def _optional(row: dict[str, Any], part: str, names: dict[str, tuple[str, ...]], place: str) -> str:
    """The text of a field that a problem may have; empty where it is absent or null."""
    name = next((name for name in names[part] if row.get(name) is not None), None)
    return "" if name is None else _text(row[name], name, place).strip()


def _text(value: Any, name: str, place: str) -> str:
    """A JSON value as text: strings and numbers are, everything else is an error that names it."""
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


def _source(row: dict[str, Any], names: dict[str, tuple[str, ...]], place: str, path: Path) -> str:
    """The line's own source, else the file's name, with the subject behind a slash."""
    own = _optional(row, "source", names, place) or set_name(path)
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


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
