"""Salvage: a damaged ledger's readable answers, copied into a sound one in its place.

Rows are read one by one, so an unreadable page costs its own rows and no others. An answer counts
only where its key still is the digest of its request. Verdicts and tags are left behind: a run
makes them again. The damaged file stays beside the new one. (SQLite's own `.recover` needs a module
that common builds of the sqlite3 tool lack, and then leaves an empty file without an error.)
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine import Identity
from .ledger import request_from_json
from .ledger_file import LedgerError, WriterLock, open_database

COLUMNS = (
    "key, problem_id, engine, model, revision, prefilled, request, endpoint, seconds, created, raw"
)
SMALLEST_ROW = 100
"""Bytes; a row holds a key of 64 characters and a request. Bounds the row numbers to try."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What came of it: answers copied, and where the damaged file went."""

    answers: int
    damaged: Path


def salvage(path: Path, *, mounts: Path = Path("/proc/mounts")) -> Salvaged:
    """Put a sound ledger with all that can be read of `path` in its place.

    Raises:
        LedgerError: there is no file, another process writes it, or the disk refuses.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: no such file; name a ledger, such as runs/NAME/traces.sqlite")
    lock = WriterLock(path)
    try:
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        connection, _ = open_database(partial, write=True, mounts=mounts)
        try:
            connection.execute("BEGIN")
            marks = ",".join("?" * len(COLUMNS.split(",")))
            copied = 0
            for row in _readable(path):
                connection.execute(f"INSERT OR IGNORE INTO responses VALUES ({marks})", row)
                copied += 1
            connection.execute("COMMIT")
        finally:
            connection.close()
        damaged = _free_name(path)
        for end in ("-wal", "-shm", ""):
            if (part := path.with_name(path.name + end)).exists():
                part.rename(damaged.with_name(damaged.name + end))
        partial.rename(path)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"{path}: cannot be salvaged: {error}") from error
    finally:
        lock.release()
    return Salvaged(copied, damaged)


def _readable(path: Path) -> Iterator[tuple[Any, ...]]:
    """Every stored response that is whole."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA writable_schema = ON")  # read on in a file that was cut short
        for number in range(1, path.stat().st_size // SMALLEST_ROW + 2):
            try:
                sql = f"SELECT {COLUMNS} FROM responses WHERE rowid = ?"
                row = connection.execute(sql, (number,)).fetchone()
            except sqlite3.DatabaseError:
                continue
            if row is not None and _is_whole(row):
                yield row
    finally:
        connection.close()


def _is_whole(row: tuple[Any, ...]) -> bool:
    """Whether the key still is the digest of what the row says was asked."""
    key, _, engine, model, revision, prefilled, request, *_ = row
    try:
        identity = Identity(engine, model, revision, bool(prefilled))
        return bool(request_from_json(request).key(identity) == key)
    except (ValueError, TypeError, KeyError):
        return False


def _free_name(path: Path) -> Path:
    """Where the damaged file goes: never over another one."""
    number = 1
    while (name := path.with_name(f"damaged-{number}-{path.name}")).exists():
        number += 1
    return name
