"""What the evaluation tests share: an engine that says what its script makes of each request."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import pytest
from r1kit.teacher.engine import Identity, Request, Response

Script = Callable[[Request], str | tuple[str, str] | None]
"""The reply, or (reply, finish reason); None fails the request."""


class ScriptedEngine:
    """Answers in the order in which it is asked, and remembers what it was asked."""

    def __init__(self, script: Script, model: str = "parrot") -> None:
        self.identity = Identity("scripted", model)
        self.script = script
        self.asked: list[Request] = []

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        for request in requests:
            if before is not None:
                before(request, "here")
            self.asked.append(request)
            said = self.script(request)
            if said is None:
                yield Response(request, "", "here", 0.1, error="it broke")
                continue
            text, finish = (said, "stop") if isinstance(said, str) else said
            body = {
                "choices": [{"message": {"content": text}, "finish_reason": finish}],
                "usage": {"prompt_tokens": 3, "completion_tokens": len(text)},
            }
            yield Response(request, json.dumps(body), "here", 0.1)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


@pytest.fixture
def engine_of() -> Callable[[Script], ScriptedEngine]:
    return ScriptedEngine
