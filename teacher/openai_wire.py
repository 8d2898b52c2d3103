"""What goes over the wire to an OpenAI-compatible endpoint, and what an answer to it means.

Pure functions: the request's body, the verdict on a reply, and how long to wait before the next
try. `openai_engine.py` does the talking.
"""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .engine import BadResponse, Identity, Request, read_choice

LONGEST_BACKOFF_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0

_MAY_PASS = frozenset((408, 409, 425, 429))
_ITS_OWN_FAULT = frozenset((400, 413, 422))


@dataclass(frozen=True, slots=True)
class Try:
    """How one try of a request ended.

    Attributes:
        raw: all that came back, also where it broke off.
        seconds: from sending to the end.
        error: what went wrong; None for a completion.
        is_final: trying again cannot help.
        is_unreachable: no connection came about.
        blames_endpoint: the failure says something about the endpoint rather than the request.
        retry_after_s: how long the server asked to wait.
    """

    raw: str
    seconds: float
    error: str | None = None
    is_final: bool = False
    is_unreachable: bool = False
    blames_endpoint: bool = True
    retry_after_s: float | None = None


def payload(request: Request, identity: Identity, *, stream: bool) -> bytes:
    """The body of a chat completion request, as JSON in UTF-8.

    The seed is drawn from the sample's key, so that the n draws of one prompt differ.
    """
    messages = [{"role": m.role, "content": m.content} for m in request.prompt.messages]
    body: dict[str, Any] = {
        "model": identity.model,
        "messages": messages,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_tokens,
        "seed": int(request.key(identity)[:8], 16) >> 1,  # 31 bits: some servers take no more
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.prompt.prefill and identity.prefills:
        messages.append({"role": "assistant", "content": request.prompt.prefill})
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    return json.dumps(body, ensure_ascii=False).encode(errors="replace")


def judge_reply(
    status: int, content_type: str, retry_after: str | None, raw: str, seconds: float
) -> Try:
    """Say what a reply that arrived whole means."""
    if 200 <= status < 300:
        try:
            read_choice(raw)
        except BadResponse as error:
            return Try(raw, seconds, f"{error} (content type {content_type or 'not given'})")
        return Try(raw, seconds)
    may_pass = status in _MAY_PASS or status >= 500
    return Try(
        raw,
        seconds,
        f"HTTP {status}: {error_message(raw)}",
        is_final=not may_pass,
        blames_endpoint=status not in _ITS_OWN_FAULT,
        retry_after_s=read_retry_after(retry_after, datetime.now(UTC)),
    )


def error_message(raw: str) -> str:
    """The words of an error body: OpenAI's `error.message`, `message`, `detail`, or its start."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        error = body.get("error")
        inner = error.get("message") if isinstance(error, dict) else error
        for said in (inner, body.get("message"), body.get("detail")):
            if said:
                return str(said)[:500]
    return raw.strip()[:200] or "(empty body)"


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a `Retry-After` header asks for (a number or an HTTP date), at most 300."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError):  # neither, or a date without a zone
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if seconds == seconds else None


def wait_s(failed: Try, num_failures: int, backoff_s: float) -> float:
    """How long to wait after the n-th failure of a request: doubled each time, with jitter."""
    if failed.retry_after_s is not None:
        return failed.retry_after_s
    longest = min(backoff_s * 2.0 ** min(num_failures - 1, 16), LONGEST_BACKOFF_S)
    return longest * random.uniform(0.5, 1.0)
