"""A second opinion on the math verifier: another model looks at what it left open, and at samples.

What the verifier calls UNVERIFIABLE is graded by the model, and its grade becomes the verdict,
under the step `judge model`. Of all other answers a share is graded as well, drawn by their keys,
so that the same ones are drawn each time; there the verifier's verdict stands, and every
disagreement is kept, with both opinions, for people to look at. What a model
says is an opinion: rule-based verifiers are nearly always right where they decide, and models can
be talked into things (arXiv:2505.22203).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..teacher.engine import Completion, Finish, Prompt
from .judge import Answered, Judge
from .math.verify import Judgement
from .problems import Problem
from .prompt import PromptSettings
from .short_answer import Grade, ShortAnswerJudge, read_grade
from .verdict import Verdict

DISAGREEMENTS = "disagreements.jsonl"
STEP = "judge model"


@dataclass(frozen=True, slots=True)
class AuditCounts:
    """What came of an audit.

    Attributes:
        left_open: answers that the verifier could not decide and the model was asked about.
        decided: those of them that the model decided.
        audited: answers that the verifier had decided and the model graded as well.
        disagreements: those of them that the model graded otherwise.
        ungraded: answers of either kind for which the model gave no grade.
    """

    left_open: int = 0
    decided: int = 0
    audited: int = 0
    disagreements: int = 0
    ungraded: int = 0


class AuditedJudge:
    """A judge whose verdicts another model completes and checks.

    Args:
        inner: the judge that is audited.
        model: who gives the second opinion.
        share: of the answers that `inner` decides, how many are graded as well, in [0, 1].
    """

    def __init__(self, inner: Judge, model: ShortAnswerJudge, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        self._inner, self._model, self._share = inner, model, share
        self._opinions: dict[str, _Opinion] = {}

    @property
    def name(self) -> str:
        """The inner judge's with the model's behind it: their verdicts are not those of one."""
        return f"{self._inner.name}+{self._model.name}"

    def prompt(self, problem: Problem, index: int, settings: PromptSettings) -> Prompt:
        """As the inner judge asks."""
        return self._inner.prompt(problem, index, settings)

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        """See `Judge.judge`. Answers without anything to grade are left to the inner judge."""
        by_key = {answered.key: answered for answered in answers}
        asked: list[tuple[Answered, Judgement]] = []
        for key, judgement in self._inner.judge(answers):
            if judgement.extracted and self._is_asked(key, judgement):
                asked.append((by_key[key], judgement))
            else:
                yield key, judgement
        triples = [(a.problem.statement, a.problem.answer or "", j.extracted) for a, j in asked]
        for (answered, judgement), said in zip(asked, self._model.grade(triples), strict=True):
            opinion = _Opinion(answered, judgement, _grade_of(said), _words_of(said))
            self._opinions[answered.key] = opinion
            yield answered.key, opinion.judgement()

    def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
        """As the inner judge compares."""
        return self._inner.alike(pairs)

    @property
    def settings(self) -> dict[str, Any]:
        """The inner judge's, and who is asked for how many."""
        return {**self._inner.settings, "audit": {"share": self._share, **self._model.settings}}

    @property
    def counts(self) -> AuditCounts:
        """What came of it so far."""
        open_ = [o for o in self._opinions.values() if o.was_open]
        rest = [o for o in self._opinions.values() if not o.was_open]
        return AuditCounts(
            left_open=len(open_),
            decided=sum(o.grade is not None for o in open_),
            audited=sum(o.grade is not None for o in rest),
            disagreements=sum(o.disagrees for o in rest),
            ungraded=sum(o.grade is None for o in self._opinions.values()),
        )

    def write(self, folder: Path) -> None:
        """Write every disagreement, and what the model decided alone, whole and sorted by key."""
        kept = [o for _, o in sorted(self._opinions.items()) if o.disagrees or o.was_open]
        text = "".join(json.dumps(o.row(), ensure_ascii=False) + "\n" for o in kept)
        partial = folder / f"{DISAGREEMENTS}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / DISAGREEMENTS)

    def _is_asked(self, key: str, judgement: Judgement) -> bool:
        """Whether the model sees an answer: it was left open, or its key draws it."""
        if judgement.verdict is Verdict.UNVERIFIABLE:
            return True
        decided = judgement.verdict in (Verdict.CORRECT, Verdict.WRONG)
        return decided and int(key[:8], 16) < self._share * 16**8


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What the inner judge and the model say of one answer."""

    answered: Answered
    own: Judgement
    grade: Grade | None
    words: str

    @property
    def was_open(self) -> bool:
        return self.own.verdict is Verdict.UNVERIFIABLE

    @property
    def verdict(self) -> Verdict | None:
        """The model's."""
        if self.grade is None:
            return None
        return Verdict.CORRECT if self.grade is Grade.CORRECT else Verdict.WRONG

    @property
    def disagrees(self) -> bool:
        return not self.was_open and self.verdict not in (None, self.own.verdict)

    def judgement(self) -> Judgement:
        """The verdict that stands."""
        if not self.was_open or self.verdict is None:
            return self.own
        reason = f"{self.own.reason}; the judge model: {self.words}"
        return replace(self.own, verdict=self.verdict, reason=reason, step=STEP)

    def row(self) -> dict[str, Any]:
        """For people to look at."""
        return {
            "id": self.answered.problem.id,
            "sample": self.answered.index,
            "key": self.answered.key,
            "statement": self.answered.problem.statement,
            "gold": self.answered.problem.answer,
            "extracted": self.own.extracted,
            "verifier": self.own.verdict,
            "step": self.own.step,
            "reason": self.own.reason,
            "model": self.verdict,
            "words": self.words,
        }


def _grade_of(said: Completion | str) -> Grade | None:
    """The model's grade; None where it gave none."""
    if isinstance(said, str) or said.finish is not Finish.STOP:
        return None
    return read_grade(said.answer)


def _words_of(said: Completion | str) -> str:
    text = said if isinstance(said, str) else said.answer or ""
    return " ".join(text.split())[-200:]
