"""The shared words: what a raw response says, and what decides a sample's key."""

import json
from typing import Any

import pytest
from r1kit.teacher.engine import (
    BadResponse,
    Finish,
    Identity,
    Prompt,
    Request,
    Response,
    Sampling,
    exceeds_context,
    parse_response,
    read_choice,
    split_thinking,
)
from r1kit.teacher.engines import open_engine
from r1kit.teacher.settings import EngineSettings

OPEN = "<think>\n"
CLOSED = "<think>\n\n</think>\n\n"


def respond(
    prefill: str, *, prefilled: bool = True, finish: str = "stop", **message: Any
) -> Response:
    request = Request(Prompt.user("2+2?", prefill=prefill), Sampling(), 0, 7)
    raw = json.dumps({"choices": [{"message": message, "finish_reason": finish}]})
    return Response(request, raw, "here", 0.1, prefilled=prefilled)


def choice(message: dict[str, Any], finish: Any = "stop") -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}]})


def chunk(**delta: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": delta}]}, ensure_ascii=False) + "\n\n"


END = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("response", "thinking", "answer"),
    [
        # An engine whose text begins with the prefill, and one that sends the continuation only.
        (respond(OPEN, content="<think>\nadd</think>4"), "add", "4"),
        (respond(OPEN, content="add</think>4"), "add", "4"),
        (respond(OPEN, content="add add"), "add add", None),
        (respond(CLOSED, content="4"), "", "\n\n4"),
        # A server that splits the reply.
        (respond("", content="4", reasoning_content="add"), "add", "4"),
        (respond("", content="4", reasoning="add"), "add", "4"),
        (respond(OPEN, content="4", reasoning_content="\nadd"), "add", "4"),
        (respond("", content=None, reasoning_content="add"), "add", None),
        (respond("", content=None, reasoning_content="add", finish="length"), "add", None),
        (respond("<think>\nFirst", content="4", reasoning_content=" add"), "First add", "4"),
        # A closed prefill leaves no `</think>` to find: all is answer, whatever it is called.
        (respond(CLOSED, content=None, reasoning_content="4"), "", "\n\n4"),
        (
            respond(CLOSED, content="4", reasoning_content="again"),
            "\n\n</think>\n\n<think>again",
            "4",
        ),
        # The prefill was never sent, so it is no part of the reply.
        (respond(OPEN, prefilled=False, content="4"), None, "4"),
        (respond(OPEN, prefilled=False, content="add</think>4"), "add", "4"),
        (respond(OPEN, prefilled=False, content="4", reasoning_content="add"), "add", "4"),
        (respond(CLOSED, prefilled=False, content="4"), None, "4"),
    ],
)
def test_a_reply_is_put_together_the_way_the_model_wrote_it(
    response: Response, thinking: str | None, answer: str | None
) -> None:
    completion = parse_response(response)
    assert (completion.thinking, completion.answer) == (
        thinking if thinking is None else thinking.strip(),
        answer,
    )


def test_a_stream_and_a_whole_body_say_the_same() -> None:
    whole, usage = read_choice(
        json.dumps(
            {
                "choices": [
                    {
                        "message": {"content": "4\u2028!", "reasoning_content": "add"},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5},
            }
        )
    )
    # U+2028 stands unescaped in the stream; comments keep a connection alive.
    raw = (
        ": keep-alive\n\n" + chunk(role="assistant") + chunk(reasoning_content="add")
        + chunk(content="4\u2028") + chunk(content="!")
        + 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
        + 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
        + "data: [DONE]\n\n"
    )  # fmt: skip
    streamed, stream_usage = read_choice(raw)
    assert streamed["message"] == whole["message"]
    assert streamed["finish_reason"] == whole["finish_reason"]
    assert stream_usage == usage


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("", "the body is not JSON"),
        ("<html>busy</html>", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no list of choices"),
        ('{"choices": []}', "the list of choices is empty"),
        ('{"choices": [{"message": null}]}', "holds no message"),
        (choice({"content": ""}), "the choice is empty"),
        (choice({"content": 4}), "must be text, got 4"),
        (choice({"content": "4"}, None), "finish_reason is None"),
        (choice({"content": "4"}, ["stop"]), "finish_reason"),
        (chunk(content="4"), "broke off before its finish_reason"),
        (chunk(content="4") + 'data: {"choi', "not JSON"),
        (chunk(content="4") + 'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        ("data: 4\n\n", "not an object"),
        ('data: {"choices": [7]}\n\n', "no delta"),
        ('data: {"choices": [{"delta": {"content": 7}}]}\n\n', "must be text, got 7"),
        (END, "the choice is empty"),
    ],
)  # fmt: skip
def test_what_is_no_completion_is_named(raw: str, says: str) -> None:
    with pytest.raises(BadResponse, match=says.replace("[", r"\[")):
        read_choice(raw)


def test_an_error_is_never_an_answer_and_truncation_is_neither() -> None:
    request = respond("").request
    failed = parse_response(Response(request, "half a bo", "here", 0.1, error="HTTP 500"))
    assert (failed.finish, failed.answer, failed.error) == (Finish.ERROR, None, "HTTP 500")
    assert parse_response(respond(OPEN, content="add", finish="length")).finish is Finish.LENGTH


def test_counts_of_tokens_that_are_no_counts_become_zero() -> None:
    raw = json.loads(respond("", content="4").raw)
    raw["usage"] = {"prompt_tokens": "many", "completion_tokens": 5}
    completion = parse_response(Response(respond("").request, json.dumps(raw), "here", 0.1))
    assert (completion.prompt_tokens, completion.completion_tokens) == (0, 5)


def test_a_lone_surrogate_does_not_survive_parsing() -> None:
    completion = parse_response(respond("", content="4 \ud800"))
    assert completion.text.encode() == b"4 ?"


def test_several_closings_are_tagged_and_the_last_one_counts() -> None:
    assert split_thinking("<think>a</think>b</think>c") == ("a</think>b", "c", ("format",))


def test_the_key_changes_with_whatever_decides_the_sample_and_with_nothing_else() -> None:
    identity = Identity("openai", "r1")
    base = Request(Prompt.user("2+2?", prefill=OPEN), Sampling(), 0, 7)
    same = Request(Prompt.user("2+2?", prefill=OPEN), Sampling(), 0, 7, problem_id="p1")
    assert same.key(identity) == base.key(identity)
    others = [
        Request(Prompt.user("2+3?", prefill=OPEN), Sampling(), 0, 7).key(identity),
        Request(Prompt.user("2+2?"), Sampling(), 0, 7).key(identity),
        Request(Prompt.user("2+2?", prefill=OPEN), Sampling(temperature=0.7), 0, 7).key(identity),
        Request(Prompt.user("2+2?", prefill=OPEN), Sampling(), 1, 7).key(identity),
        Request(Prompt.user("2+2?", prefill=OPEN), Sampling(), 0, 8).key(identity),
        base.key(Identity("torch", "r1")),
        base.key(Identity("openai", "r2")),
        base.key(Identity("openai", "r1", "2025-05-28")),
    ]
    assert len({base.key(identity), *others}) == len(others) + 1


def test_a_prefill_that_is_dropped_is_no_part_of_the_key() -> None:
    drops = Identity("openai", "r1", prefills=False)
    forced = Request(Prompt.user("2+2?", prefill=OPEN), Sampling(), 0, 7)
    free = Request(Prompt.user("2+2?"), Sampling(), 0, 7)
    assert forced.key(drops) == free.key(drops) == free.key(Identity("openai", "r1"))
    assert forced.key(drops) != forced.key(Identity("openai", "r1"))


@pytest.mark.parametrize(
    ("error", "exceeds"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, you requested",
            True,
        ),  # vLLM
        ("HTTP 400: The input (5000 tokens) is longer than the model's context length", True),
        ("HTTP 400: context_length_exceeded", True),
        ("the prompt has 3005 tokens and leaves no room for a reply: max_length is 1024", True),
        ("HTTP 500: overload", False),
        ("the chat template refuses the prompt: no system turn", False),
    ],
)
def test_servers_say_in_words_of_their_own_that_a_prompt_does_not_fit(
    error: str, exceeds: bool
) -> None:
    assert exceeds_context(error) is exceeds


def test_what_the_engine_in_this_process_says_of_a_long_prompt_is_understood() -> None:
    settings = EngineSettings(kind="torch", model="tiny-r1", batch_size=1)
    long, short = (
        Request(Prompt.user(text), Sampling(max_tokens=3), 0, 7) for text in ("7" * 2_000, "1+1?")
    )
    with open_engine(settings) as engine:
        answers = {response.request: response for response in engine.answer([long, short])}
    assert answers[short].error is None
    assert exceeds_context(answers[long].error or "")
