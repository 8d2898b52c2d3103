"""Group commit: writes of many threads share one transaction and one fsync.

One connection, one open transaction at a time. A background thread commits it at most `GROUP_S`
after its first write, or at once when somebody waits for it. An error closes the writer for good:
whatever was not committed is rolled back, and every later call says why.
"""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .ledger_file import LedgerError, translate

GROUP_S = 0.02
"""How long a write may wait for others to share its fsync. The promise is 50 ms at most."""

Row = tuple[Any, ...]


class GroupCommit:
    """A connection that many threads write through. Read-only connections only `select`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, write: bool) -> None:
        """Take over an autocommit connection that was made with `check_same_thread=False`."""
        self._path = path
        self._connection = connection
        self._guard = threading.RLock()
        self._work = threading.Condition(self._guard)
        self._commit_done = threading.Condition(self._guard)
        self._written = 0
        self._committed = 0
        self._urgent = False
        self._closing = False
        self._failure: LedgerError | None = None
        self._failure_told = False
        self._thread: threading.Thread | None = None
        if write:
            self._thread = threading.Thread(target=self._commit_loop, name="ledger", daemon=True)
            self._thread.start()

    @property
    def writes(self) -> bool:
        """Whether this connection may write."""
        return self._thread is not None

    def write(self, *statements: tuple[str, Row], wait: bool = False) -> None:
        """Execute the statements in the open transaction; with `wait`, return once committed.

        Raises:
            LedgerError: the ledger is read-only or closed, or the disk is full or failed.
        """
        with self._guard:
            self._begin()
            try:
                for sql, row in statements:
                    self._connection.execute(sql, row)
            except sqlite3.Error as error:
                self._fail(error)
            self._count_write(wait)

    def write_many(self, sql: str, rows: Iterable[Row]) -> None:
        """Execute one statement for every row, and return once all are committed."""
        prepared = list(rows)  # an iterator may use this ledger itself
        with self._guard:
            self._begin()
            try:
                self._connection.executemany(sql, prepared)
            except sqlite3.Error as error:
                self._fail(error)
            self._count_write(wait=True)

    def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query; a writer also sees what it has not committed yet."""
        with self._guard:
            if self._failure is not None:
                self._raise_failure()
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise translate(self._path, error) from error

    def flush(self) -> None:
        """Commit all that was written; read-only connections have nothing to commit."""
        with self._guard:
            self._raise_failure()
            if self._written > self._committed:
                self._commit()
                self._raise_failure()

    def close(self) -> None:
        """Commit and close. Safe to call twice.

        Raises:
            LedgerError: the last writes could not be committed, and nobody has been told yet.
        """
        with self._guard:
            self._closing = True
            self._work.notify_all()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        with self._guard:
            if self.writes and self._failure is None:
                self._commit()
            self._connection.close()
            if not self._failure_told:
                self._raise_failure()

    def _begin(self) -> None:
        self._raise_failure()
        if self._closing or not self.writes:
            raise LedgerError(f"{self._path}: open for reading only, or closed; it takes no writes")
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._fail(error)

    def _count_write(self, wait: bool) -> None:
        self._written += 1
        ticket = self._written
        self._urgent = self._urgent or wait
        if wait or ticket == self._committed + 1:
            self._work.notify()
        if wait:
            self._commit_done.wait_for(lambda: self._committed >= ticket or self._failure)
            self._raise_failure()

    def _commit_loop(self) -> None:
        with self._guard:
            while self._failure is None:
                self._work.wait_for(lambda: self._written > self._committed or self._closing)
                if self._closing:
                    return
                self._work.wait_for(lambda: self._urgent or self._closing, timeout=GROUP_S)
                self._commit()

    def _commit(self) -> None:
        """Commit the open transaction; a failure is kept for whoever calls next."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
            self._committed = self._written
        except sqlite3.Error as error:
            self._keep_failure(error)
        self._urgent = False
        self._commit_done.notify_all()

    def _keep_failure(self, error: sqlite3.Error) -> None:
        self._failure = translate(self._path, error)
        self._failure.__cause__ = error
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _fail(self, error: sqlite3.Error) -> None:
        self._keep_failure(error)
        self._work.notify_all()
        self._commit_done.notify_all()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._failure_told = True
            raise self._failure
