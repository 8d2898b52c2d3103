"""The engine over HTTP, against a real server on loopback that fails in the ways servers do."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from r1kit.teacher.collect import collect
from r1kit.teacher.engine import (
    EngineError,
    Prompt,
    Request,
    Response,
    Sampling,
    parse_response,
)
from r1kit.teacher.engines import open_engine
from r1kit.teacher.ledger import Ledger
from r1kit.teacher.openai_engine import GIVE_UP_AFTER, OpenAIEngine
from r1kit.teacher.openai_wire import read_retry_after
from r1kit.teacher.settings import EngineSettings


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    claims_bytes: int = 0
    """Added to the true Content-Length: the body breaks off."""
    resets: bool = False
    pieces: tuple[str, ...] = ()
    """Sent as chunks, with `pause_s` between them."""
    pause_s: float = 0.0
    waits_s: float = 0.0


def whole(content: str | None = "<think>\nadd</think>4", **more: Any) -> Reply:
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply(json.dumps({"choices": choices, "usage": usage}))


def events(*contents: str, end: bool = True, done: bool = True, **more: Any) -> Reply:
    def event(choice: dict[str, Any]) -> str:
        return "data: " + json.dumps({"choices": [choice]}) + "\n\n"

    pieces = [": keep-alive\n\n", *(event({"delta": {"content": c}}) for c in contents)]
    if end:
        pieces.append(event({"delta": {}, "finish_reason": "stop"}))
        usage = {"prompt_tokens": 5, "completion_tokens": len(contents)}
        pieces.append("data: " + json.dumps({"choices": [], "usage": usage}) + "\n\n")
    if done:
        pieces.append("data: [DONE]\n\n")
    return Reply(pieces=tuple(pieces), content_type="text/event-stream", **more)


class Server:
    """HTTP/1.1 over asyncio streams in a thread; `script` sees a body and how often it came."""

    def __init__(self, script: Callable[[dict[str, Any], int], Reply]) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.times: list[float] = []
        self.most_at_once = self.num_at_once = self.num_gone = 0
        self._tries: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Take no more connections, and end those that stand after their reply."""
        self._is_leaving = True
        self._listening.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, listener: socket.socket) -> None:
        start = asyncio.start_server(self._talk, sock=listener)
        self._listening = self._loop.run_until_complete(start)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()
        listener.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        (length,) = (
            int(x[15:]) for x in head.split("\r\n") if x.lower().startswith("content-length:")
        )
        body = json.loads(await reader.readexactly(length))
        self.bodies.append(body)
        self.headers.append(head)
        self.times.append(time.monotonic())
        asked = body["messages"][0]["content"]
        self._tries[asked] = self._tries.get(asked, 0) + 1
        reply = self.script(body, self._tries[asked])
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        try:
            waiting = asyncio.ensure_future(asyncio.sleep(reply.waits_s))
            hangup = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({waiting, hangup}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self.num_gone += 1
                waiting.cancel()
                return False
            hangup.cancel()
            await asyncio.sleep(0)
            return await self._send(reply, writer)
        finally:
            self.num_at_once -= 1

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Type: {reply.content_type}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        body = reply.body.encode("latin-1")
        framing = f"Content-Length: {len(body) + reply.claims_bytes}"
        lines.append("Transfer-Encoding: chunked" if reply.pieces else framing)
        if reply.pieces or not reply.resets:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        for piece in reply.pieces:
            writer.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(reply.pause_s)
        if reply.resets:
            await writer.drain()
            linger = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        if reply.claims_bytes:
            return False
        if reply.pieces:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not self._is_leaving


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[dict[str, Any], int], Reply]], Server]]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    def make(script: Callable[[dict[str, Any], int], Reply]) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


Start = Callable[[Callable[[dict[str, Any], int], Reply]], Server]


def ask(number: int = 0, prefill: str = "<think>\n", index: int = 0) -> Request:
    return Request(Prompt.user(f"{number}+1?", prefill=prefill), Sampling(max_tokens=9), index, 7)


def open_to(server: Server | str, **settings: Any) -> OpenAIEngine:
    url = server if isinstance(server, str) else server.url
    return OpenAIEngine(
        url, "r1", **{"backoff_s": 0.01, "retries": 2, "timeout_s": 5.0, **settings}
    )


def one(engine: OpenAIEngine, request: Request | None = None) -> Response:
    with engine:
        (response,) = engine.answer([request or ask()])
    return response


FAULTS = {
    "500": Reply('{"error": {"message": "overload"}}', 500),
    "503": Reply("busy", 503, content_type="text/plain"),
    "429": Reply('{"error": {"message": "slow down"}}', 429),
    "garbage": Reply("\xff\xfe{{{"),
    "html": Reply("<html>gateway</html>", content_type="text/html"),
    "empty-body": Reply(""),
    "empty-choices": Reply('{"choices": []}'),
    "empty-choice": whole(""),
    "filtered": Reply(
        '{"choices": [{"message": {"content": "4"}, "finish_reason": "content_filter"}]}'
    ),
    "half-a-body": Reply(whole().body[:40], claims_bytes=60),
    "half-a-json": Reply(whole().body[:40]),
    "reset": Reply(resets=True),
    "silence": Reply(waits_s=1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again_and_then_answered(start: Start, fault: str) -> None:
    server = start(lambda body, count: whole() if count == 3 else FAULTS[fault])
    attempts: list[tuple[Request, str]] = []
    with open_to(server, timeout_s=0.2 if fault == "silence" else 5) as engine:
        (response,) = engine.answer([ask()], before=lambda r, e: attempts.append((r, e)))
    assert response.error is None
    assert response.raw == whole().body
    assert parse_response(response).answer == "4"
    assert attempts == [(ask(), server.url)] * 3
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("fault", "says", "raw"),
    [
        ("500", "HTTP 500: overload", '{"error": {"message": "overload"}}'),
        ("503", "HTTP 503: busy", "busy"),
        ("429", "HTTP 429: slow down", '{"error": {"message": "slow down"}}'),
        ("garbage", "the body is not JSON", "\ufffd\ufffd{{{"),
        ("html", "<html>gateway</html>' (content type text/html)", "<html>gateway</html>"),
        ("empty-choices", "the list of choices is empty", '{"choices": []}'),
        ("half-a-body", "the connection broke (ClientPayloadError", whole().body[:40]),
        ("reset", "the connection broke", ""),
        ("silence", "silent for 0.1 s (timeout_s)", ""),
    ],
)  # fmt: skip
def test_after_the_budget_the_error_says_what_came_and_keeps_it(
    start: Start, fault: str, says: str, raw: str
) -> None:
    server = start(lambda body, count: FAULTS[fault])
    response = one(open_to(server, timeout_s=0.1 if fault == "silence" else 5, retries=1))
    assert response.error is not None
    assert says in response.error
    assert response.error.startswith(server.url)
    assert response.error.endswith("(after 2 tries)")
    assert response.raw == raw
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, '{"error": {"message": "maximum context length is 4096"}}', "maximum context length"),
        (
            401,
            '{"error": {"message": "Incorrect API key: sk-secret"}}',
            "Incorrect API key: [api key]",
        ),
        (404, '{"object": "error", "message": "the model r1 does not exist"}', "does not exist"),
        (422, '{"detail": [{"msg": "field required"}]}', "field required"),
        (307, "moved", "HTTP 307: moved"),
    ],
)
def test_what_cannot_pass_is_final_at_once(start: Start, status: int, body: str, says: str) -> None:
    server = start(lambda _, count: Reply(body, status))
    response = one(open_to(server, api_key="sk-secret"))
    assert response.error is not None
    assert f"HTTP {status}: " in response.error
    assert says in response.error
    assert "sk-secret" not in response.error + response.raw
    assert len(server.bodies) == 1


def test_retry_after_is_honoured(start: Start) -> None:
    limit = Reply("{}", 429, {"Retry-After": "0.4"})
    server = start(lambda body, count: whole() if count == 2 else limit)
    assert one(open_to(server)).error is None
    assert 0.4 <= server.times[1] - server.times[0] < 2.0  # the back-off would be 0.01


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("9999", 300.0), ("nan", None), ("soon", None),
        (None, None), ("Tue, 24 Nov 2026 00:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 00:00:00 GMT", 0.0), ("Tue, 24 Nov 2026 00:00:30", None),
    ],
)  # fmt: skip
def test_retry_after_may_be_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, datetime(2026, 11, 24, tzinfo=UTC)) == seconds


def test_one_bad_sample_does_not_cost_its_neighbours(start: Start) -> None:
    server = start(lambda body, count: FAULTS["garbage"] if "5+1" in str(body) else whole())
    with open_to(server) as engine:
        responses = list(engine.answer(ask(n) for n in range(8)))
    assert len(responses) == 8
    assert [r.request for r in responses if r.error] == [ask(5)]


def test_no_more_than_the_bound_are_under_way_and_requests_are_drawn_as_slots_free_up(
    start: Start,
) -> None:
    server = start(lambda body, count: Reply(whole().body, waits_s=0.05))
    drawn = 0

    def source() -> Iterator[Request]:
        nonlocal drawn
        for number in range(40):
            drawn += 1
            yield ask(number)

    with open_to(server, concurrency=5) as engine:
        for num_answered, _ in enumerate(engine.answer(source())):
            assert drawn <= num_answered + 6
    assert drawn == 40
    assert server.most_at_once == 5


def test_a_source_that_ran_dry_is_asked_again_while_others_run(start: Start) -> None:
    server = start(
        lambda body, count: Reply(whole().body, waits_s=0.5 if "0+1" in str(body) else 0)
    )
    began = time.monotonic()

    class Feed:
        waiting: list[Request]

        def __init__(self) -> None:
            self.waiting, self.has_late = [ask(0)], False

        def __iter__(self) -> "Feed":
            return self

        def __next__(self) -> Request:
            if not self.has_late and time.monotonic() - began > 0.1:
                self.has_late, self.waiting = True, [ask(1)]
            if not self.waiting:
                raise StopIteration
            return self.waiting.pop()

    with open_to(server) as engine:
        order = [response.request for response in engine.answer(Feed())]
    assert order == [ask(1), ask(0)]


# Prefills, reasoning, seeds.


def test_a_prefill_is_sent_as_a_message_to_continue(start: Start) -> None:
    server = start(lambda body, count: whole("add</think>4"))
    response = one(open_to(server))
    (body,) = server.bodies
    assert body["messages"] == [
        {"role": "user", "content": "0+1?"},
        {"role": "assistant", "content": "<think>\n"},
    ]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (9, 0.6, 0.95)
    assert parse_response(response).text == "<think>\nadd</think>4"


def test_a_dropped_prefill_is_not_sent_and_not_glued_on(start: Start, tmp_path: Path) -> None:
    server = start(lambda body, count: whole("It is 4."))
    path = tmp_path / "traces.sqlite"
    with open_to(server, prefill_mode="drop") as engine, Ledger.open(path) as ledger:
        collect(engine, ledger, [ask()])
        ((_, completion),) = ledger.completions([ask().key(engine.identity)])
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "0+1?"}]
    assert "continue_final_message" not in body
    assert (completion.thinking, completion.answer) == (None, "It is 4.")


def test_a_reply_split_by_the_server_is_joined(start: Start) -> None:
    server = start(lambda body, count: whole("4", reasoning_content="\nadd"))
    completion = parse_response(one(open_to(server, prefill_mode="drop")))
    assert (completion.thinking, completion.answer) == ("add", "4")


def test_a_missing_usage_counts_as_zero_tokens(start: Start) -> None:
    body = {"choices": [{"message": {"content": "4"}, "finish_reason": "length"}]}
    server = start(lambda _, count: Reply(json.dumps(body)))
    completion = parse_response(one(open_to(server), ask(prefill="")))
    assert (completion.prompt_tokens, completion.completion_tokens) == (0, 0)
    assert (completion.finish, completion.answer) == ("length", "4")


def test_draws_of_one_prompt_have_seeds_of_their_own_that_repeat(start: Start) -> None:
    server = start(lambda body, count: whole())
    for _ in range(2):
        with open_to(server, concurrency=1) as engine:
            list(engine.answer(ask(index=n) for n in range(4)))
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[:4] == seeds[4:]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


# Streams.


def test_a_stream_is_kept_as_it_came_and_read_like_a_whole_body(start: Start) -> None:
    server = start(lambda body, count: events("<think>\nadd", "</think>", "4"))
    response = one(open_to(server, stream=True))
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert response.raw == "".join(events("<think>\nadd", "</think>", "4").pieces)
    completion = parse_response(response)
    assert (completion.thinking, completion.answer) == ("add", "4")
    assert completion.completion_tokens == 3


@pytest.mark.parametrize(
    "broken",
    [
        events("<think>\nadd", end=False, done=False),
        events("<think>\nadd", end=False, done=False, resets=True),
        events("<think>\nadd", end=False),
        Reply(pieces=('data: {"error": {"message": "out of memory"}}\n\n',)),
    ],
    ids=["ends", "reset", "no-finish", "error-event"],
)
def test_a_stream_that_breaks_off_is_asked_again(start: Start, broken: Reply) -> None:
    server = start(lambda body, count: events("4") if count == 2 else broken)
    response = one(open_to(server, stream=True), ask(prefill=""))
    assert response.error is None
    assert parse_response(response).answer == "4"
    failed = one(open_to(start(lambda body, count: broken), stream=True, retries=0))
    assert failed.error is not None
    assert failed.raw == "".join(broken.pieces)


def test_a_server_that_leaves_the_stream_open_after_done_holds_nobody_up(start: Start) -> None:
    pieces = (*events("4").pieces, *[":\n\n"] * 20)
    server = start(lambda body, count: Reply(pieces=pieces, pause_s=0.1))
    began = time.monotonic()
    response = one(open_to(server, stream=True), ask(prefill=""))
    assert response.error is None
    assert time.monotonic() - began < 0.1 * len(pieces) - 1


def test_silence_is_counted_from_the_last_sound(start: Start) -> None:
    reply = events(*"12345678", pause_s=0.15)
    server = start(lambda body, count: reply)
    response = one(open_to(server, stream=True, timeout_s=1.0, retries=0))
    assert response.error is None
    assert response.seconds > 1.2


# The end of an endpoint, and of a run.


def test_an_unreachable_endpoint_is_named_with_its_last_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with open_to(url) as engine, pytest.raises(EngineError, match="Connect call failed") as raised:
        list(engine.answer(ask(n) for n in range(100)))
    assert str(raised.value).startswith(url)
    assert "is the server running" in str(raised.value)
    assert "(after 3 tries)" in str(raised.value)


def test_an_endpoint_that_goes_away_ends_the_run_after_all_that_finished(
    start: Start, tmp_path: Path
) -> None:
    def script(body: dict[str, Any], count: int) -> Reply:
        if len(server.bodies) == 10:
            server.leave()
        return whole()

    server, requests = start(script), [ask(n) for n in range(30)]
    with open_to(server, concurrency=3) as engine, Ledger.open(tmp_path / "x.sqlite") as ledger:
        with pytest.raises(EngineError, match="no connection: "):
            collect(engine, ledger, requests)
        num_done = len(ledger.done(request.key(engine.identity) for request in requests))
    assert 10 <= num_done == len(server.bodies) <= 13


def test_failures_in_a_row_end_the_run_but_requests_at_fault_do_not(start: Start) -> None:
    unauthorized = start(lambda body, count: Reply('{"error": {"message": "no such key"}}', 401))
    with open_to(unauthorized, concurrency=4) as engine:
        answers = engine.answer(ask(n) for n in range(1000))
        with pytest.raises(EngineError, match=r"requests in a row failed; the last: .*no such key"):
            for _ in answers:
                pass
    assert GIVE_UP_AFTER <= len(unauthorized.bodies) < GIVE_UP_AFTER + 8
    too_long = start(lambda body, count: Reply('{"error": {"message": "too long"}}', 400))
    with open_to(too_long, concurrency=4) as engine:
        assert sum(r.error is not None for r in engine.answer(ask(n) for n in range(200))) == 200


def test_closing_the_iterator_breaks_off_what_is_under_way_promptly(start: Start) -> None:
    slow = Reply(whole().body, waits_s=30.0)
    server = start(lambda body, count: whole() if "0+1" in str(body) else slow)
    with open_to(server, concurrency=8) as engine:
        answers = engine.answer(ask(n) for n in range(100))
        assert next(answers).request == ask(0)
        while server.num_at_once < 7:
            time.sleep(0.01)
        began = time.monotonic()
        answers.close()  # type: ignore[attr-defined]
        while server.num_gone < 7:
            assert time.monotonic() - began < 1.0
            time.sleep(0.01)
    assert len(server.bodies) == 8


COLLECT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from r1kit.teacher.collect import collect
from r1kit.teacher.ledger import Ledger
from test_openai_engine import ask, open_to
def report(so_far): print(so_far.answered, flush=True)
with open_to(sys.argv[1]) as engine, Ledger.open(Path(sys.argv[2])) as ledger:
    try:
        collect(engine, ledger, [ask(n) for n in range(100)], progress=report)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_run_at_once_and_keeps_what_was_reported(
    start: Start, tmp_path: Path
) -> None:
    slow = Reply(whole().body, waits_s=30.0)
    server = start(lambda body, count: whole() if len(server.bodies) <= 20 else slow)
    path = tmp_path / "traces.sqlite"
    code = COLLECT.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(path)], stdout=subprocess.PIPE, text=True
    )
    while server.num_at_once < 64:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    out, _ = process.communicate(timeout=10)
    assert time.monotonic() - interrupted < 2
    assert process.returncode == 0
    *reports, last = out.split()
    assert (int(reports[-1]), last) == (20, "interrupted")
    with OpenAIEngine(server.url, "r1") as engine, Ledger.open(path) as ledger:
        assert len(ledger.done(ask(n).key(engine.identity) for n in range(100))) == 20
        assert ledger.counts().unanswered == 64


def test_an_error_of_the_recorder_stops_the_run_before_anything_is_sent(start: Start) -> None:
    server = start(lambda body, count: whole())

    def before(request: Request, endpoint: str) -> None:
        raise OSError("the ledger is gone")

    with open_to(server) as engine, pytest.raises(OSError, match="the ledger is gone"):
        list(engine.answer([ask()], before=before))
    assert server.bodies == []


# Settings and secrets.


def test_the_key_comes_from_the_named_variable_and_is_never_written_down(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = Reply('{"error": {"message": "bad key sk-secret"}}', 400)
    server = start(lambda body, count: echo if "1+1" in str(body) else whole())
    settings = EngineSettings(
        kind="openai", model="r1", base_url=server.url, api_key_env="R1KIT_TEST_KEY"
    )
    monkeypatch.delenv("R1KIT_TEST_KEY", raising=False)
    with pytest.raises(EngineError, match="R1KIT_TEST_KEY is not set"):
        open_engine(settings)
    monkeypatch.setenv("R1KIT_TEST_KEY", "sk-secret")
    with open_engine(settings) as engine, Ledger.open(tmp_path / "traces.sqlite") as ledger:
        collected = collect(engine, ledger, [ask(0), ask(1)])
        ledger.flush()
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert (collected.answered, collected.failed) == (1, 1)
    assert all("Authorization: Bearer sk-secret" in head for head in server.headers)
    assert b"bad key [api key]" in stored
    assert b"sk-secret" not in stored


def test_a_password_in_the_url_is_sent_but_not_recorded(start: Start) -> None:
    server = start(lambda body, count: whole())
    response = one(open_to(server.url.replace("http://", "http://me:hunter2@") + "/"))
    assert response.endpoint == server.url
    assert "Authorization: Basic" in server.headers[0]


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://h/v1?key=1"],
)
def test_a_base_url_that_cannot_be_used_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(EngineError, match=r"base_url: .*http://127.0.0.1:8000/v1"):
        open_to(url)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "openai"}, "kind openai needs base_url"),
        (
            {"base_url": "http://127.0.0.1:8000/v1"},
            "base_url is for kind openai, and kind is torch",
        ),
        ({"kind": "vllm"}, "Input should be 'torch' or 'openai'"),
        ({"concurency": 8}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_engine_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EngineSettings(**fields)
