"""Mathematical answers to verdicts: extract, compare quickly, and leave the rest to the pool.

    answer -> extract.py -> exact.py -> (pool) compare.py -> verdict

CORRECT and WRONG are what they say. A reply without any final answer is WRONG: nothing was said.
UNVERIFIABLE: one side cannot be read, is too long, or the comparison was killed twice at its limit.
INFRA_ERROR: the comparison's process died twice; judge it again on a machine with more memory.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..pool import Executor, Failure, Pool, Result
from ..verdict import Verdict
from .exact import Decision, decide
from .extract import Extracted, Rule, extract, find_boxes
from .policy import MathPolicy

JUDGE = "math/1"
"""The name that verdicts of these rules are stored under; it changes when the rules do."""

MAX_LENGTH = 2000
"""Characters of an answer that is compared at all."""

MEMORY_MIB = 4096
"""Address space of a comparing process."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MathItem:
    """One answer to judge.

    Attributes:
        key: the caller's name for it.
        answer: the reply after the thinking; None where the model gave none.
        gold: the right answer.
        ordered: whether the order of a list without brackets matters; None where that is unknown.
    """

    key: str
    answer: str | None
    gold: str
    ordered: bool | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found and what is said of it.

    Attributes:
        verdict: one of the four.
        extracted: the final answer as it was found; empty where there is none.
        rule: how it was found.
        reason: why the verdict is what it is, in words.
        tags: oddities of the reply, such as `several boxes`.
    """

    verdict: Verdict
    extracted: str
    rule: Rule
    reason: str
    tags: tuple[str, ...] = ()
    step: str = ""
    """Which step of the comparison decided, such as `text`, `number`, `set` or `symbolic`."""


class MathVerifier:
    """Judges one answer after the other, from any thread; its workers stay between the calls.

    Args:
        policy: what counts as the same answer.
        workers: processes for slow comparisons; none starts while there is no slow comparison.
        timeout_s: wall-clock seconds for one comparison.
    """

    def __init__(
        self, policy: MathPolicy | None = None, *, workers: int = 1, timeout_s: float = 10.0
    ) -> None:
        self.policy = policy or MathPolicy()
        self._limits = (workers, timeout_s)

    def verify(self, answer: str, gold: str, *, problem: str = "") -> Judgement:
        """Judge an answer: a bare one, LaTeX, or a whole reply, with its thinking or without.

        Args:
            answer: what the model wrote.
            gold: the right answer.
            problem: the statement, for what it asks of the form of an answer.
        """
        return next(judged for _, judged in verify_answers([MathItem("", answer, gold)]))

    async def averify(self, answer: str, gold: str, *, problem: str = "") -> Judgement:
        """`verify` for asyncio: the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.verify, answer, gold, problem=problem)

    def close(self) -> None:
        """Stop the workers. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def verify_answers(
    items: Iterable[MathItem],
    workers: int = 2,
    timeout_s: float = 10.0,
    *,
    executor: Executor | None = None,
) -> Iterator[tuple[str, Judgement]]:
    """Judge answers, in no promised order; what is settled quickly comes first.

    Args:
        items: what to judge; keys are handed through and need not be unique.
        workers: processes for slow comparisons; none starts while there is no slow comparison.
        timeout_s: wall-clock seconds for one comparison. One that is killed gets a second try.
        executor: used instead of a local pool; its limits then hold, and the caller closes it.
    """
    slow: dict[Pair, list[tuple[MathItem, Extracted]]] = {}
    for given in items:
        item = replace(given, gold=_gold(given.gold))
        found = Extracted("", Rule.NONE) if item.answer is None else extract(item.answer)
        decision = _quick(item, found)
        if decision is None:
            slow.setdefault((item.gold, found.text), []).append((item, found))
        else:
            yield item.key, _judgement(decision, found)
    if not slow:
        return
    for pair, decision in _compare_all(list(slow), workers, timeout_s, executor):
        for item, found in slow[pair]:
            yield item.key, _judgement(decision, found)


def _gold(gold: str) -> str:
    """The right answer itself, where it is given as a sentence with one box."""
    boxes, _ = find_boxes(gold)
    return boxes[0] if len(boxes) == 1 else gold


def _judgement(decision: Decision, found: Extracted) -> Judgement:
    return Judgement(decision.verdict, found.text, found.rule, decision.reason, found.tags)


def _quick(item: MathItem, found: Extracted) -> Decision | None:
    """Decide without a worker, or return None."""
    if not found.text:
        return Decision(Verdict.WRONG, "no answer")
    for name, text in (("answer", found.text), ("right answer", item.gold)):
        if len(text) > MAX_LENGTH:
            return Decision(
                Verdict.UNVERIFIABLE,
                f"the {name} has {len(text):,} characters, over {MAX_LENGTH:,}",
            )
    return decide(item.gold, found.text, ordered=item.ordered)


def _compare_all(
    pairs: Sequence[Pair], workers: int, timeout_s: float, executor: Executor | None
) -> Iterator[tuple[Pair, Decision]]:
    """Compare every pair; those whose worker was lost are tried once more, at the end."""
    pool = executor or Pool(
        min(workers, len(pairs)),
        timeout_s,
        memory_mib=MEMORY_MIB,
        preload=[f"{__package__}.compare"],
    )
    try:
        lost: list[Pair] = []
        for result in pool.map(_compare, pairs):
            if result.failure in (Failure.TIMEOUT, Failure.CRASH):
                lost.append(pairs[result.index])
            else:
                yield pairs[result.index], _decision(result)
        for result in pool.map(_compare, lost):
            yield lost[result.index], _decision(result)
    finally:
        if executor is None:
            pool.close()


def _compare(pair: Pair) -> Decision:
    """In the worker: import what is heavy, and compare."""
    from .compare import compare, quiet

    quiet()
    return compare(pair)


def _decision(result: Result[Decision]) -> Decision:
    """A worker's result as a decision."""
    if result.value is not None:
        return result.value
    if result.failure is Failure.TIMEOUT:
        return Decision(Verdict.UNVERIFIABLE, f"the comparison was {result.message}, twice")
    if result.failure is Failure.CRASH:
        return Decision(Verdict.INFRA_ERROR, f"the comparison failed twice: {result.message}")
    return Decision(Verdict.UNVERIFIABLE, f"the comparison raised {result.message}")
