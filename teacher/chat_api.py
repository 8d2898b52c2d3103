"""OpenAI's chat completion objects: what a client may ask of our server, and what it gets.

Strict on purpose: a parameter that is unknown, of a wrong type, or would change the answer without
being honoured is refused with status 400 rather than ignored.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .engine import Message, Prompt, Request, Response, Sampling, read_choice

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Parameters that never change an answer."""

NEUTRAL: Mapping[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "response_format": {"type": "text"},
    "logit_bias": {},
    "stop": [],
    "tools": [],
}
"""Parameters that are not honoured, with the value (besides null) that changes nothing."""


class BadRequest(Exception):
    """A request that the client must change. `status` is the HTTP status to answer with."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        """Keep what the error object will say."""
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """A part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def message(self) -> Message:
        """The turn in r1kit's words, its parts joined."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        text = "".join(parts).encode(errors="replace").decode()  # no lone surrogates
        return Message(self.role, text)


class StreamOptions(_Strict):
    """Whether a last chunk tells the usage."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions. Null means the default: DeepSeek's advice for R1."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def requests(self, completion_id: str) -> list[Request]:
        """The n samples that are asked for. A last assistant message is a prefill."""
        default = Sampling()
        sampling = Sampling(
            default.temperature if self.temperature is None else self.temperature,
            self.top_p or default.top_p,
            self.max_completion_tokens or self.max_tokens or default.max_tokens,
        )
        seed = secrets.randbits(31) if self.seed is None else self.seed
        prompt = self._prompt()
        return [
            Request(prompt, sampling, index, seed, problem_id=f"{completion_id}-{index}")
            for index in range(self.n or 1)
        ]

    def _prompt(self) -> Prompt:
        turns = [message.message() for message in self.messages]
        continues = self.continue_final_message
        if continues and self.add_generation_prompt:
            raise BadRequest("continue_final_message and add_generation_prompt exclude each other")
        if turns[-1].role != "assistant":
            if continues:
                raise BadRequest("continue_final_message needs a last message of the assistant")
            return Prompt(tuple(turns))
        if continues is False:
            return Prompt(tuple(turns))
        if len(turns) == 1:
            raise BadRequest("messages: a message of the user must come first", param="messages")
        return Prompt(tuple(turns[:-1]), turns[-1].content)


def read_request(body: Any, model: str) -> ChatRequest:
    """Check the parsed body of a request.

    Raises:
        BadRequest: 400 for anything unknown, mistyped or not honoured; 404 for another model.
    """
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, got {type(body).__name__}")
    fields = {name: value for name, value in body.items() if name not in IGNORED}
    for name, neutral in NEUTRAL.items():
        if name in fields:
            value = fields.pop(name)
            if value is not None and value != neutral:
                raise BadRequest(f"{name} is not supported here; leave it out", param=name)
    try:
        request = ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        said = "unknown parameter" if unknown else f"{first['msg']}, got {first['input']!r:.80}"
        raise BadRequest(f"{where}: {said}", param=where) from error
    if request.model != model:
        raise BadRequest(
            f"the model {request.model!r} is not served here; {model!r} is",
            param="model", status=404, code="model_not_found",
        )  # fmt: skip
    return request


def read_response(response: Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """The choice of an engine's response, its text without the prefill, and the usage.

    Raises:
        BadRequest: the engine, within its own budget of tries, has no answer to this request, such
            as one that is too long. Asking again would not help, hence a status of 400.
        BadResponse: the engine's answer is no completion.
    """
    if response.error is not None:
        raise BadRequest(response.error)
    choice, usage = read_choice(response.raw)
    message = dict(choice["message"])
    prefill = response.request.prompt.prefill
    message["content"] = (message.get("content") or "").removeprefix(prefill)
    return {"message": message, "finish_reason": choice["finish_reason"]}, usage


def add_usage(usages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The usage of n samples of one prompt: the prompt is counted once."""
    prompt = max((int(usage.get("prompt_tokens") or 0) for usage in usages), default=0)
    written = sum(int(usage.get("completion_tokens") or 0) for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def error_object(error: Exception) -> dict[str, Any]:
    """OpenAI's error body: the client's fault for a `BadRequest`, else the server's."""
    body: dict[str, Any] = {
        "message": str(error), "type": "server_error", "param": None, "code": None
    }  # fmt: skip
    if isinstance(error, BadRequest):
        body |= {"type": "invalid_request_error", "param": error.param, "code": error.code}
    return {"error": body}
