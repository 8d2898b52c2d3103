"""The pool: an item that hangs, crashes or raises costs that item and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval import pool as pool_module
from r1kit.eval.pool import Failure, Pool, PoolError


def double(item: int) -> int:
    return 2 * item


def misbehave(item: object) -> object:
    """Do what the item says."""
    match item:
        case "sleep":
            time.sleep(60)
        case "spin in C":
            return 9 ** (9**9)
        case "exit":
            os._exit(7)
        case "leave":
            raise SystemExit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(bytearray(8 << 30))
        case "raise":
            raise ValueError("no such thing")
        case "lambda":
            return lambda: None
    return item


def fail_to_start() -> None:
    os._exit(1)


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_item_comes_back_once_with_its_index() -> None:
    with Pool(2, 30.0) as pool:
        results = list(pool.map(double, range(20)))
        assert sorted((r.index, r.value) for r in results) == [(i, 2 * i) for i in range(20)]
        assert [r.value for r in pool.map(double, [5])] == [10]  # the workers are used again
        assert list(pool.map(double, [])) == []


def test_an_item_that_fails_costs_only_itself() -> None:
    items = ["fine", "exit", "also fine", "segfault", "raise", "leave", "lambda", "memory", "end"]
    with Pool(2, 30.0, memory_mib=2048) as pool:
        results = {items[r.index]: r for r in pool.map(misbehave, items)}
    assert {item: r.failure for item, r in results.items()} == {
        "fine": None,
        "exit": Failure.CRASH,
        "also fine": None,
        "segfault": Failure.CRASH,
        "raise": Failure.ERROR,
        "leave": Failure.CRASH,
        "lambda": Failure.ERROR,
        "memory": Failure.CRASH,
        "end": None,
    }
    assert results["exit"].message == "the worker exited with status 7"
    assert results["segfault"].message == "the worker was killed by SIGSEGV"
    assert results["raise"].message == "ValueError: no such thing"
    assert results["memory"].message == "out of memory"
    assert results["end"].value == "end"


def test_a_worker_over_its_time_is_killed_and_replaced() -> None:
    items = ["sleep", "fine", "spin in C", "end"]
    with Pool(1, 1.0) as pool:
        list(pool.map(double, [1]))  # started and warm
        started = time.monotonic()
        results = {items[r.index]: r for r in pool.map(misbehave, items)}
        seconds = time.monotonic() - started
    assert [r.failure for item in items if (r := results[item])] == [
        Failure.TIMEOUT,
        None,
        Failure.TIMEOUT,
        None,
    ]
    assert results["sleep"].message == "killed after 1 s"
    assert 2.0 <= seconds < 20.0


def test_an_idle_worker_that_died_is_replaced_before_it_gets_an_item() -> None:
    with Pool(1, 30.0) as pool:
        list(pool.map(double, [1]))
        process = pool._workers[0].process.pid
        assert process is not None
        os.kill(process, signal.SIGKILL)
        time.sleep(0.3)
        assert [(r.value, r.failure) for r in pool.map(double, [4])] == [(8, None)]


def test_no_worker_starts_before_there_is_an_item() -> None:
    with Pool(4, 30.0) as pool:
        list(pool.map(double, []))
        assert pool._workers == []
        list(pool.map(double, [1]))
        assert len(pool._workers) == 1


def test_leaving_early_kills_the_busy_workers() -> None:
    with Pool(2, 60.0) as pool:
        results = pool.map(misbehave, ["fine", "sleep", "sleep"])
        assert next(results).value == "fine"
        processes = [worker.process.pid for worker in pool._workers]
        assert isinstance(results, Generator)
        results.close()
        assert not any(worker.index is not None for worker in pool._workers)
    assert not any(alive(process) for process in processes if process)


def test_workers_that_cannot_start_are_an_error_with_advice() -> None:
    with Pool(1, 30.0, fail_to_start) as pool, pytest.raises(PoolError, match="__main__"):
        list(pool.map(double, [1]))


def test_what_does_not_pickle_is_that_items_error() -> None:
    unpicklable: Any = lambda: None  # noqa: E731
    with Pool(1, 30.0) as pool:
        results = list(pool.map(double, [1, unpicklable, 3]))
    assert sorted((r.index, r.failure) for r in results) == [
        (0, None),
        (1, Failure.ERROR),
        (2, None),
    ]
    assert "cannot be sent" in results[1].message or "cannot be sent" in results[0].message


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_survives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from r1kit.eval.pool import Pool\n"
        "def hang(item):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(100)\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2, 100.0) as pool:\n"
        "        list(pool.map(hang, [1, 2]))\n"
    )
    with (tmp_path / "stderr").open("w") as stderr:
        parent = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()), int(parent.stdout.readline())]
    assert all(alive(worker) for worker in workers)
    if how is signal.SIGINT:
        os.killpg(parent.pid, how)  # Ctrl-C reaches the whole group
    else:
        parent.send_signal(how)
    parent.wait(20)
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)
    if how is signal.SIGINT:  # the parent's traceback and no worker's
        assert (tmp_path / "stderr").read_text().count("KeyboardInterrupt") == 1


@pytest.mark.parametrize(("workers", "timeout_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_refuses_limits_that_make_no_sense(workers: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Pool(workers, timeout_s)


def test_the_source_uses_no_alarm() -> None:
    assert "SIGALRM" not in Path(str(pool_module.__file__)).read_text()
