"""Any OpenAI-compatible endpoint as an engine: vLLM, SGLang, DeepSeek's API, r1kit's own server.

Every sample is a request of its own (`n` is 1), so one bad sample never costs its neighbours. An
asyncio loop in a thread of its own keeps `concurrency` requests under way; the surface is a plain
iterator. What may pass (a broken connection, 408, 409, 425, 429, 5xx, a body that is no
completion) is tried again within the budget, waiting as long as `Retry-After` asks; any other 4xx
is final at once.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from .engine import EngineError, Identity, Request, Response
from .openai_wire import Try, judge_reply, payload, wait_s

GIVE_UP_AFTER = 64
"""So many requests failing in a row, with none answered, are the endpoint's fault, not theirs."""

CONNECT_S = 30.0

_POLL_S = 0.05
_DONE = b"data: [DONE]"


class OpenAIEngine:
    """An engine over HTTP. Close it to free the connections."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        revision: str = "",
        api_key: str | None = None,
        prefill_mode: Literal["assistant", "drop"] = "assistant",
        concurrency: int = 64,
        timeout_s: float = 600.0,
        retries: int = 6,
        stream: bool = False,
        backoff_s: float = 0.5,
    ) -> None:
        """Describe the endpoint; nothing is sent yet.

        Args:
            base_url: up to and including /v1. A user and password in it are sent, never recorded.
            model: the name that the endpoint serves it under.
            revision: the declared version, part of every sample's key.
            api_key: sent as a bearer token, never recorded.
            prefill_mode: `assistant` sends the prefill as a last assistant message to be continued;
                `drop` does not send it, for servers that open the thinking themselves.
            concurrency: requests under way at a time.
            timeout_s: seconds of silence after which a try is given up. Without `stream` a server
                is silent until the whole reply is written.
            retries: tries after the first.
            stream: read replies as server-sent events.
            backoff_s: the first wait between tries, doubled each time.

        Raises:
            EngineError: the URL cannot be used.
        """
        self._url, self._endpoint = _check_url(base_url, has_key=api_key is not None)
        self._identity = Identity("openai", model, revision, prefill_mode == "assistant")
        self._api_key = api_key
        self._concurrency, self._stream = concurrency, stream
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._loop = _LoopThread()
        self._session: aiohttp.ClientSession | None = None
        # Recording an attempt waits for the disk, which must not hold up the loop.
        self._recorders = ThreadPoolExecutor(min(concurrency, 64), "r1kit-attempts")

    @property
    def identity(self) -> Identity:
        """The served name and the declared revision; the URL is not part of it."""
        return self._identity

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        """See `Engine.answer`. Closing the iterator breaks off what is under way.

        Raises:
            EngineError: no connection comes about, or `GIVE_UP_AFTER` requests in a row failed
                through the endpoint's fault. What was under way is waited for and yielded first.
        """
        call, source = _Call(before), iter(requests)
        finished: queue.SimpleQueue[Future[Response]] = queue.SimpleQueue()
        flying: set[Future[Response]] = set()
        try:
            while True:
                while call.gone is None and len(flying) < self._concurrency:
                    if (request := next(source, None)) is None:
                        break
                    future = self._loop.submit(self._ask(request, call))
                    flying.add(future)
                    future.add_done_callback(finished.put)
                if not flying:
                    break
                try:
                    future = finished.get(timeout=_POLL_S)
                except queue.Empty:
                    continue  # the source may have more by now
                flying.discard(future)
                try:
                    response = future.result()
                except EngineError:
                    continue  # `call.gone` says why
                yield response
        finally:
            for future in flying:
                future.cancel()
        if call.gone is not None:
            raise EngineError(call.gone)

    def close(self) -> None:
        """Break off what is under way and free the connections. Safe to call twice."""
        session, self._session = self._session, None
        self._loop.close(session.close() if session is not None else None)
        self._recorders.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _ask(self, request: Request, call: "_Call") -> Response:
        """Try one request until it is answered, final, or out of budget."""
        began, loop = time.monotonic(), asyncio.get_running_loop()
        body = payload(request, self._identity, stream=self._stream)
        num_failures = 0
        while True:
            if call.before is not None:
                await loop.run_in_executor(self._recorders, call.before, request, self._endpoint)
            outcome = await self._try(body)
            if outcome.error is None:
                call.note_answer()
                break
            num_failures += 1
            if outcome.is_final or num_failures > self._retries:
                call.note_failure(outcome, self._failure_text(outcome, num_failures), began)
                break
            await call.pause(wait_s(outcome, num_failures, self._backoff_s))
        error = outcome.error and self._failure_text(outcome, num_failures)
        raw = outcome.raw if error is None else self._without_key(outcome.raw)
        return Response(
            request, raw, self._endpoint, outcome.seconds, error, self._identity.prefills
        )

    async def _try(self, body: bytes) -> Try:
        """Send once and read all that comes."""
        started, received = time.monotonic(), bytearray()

        def broke(error: str, *, is_unreachable: bool = False) -> Try:
            raw = received.decode(errors="replace")
            seconds = time.monotonic() - started
            return Try(raw, seconds, error, is_unreachable=is_unreachable)

        try:
            async with self._http().post(self._url, data=body, allow_redirects=False) as reply:
                await self._read(reply, received)
                return judge_reply(
                    reply.status,
                    reply.headers.get("Content-Type", ""),
                    reply.headers.get("Retry-After"),
                    received.decode(errors="replace"),
                    time.monotonic() - started,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return broke(f"no connection: {error}", is_unreachable=True)
        except TimeoutError:
            return broke(f"silent for {self._timeout_s:g} s (timeout_s)")
        except (aiohttp.ClientError, OSError) as error:
            return broke(f"the connection broke ({type(error).__name__}: {error})")

    async def _read(self, reply: aiohttp.ClientResponse, received: bytearray) -> None:
        """Read to the end of the body, or of the event stream, which a server may leave open."""
        async for chunk in reply.content.iter_any():
            tail = max(len(received) - len(_DONE), 0)
            received += chunk
            if self._stream and (b"\n" + _DONE) in received[tail:]:
                return

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if self._api_key is not None:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s
                ),
                headers=headers,
            )
        return self._session

    def _failure_text(self, outcome: Try, num_failures: int) -> str:
        tries = "1 try" if num_failures == 1 else f"{num_failures} tries"
        return self._without_key(f"{self._endpoint}: {outcome.error} (after {tries})")

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key in their errors."""
        return text.replace(self._api_key, "[api key]") if self._api_key else text


class _Call:
    """What the requests of one `answer` share: the recorder, and whether the endpoint is gone."""

    def __init__(self, before: Callable[[Request, str], None] | None) -> None:
        self.before = before
        self.gone: str | None = None
        self._gone_event = asyncio.Event()
        self._answered_at = float("-inf")
        self._failed_in_a_row = 0

    def note_answer(self) -> None:
        """The endpoint works."""
        self._answered_at = time.monotonic()
        self._failed_in_a_row = 0

    def note_failure(self, outcome: Try, text: str, began: float) -> None:
        """A request ran out of budget; decide whether the endpoint can go on.

        Raises:
            EngineError: nothing was ever sent, and nobody else was answered since `began`.
        """
        self._failed_in_a_row += outcome.blames_endpoint
        if outcome.is_unreachable and self._answered_at < began:
            self._give_up(f"{text}; is the server running, and is base_url right?")
            raise EngineError(text)
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            self._give_up(f"{self._failed_in_a_row} requests in a row failed; the last: {text}")

    async def pause(self, seconds: float) -> None:
        """Wait before the next try.

        Raises:
            EngineError: the endpoint was given up meanwhile.
        """
        try:
            await asyncio.wait_for(self._gone_event.wait(), seconds)
        except TimeoutError:
            return
        raise EngineError(self.gone or "the endpoint is gone")

    def _give_up(self, reason: str) -> None:
        self.gone = self.gone or reason
        self._gone_event.set()


class _LoopThread:
    """An asyncio loop in a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, work: Coroutine[Any, Any, Response]) -> Future[Response]:
        """Run a coroutine in the loop."""
        if self._is_closed:
            work.close()
            raise EngineError("the engine is closed; open another")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="r1kit-openai", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Coroutine[Any, Any, None] | None) -> None:
        """Cancel what runs, run `last`, and end the thread. Safe to call twice."""
        self._is_closed = True
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return

        async def wind_up() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if last is not None:
                await last

        asyncio.run_coroutine_threadsafe(wind_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()


def _check_url(base_url: str, *, has_key: bool) -> tuple[str, str]:
    """The URL to post to, and the endpoint as it may be recorded: without user and password."""
    example = "such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError as error:
        raise EngineError(f"base_url: {base_url!r}: {error}; it needs a URL {example}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EngineError(f"base_url: {base_url!r} is not a URL {example}")
    if parts.query or parts.fragment:
        raise EngineError(f"base_url: {base_url!r} has a query or fragment; it needs one {example}")
    if parts.username is not None and has_key:
        raise EngineError("base_url names a user, and api_key_env a key; the endpoint takes one")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"))
    return base_url.rstrip("/") + "/chat/completions", urlunsplit(shown)
