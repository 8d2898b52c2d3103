"""What a worker gets and how it answers, importable without the heavy modules that it needs."""

from dataclasses import dataclass

from ..verdict import Verdict
from .decide import Decision
from .policy import MathPolicy


@dataclass(frozen=True, slots=True)
class SlowPair:
    """A right answer and an answer that the quick comparison left open.

    `rounds` says whether a correctly rounded decimal is right.
    """

    gold: str
    answer: str
    policy: MathPolicy
    rounds: bool


def compare_slowly(pair: SlowPair) -> Decision:
    """In a worker: load sympy, and compare."""
    from .slow import compare

    found = compare((pair.gold, pair.answer, pair.policy, pair.rounds))
    verdict = {True: Verdict.CORRECT, False: Verdict.WRONG, None: Verdict.UNVERIFIABLE}[found.same]
    return Decision(verdict, found.reason, found.step)
