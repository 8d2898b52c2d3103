"""A lane: one thread that decodes up to R sequences side by side, and keeps its rows filled.

Every decode step reads one token in every row. A finished row is handed out at once and given to
the next job, whose prompt is read in fixed-size chunks between steps. All but the last prompt token
are read this way; the last one is the first token decoded, so sampling happens in one place only.
A job whose prompt a row already holds (another sample of the same problem) copies it.

Several lanes share a model's weights and take their jobs from one queue. Each runs its operations
single-threaded: two lanes on two cores beat one lane whose every small operation is split over two,
and a sample's bits cannot depend on the number of threads.

Letters: R rows, W tokens that a row has room to write, V vocabulary.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .model import Chunk, Decoder
from .sampling import Ways, draw

PATIENCE = 3
"""Steps that an incomplete set of prompt chunks waits for company."""


@dataclass(eq=False)
class Job:
    """One sample to generate.

    Attributes:
        prompt: token ids, at least one.
        seed: of the sample's own generator.
        limit: tokens to write at most; prompt and limit together fit the model.
        post: called by the lane's thread with what happened.
        cancelled: asked before every step; a cancelled job is dropped without a word.
        streams: whether every token is posted as it comes.
        watch: for tests; called with (token number, logits (V)) of every step.
    """

    prompt: list[int]
    seed: int
    limit: int
    temperature: float
    top_p: float
    post: Callable[["Event"], None]
    cancelled: Callable[[], bool]
    tag: Any = None
    streams: bool = False
    watch: Callable[[int, Tensor], None] | None = None
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Wrote:
    """A streaming job has a new token."""

    job: Job
    token: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over. `tokens` holds all that was written, an end token included.

    `reached_end`: it ended by itself. `error`: why it cannot be used, where it cannot.
    """

    job: Job
    tokens: list[int]
    reached_end: bool
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Broke:
    """The lane itself failed, and will not go on."""

    error: BaseException


Event = Wrote | Ended | Broke


class Rows:
    """The state of a lane's rows as tensors, so that a step needs no loop over them."""

    def __init__(self, rows: int, end_ids: list[int], vocabulary: int, device: Any) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.token, self.position, self.count, self.limit = (zeros(rows) for _ in range(4))
        self.active = zeros(rows)
        """1 while the row is decoding, else 0: also how far its position moves per step."""
        self.temperature, self.top_p = (zeros(rows, dtype=torch.float32) for _ in range(2))
        self.written_RW = zeros(rows, 0)
        self.uniform_RW = zeros(rows, 0, dtype=torch.float32)
        self.is_end_V = zeros(vocabulary, dtype=torch.bool)
        self.is_end_V[end_ids] = True

    def widen(self, width: int) -> None:
        """Make room for `width` written tokens."""
        more = width - self.written_RW.shape[1]
        if more > 0:
            self.written_RW = torch.nn.functional.pad(self.written_RW, (0, more))
            self.uniform_RW = torch.nn.functional.pad(self.uniform_RW, (0, more))

    def set(self, row: int, job: Job) -> None:
        """Point a row at a job's last prompt token; it stays inactive."""
        self.token[row], self.position[row] = job.prompt[-1], len(job.prompt) - 1
        self.count[row], self.limit[row] = 0, job.limit
        self.temperature[row], self.top_p[row] = job.temperature, job.top_p
        generator = torch.Generator().manual_seed(job.seed)
        self.uniform_RW[row, : job.limit] = torch.rand(job.limit, generator=generator)


class Lane:
    """Runs jobs from `inbox` until it finds None there. Call `run` in a thread of its own."""

    def __init__(
        self,
        decoder: Decoder,
        inbox: "queue.SimpleQueue[Job | None]",
        *,
        end_ids: list[int],
        vocabulary: int,
        device: Any,
    ) -> None:
        self.decoder, self.inbox = decoder, inbox
        self.state = Rows(decoder.rows, end_ids, vocabulary, device)
        self.jobs: dict[int, Job] = {}
        self.free: deque[int] = deque(range(decoder.rows))
        self.decoding: list[int] = []
        self.backlog: deque[Chunk] = deque()
        self.waited = 0
        self.prompt_of: dict[int, tuple[int, ...]] = {}
        self.row_of: dict[tuple[int, ...], int] = {}
        self.followers: dict[int, list[int]] = {}
        self.ways = Ways(False, False, False)
        self.stopping = False

    def run(self) -> None:
        """Decode until told to stop; a failure is posted to every job that it loses."""
        try:
            with torch.inference_mode():
                while self._admit():
                    self._read_prompts()
                    if self.decoding:
                        self._step()
                    self._drop_cancelled()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the jobs must learn of it
            for job in self.jobs.values():
                job.post(Broke(error))
            for left in self._remaining():
                left.post(Broke(error))

    def _remaining(self) -> Iterator[Job]:
        """Jobs that come after a failure, for as long as the engine is open."""
        while (job := self.inbox.get()) is not None:
            yield job

    def _admit(self) -> bool:
        """Give free rows to waiting jobs; with nothing to do, wait. False: stop."""
        while self.free and not self.stopping:
            try:
                job = self.inbox.get(block=not self.jobs)
            except queue.Empty:
                break
            if job is None:
                self.stopping = True
            elif not job.cancelled():
                self._place(job)
        return not self.stopping or bool(self.jobs)

    def _place(self, job: Job) -> None:
        """Give a job a row, and see to it that the row gets its prompt."""
        prompt = tuple(job.prompt[:-1])
        source = self.row_of.get(prompt) if self.decoder.can_copy else None
        if source is not None and source not in self.jobs:
            row = source  # a finished row still holds this very prompt
            self.free.remove(row)
        else:
            row = self.free.popleft()
        self.jobs[row], job.started = job, time.monotonic()
        self.decoder.reserve(len(job.prompt))
        self.state.widen(job.limit)
        self.state.set(row, job)
        if row == source:
            self._activate(row)
            return
        self._forget_prompt(row)
        if source is None:
            self._queue_prompt(row, prompt)
        elif source in self.followers:
            self.followers[source].append(row)
        else:
            self.decoder.copy_row(source, row, len(prompt))
            self._activate(row)

    def _queue_prompt(self, row: int, prompt: tuple[int, ...]) -> None:
        """Put a prompt's chunks on the backlog, and let others of the same prompt follow it."""
        if not prompt:
            self.decoder.clear_row(row)
            self._activate(row)
            return
        self.prompt_of[row], self.row_of[prompt] = prompt, row
        self.followers[row] = []
        size = self.decoder.chunk
        for start in range(0, len(prompt), size):
            tokens = list(prompt[start : start + size])
            self.backlog.append(Chunk(row, start, tokens, start + size >= len(prompt)))

    def _forget_prompt(self, row: int) -> None:
        """The row is about to hold another prompt."""
        prompt = self.prompt_of.pop(row, None)
        if prompt is not None and self.row_of.get(prompt) == row:
            del self.row_of[prompt]

    def _activate(self, row: int) -> None:
        """The row's prompt is in place: let it decode from the next step on."""
        self.state.active[row] = 1
        self.decoding.append(row)
        self._find_ways()

    def _find_ways(self) -> None:
        state = self.state
        self.ways = Ways.of(state.temperature[self.decoding], state.top_p[self.decoding])

    def _read_prompts(self) -> None:
        """Prefill while there is a full set of chunks, or chunks that have waited long enough."""
        self.waited = self.waited + 1 if self.backlog else 0
        while self.backlog:
            is_full = len(self.backlog) >= self.decoder.chunks
            if not is_full and self.decoding and self.waited <= PATIENCE:
                return
            self.waited = 0
            chunks = [
                self.backlog.popleft() for _ in range(min(self.decoder.chunks, len(self.backlog)))
            ]
            self.decoder.prefill(chunks)
            for chunk in chunks:
                if chunk.is_last:
                    self._finish_prompt(chunk.row)

    def _finish_prompt(self, row: int) -> None:
        """A prompt is read: start its row, and the rows that waited to copy it."""
        for follower in self.followers.pop(row):
            self.decoder.copy_row(row, follower, len(self.prompt_of[row]))
            self._activate(follower)
        self._activate(row)

    def _step(self) -> None:
        """One token for every decoding row; hand out those that ended with it."""
        state = self.state
        length = int((state.position * state.active).max()) + 1
        self.decoder.reserve(length)
        logits_RV = self.decoder.decode(state.token, state.position, self.decoding, length)
        at_R1 = state.count[:, None]
        uniform_R = state.uniform_RW.gather(1, at_R1)[:, 0]
        drawn = draw(logits_RV, state.temperature, state.top_p, uniform_R, self.ways)
        self._watch(logits_RV)
        torch.where(state.active == 1, drawn.tokens_R, state.token, out=state.token)
        state.written_RW.scatter_(1, at_R1, state.token[:, None])
        state.position.add_(state.active)
        state.count.add_(state.active)
        ended_R = state.is_end_V[state.token] | (state.count >= state.limit) | drawn.broken_R
        ended = ended_R.logical_and_(state.active == 1).nonzero().flatten().tolist()
        self._stream()
        for row in ended:
            self._end(row, is_broken=bool(drawn.broken_R[row]))

    def _watch(self, logits_RV: Tensor) -> None:
        for row in self.decoding:
            watch = self.jobs[row].watch
            if watch is not None:
                watch(int(self.state.count[row]), logits_RV[row].clone())

    def _stream(self) -> None:
        if any(self.jobs[row].streams for row in self.decoding):
            tokens = self.state.token.tolist()
            for row in self.decoding:
                if self.jobs[row].streams:
                    self.jobs[row].post(Wrote(self.jobs[row], tokens[row]))

    def _end(self, row: int, *, is_broken: bool) -> None:
        """Post what a row wrote and free it; its prompt stays, for whoever wants it again."""
        job = self.jobs[row]
        count = int(self.state.count[row])
        tokens = self.state.written_RW[row, :count].tolist()
        error = None
        if is_broken:
            error = f"the model's logits for token {count} are not numbers"
            self.decoder.clear_row(row)
            self._forget_prompt(row)
        seconds = time.monotonic() - job.started
        is_end = bool(self.state.is_end_V[tokens[-1]])
        self._release(row)
        job.post(Ended(job, tokens, is_end, seconds, error))

    def _release(self, row: int) -> None:
        """Free a decoding row. It goes on being computed, writing where no prompt stands."""
        self.decoding.remove(row)
        self.state.active[row] = 0
        self.state.position[row] = len(self.jobs.pop(row).prompt) - 1
        self.state.count[row] = 0
        self.free.append(row)
        self._find_ways()

    def _drop_cancelled(self) -> None:
        """Free the rows whose jobs nobody waits for; those still reading a prompt come later."""
        for row in list(self.decoding):
            if self.jobs[row].cancelled():
                self._release(row)


def start_lanes(lanes: list[Lane], threads_per_lane: int) -> list[threading.Thread]:
    """Start each lane in a thread of its own, with its own number of threads per operation.

    torch keeps that number per thread, and the last one set is what new threads begin with, so
    the caller's is set again once the lanes have theirs.
    """
    before = torch.get_num_threads()
    ready = threading.Barrier(len(lanes) + 1)

    def run(lane: Lane) -> None:
        torch.set_num_threads(threads_per_lane)
        ready.wait()
        lane.run()

    threads = [
        threading.Thread(target=run, args=(lane,), name=f"lane-{i}", daemon=True)
        for i, lane in enumerate(lanes)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    torch.set_num_threads(before)
    return threads
