"""What puts problems of one kind to a model, and judges what it answers.

Judging is a pure matter of one answer: in whatever batches answers come, the verdicts are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..teacher.engine import Prompt
from .math.extract import Rule
from .math.policy import MathPolicy
from .math.policy import policy_of as policy_of_source
from .math.verify import JUDGE, Judgement, MathItem, verify_answers
from .problems import Problem
from .prompt import PromptSettings
from .verdict import Verdict

NO_GOLD = Judgement(Verdict.UNVERIFIABLE, "", Rule.NONE, "the problem states no answer")


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer to judge.

    Attributes:
        problem: what was asked.
        index: which of the problem's samples it is.
        key: the sample's key in the ledger.
        answer: the reply after the thinking; None where the model gave none.
    """

    problem: Problem
    index: int
    key: str
    answer: str | None


class Judge(Protocol):
    """Asks and judges problems of one kind."""

    @property
    def name(self) -> str:
        """What its verdicts are stored under; it changes when its rules do."""
        ...

    def prompt(self, problem: Problem, index: int, settings: PromptSettings) -> Prompt:
        """How one sample is asked; part of its key in the ledger."""
        ...

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        """Yield (key, judgement) for every answer, in no promised order."""
        ...

    def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
        """Whether two extracted answers to a problem, whose texts differ, are the same answer.

        None where this judge cannot tell, so that answers cannot be counted as votes.
        """
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What else decides its verdicts, as plain values: part of a score's provenance."""
        ...


class MathJudge:
    """Compares final answers with the right ones.

    Args:
        policy: what counts as the same answer; None chooses by each problem's source.
        workers: processes for slow comparisons.
        timeout_s: limit of one comparison.
    """

    name = JUDGE

    def __init__(
        self, policy: MathPolicy | None = None, *, workers: int = 2, timeout_s: float = 10.0
    ) -> None:
        self._policy = policy
        self._limits = (workers, timeout_s)

    def prompt(self, problem: Problem, index: int, settings: PromptSettings) -> Prompt:
        """The statement in the user's turn; the same for every sample."""
        return ask_template(problem.statement, settings)

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        """See `Judge.judge`. A problem without a right answer is UNVERIFIABLE."""
        waiting: list[MathItem] = []
        for answered in answers:
            if answered.problem.answer is None:
                yield answered.key, NO_GOLD
            else:
                policy = self._policy or policy_of(answered.problem)
                waiting.append(math_item(answered.key, answered.answer, answered.problem, policy))
        yield from verify_answers(waiting, *self._limits)

    def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
        """See `Judge.alike`: one answer is taken for the right one, and the other is judged."""
        items = [
            math_item(
                str(place),
                f"\\boxed{{{other}}}",
                replace(problem, answer=one),
                self._policy or policy_of(problem),
            )
            for place, (problem, one, other) in enumerate(pairs)
        ]
        same = {
            key
            for key, judgement in verify_answers(items, *self._limits)
            if judgement.verdict is Verdict.CORRECT
        }
        return [str(place) in same for place in range(len(pairs))]

    @property
    def settings(self) -> dict[str, Any]:
        """The policy, and the limit of a comparison."""
        policy = self._policy or MathPolicy()
        return {**policy.model_dump(), "timeout_s": self._limits[1]}


def policy_of(problem: Problem) -> MathPolicy:
    """What counts as the same answer where no suite says so."""
    return policy_of_source(problem.source)


def math_item(key: str, answer: str | None, problem: Problem, policy: MathPolicy) -> MathItem:
    """What the verifier is given: the one place that knows its form."""
    assert problem.answer is not None, "the caller has looked"
    return MathItem(key, answer, problem.answer, policy, problem.statement)


def ask_template(statement: str, settings: PromptSettings) -> Prompt:
    """A statement in the settings' user turn, with their prefill."""
    content = settings.template.format(statement=statement)
    return Prompt.user(content, prefill=settings.prefill)
