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
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from .. import KitError

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


class EngineError(KitError):
    """An engine cannot go on: the endpoint is gone, the model does not load, the money is spent."""


class BadResponse(ValueError):
    """A raw response is not a chat completion. The message says what was found instead."""


class Finish(StrEnum):
    """Why a completion ended. `LENGTH` is an outcome of its own: not an answer, not an error."""

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
    prefills: bool = True
    """Whether the reply is forced to begin with the prompt's prefill, or the prefill is dropped."""


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
        """The sample's content address: SHA-256 of the canonical JSON of all that decides it.

        A prefill that the engine drops decides nothing, so it is left out.
        """
        prompt = asdict(self.prompt)
        if not identity.prefills:
            prompt["prefill"] = ""
        parts = {
            "prompt": prompt,
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
    holds whatever did arrive. `prefilled` says whether the model was made to continue the prompt's
    prefill: where it was not, the prefill is no part of the reply.
    """

    request: Request
    raw: str
    endpoint: str
    seconds: float
    error: str | None = None
    prefilled: bool = True


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

        Requests are drawn lazily, as capacity frees up. An iterator that runs dry may have more
        later (a server's queue): an engine asks it again whenever it has room, and returns once the
        iterator is dry and nothing is under way. `before(request, endpoint)` is called ahead of
        every attempt, so that what may have been paid for is on record; it may be called from
        several threads at once. An engine that can tell text as it is decoded also takes
        `on_text: Callable[[Request, str], None] | None`, called with every new piece, the prefill
        left out.

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
    prefill = response.request.prompt.prefill if response.prefilled else ""
    content = _whole_text(choice["message"], prefill)
    thinking, answer, tags = split_thinking(content)
    finish = Finish.LENGTH if choice["finish_reason"] == "length" else Finish.STOP
    return Completion(
        content,
        thinking,
        answer,
        finish,
        _token_count(usage, "prompt_tokens"),
        _token_count(usage, "completion_tokens"),
        tags,
    )


def _whole_text(message: dict[str, Any], prefill: str) -> str:
    """The reply the way the model wrote it: the prefill in front, a split reply joined again.

    A split reply without content has no answer, so its thinking is left open. Where the prefill has
    closed the thinking, a server that looks for `</think>` in vain calls the answer reasoning.
    """
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content") or ""
    opening, closed = Prompt((), prefill).thinking_is_open, THINK_CLOSE in prefill
    if reasoning and not content and closed and not opening:
        content = prefill + reasoning
    elif reasoning:
        head = prefill if opening else prefill + THINK_OPEN
        thought = reasoning.removeprefix(head.rpartition(THINK_OPEN)[2])  # servers may echo it
        content = head + thought + (THINK_CLOSE if content else "") + content
    elif not content.startswith(prefill):
        content = prefill + content
    return content.encode(errors="replace").decode()  # a lone surrogate cannot be written anywhere


CONTEXT_EXCEEDED = re.compile(
    r"no room for a reply|context[_ ]length|context window|prompt is too long|input is too long",
    re.IGNORECASE,
)
"""Words by which engines and servers say so: they share no code for it (OpenAI and vLLM `maximum
context length`, SGLang `longer than the model's context length`, our own `no room for a reply`)."""


def exceeds_context(error: str) -> bool:
    """Whether an engine's error says that prompt and reply do not fit into the model's context."""
    return CONTEXT_EXCEEDED.search(error) is not None


def _token_count(usage: dict[str, Any], name: str) -> int:
    """A count of tokens, 0 where the server sent none."""
    count = usage.get(name)
    return count if isinstance(count, int) and count > 0 else 0


def read_choice(raw: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice and the usage of a raw body, streamed or whole.

    Returns:
        choice: has `message` (with `content`, and `reasoning_content` where the server splits the
            reply) and a `finish_reason` of `stop` or `length`.
        usage: `prompt_tokens` and `completion_tokens`, or empty where the server sent none.

    Raises:
        BadResponse: the body is not a finished chat completion.
    """
    if _EVENT_STREAM.match(raw):
        return _assemble(raw)
    body = _load(raw, "the body")
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise BadResponse(f"no list of choices: {raw[:80]!r}")
    if not body["choices"] or not isinstance(body["choices"][0], dict):
        raise BadResponse(f"the list of choices is empty: {raw[:80]!r}")
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


def _load(text: str, what: str) -> Any:
    """Read JSON, or say what stands there instead."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadResponse(f"{what} is not JSON ({error}): {text[:80]!r}") from error


_EVENT_STREAM = re.compile(r"\s*(data|event|id|retry)?:")
"""How a server-sent event stream begins; a comment, which keeps a connection alive, is `: ...`."""


def _assemble(raw: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put the chunks of a server-sent event stream together into one choice."""
    parts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    finish: str | None = None
    usage: dict[str, Any] = {}
    for line in re.split(r"\r\n|\n|\r", raw):  # str.splitlines would also split at U+2028
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data or data == "[DONE]":
            continue
        chunk = _load(data, "a chunk of the stream")
        if not isinstance(chunk, dict):
            raise BadResponse(f"a chunk of the stream is not an object: {data[:80]!r}")
        if chunk.get("error"):
            raise BadResponse(f"the stream reports an error: {data[:200]}")
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        choices = chunk.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else []:
            finish = _add_delta(choice, parts) or finish
    if finish is None:
        raise BadResponse("the stream broke off before its finish_reason")
    assembled = {"message": {k: "".join(v) for k, v in parts.items()}, "finish_reason": finish}
    _check_finish(assembled)
    return assembled, usage


def _add_delta(choice: Any, parts: dict[str, list[str]]) -> str | None:
    """Append what one chunk's choice adds to the text; return its finish_reason."""
    delta = (choice.get("delta") or {}) if isinstance(choice, dict) else None
    if not isinstance(delta, dict):
        raise BadResponse(f"a chunk of the stream holds no delta: {choice!r}"[:120])
    pieces = {
        "content": delta.get("content") or "",
        "reasoning_content": delta.get("reasoning_content") or delta.get("reasoning") or "",
    }
    for name, piece in pieces.items():
        if not isinstance(piece, str):
            raise BadResponse(f"delta.{name} must be text, got {piece!r}"[:120])
        parts[name].append(piece)
    finish: str | None = choice.get("finish_reason")
    return finish
