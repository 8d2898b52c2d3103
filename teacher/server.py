"""An OpenAI-compatible server over any engine: /v1/models and /v1/chat/completions.

Requests of all clients run in one continuous batch (`dispatch.py`); what they may ask is in
`chat_api.py`. A last assistant message is a prefill that the reply continues, as with vLLM's
`continue_final_message`, and the reply's text does not repeat it. Thinking stays in `content`.
There is no authentication: it listens on 127.0.0.1 unless told otherwise.
"""

import asyncio
import json
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from .. import KitError
from .chat_api import BadRequest, ChatRequest, add_usage, error_object, read_request, read_response
from .dispatch import Dispatcher, Event, Job
from .engine import BadResponse, Engine, EngineError, Request, Response

SHUTDOWN_S = 2
"""How long replies that are being sent may take after Ctrl-C."""


class ServerError(KitError):
    """The server cannot start."""


def make_app(engine: Engine) -> Starlette:
    """The application over one engine, which it does not close."""
    model, started = engine.identity.model, int(time.time())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.dispatcher = Dispatcher(engine)
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.dispatcher.close)

    async def models(_: HttpRequest) -> HttpResponse:
        entry = {"id": model, "object": "model", "created": started, "owned_by": "r1kit"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(_: HttpRequest) -> HttpResponse:
        return JSONResponse({"status": "ok"})

    async def chat(http: HttpRequest) -> HttpResponse:
        try:
            body = json.loads(await http.body())
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        asked = read_request(body, model)
        exchange = _Exchange(asked, http.app.state.dispatcher)
        if asked.stream:
            return StreamingResponse(exchange.stream(), media_type="text/event-stream")
        return await _unless_disconnected(http, exchange)

    routes = [
        Route("/v1/models", models),
        Route("/health", health),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {BadRequest: _on_bad_request, HTTPException: _on_http_exception}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then return. Port 0 takes any free one.

    Args:
        ready: told the base URL once the port is taken.

    Raises:
        ServerError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)  # whoever hears of the URL may connect at once
        except OSError as error:
            raise ServerError(
                f"{host}:{port}: cannot listen there: {error.strerror}; "
                f"try another --port, or 0 for any free one"
            ) from error
        if ready is not None:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listener.getsockname()[1]}/v1")
        config = uvicorn.Config(
            make_app(engine), log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S
        )
        # Once it has shut down, uvicorn raises the signal again that made it do so.
        with suppress(KeyboardInterrupt), _sigterm_as_ctrl_c():
            _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends what is under way before it waits for the connections, which wait for just that."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        await asyncio.to_thread(app.state.dispatcher.close)
        await super().shutdown(sockets)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, too, end in KeyboardInterrupt. Only the main thread can see signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


class _Exchange:
    """One call of /v1/chat/completions: its samples, and the events that come back for them."""

    def __init__(self, asked: ChatRequest, dispatcher: Dispatcher) -> None:
        self._asked, self._dispatcher = asked, dispatcher
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._jobs: list[Job] = []

    async def whole(self) -> HttpResponse:
        """The reply as one object."""
        choices: dict[int, dict[str, Any]] = {}
        usages = []
        try:
            async for index, event in self._run():
                if isinstance(event, Response):
                    choices[index], usage = read_response(event)
                    usages.append(usage)
        except (BadResponse, EngineError) as error:
            return JSONResponse(error_object(error), 500)
        ordered = [
            {
                "index": index,
                "message": {"role": "assistant", **choices[index]["message"]},
                "logprobs": None,
                "finish_reason": choices[index]["finish_reason"],
            }
            for index in sorted(choices)
        ]
        return JSONResponse(
            self._envelope("chat.completion") | {"choices": ordered, "usage": add_usage(usages)}
        )

    async def stream(self) -> AsyncIterator[str]:
        """The reply as server-sent events."""
        sent = [""] * (self._asked.n or 1)
        usages = []
        try:
            for index in range(len(sent)):
                yield self._chunk(index, {"role": "assistant", "content": ""})
            async for index, event in self._run():
                if isinstance(event, str):
                    sent[index] += event
                    yield self._chunk(index, {"content": event})
                elif isinstance(event, Response):
                    choice, usage = read_response(event)
                    usages.append(usage)
                    for delta in _rest(choice["message"], sent[index]):
                        yield self._chunk(index, delta)
                    yield self._chunk(index, {}, choice["finish_reason"])
            if self._asked.includes_usage:
                last = {"choices": [], "usage": add_usage(usages)}
                yield _event(self._envelope("chat.completion.chunk") | last)
        except (BadRequest, BadResponse, EngineError) as error:
            yield _event(error_object(error))
        yield "data: [DONE]\n\n"

    async def _run(self) -> AsyncIterator[tuple[int, Event]]:
        """Hand in the samples and pass on what comes, until all are answered or one fails."""
        requests = self._asked.requests(self._id)
        unfinished = len(requests)
        try:
            for request in requests:
                job = Job(request, self._deliverer(request))
                self._jobs.append(job)
                self._dispatcher.submit(job)
            while unfinished:
                index, event = await self._events.get()
                if isinstance(event, EngineError):
                    raise event
                unfinished -= isinstance(event, Response)
                yield index, event
        finally:
            for job in self._jobs:
                self._dispatcher.abandon(job)

    def _deliverer(self, request: Request) -> Callable[[Event], None]:
        loop, events, index = asyncio.get_running_loop(), self._events, request.index

        def deliver(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, (index, event))

        return deliver

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
        }

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._envelope("chat.completion.chunk") | {"choices": [choice]})


def _rest(message: dict[str, Any], sent: str) -> list[dict[str, Any]]:
    """What a finished message adds to the text that was sent already.

    Raises:
        BadResponse: the two differ, so the client holds text that the model did not write.
    """
    content: str = message["content"]
    if not content.startswith(sent):
        raise BadResponse("the streamed text is not the beginning of the finished text")
    deltas = [{name: message[name]} for name in ("reasoning_content",) if message.get(name)]
    rest = content.removeprefix(sent)
    return [*deltas, {"content": rest}] if rest else deltas


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _unless_disconnected(http: HttpRequest, exchange: _Exchange) -> HttpResponse:
    """The whole reply, or nothing once the client has gone."""

    async def disconnected() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    reply, gone = asyncio.create_task(exchange.whole()), asyncio.create_task(disconnected())
    try:
        await asyncio.wait({reply, gone}, return_when=asyncio.FIRST_COMPLETED)
        return reply.result() if reply.done() else HttpResponse(status_code=499)
    finally:
        for task in (reply, gone):
            task.cancel()


async def _on_bad_request(_: HttpRequest, error: Exception) -> HttpResponse:
    assert isinstance(error, BadRequest)
    return JSONResponse(error_object(error), error.status)


async def _on_http_exception(http: HttpRequest, error: Exception) -> HttpResponse:
    assert isinstance(error, HTTPException)
    said = BadRequest(f"{http.method} {http.url.path}: {error.detail}", status=error.status_code)
    return await _on_bad_request(http, said)
