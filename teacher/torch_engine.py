"""The engine that runs a model in this process: batched, seeded, on a CPU without a compiler.

`TorchEngine` decodes in lanes of `batch_size` rows (`lean/lane.py`), on a CPU one lane per core.

On a CPU, a sample's tokens and log-probabilities are a function of its request and the model
alone, bit for bit: not of its batch mates, its row, its lane or the moment it joined. Every
product runs at a fixed shape, attention runs page by page, and each sample draws from a generator
of its own, seeded from `Request.key`. The bits may differ between kinds of processor, versions of
torch and values of `batch_size`. They do not depend on the number of threads as long as there are
at most `MAX_LANES * 2 - 1` of them: each lane then computes single-threaded.

On a GPU the libraries choose a product's kernel by the number of pages, so company can move the
last bits, and a draw that lies on an edge may fall to the other side.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch

from .engine import EngineError, Finish, Identity, Request, Response
from .lean.lane import Broke, Ended, Event, Job, Lane, Wrote, start_lanes
from .lean.likelihood import Likelihood
from .lean.load import load, locate, revision
from .lean.text import PromptError, Stream

log = logging.getLogger(__name__)

MAX_LANES = 4
"""More lanes than this would wait for Python's lock; further threads go into the operations."""
AHEAD = 0.5
"""Requests drawn beyond the rows there are, as a share of them: work at hand while the caller is
busy with what was yielded."""
POLL_S = 0.05
"""How long to wait for the lanes before a source that ran dry is asked again."""

Before = Callable[[Request, str], None]
OnText = Callable[[Request, str], None]


class TorchEngine:
    """Answers prompts with a model from a directory, or from Hugging Face.

    `answer` may be called from several threads at once; their requests share the batches.

    Args:
        model: directory with config.json, safetensors and a tokenizer with a chat template, or a
            Hugging Face id, which is downloaded.
        batch_size: rows per lane; the lean loop rounds it up to a multiple of 4.
        max_length: longest prompt and reply together, in tokens; None: the model's own limit.
        dtype: float32 runs the lean loop where it knows the architecture; any other type runs
            transformers' forward pass, one row at a time.
        name: the model's name in the identity; None: the directory's, or the id.
        lanes: None: as many as torch has threads, at most `MAX_LANES`; on a GPU, one.

    Attributes:
        path: the code that runs the model: `lean:deepseek_v3`, `lean:llama` or `transformers`.

    Raises:
        EngineError: the model does not load.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        batch_size: int = 64,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        name: str | None = None,
        lanes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise EngineError(f"batch_size must be at least 1, got {batch_size}")
        directory = locate(model)
        self._loaded = load(directory, max_length=max_length, dtype=dtype, device=device)
        self._device = device
        self.path, self.max_length = self._loaded.path, self._loaded.max_length
        self._text = self._loaded.text
        name = name or (
            directory.resolve().name if Path(model).expanduser().exists() else str(model)
        )
        log.info("%s: %s", name, self.path)
        self._identity = Identity("torch", name, revision(directory))
        self.endpoint = f"torch:{device}"
        threads = torch.get_num_threads()
        self.num_lanes = lanes or (min(threads, MAX_LANES) if device == "cpu" else 1)
        self.watch: Callable[[Request, int, torch.Tensor], None] | None = None
        """For tests and debugging: called with (request, token number, logits) from the lanes."""
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lanes = [
            Lane(
                self._loaded.new_decoder(batch_size),
                self._inbox,
                end_ids=self._loaded.end_ids,
                vocabulary=self._loaded.vocabulary,
                device=device,
            )
            for _ in range(self.num_lanes)
        ]
        self.capacity = sum(lane.decoder.rows for lane in self._lanes)
        self._threads: list[threading.Thread] = []
        self._threads_per_lane = max(1, threads // self.num_lanes)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def identity(self) -> Identity:
        """`torch`, the model's name, and a short hash of its files."""
        return self._identity

    def answer(
        self,
        requests: Iterable[Request],
        *,
        before: Before | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Response]:
        """Yield a response per request, as they finish; see `Engine.answer`.

        A prompt that does not fit, or that the chat template refuses, yields a response with an
        `error`. `before` and `on_text` are called in the caller's thread; the text passed to
        `on_text` follows the prefill and adds up to the reply.

        Raises:
            EngineError: the engine is closed, or a lane failed.
        """
        self._start()
        call = _Call(self, before, on_text)
        source = iter(requests)
        try:
            while True:
                while call.in_flight < self.capacity * (1 + AHEAD):
                    if (request := next(source, None)) is None:
                        break
                    if (refused := call.submit(request)) is not None:
                        yield refused
                if not call.in_flight:
                    return
                if (response := call.wait()) is not None:
                    yield response
        finally:
            call.is_over = True

    def likelihood(self) -> Likelihood:
        """What tells how likely given text is, beside the lanes and for one thread.

        Raises:
            EngineError: the engine is closed.
        """
        if self._closed.is_set():
            raise EngineError("the engine is closed")
        return Likelihood(
            self._loaded.new_decoder(1),
            self._text,
            max_length=self.max_length,
            end_id=self._loaded.end_ids[0],
            device=self._device,
        )

    def _start(self) -> None:
        with self._lock:
            if self._closed.is_set():
                raise EngineError("the engine is closed")
            if not self._threads:
                self._threads = start_lanes(self._lanes, self._threads_per_lane)

    def close(self) -> None:
        """Stop the lanes and free the model. Safe to call twice; open answers end in an error."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._lanes.clear()
        del self._loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Call:
    """One call of `answer`: what it has under way, and the events that the lanes post to it."""

    def __init__(self, engine: TorchEngine, before: Before | None, on_text: OnText | None) -> None:
        self.engine, self.before, self.on_text = engine, before, on_text
        self.text = engine._text
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.in_flight = 0
        self.is_over = False

    def is_cancelled(self) -> bool:
        return self.is_over or self.engine._closed.is_set()

    def submit(self, request: Request) -> Response | None:
        """Hand a request to the lanes, or say at once why it cannot be answered.

        Raises:
            EngineError: the engine was closed meanwhile.
        """
        self._check_open()
        engine = self.engine
        if self.before is not None:
            self.before(request, engine.endpoint)
        try:
            prompt = list(self.text.encode(request.prompt))
        except PromptError as error:
            return Response(request, "", engine.endpoint, 0.0, str(error))
        room = engine.max_length - len(prompt)
        if room < 1:
            return Response(
                request,
                "",
                engine.endpoint,
                0.0,
                f"the prompt has {len(prompt)} tokens and leaves no room for a reply: "
                f"max_length is {engine.max_length}",
            )
        key = request.key(engine.identity)
        watch = engine.watch
        self.in_flight += 1
        engine._inbox.put(
            Job(
                prompt=prompt,
                seed=int(key[:15], 16),
                limit=min(request.sampling.max_tokens, room),
                temperature=request.sampling.temperature,
                top_p=request.sampling.top_p,
                post=self.events.put,
                cancelled=self.is_cancelled,
                tag=(request, key, Stream(self.text, prompt[-1])),
                streams=self.on_text is not None,
                watch=None if watch is None else lambda n, row: watch(request, n, row),
            )
        )
        return None

    def _check_open(self) -> None:
        if self.engine._closed.is_set():
            raise EngineError("the engine was closed while it was answering")

    def wait(self) -> Response | None:
        """Take the next event, if there is one soon; a response, if it ended a request.

        Raises:
            EngineError: the engine was closed meanwhile, or a lane failed.
        """
        try:
            event = self.events.get(timeout=POLL_S)
        except queue.Empty:
            self._check_open()
            return None  # the source may have more by now
        if isinstance(event, Broke):
            raise EngineError(f"the model failed: {event.error}") from event.error
        if isinstance(event, Wrote):
            self._stream(event.job, event.token)
            return None
        self.in_flight -= 1
        return self._response(event)

    def _stream(self, job: Job, token: int) -> None:
        request, _, stream = job.tag
        if (text := stream.push(token)) and self.on_text is not None:
            self.on_text(request, text)

    def _response(self, ended: Ended) -> Response:
        """The body of a chat completion; the content begins with the prefill."""
        request, key, stream = ended.job.tag
        endpoint, seconds, error = self.engine.endpoint, ended.seconds, ended.error
        text = stream.text.decode(ended.job.prompt[-1], ended.tokens)
        if self.on_text is not None and (rest := stream.rest(text)):
            self.on_text(request, rest)
        if error is None and not (content := request.prompt.prefill + text):
            error = "the model ended its reply before it wrote anything"
        if error is not None:
            return Response(request, "", endpoint, seconds, error)
        finish = Finish.STOP if ended.reached_end else Finish.LENGTH
        return Response(request, self._body(key, content, finish, ended), endpoint, seconds)

    def _body(self, key: str, content: str, finish: Finish, ended: Ended) -> str:
        read, wrote = len(ended.job.prompt), len(ended.tokens)
        body: dict[str, Any] = {
            "id": f"torch-{key[:24]}",
            "object": "chat.completion",
            "model": self.engine.identity.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": finish.value,
                }
            ],
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": wrote,
                "total_tokens": read + wrote,
            },
        }
        return json.dumps(body, ensure_ascii=False)
