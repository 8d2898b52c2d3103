"""Judging while answers still come in: a thread takes them in batches, about one a second.

What it decides is final. What it could not decide (a comparison may run out of time while a model
has the machine to itself) is judged again when all answers are there. So the verdicts are those
that judging at the end would have given.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .judge import Answered, Judge
from .math.verify import Judgement
from .score import UNDECIDED, Score, pass_at_1
from .verdict import Verdict

BATCH_S = 1.0
"""How long an answer waits for company before it is judged."""

STOP_S = 5.0
"""How long a run that was broken off waits for the batch under way."""


@dataclass(frozen=True, slots=True)
class Running:
    """How far judging has come: `score` is of the `judged` answers so far."""

    judged: int
    score: Score


@dataclass(frozen=True, slots=True)
class _Item:
    """An answer, with its judgement where it needs no judge."""

    answered: Answered
    judgement: Judgement | None
    truncated: bool


class LiveJudge:
    """Judges what it is handed, in a thread of its own. Used as a context manager.

    Args:
        judge: who decides; nobody else may use it meanwhile.
        on_judged: called in the thread after every batch.
    """

    def __init__(self, judge: Judge, on_judged: Callable[[Running], None] | None = None) -> None:
        self._judge, self._on_judged = judge, on_judged
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._judgements: dict[str, Judgement] = {}
        self._verdicts: dict[str, list[Verdict]] = defaultdict(list)
        self._truncated = 0
        self._undecided: list[Answered] = []
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="r1kit-judge", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop. Nothing is left to do after `finish`; without it, what waits is dropped."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(STOP_S)

    def put(
        self, answered: Answered, judgement: Judgement | None = None, *, truncated: bool = False
    ) -> None:
        """Hand in an answer, with its judgement where it needs no judge."""
        self._waiting.put(_Item(answered, judgement, truncated))

    def finish(self, *, again: bool = True) -> dict[str, Judgement]:
        """Wait until all that was handed in is judged; key -> judgement.

        Args:
            again: judge once more what stayed undecided. Where nothing else was busy meanwhile, it
                would come out alike.

        Raises:
            Exception: what the judge raised.
        """
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        if self._undecided and again:
            self._judgements.update(self._judge.judge(self._undecided))
        return self._judgements

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                batch, is_last = self._next_batch()
                if self._stopping.is_set():
                    return
                if batch:
                    self._decide(batch)
        except BaseException as error:  # noqa: BLE001 - `finish` raises it where it is heard
            self._failure = error

    def _next_batch(self) -> tuple[list[_Item], bool]:
        """What came within `BATCH_S` of the first, and whether it is all there will be."""
        batch: list[_Item] = []
        until = float("inf")
        while True:
            left = None if not batch else until - time.monotonic()
            try:
                item = self._waiting.get(timeout=left if left is None else max(left, 0.0))
            except queue.Empty:
                return batch, False
            if item is None:
                return batch, True
            if not batch:
                until = time.monotonic() + BATCH_S
            batch.append(item)

    def _decide(self, batch: list[_Item]) -> None:
        """Judge a batch and tell."""
        problems = {item.answered.key: item.answered.problem.id for item in batch}
        settled = {i.answered.key: i.judgement for i in batch if i.judgement is not None}
        waiting = {i.answered.key: i.answered for i in batch if i.judgement is None}
        self._truncated += sum(item.truncated for item in batch)
        decided = dict(self._judge.judge(list(waiting.values()))) if waiting else {}
        for key, judgement in (*settled.items(), *decided.items()):
            self._judgements[key] = judgement
            self._verdicts[problems[key]].append(judgement.verdict)
        self._undecided += [
            waiting[key] for key, said in decided.items() if said.verdict in UNDECIDED
        ]
        if self._on_judged is not None:
            score = pass_at_1(self._verdicts, truncated=self._truncated)
            self._on_judged(Running(len(self._judgements), score))
