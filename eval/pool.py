"""Work that may hang or crash, done in processes that can be killed.

A comparison of two formulas may run for ever, eat all memory or take its interpreter down, and most
of that happens inside C code that no alarm and no thread can interrupt. So every item runs in a
worker process with a wall-clock limit. A worker over its limit is killed with SIGKILL and replaced;
one that dies takes only its item with it. Workers start when there is work for them, from a fork
server that has already imported what they need, so a replacement costs milliseconds.

Not a sandbox: functions are trusted code, and only their running time and memory are bounded.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, Self, TypeVar

from .. import KitError

Item = TypeVar("Item")
Value = TypeVar("Value")

START_LIMIT_S = 120.0
"""How long a worker may take to import what it needs; a busy machine needs tens of seconds."""

MAX_FAILED_STARTS = 3


class PoolError(KitError):
    """Workers cannot be started at all."""


class Failure(StrEnum):
    """Why an item has no value."""

    TIMEOUT = "timeout"
    """The worker was killed at the time limit."""
    CRASH = "crash"
    """The worker died, or ran out of memory."""
    ERROR = "error"
    """The function raised; the message is the exception."""


@dataclass(frozen=True, slots=True)
class Result(Generic[Value]):
    """What became of one item.

    Attributes:
        index: which item it was, counted from 0.
        value: what the function returned; None where it failed.
        failure: why there is no value; None where there is one.
        message: the failure in words; empty where there is none.
    """

    index: int
    value: Value | None
    failure: Failure | None = None
    message: str = ""


class Executor(Protocol):
    """Maps a function over items, each under the executor's limits. `Pool` is the local one."""

    def map(
        self, function: Callable[[Item], Value], items: Iterable[Item]
    ) -> Iterator[Result[Value]]:
        """Yield one result for every item, in no promised order."""
        ...

    def close(self) -> None:
        """Stop all workers. Safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, process: BaseProcess, pipe: Connection, deadline: float) -> None:
        self.process = process
        self.pipe = pipe
        self.deadline = deadline  # of the start, then of the item; monotonic seconds
        self.ready = False
        self.index: int | None = None  # the item it works on


class Pool:
    """Worker processes on this machine.

    Args:
        workers: processes at most; they start only when items wait for them.
        timeout_s: wall-clock seconds for one item, counted from when a ready worker gets it.
        initializer: called once in every worker before its first item.
        memory_mib: address space that a worker may take (RLIMIT_AS); None sets no limit.
        preload: modules that the fork server imports once, so that workers find them loaded. Only
            the first pool of a process decides it.

    Functions, items and values must pickle; functions must be importable by name. Where there is no
    fork server (Windows), workers are spawned, which costs each its own imports.
    """

    def __init__(
        self,
        workers: int,
        timeout_s: float,
        initializer: Callable[[], None] | None = None,
        *,
        memory_mib: int | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        self.num_workers = workers
        self.timeout_s = timeout_s
        self._setup = (initializer, memory_mib)
        self._context = _context(preload)
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def map(
        self, function: Callable[[Item], Value], items: Iterable[Item]
    ) -> Iterator[Result[Value]]:
        """Yield one result for every item, as they finish; items are drawn as workers free up.

        Leaving the iterator early kills the workers that are still busy. One map at a time.

        Raises:
            PoolError: several workers in a row died before they could take an item.
        """
        waiting: Iterator[tuple[int, Item]] = enumerate(items)
        upcoming = next(waiting, None)
        try:
            while upcoming is not None or any(w.index is not None for w in self._workers):
                if upcoming is not None:
                    idle = self._idle_worker()
                    if idle is not None:
                        failed = self._send(idle, function, *upcoming)
                        upcoming = next(waiting, None)
                        if failed is not None:
                            yield failed
                        continue
                for worker in self._wait():
                    result = self._take(worker)
                    if result is not None:
                        yield result
        finally:
            for worker in [w for w in self._workers if w.index is not None]:
                self._discard(worker)

    def close(self) -> None:
        """Kill all workers. Safe to call twice."""
        for worker in list(self._workers):
            self._discard(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _idle_worker(self) -> _Worker | None:
        """A worker that can take an item now; where there is none, start one if there is room."""
        for worker in list(self._workers):
            if worker.ready and worker.index is None:
                if not worker.pipe.poll():
                    return worker
                self._discard(worker)  # an idle worker's pipe says one thing: that it died
        starting = any(not worker.ready for worker in self._workers)
        if len(self._workers) < self.num_workers and not starting:
            self._start()
        return None

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._setup), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, time.monotonic() + START_LIMIT_S))

    def _send(
        self, worker: _Worker, function: Callable[[Item], Value], index: int, item: Item
    ) -> Result[Value] | None:
        """Give a worker an item. What cannot be sent comes back as a failed result."""
        try:
            message = pickle.dumps((function, item))
        except Exception as error:  # noqa: BLE001 - pickling raises whatever the object raises
            return Result(index, None, Failure.ERROR, f"cannot be sent to a worker: {error}")
        worker.index = index
        worker.deadline = time.monotonic() + self.timeout_s
        with contextlib.suppress(OSError):  # it is dead: reading from it will tell
            worker.pipe.send_bytes(message)
        return None

    def _wait(self) -> list[_Worker]:
        """Sleep until a worker has something to say or is over its limit; return those."""
        watched = {w.pipe: w for w in self._workers if w.index is not None or not w.ready}
        nearest = min(worker.deadline for worker in watched.values())
        speaking = wait(list(watched), timeout=max(0.0, nearest - time.monotonic()))
        now = time.monotonic()
        return [w for pipe, w in watched.items() if pipe in speaking or w.deadline <= now]

    def _take(self, worker: _Worker) -> Result[Any] | None:
        """Read what a worker said, or deal with its silence or its death."""
        index = worker.index
        if not worker.pipe.poll():
            self._discard(worker)
            if index is None:
                self._failed_start("did not start in time")
                return None
            limit = f"killed after {self.timeout_s:g} s"
            return Result(index, None, Failure.TIMEOUT, limit)
        try:
            value, failure, message = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            worker.process.join(1.0)  # its pipe is closed, so it is about to end, with a status
            how = self._discard(worker)
            if index is None:
                self._failed_start(how)
                return None
            return Result(index, None, Failure.CRASH, how)
        if not worker.ready:
            worker.ready = True
            self._failed_starts = 0
            return None
        worker.index = None
        if failure is Failure.CRASH:
            self._discard(worker)
        assert index is not None, "a worker that has no item says nothing"
        return Result(index, value, failure, message)

    def _failed_start(self, how: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise PoolError(
                f"{MAX_FAILED_STARTS} worker processes in a row {how} before taking any work. "
                "A script that calls this must do so under `if __name__ == '__main__':`, and "
                "its workers need memory to start"
            )

    def _discard(self, worker: _Worker) -> str:
        """Kill a worker, forget it, and say how it ended."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        code = worker.process.exitcode
        if code is not None and code < 0:
            return f"the worker was killed by {_signal_name(-code)}"
        return f"the worker exited with status {code}"


def _context(preload: Sequence[str]) -> ForkServerContext | SpawnContext:
    """How processes are started here."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if preload:
        context.set_forkserver_preload([__name__, *preload])
    return context


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _serve(
    pipe: Connection,
    initializer: Callable[[], None] | None,
    memory_mib: int | None,
) -> None:
    """A worker's life: get ready, then answer item after item until the pipe closes."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it kills its workers
    if memory_mib is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    if initializer is not None:
        initializer()
    with contextlib.suppress(OSError, EOFError):  # the parent is gone, and so are we
        pipe.send((None, None, ""))
        while True:
            _answer(pipe, pipe.recv_bytes())


def _answer(pipe: Connection, message: bytes) -> None:
    """Do one item and send (value, failure, message)."""
    try:
        function, item = pickle.loads(message)
        reply = pickle.dumps((function(item), None, ""))
    except MemoryError:
        reply = pickle.dumps((None, Failure.CRASH, "out of memory"))
    except Exception as error:  # noqa: BLE001 - whatever the function raises is its item's result
        reply = pickle.dumps((None, Failure.ERROR, f"{type(error).__name__}: {error}"[:500]))
    pipe.send_bytes(reply)


def _die_with_parent() -> None:
    """Have the kernel end this process when the pool's process ends, however that ends.

    Its end closes a pipe, which is made to raise SIGIO here; the default action of SIGIO on Linux
    is to terminate, also while C code holds the interpreter. Elsewhere a worker ends when it next
    reads from its own pipe.
    """
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    import fcntl

    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if not parent.is_alive():  # it ended before the signal was ordered
        os._exit(1)
