"""What became of one sample, in the words that scores are made of, and reading them back.

`answers.jsonl`, which `r1kit eval run` leaves in its folder, holds one sample per line.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import KitError
from .verdict import Verdict

ANSWERS = "answers.jsonl"


class OutcomeError(KitError):
    """Outcomes cannot be read. The message starts with the place: path or path:line."""


class ProblemKey(NamedTuple):
    """What tells one problem from all others: ids are unique within a suite only."""

    suite: str
    problem_id: str

    def __str__(self) -> str:
        return f"{self.suite}: {self.problem_id}" if self.suite else self.problem_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sample of one problem.

    Attributes:
        problem_id: unique within its suite.
        index: which of the problem's samples it is, from 0.
        verdict: INFRA_ERROR also where the engine gave no usable answer.
        answered: whether a final answer was found.
        truncated: whether the reply was cut off at the token limit.
        completion_tokens: tokens written, thinking included; 0 where the engine failed.
        answer_class: the name of the final answer's class of equal answers, within its problem;
            None where there is no answer, or where classes were not formed.
        source: where the problem comes from.
        suite: the suite that it was asked in; empty where there is only one.
    """

    problem_id: str
    index: int
    verdict: Verdict
    answered: bool
    truncated: bool
    completion_tokens: int
    answer_class: str | None = None
    source: str = ""
    suite: str = ""

    @property
    def problem(self) -> ProblemKey:
        """Which problem it belongs to."""
        return ProblemKey(self.suite, self.problem_id)

    @property
    def is_correct(self) -> bool:
        """Whether it is right."""
        return self.verdict is Verdict.CORRECT

    @property
    def is_decided(self) -> bool:
        """Whether it says anything of the model: False where the machinery broke."""
        return self.verdict is not Verdict.INFRA_ERROR


@dataclass(frozen=True, slots=True)
class Answers:
    """What an `answers.jsonl` holds: the outcomes in its order, and every problem's gold answer."""

    path: Path
    outcomes: tuple[Outcome, ...]
    golds: dict[ProblemKey, str | None]


def by_problem(outcomes: Sequence[Outcome]) -> dict[ProblemKey, list[Outcome]]:
    """Outcomes by problem, problems in their order.

    Raises:
        OutcomeError: two outcomes are the same sample of the same problem.
    """
    found: dict[ProblemKey, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.problem, []).append(outcome)
    for key, group in found.items():
        indices = [outcome.index for outcome in group]
        if len(set(indices)) < len(indices):
            twice = next(index for index in indices if indices.count(index) > 1)
            raise OutcomeError(f"problem {key}: sample {twice} is there twice; it counts once")
    return found


def read_answers(path: Path) -> Answers:
    """Read the samples of an evaluation: `answers.jsonl`, or the folder that holds it.

    Raises:
        OutcomeError: there is no such file, it is empty, a line is no sample of an evaluation, or
            a sample is there twice.
    """
    file = path / ANSWERS if path.is_dir() else path
    outcomes: list[Outcome] = []
    golds: dict[ProblemKey, str | None] = {}
    for place, row in _rows(file):
        outcome = _outcome(row, place)
        outcomes.append(outcome)
        gold = row.get("gold")
        golds.setdefault(outcome.problem, None if gold is None else str(gold))
    if not outcomes:
        raise OutcomeError(f"{file}: the file holds no samples; run the evaluation again")
    try:
        by_problem(outcomes)
    except OutcomeError as error:
        raise OutcomeError(f"{file}: {error}") from error
    return Answers(file, tuple(outcomes), golds)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every line as (place, object)."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise OutcomeError(
            f"{file}: {what}; name a folder that `r1kit eval run` has written"
        ) from error
    except UnicodeDecodeError as error:
        raise OutcomeError(f"{file}: not UTF-8 text ({error.reason})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise OutcomeError(
                f"{file}:{number}: not JSON ({error}); the file may have been cut off while it "
                "was copied: run the same evaluation again, it asks nothing twice"
            ) from error
        if not isinstance(row, dict):
            raise OutcomeError(f"{file}:{number}: expected an object, found {type(row).__name__}")
        yield f"{file}:{number}", row


def _outcome(row: dict[str, Any], place: str) -> Outcome:
    """One line as an outcome."""
    said = _field(row, "verdict", str, place)
    try:
        verdict = Verdict(said)
    except ValueError as error:
        raise OutcomeError(
            f"{place}: verdict must be one of {', '.join(Verdict)}, got {said!r}"
        ) from error
    answer_class = row.get("answer_class")
    return Outcome(
        problem_id=_field(row, "id", str, place),
        index=_field(row, "sample", int, place),
        verdict=verdict,
        answered=bool(_field(row, "extracted", str, place)),
        truncated=_field(row, "finish", str, place) == "length",
        completion_tokens=_field(row, "completion_tokens", int, place),
        answer_class=None if answer_class is None else str(answer_class),
        source=str(row.get("source", "")),
        suite=str(row.get("suite", "")),
    )


def _field(row: dict[str, Any], name: str, kind: type, place: str) -> Any:
    """A field of a certain kind, which every sample has."""
    if name not in row:
        raise OutcomeError(
            f"{place}: no {name!r}; the line has {', '.join(sorted(row)) or 'no fields'}, which is "
            "not a sample that `r1kit eval run` writes"
        )
    value = row[name]
    if type(value) is not kind:
        raise OutcomeError(f"{place}: {name} must be {kind.__name__}, got {value!r}")
    return value
