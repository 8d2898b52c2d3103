"""What answers prompts: the words that every engine shares, and nothing that runs a model.

An engine takes `Request`s and yields one `Response` each, in the order in which they finish. A
response is raw: the bytes that came back, in the shape of an OpenAI chat completion, which is
committed to the ledger before `parse_response` looks into it. Three kinds implement the interface:
`torch` (in this process), `openai` (any compatible endpoint) and `vllm` (in process, on a GPU).

Source of the thinking format: DeepSeek-R1 (arXiv:2501.12948), table 1, and the model card's advice
to force the reply to begin with `<think>`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from .. import KitError

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


class EngineError(KitError):
    """An engine cannot go on: the endpoint is gone, the model does not load, the budget is spent."""


class BadResponse(ValueError):
    """A raw response is not a chat completion. The message says what was found instead."""


class Finish(StrEnum):
    """Why a completion ended. `LENGTH` is an outcome of its own: never an answer, never an error."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is shown: the turns, and text that its reply is forced to begin with.

    `prefill` is part of the reply's text: `<think>\\n` forces thinking, and
    `<think>\\n\\n</think>\\n\\n` forces an answer without it.
    """

    messages: tuple[Message, ...]
    prefill: str = ""

    @classmethod
    def user(cls, content: str, *, prefill: str = "") -> Self:
        """One user turn and no system prompt, which is DeepSeek's advice for R1."""
        return cls((Message("user", content),), prefill)

    @property
    def thinking_is_open(self) -> bool:
        """Whether the reply begins inside a thinking block."""
        return self.prefill.rfind(THINK_OPEN) > self.prefill.rfind(THINK_CLOSE)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The defaults are DeepSeek's advice for R1; temperature 0 is greedy."""

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32_768

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in [0, 2], got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model answers. Host, URL and GPU are not part of it: a failover resamples nothing."""

    kind: str
    model: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One sample that is wanted: a prompt, how to draw, and which of the n draws this one is."""

    prompt: Prompt
    sampling: Sampling
    index: int
    seed: int
    problem_id: str = ""
    """For people who read the ledger; not part of the key."""

    def key(self, identity: Identity) -> str:
        """The sample's content address: SHA-256 of the canonical JSON of all that decides it."""
        parts = {
            "prompt": asdict(self.prompt),
            "index": self.index,
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "engine": identity.kind,
            "model": identity.model,
            "revision": identity.revision,
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one request, unparsed.

    `raw` is the body of a chat completion (JSON), or a server-sent event stream of its chunks as it
    was received. `error` is set where no usable answer came within the retry budget; `raw` then
    holds whatever did arrive.
    """

    request: Request
    raw: str
    endpoint: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One parsed answer.

    Attributes:
        text: all that the model wrote, the forced prefill in front.
        thinking: the text inside the thinking block; None where none was ever opened.
        answer: the text after the last `</think>`, or the whole text where thinking never opened;
            None where thinking was opened and never closed.
        finish: why it ended.
        prompt_tokens: tokens read, as the engine counted them.
        completion_tokens: tokens written, thinking included, the prefill excluded.
        tags: oddities of the format, such as a second `</think>`.
        error: what went wrong, where `finish` is `ERROR`.
    """

    text: str
    thinking: str | None
    answer: str | None
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    tags: tuple[str, ...] = field(default=())
    error: str | None = None


class Engine(Protocol):
    """Anything that answers prompts. Used as a context manager; closing it frees what it holds."""

    @property
    def identity(self) -> Identity:
        """Which model answers; part of every sample's key."""
        ...

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        """Yield a response for every request, as they finish, in no promised order.

        Requests are drawn lazily, as capacity frees up. `before(request, endpoint)` is called ahead
        of every attempt, so that what may have been paid for is on record.

        Raises:
            EngineError: the engine cannot go on; all that was yielded before stays valid.
        """
        ...

    def close(self) -> None:
        """Free the model or the connections. Safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def split_thinking(text: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Part a reply (prefill included) into thinking, answer and format tags.

    Opened and never closed: no answer. Closed: the answer follows the last `</think>`, and more
    than one is tagged `format`. Never opened: no thinking, and the whole text is the answer.
    """
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    tags = ("format",) if opened > 1 or closed > 1 else ()
    if closed == 0:
        if opened == 0:
            return None, text, tags
        return text.partition(THINK_OPEN)[2].strip(), None, tags
    thinking, _, answer = text.rpartition(THINK_CLOSE)
    if opened == 0:
        tags = ("format",)  # a server whose template opened the block keeps the opening to itself
    return thinking.partition(THINK_OPEN)[2].strip() if opened else thinking.strip(), answer, tags


def parse_response(response: Response) -> Completion:
    """Read a raw response. An error becomes a completion with `finish` `ERROR`, never an answer.

    Raises:
        BadResponse: `raw` is neither a chat completion nor a stream of its chunks.
    """
    if response.error is not None:
        return Completion("", None, None, Finish.ERROR, 0, 0, error=response.error)
    choice, usage = read_choice(response.raw)
    message = choice["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content") or ""
    if reasoning:  # the server split the reply; put it together the way the model wrote it
        closed = content != "" or choice["finish_reason"] == Finish.STOP
        content = f"{THINK_OPEN}{reasoning}{THINK_CLOSE if closed else ''}{content}"
    elif not content.startswith(response.request.prompt.prefill):
        content = response.request.prompt.prefill + content
    thinking, answer, tags = split_thinking(content)
    finish = Finish.LENGTH if choice["finish_reason"] == "length" else Finish.STOP
    return Completion(
        content,
        thinking,
        answer,
        finish,
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        tags,
    )


def read_choice(raw: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice and the usage of a raw body, streamed or whole.

    Returns:
        choice: has `message` (with `content`, and `reasoning_content` where the server splits the
            reply) and a `finish_reason` of `stop` or `length`.
        usage: `prompt_tokens` and `completion_tokens`, or empty where the server sent none.

    Raises:
        BadResponse: the body is not a finished chat completion.
    """
    if raw.lstrip().startswith("data:"):
        return _assemble(raw)
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise BadResponse(f"not JSON ({error}): {raw[:80]!r}") from error
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise BadResponse(f"no list of choices: {raw[:80]!r}")
    if not body["choices"] or not isinstance(body["choices"][0], dict):
        raise BadResponse("the list of choices is empty")
    choice = body["choices"][0]
    if not isinstance(choice.get("message"), dict):
        raise BadResponse(f"the choice holds no message: {raw[:80]!r}")
    _check_finish(choice)
    usage = body.get("usage")
    return choice, usage if isinstance(usage, dict) else {}


def _check_finish(choice: dict[str, Any]) -> None:
    """Refuse a choice that ended for any other reason than its stop token or its length."""
    if choice.get("finish_reason") not in (Finish.STOP, Finish.LENGTH):
        raise BadResponse(f"finish_reason is {choice.get('finish_reason')!r}, not stop or length")
    message = choice["message"]
    for name in ("content", "reasoning_content", "reasoning"):
        if not isinstance(message.get(name), str | None):
            raise BadResponse(f"message.{name} must be text, got {message[name]!r}"[:120])
    if not any(message.get(name) for name in ("content", "reasoning_content", "reasoning")):
        raise BadResponse("the choice is empty: it has neither content nor reasoning_content")


def _assemble(raw: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put the chunks of a server-sent event stream together into one choice."""
    parts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    finish: str | None = None
    usage: dict[str, Any] = {}
    for line in raw.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise BadResponse(f"a chunk of the stream is not JSON: {data[:80]!r}") from error
        if not isinstance(chunk, dict):
            raise BadResponse(f"a chunk of the stream is not an object: {data[:80]!r}")
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            parts["content"].append(delta.get("content") or "")
            parts["reasoning_content"].append(
                delta.get("reasoning_content") or delta.get("reasoning") or ""
            )
            finish = choice.get("finish_reason") or finish
    if finish is None:
        raise BadResponse("the stream broke off before its finish_reason")
    assembled = {"message": {k: "".join(v) for k, v in parts.items()}, "finish_reason": finish}
    _check_finish(assembled)
    return assembled, usage
