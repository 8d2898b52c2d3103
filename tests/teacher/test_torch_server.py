"""The real thing over loopback: tiny-r1 served by the command line, and asked over HTTP."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import aiohttp
import pytest
from r1kit.teacher.engine import Completion, Finish, Prompt, Request, Sampling, parse_response
from r1kit.teacher.engines import open_engine
from r1kit.teacher.openai_wire import payload
from r1kit.teacher.settings import EngineSettings
from r1kit.teacher.tiny.card import THINKING
from r1kit.teacher.tiny.families import FAMILIES, check, generate

SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=128)
PROBLEMS = [problem for family in FAMILIES for problem in generate(family, 1, 2024, "test")][:3]
CALM = [
    Request(Prompt.user(problem.statement, prefill=THINKING), SAMPLING, 0, 7, problem.id)
    for problem in PROBLEMS
]
WILD = [  # so hot that chance decides every token
    Request(Prompt.user("What is 3 * 4?"), Sampling(2.0, 1.0, 30), index, 7, f"wild {index}")
    for index in range(4)
]
CUT = Request(CALM[0].prompt, Sampling(0.6, 0.95, max_tokens=5), 0, 7, "cut")
ASKED = [*CALM, *WILD, CUT]
ROWS = 8


def start() -> tuple[subprocess.Popen[str], str]:
    """The server in a process of its own, and its URL."""
    command = "from r1kit.distill.cli import main; main()"
    options = [
        "teacher",
        "serve",
        "--engine",
        "torch",
        "--model",
        "tiny-r1",
        "--port",
        "0",
        "--batch-size",
        str(ROWS),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.fullmatch(
        r"serving tiny-r1 on (http://127\.0\.0\.1:\d+/v1) \(Ctrl-C\)\n", process.stdout.readline()
    )
    assert found is not None, process.communicate()
    return process, found[1]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, url = start()
    yield process, url
    process.kill()
    process.communicate()


@pytest.fixture
def url(server: tuple[subprocess.Popen[str], str]) -> str:
    return server[1]


def settings(url: str, *, stream: bool) -> EngineSettings:
    return EngineSettings(kind="openai", model="tiny-r1", base_url=url, stream=stream)


def sent(request: Request, url: str) -> Request:
    """The request as it stands on the other side of the wire, where the key has become a seed."""
    with open_engine(settings(url, stream=False)) as engine:
        body = json.loads(payload(request, engine.identity, stream=False))
    return Request(request.prompt, request.sampling, 0, body["seed"], request.problem_id)


@pytest.fixture(scope="module")
def in_process(server: tuple[subprocess.Popen[str], str]) -> dict[Request, Completion]:
    """What the torch engine answers in this process to what the server is asked."""
    twins = {sent(request, server[1]): request for request in ASKED}
    with open_engine(EngineSettings(batch_size=ROWS)) as engine:
        return {twins[r.request]: parse_response(r) for r in engine.answer(twins)}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_completions_over_http_equal_those_in_process(
    url: str, stream: bool, in_process: dict[Request, Completion]
) -> None:
    with open_engine(settings(url, stream=stream)) as engine:
        got = {r.request: parse_response(r) for r in engine.answer(ASKED)}
    assert got == in_process
    assert len({got[request].text for request in WILD}) == len(WILD)
    for request, completion in got.items():
        frame = 3 + 2 * bool(request.prompt.prefill)  # begin, user, assistant; <think>, newline
        content = request.prompt.messages[0].content.encode()
        assert completion.prompt_tokens == frame + len(content)
        assert 0 < completion.completion_tokens <= request.sampling.max_tokens
    assert (got[CUT].finish, got[CUT].completion_tokens) == (Finish.LENGTH, 5)
    assert got[CUT].answer is None
    for problem, request in zip(PROBLEMS, CALM, strict=True):
        assert got[request].finish == Finish.STOP
        assert check(problem, (got[request].answer or "").strip()[len("\\boxed{") : -1])


def test_a_stream_comes_in_pieces_and_tells_finish_and_usage_last(url: str) -> None:
    with open_engine(settings(url, stream=True)) as engine:
        (response,) = engine.answer([CALM[0]])
    lines = [line.removeprefix("data: ") for line in response.raw.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    pieces = [choice["delta"].get("content") for c in chunks for choice in c["choices"]]
    completion = parse_response(response)
    assert len([piece for piece in pieces if piece]) >= completion.completion_tokens // 2 > 5
    assert THINKING + "".join(piece or "" for piece in pieces) == completion.text
    reasons = [choice["finish_reason"] for c in chunks for choice in c["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == completion.completion_tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_prompt_too_long_for_the_model_is_the_clients_fault(url: str) -> None:
    with open_engine(settings(url, stream=False)) as engine:
        (response,) = engine.answer([Request(Prompt.user("9" * 2000), SAMPLING, 0, 0)])
    assert response.error is not None
    assert "HTTP 400: the prompt has 2003 tokens" in response.error
    assert "max_length is 1024" in response.error


def test_ctrl_c_ends_a_server_that_is_decoding_without_a_traceback(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    """The last test: it ends the server that the others ask."""
    process, url = server
    body = {
        "model": "tiny-r1",
        "messages": [{"role": "user", "content": "What is 3 * 4?"}],
        "temperature": 2.0,
        "top_p": 1.0,
        "n": 128,
        "stream": True,
    }

    async def call() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/chat/completions", json=body) as reply,
        ):
            while b'"role"' in (line := await reply.content.readline()) or line == b"\n":
                pass
            assert b'"content"' in line
            process.send_signal(signal.SIGINT)
            assert b"the server is stopping" in await reply.content.read()

    asyncio.run(call())
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "stopped\n"
    assert "Traceback" not in err
