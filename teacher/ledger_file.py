"""The file under a ledger: its schema, the lock of its one writer, and the checks before use.

A ledger is one SQLite file. Its journal is WAL, or TRUNCATE where the file system does not keep
WAL's shared memory coherent (network and FUSE file systems). The writer holds `FILE.lock`, which
the kernel frees when the process ends, however it ends.
"""

import fcntl
import os
import re
import sqlite3
from contextlib import suppress
from pathlib import Path

from .. import KitError

SCHEMA_VERSION = 1
APPLICATION_ID = int.from_bytes(b"r1kt", "big")

SCHEMA = f"""
CREATE TABLE responses (                -- what came back, as it came; one row per sample
    key TEXT PRIMARY KEY NOT NULL,      -- SHA-256 of all that decides the sample
    problem_id TEXT NOT NULL,
    engine TEXT NOT NULL,
    model TEXT NOT NULL,
    revision TEXT NOT NULL,
    prefilled INTEGER NOT NULL,         -- 1: the model continued the prompt's prefill
    request TEXT NOT NULL,              -- JSON: prompt, sampling, index, seed
    endpoint TEXT NOT NULL,
    seconds REAL NOT NULL,
    created TEXT NOT NULL,              -- UTC, ISO 8601
    raw TEXT NOT NULL
);
CREATE TABLE completions (              -- responses that were read and are usable
    key TEXT PRIMARY KEY NOT NULL,
    finish TEXT NOT NULL,               -- stop or length
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempts (                 -- every try, recorded before it was sent
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    problem_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    created TEXT NOT NULL,
    outcome TEXT,                       -- answered, retried, error, unreadable, lost; NULL: open
    error TEXT,
    raw TEXT                            -- what came back where it was of no use
);
CREATE INDEX attempts_by_key ON attempts (key);
CREATE TABLE verdicts (
    key TEXT NOT NULL,
    judge TEXT NOT NULL,
    verdict TEXT NOT NULL,
    extracted TEXT,
    evidence TEXT NOT NULL,
    PRIMARY KEY (judge, key)
) WITHOUT ROWID;
CREATE TABLE tags (
    key TEXT NOT NULL,
    filter TEXT NOT NULL,
    tags TEXT NOT NULL,                 -- words parted by spaces; empty: the filter found nothing
    PRIMARY KEY (filter, key)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

NO_SHARED_MEMORY = re.compile(
    r"9p|afs|beegfs|ceph|cifs|fuse.*|glusterfs|gpfs|lustre|ncpfs|nfs\d?|pvfs2|smb3|smbfs"
)
"""File systems whose mmap is not promised to be coherent: network ones, and FUSE."""

CHECKED_BYTES = 2**30
"""A file up to this size is checked whole at every opening (about a second per GiB)."""


class LedgerError(KitError):
    """A ledger cannot be opened, read or written. Everything acknowledged before is intact."""


def translate(path: Path, error: sqlite3.Error) -> LedgerError:
    """Say what an SQLite error means for the user, and what would do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR:
        cause = "the disk is full" if code == sqlite3.SQLITE_FULL else "the disk refused"
        return LedgerError(
            f"{path}: {cause} ({error}); all that was acknowledged is kept: make space "
            f"(`df -h {path.parent}`) and run the same command again, "
            f"which asks only for what is missing"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _corrupt(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerError(f"{path}: another program holds the file ({error}); close it, run again")
    return LedgerError(f"{path}: {error}")


def _corrupt(path: Path, found: str) -> LedgerError:
    return LedgerError(
        f"{path}: the ledger is damaged ({found}); `r1kit teacher salvage {path}` copies what can "
        f"be read into a sound one and keeps the damaged file beside it; then run the same command "
        f"again (a recipe's run with --from sample), which asks only for what is missing"
    )


class WriterLock:
    """The right to write one ledger, held by one process at a time through `FILE.lock`."""

    def __init__(self, ledger: Path) -> None:
        """Take the lock.

        Raises:
            LedgerError: another writer has it; the message names its process id.
        """
        path = ledger.with_name(ledger.name + ".lock")
        try:
            self._file = path.open("a+", encoding="ascii", errors="replace")
        except OSError as error:
            raise LedgerError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            stop = f", or stop it with `kill -INT {holder}`" if holder else ""
            raise LedgerError(
                f"{ledger}: process {holder or '(unknown)'} is writing this ledger; "
                f"wait until it ends{stop}"
            ) from error
        except OSError as error:
            with suppress(OSError):  # closing tries once more to write
                self._file.close()
            raise LedgerError(f"{path}: cannot be locked: {error.strerror}") from error

    def release(self) -> None:
        """Let the next writer in. Safe to call twice."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()


def file_system_of(path: Path, mounts: str) -> tuple[str, str]:
    """The type and mount point of the file system that holds `path`.

    Args:
        path: absolute and resolved.
        mounts: the text of /proc/mounts, where spaces in names are written as octal escapes.
    """
    best = ("unknown", "/")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        if path.is_relative_to(point) and len(point) >= len(best[1]):
            best = (fields[2], point)
    return best


def open_database(path: Path, *, write: bool, mounts: Path) -> tuple[sqlite3.Connection, list[str]]:
    """Open and check a ledger's file, making it where it does not exist and may be written.

    Returns:
        The connection, in autocommit mode, and notices for the user.

    Raises:
        LedgerError: no file, not a ledger, another schema version, or damaged.
    """
    is_new = _is_new(path)
    if is_new and not write:
        raise LedgerError(f"{path}: no ledger there; `r1kit run` makes one when it samples")
    connection: sqlite3.Connection | None = None
    try:
        uri = f"{path.resolve().as_uri()}?mode={'rwc' if write else 'ro'}"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
        )
        is_new = is_new or (write and _is_blank(connection))
        notices = [] if is_new else _check(connection, path)
        if write:
            notices += _set_journal(connection, path, mounts)
            connection.execute("PRAGMA synchronous = FULL")
        if is_new:
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise translate(path, error) from error
        raise
    return connection, notices


def _is_new(path: Path) -> bool:
    """Whether there is nothing yet. What is not an SQLite file is refused before SQLite sees it."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        _refuse_a_log_without_its_file(path)
        return True
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from error
    if head and head != b"SQLite format 3\0":
        raise LedgerError(
            f"{path}: not a ledger: it begins with {head!r}, not as an SQLite file does; "
            f"move it away, or name another path"
        )
    return not head


def _refuse_a_log_without_its_file(path: Path) -> None:
    """A write-ahead log holds committed answers, and SQLite would drop it or fail on it."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise LedgerError(
            f"{path}: missing, but its log {log.name} is there and may hold answers: put the file "
            f"back beside it, or move it away too (`mv {path}-* ELSEWHERE`)"
        )


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether its first writer was killed between making the file and committing the schema."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(application == 0 and num_tables == 0)


def _check(connection: sqlite3.Connection, path: Path) -> list[str]:
    """Refuse a file that is not a sound ledger of this schema; return notices."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if application != APPLICATION_ID:
        raise LedgerError(
            f"{path}: an SQLite file, but not a ledger of r1kit (application_id {application}, "
            f"tables {sorted(tables)[:5]}); name another path"
        )
    if version != SCHEMA_VERSION:
        age = "an older" if version < SCHEMA_VERSION else "a newer"
        raise LedgerError(
            f"{path}: made by {age} r1kit (schema {version}, this one reads {SCHEMA_VERSION}); "
            f"open it with that version, or move it away with all that belongs to it "
            f"(`mkdir {path.parent}/old && mv {path}* {path.parent}/old/`) and run the same "
            f"command again, which samples afresh"
        )
    if path.stat().st_size > CHECKED_BYTES:
        return [f"{path}: too large to be checked at every opening; `PRAGMA quick_check` does it"]
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _corrupt(path, found.replace("\n", " "))
    return []


def _set_journal(connection: sqlite3.Connection, path: Path, mounts: Path) -> list[str]:
    """WAL where it is safe, else TRUNCATE with a notice."""
    file_system, point = "unknown", "/"
    if mounts.exists():
        text = mounts.read_text(encoding="utf-8", errors="replace")
        file_system, point = file_system_of(path.resolve(), text)
    if NO_SHARED_MEMORY.fullmatch(file_system) is None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode == "wal":
            return []
    (mode,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    return [
        f"{path}: {point} is {file_system}, where SQLite's WAL is not safe; "
        f"the journal is {mode.upper()} instead, and commits are slower"
    ]
