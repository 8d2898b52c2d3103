"""Mathematical answers to verdicts: extract, compare quickly, and leave the rest to the pool.

    answer -> extract.py -> decide.py -> (pool) slow.py -> verdict

CORRECT and WRONG are what they say. A reply without any final answer is WRONG: nothing was said.
UNVERIFIABLE: one side cannot be read, is too long, is not decided by anything here, or its
comparison was killed twice at its limit. INFRA_ERROR: the comparison's process died twice; judge it
again on a machine with more memory.
"""

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from ...teacher.engine import THINK_CLOSE, THINK_OPEN
from ..pool import Executor, Failure, Pool, Result
from ..verdict import Verdict
from .decide import Decision, asks_for_rounding, decide
from .extract import LINE, Extracted, Rule, boxes_at_the_end, extract, find_boxes
from .policy import MathPolicy
from .reading import MAX_LENGTH, read
from .slow_pair import SlowPair, compare_slowly
from .tree import Apply, Node, has

JUDGE = "math/2"
"""The name that verdicts of these rules are stored under; it changes when the rules do."""

MEMORY_MIB = 4096
"""Address space of a comparing process."""

DEFAULT_POLICY = MathPolicy()
UNCLOSED = re.compile(r"\\boxed\{(.{1,500})\Z", re.DOTALL)
"""A box that is cut off: in a right answer, what stands in it is still right."""


@dataclass(frozen=True, slots=True)
class MathItem:
    """One answer to judge.

    Attributes:
        key: the caller's name for it.
        answer: the reply after the thinking; None where the model gave none.
        gold: the right answer: bare, LaTeX, or a solution that ends with it.
        policy: what counts as the same answer.
        problem: the statement, for what it asks of the form of an answer; may be empty.
    """

    key: str
    answer: str | None
    gold: str
    policy: MathPolicy = DEFAULT_POLICY
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found and what is said of it.

    Attributes:
        verdict: one of the four.
        extracted: the final answer as it was found; empty where there is none.
        rule: how it was found.
        reason: why the verdict is what it is, in words.
        tags: oddities of the reply, such as `several boxes`.
        step: which step of the comparison decided, such as `text`, `value`, `set` or `symbolic`.
    """

    verdict: Verdict
    extracted: str
    rule: Rule
    reason: str
    tags: tuple[str, ...] = ()
    step: str = ""


class MathVerifier:
    """Judges one answer after the other, from any thread; its worker stays between the calls.

    Quick comparisons run in the caller's thread, in bounded time. Slow ones run in worker
    processes under a hard limit of time and memory, one at a time for each worker.

    Args:
        policy: what counts as the same answer.
        workers: processes for slow comparisons; none starts while there is no slow comparison.
        timeout_s: wall-clock seconds for one comparison. One that is killed gets a second try.
    """

    def __init__(
        self, policy: MathPolicy = DEFAULT_POLICY, *, workers: int = 1, timeout_s: float = 10.0
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.policy = policy
        self._idle = [_pool(1, timeout_s) for _ in range(workers)]
        self._all = tuple(self._idle)
        self._freed = threading.Condition()
        self._closed = False

    def verify(self, answer: str, gold: str, *, problem: str = "") -> Judgement:
        """Judge an answer: a bare one, LaTeX, or a whole reply, with its thinking or without.

        Args:
            answer: what the model wrote. Thinking that never closes is no answer.
            gold: the right answer: bare, LaTeX, or a solution that ends with it.
            problem: the statement, for what it asks of the form of an answer.

        Raises:
            RuntimeError: the verifier is closed.
        """
        item = MathItem("", reply_of(answer), gold, self.policy, problem)
        found, pair, decision = _quick(item)
        if decision is None:
            decision = self._slow(pair)
        return _judgement(decision, found)

    async def averify(self, answer: str, gold: str, *, problem: str = "") -> Judgement:
        """`verify` for asyncio: the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.verify, answer, gold, problem=problem)

    def _slow(self, pair: SlowPair) -> Decision:
        with self._freed:
            while not self._idle and not self._closed:
                self._freed.wait()
            if self._closed:
                raise RuntimeError("the verifier is closed")
            pool = self._idle.pop()
        try:
            ((_, decision),) = _compare_all([pair], pool)
            return decision
        finally:
            with self._freed:
                self._idle.append(pool)
                self._freed.notify()

    def close(self) -> None:
        """Stop the workers; calls that wait for one raise. Safe to call twice."""
        with self._freed:
            self._closed = True
            self._freed.notify_all()
        for pool in self._all:
            pool.close()

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
    slow: dict[SlowPair, list[tuple[MathItem, Extracted]]] = {}
    for item in items:
        found, pair, decision = _quick(item)
        if decision is None:
            slow.setdefault(pair, []).append((item, found))
        else:
            yield item.key, _judgement(decision, found)
    if not slow:
        return
    pool = executor or _pool(min(workers, len(slow)), timeout_s)
    try:
        for pair, decision in _compare_all(list(slow), pool):
            for item, found in slow[pair]:
                yield item.key, _judgement(decision, found)
    finally:
        if executor is None:
            pool.close()


def reply_of(text: str) -> str | None:
    """What was written after the thinking; None where the thinking never closes."""
    before, closed, reply = text.rpartition(THINK_CLOSE)
    if closed:
        return None if THINK_OPEN in reply else reply
    return None if THINK_OPEN in before + reply else text


def gold_of(gold: str) -> str:
    """The right answer itself: boxed ones side by side are one, a sentence is searched."""
    boxes, _ = find_boxes(gold)
    if boxes:
        beside = boxes_at_the_end(gold)
        return ", ".join(beside) if beside[1:] else boxes[-1]
    if len(gold) <= MAX_LENGTH and (read(gold).formulas or read(gold).words):
        return gold
    if (opened := UNCLOSED.search(gold)) is not None:
        return opened[1]
    found = extract(gold)
    return found.text if found.rule in (Rule.PHRASE, Rule.FORMULA, Rule.HASHES) else gold


def _pool(workers: int, timeout_s: float) -> Pool:
    return Pool(workers, timeout_s, memory_mib=MEMORY_MIB, preload=[f"{__package__}.warm"])


def _judgement(decision: Decision, found: Extracted) -> Judgement:
    return Judgement(
        decision.verdict, found.text, found.rule, decision.reason, found.tags, decision.step
    )


def _quick(item: MathItem) -> tuple[Extracted, SlowPair, Decision | None]:
    """Decide without a worker; else the pair that a worker gets, and None."""
    found = Extracted("", Rule.NONE) if item.answer is None else extract(item.answer)
    gold = gold_of(item.gold)
    if found.together and asks_for_several(gold):
        found = Extracted(found.together, found.rule, found.tags)
    if found.rule is Rule.NONE and item.answer and _is_sentence(item.answer, gold):
        found = Extracted(item.answer.strip(), Rule.WHOLE, found.tags)
    rounds = asks_for_rounding(item.policy, item.problem)
    pair = SlowPair(gold, found.text, item.policy, rounds)
    if not found.text:
        return found, pair, Decision(Verdict.WRONG, "no answer", "none")
    for name, text in (("answer", found.text), ("right answer", gold)):
        if len(text) > MAX_LENGTH:
            reason = f"the {name} has {len(text):,} characters, over {MAX_LENGTH:,}"
            return found, pair, Decision(Verdict.UNVERIFIABLE, reason, "length")
    try:
        return found, pair, decide(gold, found.text, item.policy, rounds, item.problem)
    except Exception:  # noqa: BLE001 - the text is a model's; the worker meets the same and says it
        return found, pair, None


def _is_sentence(answer: str, gold: str) -> bool:
    """Whether a reply without a formula is meant as a whole, as the right answer is words."""
    brief = len(answer.strip()) <= LINE and "\n" not in answer.strip()
    return brief and len(gold) <= MAX_LENGTH and read(gold).words != "" and "box" not in answer


def asks_for_several(gold: str) -> bool:
    """Whether the right answer is several things, so that several boxes may be one answer."""
    if len(gold) > MAX_LENGTH:
        return False
    return any(_is_several(tree) for tree in read(gold).formulas[:1])


def _is_several(node: Node) -> bool:
    if isinstance(node, Apply) and node.head in ("list", "set"):
        return len(node.args) > 1
    return has(node, "pm", "mp")


def _compare_all(pairs: Sequence[SlowPair], pool: Executor) -> Iterator[tuple[SlowPair, Decision]]:
    """Compare every pair; those whose worker was lost are tried once more, at the end."""
    lost: list[SlowPair] = []
    for result in pool.map(compare_slowly, pairs):
        if result.failure in (Failure.TIMEOUT, Failure.CRASH):
            lost.append(pairs[result.index])
        else:
            yield pairs[result.index], _decision(result)
    if lost:
        for result in pool.map(compare_slowly, lost):
            yield lost[result.index], _decision(result)


def _decision(result: Result[Decision]) -> Decision:
    """A worker's result as a decision."""
    if result.value is not None:
        return result.value
    if result.failure is Failure.TIMEOUT:
        reason = f"the comparison was {result.message}, twice"
        return Decision(Verdict.UNVERIFIABLE, reason, "limit")
    if result.failure is Failure.CRASH:
        reason = f"the comparison failed twice: {result.message}"
        return Decision(Verdict.INFRA_ERROR, reason, "limit")
    return Decision(Verdict.UNVERIFIABLE, f"the comparison raised {result.message}", "symbolic")
