"""The server over a scripted engine: OpenAI's shapes, one continuous batch, errors, and its end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import aiohttp
import pytest
import uvicorn
from r1kit.teacher.cli import app as cli
from r1kit.teacher.engine import (
    EngineError,
    Identity,
    Prompt,
    Request,
    Response,
    Sampling,
    parse_response,
)
from r1kit.teacher.openai_engine import OpenAIEngine
from r1kit.teacher.server import ServerError, make_app, serve
from typer.testing import CliRunner

STEP_S = 0.002


def words_of(request: Request) -> list[str]:
    """What the scripted model writes: a few words that depend on all of the request."""
    asked = request.prompt.messages[-1].content
    if asked == "long":
        return ["on ", "and "] * 2000
    prefill = "add </think>" if request.prompt.thinking_is_open else ""
    return [*prefill.split(" "), f"{asked}=", f"{request.seed}.", f"{request.index}"]


class Scripted:
    """Decodes a word per step for all requests at once, and asks for more whenever it has room."""

    identity = Identity("torch", "scripted")
    num_slots = 16

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.batches: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def answer(
        self,
        requests: Iterable[Request],
        *,
        before: Callable[[Request, str], None] | None = None,
        on_text: Callable[[Request, str], None] | None = None,
    ) -> Iterator[Response]:
        source = iter(requests)
        running: dict[str, tuple[Request, list[str]]] = {}
        while True:
            while len(running) < self.num_slots and (request := next(source, None)) is not None:
                self.requests.append(request)
                running[request.problem_id] = (request, [])
            if not running:
                return
            self.batches.append(len(running))
            time.sleep(STEP_S)
            for name, (request, written) in list(running.items()):
                words = words_of(request)
                if request.prompt.messages[-1].content == "break":
                    raise ValueError("out of memory")
                written.append(words[len(written)])
                if on_text is not None:
                    on_text(request, written[-1])
                is_cut = len(written) == request.sampling.max_tokens
                if is_cut or len(written) == len(words):
                    del running[name]
                    yield self.finish(request, written, "length" if is_cut else "stop")
                elif len(written) == 2:
                    self.hold.wait(10)

    def finish(self, request: Request, written: list[str], why: str) -> Response:
        error = "too long" if request.prompt.messages[-1].content == "fail" else None
        message = {"role": "assistant", "content": request.prompt.prefill + "".join(written)}
        usage = {"prompt_tokens": 7, "completion_tokens": len(written)}
        choices = [{"index": 0, "message": message, "finish_reason": why}]
        return Response(request, json.dumps({"choices": choices, "usage": usage}), "x", 0.1, error)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


class Rounds(Scripted):
    """An engine that takes one batch, does not ask again, and cannot tell text as it comes."""

    def answer(  # type: ignore[override]
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        yield from super().answer(list(requests))


class Running:
    """A server in a thread."""

    def __init__(self, engine: Scripted) -> None:
        self.engine = engine
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        config = uvicorn.Config(make_app(engine), log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def post(self, body: Any = None, *, path: str = "/chat/completions", **fields: Any) -> Any:
        """Status and parsed body; a stream comes back as the list of its events."""

        async def call() -> Any:
            async with aiohttp.ClientSession() as session:
                data = body if isinstance(body, bytes) else json.dumps(ask(**fields))
                async with session.post(self.url + path, data=data) as reply:
                    text = await reply.text()
                    if reply.content_type == "text/event-stream":
                        return reply.status, [e.removeprefix("data: ") for e in text.split("\n\n")]
                    return reply.status, json.loads(text)

        return asyncio.run(call())


def ask(content: str = "2+2", **fields: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": content}]
    return {"model": "scripted", "messages": turns, "seed": 5, **fields}


@pytest.fixture(params=[Scripted, Rounds], ids=["continuous", "rounds"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    server = Running(request.param())
    yield server
    server.engine.hold.set()
    server.close()


@pytest.fixture
def continuous() -> Iterator[Running]:
    server = Running(Scripted())
    yield server
    server.engine.hold.set()
    server.close()


def test_a_completion_has_openais_shape(running: Running) -> None:
    status, body = running.post()
    assert status == 200
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert abs(body.pop("created") - time.time()) < 60
    assert body == {
        "object": "chat.completion",
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "2+2=5.0"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }


def test_the_model_is_listed(running: Running) -> None:
    async def get() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(running.url + "/models") as reply,
        ):
            return await reply.json()

    body = asyncio.run(get())
    assert body["object"] == "list"
    assert [(m["id"], m["object"], m["owned_by"]) for m in body["data"]] == [
        ("scripted", "model", "r1kit")
    ]


def test_all_that_decides_a_sample_reaches_the_engine(continuous: Running) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}],
        },
    ]
    fields: dict[str, Any] = {"temperature": 0, "top_p": 0.5, "max_tokens": 3, "n": 2, "seed": 9}
    status, body = continuous.post(messages=turns, **fields, user="me", stop=None, tools=[])
    assert status == 200
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "length"]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    asked = continuous.engine.requests
    assert [request.index for request in asked] == [0, 1]
    assert {request.seed for request in asked} == {9}
    assert asked[0].sampling == Sampling(temperature=0.0, top_p=0.5, max_tokens=3)
    said = [(m.role, m.content) for m in asked[0].prompt.messages]
    assert said == [("system", "be brief"), ("user", "2+2")]
    continuous.post(seed=None)
    continuous.post(seed=None)
    assert continuous.engine.requests[-1].seed != continuous.engine.requests[-2].seed
    assert continuous.engine.requests[-1].sampling == Sampling()


def test_a_last_assistant_message_is_a_prefill_that_the_reply_does_not_repeat(
    continuous: Running,
) -> None:
    turns = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "<think>\n"}]
    _, body = continuous.post(messages=turns)
    assert continuous.engine.requests[-1].prompt == Prompt.user("2+2", prefill="<think>\n")
    assert body["choices"][0]["message"]["content"] == "add</think>2+2=5.0"
    continuous.post(messages=turns, continue_final_message=False)
    assert continuous.engine.requests[-1].prompt.prefill == ""
    assert len(continuous.engine.requests[-1].prompt.messages) == 2


def test_a_stream_has_openais_chunks_and_says_what_the_whole_says(running: Running) -> None:
    status, events = running.post(stream=True, n=2, stream_options={"include_usage": True})
    assert status == 200
    assert events[-2:] == ["[DONE]", ""]
    chunks = [json.loads(event) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    *deltas, last = chunks
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)
    for index in range(2):
        mine = [c["choices"][0] for c in deltas if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert (mine[-1]["delta"], mine[-1]["finish_reason"]) == ({}, "stop")
        assert all(choice["finish_reason"] is None for choice in mine[:-1])
        assert "".join(c["delta"].get("content", "") for c in mine) == f"2+2=5.{index}"
    _, without_usage = running.post(stream=True)
    assert all("usage" not in json.loads(event) for event in without_usage[:-2])


def test_text_is_streamed_while_it_is_written(continuous: Running) -> None:
    continuous.engine.hold.clear()

    async def call() -> tuple[list[str], str]:
        async with aiohttp.ClientSession() as session:
            url = continuous.url + "/chat/completions"
            async with session.post(url, json=ask(stream=True)) as reply:
                early: list[str] = []
                while "".join(early) != "2+2=":  # the engine is held up after its second word
                    event = await reply.content.readuntil(b"\n\n")
                    early.append(json.loads(event[6:])["choices"][0]["delta"]["content"])
                continuous.engine.hold.set()
                return early, await reply.text()

    early, rest = asyncio.run(call())
    assert "".join(early) == "2+2="
    assert rest.endswith("data: [DONE]\n\n")


def test_newcomers_join_while_others_run(continuous: Running) -> None:
    async def call() -> list[str]:
        url = continuous.url + "/chat/completions"
        async with aiohttp.ClientSession() as session:

            async def one(content: str, **fields: Any) -> str:
                async with session.post(url, json=ask(content, **fields)) as reply:
                    await reply.json()
                    return content

            first = asyncio.create_task(one("long", max_tokens=400))
            while not continuous.engine.batches:
                await asyncio.sleep(0.005)
            return [await task for task in asyncio.as_completed([one("a"), one("b"), first])]

    assert asyncio.run(call())[-1] == "long"
    assert max(continuous.engine.batches) >= 2


def test_many_clients_share_batches_and_get_their_own_answers(running: Running) -> None:
    async def call() -> list[Any]:
        url = running.url + "/chat/completions"
        async with aiohttp.ClientSession() as session:

            async def one(number: int) -> Any:
                content = "same" if number % 2 else f"{number}"
                async with session.post(url, json=ask(content, seed=number)) as reply:
                    return (await reply.json())["choices"][0]["message"]["content"]

            return await asyncio.gather(*map(one, range(40)))

    answers = asyncio.run(call())
    assert answers == [f"{'same' if n % 2 else n}={n}.0" for n in range(40)]
    assert max(running.engine.batches) >= 8
    assert len(running.engine.batches) < 40


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"[]", 400, "must be a JSON object, got list"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": "hi"}, 400, "messages: Input should be a valid list, got 'hi'"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, 400, "messages.0.role"),
        ({"temperature": "0.5"}, 400, "temperature: Input should be a valid number, got '0.5'"),
        ({"temperature": 3}, 400, "temperature: Input should be less than or equal to 2"),
        ({"max_tokens": True}, 400, "max_tokens: Input should be a valid integer"),
        ({"n": 0}, 400, "n: Input should be greater than or equal to 1"),
        ({"temprature": 0.5}, 400, "temprature: unknown parameter"),
        ({"stop": ["\n"]}, 400, "stop is not supported here"),
        ({"continue_final_message": True}, 400, "needs a last message of the assistant"),
        ({"model": "r1"}, 404, "the model 'r1' is not served here; 'scripted' is"),
    ],
)
def test_a_request_at_fault_is_told_so_with_openais_error_object(
    continuous: Running, body: Any, status: int, says: str
) -> None:
    got = continuous.post(body) if isinstance(body, bytes) else continuous.post(**body)
    assert got[0] == status
    error = got[1]["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == ("model_not_found" if status == 404 else None)
    assert continuous.engine.requests == []


def test_unknown_paths_and_methods_are_json_errors_too(continuous: Running) -> None:
    status, body = continuous.post(path="/embeddings")
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    status, body = continuous.post(path="/models")
    assert status == 405
    assert "POST /v1/models" in body["error"]["message"]


@pytest.mark.parametrize(
    ("content", "status", "kind", "says"),
    [
        ("break", 500, "server_error", "the engine failed: ValueError: out of memory"),
        ("fail", 400, "invalid_request_error", "too long"),
    ],
)
def test_a_failing_engine_is_told_from_a_request_it_cannot_answer_and_the_server_goes_on(
    running: Running, content: str, status: int, kind: str, says: str
) -> None:
    got, body = running.post(content=content)
    assert (got, body["error"]["type"], body["error"]["message"]) == (status, kind, says)
    _, events = running.post(content=content, stream=True)
    assert json.loads(events[-3])["error"]["message"] == says
    assert running.post()[0] == 200


def test_what_nobody_waits_for_any_more_never_reaches_the_engine(continuous: Running) -> None:
    async def call() -> None:
        url = continuous.url + "/chat/completions"
        continuous.engine.hold.clear()
        async with aiohttp.ClientSession() as session:
            held = asyncio.create_task(session.post(url, json=ask("held")))
            while not continuous.engine.batches:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.post(url, json=ask("given up"))
            await asyncio.sleep(0.1)
            continuous.engine.hold.set()
            (await held).close()

    asyncio.run(call())
    assert continuous.post()[0] == 200
    asked = [request.prompt.messages[0].content for request in continuous.engine.requests]
    assert asked == ["held", "2+2"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_our_own_engine_gets_from_our_own_server_what_the_model_wrote(
    running: Running, stream: bool
) -> None:
    prompt = Prompt.user("2+2", prefill="<think>\n")
    requests = [Request(prompt, Sampling(max_tokens=50), index, 3) for index in range(20)]
    with OpenAIEngine(running.url, "scripted", stream=stream) as engine:
        responses = list(engine.answer(requests))
        with pytest.raises(EngineError, match="closed"):
            engine.close()
            list(engine.answer(requests))
    assert {response.request.index for response in responses} == set(range(20))
    for response in responses:
        completion = parse_response(response)
        assert (response.error, completion.thinking, completion.finish) == (None, "add", "stop")
        assert completion.text.startswith("<think>\nadd</think>2+2=")
        assert (completion.prompt_tokens, completion.completion_tokens) == (7, 5)
    with OpenAIEngine(running.url, "r1") as engine:
        (refused,) = engine.answer(requests[:1])
    assert refused.error is not None
    assert "HTTP 404: the model 'r1' is not served here" in refused.error


# Commands.


def start_cli(*arguments: str) -> tuple["subprocess.Popen[str]", str]:
    """`r1kit teacher serve` as a process, and the URL that it prints."""
    code = "from r1kit.teacher.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found is not None, process.communicate()
    return process, found[0]


@pytest.mark.parametrize(
    ("busy", "ending"),
    [(False, signal.SIGINT), (True, signal.SIGINT), (True, signal.SIGTERM)],
    ids=["idle", "busy", "terminated"],
)
def test_ctrl_c_ends_the_serve_command_cleanly(
    continuous: Running, busy: bool, ending: signal.Signals
) -> None:
    process, url = start_cli(
        "--engine", "openai", "--base-url", continuous.url, "--model", "scripted"
    )

    async def call() -> int:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/chat/completions", json=ask()) as reply:
                assert (await reply.json())["choices"][0]["message"]["content"].startswith("2+2=")
            if busy:
                under_way = session.post(f"{url}/chat/completions", json=ask("long"))
                waiting = asyncio.create_task(under_way.__aenter__())
                await asyncio.sleep(0.3)
            process.send_signal(ending)
            code = await asyncio.to_thread(process.wait, 5)
            if busy:
                await asyncio.gather(waiting, return_exceptions=True)
            return code

    assert asyncio.run(call()) == 0
    out, err = process.communicate()
    assert out.endswith("stopped\n")
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"127.0.0.1:{port}: cannot listen there: .*--port"):
            serve(Scripted(), port=port)


def test_chat_asks_once_or_talks_until_an_empty_line(continuous: Running) -> None:
    options = ["chat", "--engine", "openai", "--base-url", continuous.url, "--model", "scripted"]
    once = CliRunner().invoke(cli, [*options, "--prompt", "2+2"])
    assert once.exit_code == 0
    assert re.search(r"add\n2\+2=\d+\.0\n", once.output)
    talk = CliRunner().invoke(cli, [*options, "--no-thinking"], input="one\ntwo\n\nthree\n")
    assert talk.exit_code == 0
    prompt = continuous.engine.requests[-1].prompt
    assert prompt.prefill == "<think>\n\n</think>\n\n"
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"]
    assert prompt.messages[1].content.strip().startswith("one=")
    failed = CliRunner().invoke(cli, [*options, "--prompt", "fail"])
    assert isinstance(failed.exception, EngineError)
    unset = CliRunner().invoke(cli, ["chat", "--engine", "openai"])
    assert "kind openai needs base_url" in str(unset.exception)
