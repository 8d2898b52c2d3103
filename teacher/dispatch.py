"""Continuous batching: the requests of many callers, joined into one stream of an engine.

A thread runs `engine.answer` over a feed that gives what is waiting and runs dry when nothing is.
An engine that asks the feed again whenever it has room takes newcomers in while others run; one
that does not takes them in the next round.
"""

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from .engine import Engine, EngineError, Request, Response

GATHER_S = 0.01
"""How long the first request of a round waits for company."""

CLOSE_S = 10.0

Event = str | Response | EngineError
"""A piece of text, then one response; or an error instead of it."""


@dataclass(eq=False, slots=True)
class Job:
    """One request under way. `deliver` is called in the engine's thread and must not block."""

    request: Request
    deliver: Callable[[Event], None]


class _Stopped(Exception):
    """Raised out of the feed and out of `on_text` to end the engine's stream when closing."""


class Dispatcher:
    """Feeds one engine from many threads. Requests are told apart by their `problem_id`."""

    def __init__(self, engine: Engine) -> None:
        """Start the thread that runs the engine. The engine stays the caller's to close."""
        self._engine = engine
        self._tells_text = "on_text" in inspect.signature(engine.answer).parameters
        self._waiting: deque[Job] = deque()
        self._drawn: dict[str, Job] = {}
        self._change = threading.Condition()
        self._gather_until = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="r1kit-dispatch", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Hand in a job.

        Raises:
            EngineError: the dispatcher is closed.
        """
        with self._change:
            if self._closing:
                raise EngineError("the server is stopping")
            self._waiting.append(job)
            self._change.notify()

    def abandon(self, job: Job) -> None:
        """Nobody waits for the job any more: it is dropped if the engine does not have it yet."""
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Fail what is unfinished, and stop the engine at its next token. Safe to call twice."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._fail_all(EngineError("the server is stopping"))
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                self._gather_until = time.monotonic() + GATHER_S
            failure = self._round()
            self._fail_all(failure, but_waiting=True)

    def _round(self) -> EngineError:
        """Run the engine until the feed is dry; say why whatever is left over has no answer."""
        answer, feed = self._engine.answer, _Feed(self._draw)
        more: dict[str, Any] = {"on_text": self._on_text} if self._tells_text else {}
        try:
            for response in answer(feed, **more):
                self._deliver(response.request, response)
        except _Stopped:
            return EngineError("the server is stopping")
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it
            return EngineError(f"the engine failed: {type(error).__name__}: {error}")
        return EngineError("the engine ended without an answer")

    def _draw(self) -> Request:
        """The next waiting request, or StopIteration for now."""
        with self._change:
            while not self._waiting and not self._closing:
                if not self._change.wait(max(self._gather_until - time.monotonic(), 0.0)):
                    break
            if self._closing:
                raise _Stopped
            if not self._waiting:
                raise StopIteration
            job = self._waiting.popleft()
            self._drawn[job.request.problem_id] = job
            return job.request

    def _on_text(self, request: Request, piece: str) -> None:
        if self._closing:
            raise _Stopped
        self._deliver(request, piece)

    def _deliver(self, request: Request, event: Event) -> None:
        with self._change:
            drawn, name = self._drawn, request.problem_id
            job = drawn.pop(name, None) if isinstance(event, Response) else drawn.get(name)
        if job is not None:
            job.deliver(event)

    def _fail_all(self, failure: EngineError, *, but_waiting: bool = False) -> None:
        with self._change:
            jobs = [*self._drawn.values(), *([] if but_waiting else self._waiting)]
            self._drawn.clear()
            if not but_waiting:
                self._waiting.clear()
        for job in jobs:
            job.deliver(failure)


class _Feed:
    """An iterator that may have more after it ran dry, which a generator cannot."""

    def __init__(self, draw: Callable[[], Request]) -> None:
        self._draw = draw

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Request:
        return self._draw()
