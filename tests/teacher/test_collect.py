"""Collecting: only what is missing is asked for, and whatever stops it loses nothing reported."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest
from r1kit.teacher.collect import Collected, collect
from r1kit.teacher.engine import EngineError, Identity, Prompt, Request, Response, Sampling
from r1kit.teacher.ledger import Ledger
from r1kit.teacher.ledger_file import LedgerError


class Scripted:
    """An engine that answers from a function, last request first."""

    identity = Identity("openai", "scripted")
    endpoint = "http://scripted/v1"

    def __init__(self, script: Callable[[Request], Response | BaseException]) -> None:
        self.script = script
        self.asked: list[Request] = []
        self.is_broken_off = False

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        drawn = list(requests)
        try:
            for request in reversed(drawn):
                assert before is not None
                before(request, self.endpoint)
                self.asked.append(request)
                outcome = self.script(request)
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        except GeneratorExit:
            self.is_broken_off = True
            raise

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


def ask(number: int, index: int = 0) -> Request:
    return Request(Prompt.user(f"{number}+1?"), Sampling(), index, 7, problem_id=f"p{number}")


def good(request: Request, finish: str = "stop") -> Response:
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    body = {"choices": [{"message": {"content": "4"}, "finish_reason": finish}], "usage": usage}
    return Response(request, json.dumps(body), Scripted.endpoint, 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.sqlite"


def keys_of(requests: list[Request]) -> list[str]:
    return [request.key(Scripted.identity) for request in requests]


def test_only_what_is_missing_is_asked_for_and_duplicates_once(path: Path) -> None:
    requests = [ask(n, index) for n in range(3) for index in range(2)]
    engine = Scripted(good)
    with Ledger.open(path) as ledger:
        first = collect(engine, ledger, requests[:4] + requests[:2])
        assert (first.wanted, first.already, first.answered, first.missing) == (4, 0, 4, 0)
    engine = Scripted(good)
    with Ledger.open(path) as ledger:
        second = collect(engine, ledger, requests)
        assert (second.wanted, second.already, second.answered) == (6, 4, 2)
        assert sorted(map(repr, engine.asked)) == sorted(map(repr, requests[4:]))
        third = collect(engine, ledger, requests)
        assert (third.already, third.answered, third.missing) == (6, 0, 0)
        assert len(engine.asked) == 2
        assert list(dict(ledger.completions(keys_of(requests)))) == keys_of(requests)


def test_a_changed_setting_never_finds_an_old_answer(path: Path) -> None:
    warmer = Request(ask(1).prompt, Sampling(temperature=0.9), 0, 7)
    with Ledger.open(path) as ledger:
        collect(Scripted(good), ledger, [ask(1)])
        assert collect(Scripted(good), ledger, [warmer]).answered == 1


def test_every_attempt_is_on_disk_before_it_is_sent(path: Path) -> None:
    seen = []

    def script(request: Request) -> Response:
        connection = sqlite3.connect(path)
        seen.append(connection.execute("SELECT count(*) FROM attempts").fetchone()[0])
        connection.close()
        return good(request)

    with Ledger.open(path) as ledger:
        collect(Scripted(script), ledger, [ask(n) for n in range(3)])
    assert seen == [1, 2, 3]


def test_failures_are_counted_and_asked_again_next_time(path: Path) -> None:
    def script(request: Request) -> Response:
        if request == ask(0):
            return Response(request, "", Scripted.endpoint, 0.1, error="HTTP 500: overload")
        if request == ask(1):
            return Response(request, '{"choices": []}', Scripted.endpoint, 0.1)
        return good(request, finish="length" if request == ask(2) else "stop")

    requests = [ask(n) for n in range(4)]
    with Ledger.open(path) as ledger:
        found = collect(Scripted(script), ledger, requests)
        assert (found.answered, found.failed, found.truncated, found.missing) == (2, 2, 1, 2)
        assert (found.prompt_tokens, found.completion_tokens) == (10, 6)
        assert found.last_error in (
            "HTTP 500: overload",
            "the response cannot be read; the ledger's attempts hold it",
        )
        again = collect(Scripted(good), ledger, requests)
        assert (again.already, again.answered, again.failed) == (2, 2, 0)


def test_progress_tells_only_what_is_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1kit.teacher.collect.REPORT_S", 0.0)
    reports: list[tuple[int, int]] = []

    def on_disk(so_far: Collected) -> None:
        connection = sqlite3.connect(path)
        (stored,) = connection.execute("SELECT count(*) FROM responses").fetchone()
        connection.close()
        reports.append((so_far.answered, stored))

    with Ledger.open(path) as ledger:
        collect(Scripted(good), ledger, [ask(n) for n in range(5)], progress=on_disk)
    assert [answered for answered, _ in reports] == [0, 1, 2, 3, 4, 5, 5]
    assert all(answered <= stored for answered, stored in reports)


@pytest.mark.parametrize(
    "failure",
    [EngineError("http://scripted/v1: gone"), KeyboardInterrupt()],
    ids=["engine", "ctrl-c"],
)
def test_what_came_before_the_end_is_kept(path: Path, failure: BaseException) -> None:
    requests = [ask(n) for n in range(5)]
    reports: list[Collected] = []
    with Ledger.open(path) as ledger, pytest.raises(type(failure)):
        engine = Scripted(lambda request: failure if request == ask(1) else good(request))
        collect(engine, ledger, requests, progress=reports.append)
    assert reports[-1].answered == 3
    with Ledger.open(path) as ledger:
        assert ledger.done(keys_of(requests)) == set(keys_of(requests[2:]))


def test_ctrl_c_between_responses_breaks_the_engine_off(path: Path) -> None:
    engine = Scripted(good)

    def interrupt(so_far: Collected) -> None:
        if engine.asked and not engine.is_broken_off:
            raise KeyboardInterrupt

    with Ledger.open(path) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1kit.teacher.collect.REPORT_S", 0.0)
        with pytest.raises(KeyboardInterrupt) as raised:  # its traceback keeps the iterator alive
            collect(engine, ledger, [ask(n) for n in range(5)], progress=interrupt)
        assert raised.tb is not None
        assert engine.is_broken_off
        assert len(engine.asked) == 1
        assert len(ledger.done(keys_of([ask(n) for n in range(5)]))) == 1


def test_a_full_disk_stops_it_with_what_was_reported_intact(path: Path) -> None:
    reports: list[Collected] = []
    requests = [ask(n) for n in range(300)]
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(LedgerError, match="the disk is full"),
    ):
        patch.setattr("r1kit.teacher.collect.REPORT_S", 0.0)
        with Ledger.open(path) as ledger:
            ledger._database.select("PRAGMA max_page_count = 30")
            collect(Scripted(good), ledger, requests, progress=reports.append)
    assert 0 < reports[-1].answered < 300
    with Ledger.open(path) as ledger:
        assert len(ledger.done(keys_of(requests))) >= reports[-1].answered
        assert collect(Scripted(good), ledger, requests).missing == 0
