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
from typing import Self

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
    """Raised out of `on_text` to end a stream when the server closes."""


class Dispatcher:
    """Feeds one engine from many threads. A request is known by its `problem_id`: keep it unique."""

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
        """Stop at the next token, fail what is unfinished, and end the thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    break
                self._gather_until = time.monotonic() + GATHER_S
            failure = self._round()
            self._fail_all(self._take_drawn(), failure)
        with self._change:
            unfinished = [*self._take_drawn(), *self._waiting]
        self._fail_all(unfinished, EngineError("the server is stopping"))

    def _round(self) -> EngineError:
        """Run the engine until the feed is dry; say why whatever is left over has no answer."""
        answer, feed = self._engine.answer, _Feed(self._draw)
        try:
            stream = answer(feed, on_text=self._on_text) if self._tells_text else answer(feed)  # type: ignore[call-arg]
            for response in stream:
                self._drawn.pop(response.request.problem_id).deliver(response)
                if self._closing:
                    break
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
            if self._closing or not self._waiting:
                raise StopIteration
            job = self._waiting.popleft()
            self._drawn[job.request.problem_id] = job
            return job.request

    def _on_text(self, request: Request, piece: str) -> None:
        if self._closing:
            raise _Stopped
        self._drawn[request.problem_id].deliver(piece)

    def _take_drawn(self) -> list[Job]:
        jobs = list(self._drawn.values())
        self._drawn.clear()
        return jobs

    def _fail_all(self, jobs: list[Job], failure: EngineError) -> None:
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
