"""Reading what a student learns from: conversations, as Parquet or as JSONL.

A row has `id` and `messages`; the last message is the assistant's whole reply, its thinking
included. Other columns are left alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..teacher.engine import Message

NEEDED = ("id", "messages")


class DataError(KitError):
    """A data set cannot be read. The message starts with the place: path or path:line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation to learn: the turns that are shown, and the reply that is trained."""

    id: str
    prompt: tuple[Message, ...]
    reply: str


def read_rows(source: Path) -> list[Row]:
    """The rows of a Parquet or JSONL file, or of all such files of a directory, in name order.

    Raises:
        DataError: nothing is there, a column is missing, a row is no conversation with a reply, or
            an id stands twice.
    """
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for path in _files(source):
        for place, values in _parquet(path) if path.suffix == ".parquet" else _jsonl(path):
            row = _row(place, values)
            if row.id in seen:
                raise DataError(f"{place}: id {row.id!r} stands already at {seen[row.id]}")
            seen[row.id] = place
            rows.append(row)
    if not rows:
        raise DataError(f"{source}: holds no rows, so there is nothing to learn")
    return rows


def _files(source: Path) -> list[Path]:
    """The files to read: Parquet where there is any, else JSONL."""
    if source.is_file():
        if source.suffix not in (".parquet", ".jsonl"):
            raise DataError(f"{source}: must end in .parquet or .jsonl")
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: does not exist; give a Parquet or JSONL file, or a directory")
    for pattern in ("*.parquet", "*.jsonl"):
        if found := sorted(source.glob(pattern)):
            return found
    names = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise DataError(f"{source}: holds no *.parquet and no *.jsonl, only {names}")


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_fields(str(path), file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(NEEDED)):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", values
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of one JSONL file; empty lines are skipped."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    values = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{place}: not JSON: {error}") from error
                if not isinstance(values, dict):
                    raise DataError(f"{place}: must be an object with {' and '.join(NEEDED)}")
                _check_fields(place, values)
                yield place, values
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _check_fields(place: str, found: Iterable[str]) -> None:
    """Refuse rows that lack what training needs."""
    names = sorted(found)
    if missing := [name for name in NEEDED if name not in names]:
        raise DataError(
            f"{place}: has no {' and no '.join(missing)}; found {', '.join(names) or 'nothing'};"
            " expected id (text) and messages (a list of {role, content}, the reply last)"
        )


def _row(place: str, values: Mapping[str, Any]) -> Row:
    """Check one row's conversation."""
    name, messages = values["id"], values["messages"]
    if not isinstance(name, str) or not name:
        raise DataError(f"{place}: id must be text, got {name!r}")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise DataError(f"{place}: messages must be a list of at least a question and a reply")
    turns: list[Message] = []
    for number, turn in enumerate(messages):
        fields = turn if isinstance(turn, dict) else {}
        role, content = fields.get("role"), fields.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{place}: messages[{number}] must be {{role, content}}, both text,"
                f" got {str(turn)[:80]!r}"
            )
        turns.append(Message(role, content))
    if turns[-1].role != "assistant":
        raise DataError(
            f"{place}: the last message must be the assistant's, got role {turns[-1].role!r}"
        )
    return Row(name, tuple(turns[:-1]), turns[-1].content)
