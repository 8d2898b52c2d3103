"""Asking an engine for what a ledger lacks. The one loop that sampling and evaluation share.

Every attempt is on record before it is sent, every response is committed before it is read, and
what is reported as collected is on disk: whatever stops the loop, the next call goes on from there.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .engine import Completion, Engine, Finish, Request, Response
from .ledger import Ledger

REPORT_S = 0.1
"""The least time between two reports."""


@dataclass(frozen=True, slots=True)
class Collected:
    """How far a call of `collect` has come. Counts only what is committed to the ledger."""

    wanted: int
    """Different samples asked for."""
    already: int
    """Those that the ledger held before."""
    answered: int = 0
    """Usable completions that this call added."""
    failed: int = 0
    """Requests that ended in an error or an unreadable response; the next call asks again."""
    truncated: int = 0
    """Those among `answered` that ran into their limit of tokens."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    last_error: str | None = None

    @property
    def missing(self) -> int:
        """Samples that the ledger still lacks."""
        return self.wanted - self.already - self.answered


def collect(
    engine: Engine,
    ledger: Ledger,
    requests: Sequence[Request],
    *,
    progress: Callable[[Collected], None] | None = None,
    on_completions: Callable[[Mapping[str, Completion]], None] | None = None,
) -> Collected:
    """Ask the engine for every request that the ledger has no usable completion of.

    `on_completions` is called with the usable completions of this call by key, once they are
    committed, ahead of the report that counts them.

    Requests with the same key are asked once. An error of the engine, a full disk and Ctrl-C leave
    all that was reported, and whatever else could be committed, in the ledger.

    Raises:
        EngineError: the engine cannot go on.
        LedgerError: the ledger cannot be written.
    """
    wanted = {request.key(engine.identity): request for request in requests}
    done = ledger.done(wanted)
    keys = {request: key for key, request in wanted.items() if key not in done}
    run = _Run(engine, ledger, Collected(len(wanted), len(done)), progress, on_completions)

    def before(request: Request, endpoint: str) -> None:
        # What leaves this process may be paid for, so its record is on disk before it goes.
        ledger.attempt(keys[request], request, endpoint, wait="://" in endpoint)

    run.report()
    if not keys:
        return run.so_far
    stream = engine.answer(keys, before=before)
    try:
        for response in stream:
            run.take(keys[response.request], response)
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
        run.settle()
    return run.so_far


class _Run:
    """The state of one call: what was put and not yet settled, and the counts so far."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        so_far: Collected,
        progress: Callable[[Collected], None] | None,
        on_completions: Callable[[Mapping[str, Completion]], None] | None,
    ) -> None:
        self.so_far = so_far
        self._identity = engine.identity
        self._ledger = ledger
        self._progress = progress
        self._on_completions = on_completions
        self._pending: dict[str, str | None] = {}
        self._started = self._settled = time.monotonic()

    def take(self, key: str, response: Response) -> None:
        """Put a response, and settle what is pending if the last report is old enough."""
        self._ledger.put(key, self._identity, response)
        self._pending[key] = response.error
        if time.monotonic() - self._settled >= REPORT_S:
            self.settle()

    def settle(self) -> None:
        """Commit what is pending, read it, count it and report."""
        pending, self._pending = self._pending, {}
        unreadable = "the response cannot be read; the ledger's attempts hold it"
        read = self._ledger.settle(key for key, error in pending.items() if error is None)
        errors = [error or unreadable for key, error in pending.items() if key not in read]
        self.so_far = _add(self.so_far, list(read.values()), errors)
        self._settled = time.monotonic()
        if read and self._on_completions is not None:
            self._on_completions(read)
        self.report()

    def report(self) -> None:
        """Tell the caller how far it has come."""
        self.so_far = replace(self.so_far, seconds=time.monotonic() - self._started)
        if self._progress is not None:
            self._progress(self.so_far)


def _add(so_far: Collected, read: Sequence[Completion], errors: Sequence[str]) -> Collected:
    """The counts after these completions and errors."""
    return replace(
        so_far,
        answered=so_far.answered + len(read),
        failed=so_far.failed + len(errors),
        truncated=so_far.truncated + sum(c.finish is Finish.LENGTH for c in read),
        prompt_tokens=so_far.prompt_tokens + sum(c.prompt_tokens for c in read),
        completion_tokens=so_far.completion_tokens + sum(c.completion_tokens for c in read),
        last_error=errors[-1] if errors else so_far.last_error,
    )
