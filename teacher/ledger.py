"""The ledger: the raw completions of a run, by key, in one SQLite file that sampling resumes from.

Raw first: a response is committed before anything parses it, together with those that came in the
same 20 ms (`group_commit.py`). What is derived from it (usable or not, verdicts, tags) stands in
tables of its own and can be made again without sampling. `ledger_file.py` holds the schema.

    with Ledger.open(Path("runs/demo/traces.sqlite")) as ledger:
        ledger.put(key, engine.identity, response)
        ledger.flush()
        for key, completion in ledger.completions(keys): ...
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

from .engine import (
    BadResponse,
    Completion,
    Identity,
    Message,
    Prompt,
    Request,
    Response,
    Sampling,
    parse_response,
)
from .group_commit import GroupCommit, Row
from .ledger_file import LedgerError as LedgerError
from .ledger_file import WriterLock, open_database

_log = logging.getLogger("r1kit.ledger")

_BATCH = 500
"""Keys per query; old builds of SQLite take at most 999 parameters."""

_END_ATTEMPT = """
UPDATE attempts SET outcome = ?, error = ?, raw = ?
WHERE id = (SELECT max(id) FROM attempts WHERE key = ?)"""


class StoredVerdict(NamedTuple):
    """What a judge said of one completion, as plain text."""

    verdict: str
    extracted: str | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What a ledger holds. Tokens are those of usable completions."""

    completions: int
    truncated: int
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    errors: int
    """Attempts that ended in an error or in a response that cannot be read."""
    unanswered: int
    """Attempts whose outcome nobody saw: under way now, or lost when a run was stopped."""


class Ledger:
    """One run's raw completions. Made with `Ledger.open`; methods may be called from any thread."""

    def __init__(self, database: GroupCommit, lock: WriterLock | None, notices: Sequence[str]):
        """Wrap an opened database; without a lock it is read-only."""
        self.notices = tuple(notices)
        """What the user should know, such as a slower journal. Also logged as warnings."""
        self._database = database
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, *, write: bool = True, mounts: Path = Path("/proc/mounts")
    ) -> "Ledger":
        """Open a ledger, making the file where it does not exist.

        Args:
            path: the SQLite file; `path.lock` beside it keeps a second writer out.
            write: False opens an existing ledger for reading, also while another process writes.
            mounts: where the kernel lists file systems, which decides on the journal.

        Raises:
            LedgerError: another writer has it (named by process id), it is no ledger, of another
                schema version, or damaged; the message says what to do.
        """
        lock = WriterLock(path) if write else None
        try:
            connection, notices = open_database(path, write=write, mounts=mounts)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        for notice in notices:
            _log.warning(notice)
        ledger = cls(GroupCommit(path, connection, write=write), lock, notices)
        if write:
            lost = "UPDATE attempts SET outcome = 'lost' WHERE outcome IS NULL"
            ledger._database.write((lost, ()))
        return ledger

    def attempt(self, key: str, request: Request, endpoint: str, *, wait: bool = False) -> None:
        """Record that a request is about to be sent; an earlier open attempt was `retried`.

        With `wait` it returns once that is committed; threads that wait together share an fsync.
        """
        row = (key, request.problem_id, endpoint, _now())
        self._database.write(
            ("UPDATE attempts SET outcome='retried' WHERE key=? AND outcome IS NULL", (key,)),
            ("INSERT INTO attempts (key, problem_id, endpoint, created) VALUES (?,?,?,?)", row),
            wait=wait,
        )

    def put(self, key: str, identity: Identity, response: Response) -> None:
        """Store a response unread; a key that is there already is left as it is.

        A response with an error goes to its attempt, raw text included, and its key stays wanted.
        It is acknowledged once `flush` has returned, or 50 ms later if nothing failed.
        """
        request = response.request
        if response.error is not None:
            self._database.write(
                *self._end(key, request.problem_id, response, "error", response.error)
            )
            return
        row = (
            key, request.problem_id, identity.kind, identity.model, identity.revision,
            response.prefilled, _request_to_json(request), response.endpoint, response.seconds,
            _now(), response.raw,
        )  # fmt: skip
        self._database.write(
            (f"INSERT OR IGNORE INTO responses VALUES ({_marks(row)})", row),
            ("UPDATE attempts SET outcome='answered' WHERE key=? AND outcome IS NULL", (key,)),
        )

    def settle(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Read the stored responses of `keys` that were not read before, and note the usable ones.

        One that cannot be read becomes the outcome of its attempt, raw text kept, and its key stays
        wanted. All writes are committed first.

        Returns:
            The usable completions that were read now.
        """
        self._database.flush()
        read: dict[str, Completion] = {}
        for batch in _batches(keys):
            unread = "key NOT IN (SELECT key FROM completions)"
            for response, row_key in self._responses(batch, unread):
                completion = self._read(row_key, response)
                if completion is not None:
                    read[row_key] = completion
        return read

    def flush(self) -> None:
        """Commit all that was written: what was put before is acknowledged when this returns.

        Raises:
            LedgerError: the disk is full or failed; what was acknowledged before is intact.
        """
        self._database.flush()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` with a usable completion. Errors and unreadable ones are not done."""
        wanted = list(keys)
        found = set(self.settle(wanted))
        for batch in _batches(wanted):
            sql = f"SELECT key FROM completions WHERE key IN ({_marks(batch)})"
            found.update(key for (key,) in self._database.select(sql, batch))
        return found

    def completions(self, keys: Iterable[str]) -> Iterator[tuple[str, Completion]]:
        """Yield the usable completions of `keys`, in that order, parsed again from the raw text."""
        self._database.flush()
        for batch in _batches(keys):
            stored = {key: response for response, key in self._responses(batch)}
            for key in batch:
                completion = self._read(key, stored[key]) if key in stored else None
                if completion is not None:
                    yield key, completion

    def failures(self, keys: Iterable[str]) -> dict[str, str]:
        """The last error of those of `keys` whose newest attempt ended in one."""
        found: dict[str, str] = {}
        for batch in _batches(keys):
            rows = self._database.select(
                f"SELECT key, error, max(id) FROM attempts WHERE key IN ({_marks(batch)}) "
                "GROUP BY key HAVING outcome IN ('error', 'unreadable')",  # of the row of max(id)
                batch,
            )
            found.update((key, error) for key, error, _ in rows)
        return found

    def counts(self) -> Counts:
        """What the ledger holds now."""
        (completions,) = self._database.select(
            "SELECT count(*), total(finish = 'length'), total(prompt_tokens), "
            "total(completion_tokens) FROM completions"
        )
        (attempts,) = self._database.select(
            "SELECT count(*), total(outcome IN ('error', 'unreadable')), "
            "total(outcome IS NULL OR outcome = 'lost') FROM attempts"
        )
        return Counts(*(int(number) for number in (*completions, *attempts)))

    def put_verdicts(self, rows: Iterable[tuple[str, str, str, str | None, str]]) -> None:
        """Commit (key, judge, verdict, extracted, evidence); a judge's earlier word is replaced."""
        self._database.write_many(
            "INSERT OR REPLACE INTO verdicts (key, judge, verdict, extracted, evidence) "
            "VALUES (?, ?, ?, ?, ?)",
            rows,
        )

    def verdicts(self, judge: str) -> dict[str, StoredVerdict]:
        """What one judge said, by key."""
        sql = "SELECT key, verdict, extracted, evidence FROM verdicts WHERE judge = ?"
        return {key: StoredVerdict(*said) for key, *said in self._database.select(sql, (judge,))}

    def put_tags(self, rows: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """Commit (key, filter, tags); no tags says that the filter looked and found nothing.

        Raises:
            ValueError: a tag is empty or contains white space.
        """
        self._database.write_many(
            "INSERT OR REPLACE INTO tags (key, filter, tags) VALUES (?, ?, ?)",
            [(key, name, _join(tags)) for key, name, tags in rows],
        )

    def tags(self, filter_name: str) -> dict[str, tuple[str, ...]]:
        """The tags that one filter gave, by key; keys that it never saw are absent."""
        sql = "SELECT key, tags FROM tags WHERE filter = ?"
        rows = self._database.select(sql, (filter_name,))
        return {key: tuple(tags.split()) for key, tags in rows}

    def close(self) -> None:
        """Commit, close the file and let the next writer in. Safe to call twice."""
        try:
            self._database.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _responses(self, keys: list[str], condition: str = "1") -> Iterator[tuple[Response, str]]:
        sql = (
            "SELECT key, request, raw, endpoint, seconds, prefilled FROM responses "
            f"WHERE key IN ({_marks(keys)}) AND {condition}"
        )
        for key, request, raw, endpoint, seconds, prefilled in self._database.select(sql, keys):
            asked = request_from_json(request)
            yield Response(asked, raw, endpoint, seconds, prefilled=bool(prefilled)), key

    def _read(self, key: str, response: Response) -> Completion | None:
        """Parse one response and note the outcome, unless this ledger is read-only."""
        try:
            completion = parse_response(response)
        except BadResponse as error:
            if self._database.writes:
                ended = self._end(
                    key, response.request.problem_id, response, "unreadable", str(error)
                )
                self._database.write(*ended, ("DELETE FROM responses WHERE key = ?", (key,)))
            return None
        if self._database.writes:
            facts = (key, completion.finish, completion.prompt_tokens, completion.completion_tokens)
            self._database.write(("INSERT OR IGNORE INTO completions VALUES (?, ?, ?, ?)", facts))
        return completion

    def _end(
        self, key: str, problem_id: str, response: Response, outcome: str, error: str
    ) -> list[tuple[str, Row]]:
        """Statements that end the newest attempt of a key, making one where none was recorded."""
        made = (key, problem_id, response.endpoint, _now(), key)
        return [
            (
                "INSERT INTO attempts (key, problem_id, endpoint, created) "
                "SELECT ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM attempts WHERE key = ?)",
                made,
            ),
            (_END_ATTEMPT, (outcome, error, response.raw, key)),
        ]


def _now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _join(tags: Sequence[str]) -> str:
    for tag in tags:
        if tag.split() != [tag]:
            raise ValueError(f"a tag must be one word, got {tag!r}")
    return " ".join(tags)


def _request_to_json(request: Request) -> str:
    return json.dumps(asdict(request), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def request_from_json(text: str) -> Request:
    fields = json.loads(text)
    prompt = fields.pop("prompt")
    messages = tuple(Message(**message) for message in prompt["messages"])
    sampling = Sampling(**fields.pop("sampling"))
    return Request(Prompt(messages, prompt["prefill"]), sampling, **fields)
