"""How far a judge can be trusted: its grades on answers that people have graded.

Agreement is the share of labelled answers that the judge graded as the label says, with Wilson's
interval; Cohen's kappa (1960) takes off what two graders with these habits would agree on by
chance. A reply without a grade, and no reply, count as disagreement and stand in the confusion.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from .problems import ProblemsError, read_rows
from .score import wilson
from .short_answer import Grade, ShortAnswerJudge, read_grade

UNGRADED = "ungraded"
"""The judge gave no grade, or no reply."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that a person has graded."""

    question: str
    gold: str
    answer: str
    label: Grade


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against labels.

    Attributes:
        value: the share of equal grades.
        n: labelled answers.
        ci95: its 95 % interval.
        kappa: Cohen's kappa; None where label and grade are one and the same throughout.
        confusion: label -> the judge's grade -> how many.
    """

    value: float
    n: int
    ci95: tuple[float, float]
    kappa: float | None
    confusion: dict[str, dict[str, int]]


def load_labels(path: Path | None = None) -> list[Labelled]:
    """Labelled answers from a JSONL file, or those that come with the package.

    Raises:
        ProblemsError: a line lacks a field, or its label is no grade.
    """
    if path is None:
        text = (files(__package__) / "suites" / "judge_labels.jsonl").read_text(encoding="utf-8")
        return [_labelled(json.loads(line), "judge_labels.jsonl") for line in text.splitlines()]
    return [_labelled(row, f"{path}:{number}") for number, row in read_rows(path)]


def measure(judge: ShortAnswerJudge, labels: Sequence[Labelled]) -> Agreement:
    """Have the judge grade the labelled answers, and compare.

    Raises:
        EngineError: the judge cannot be reached; nothing was asked of anybody yet.
    """
    if not labels:
        raise ProblemsError("there are no labelled answers to hold the judge against")
    said = judge.grade([(each.question, each.gold, each.answer) for each in labels], is_first=True)
    grades = [None if isinstance(reply, str) else read_grade(reply.answer) for reply in said]
    return compare([each.label for each in labels], grades)


def compare(labels: Sequence[Grade], grades: Sequence[Grade | None]) -> Agreement:
    """Agreement of grades with labels; None is no grade."""
    given = [str(grade or UNGRADED) for grade in grades]
    pairs = Counter(zip(map(str, labels), given, strict=True))
    n = len(labels)
    value = sum(count for (label, grade), count in pairs.items() if label == grade) / n
    by_label, by_grade = Counter(map(str, labels)), Counter(given)
    chance = sum(by_label[name] * by_grade[name] for name in by_label) / n**2
    kappa = None if chance == 1 else (value - chance) / (1 - chance)
    confusion = {
        str(label): {grade: pairs[str(label), grade] for grade in (*map(str, Grade), UNGRADED)}
        for label in Grade
    }
    return Agreement(value, n, wilson(value, n), kappa, confusion)


def _labelled(row: dict[str, Any], place: str) -> Labelled:
    texts = [row.get(name) for name in ("question", "gold", "answer")]
    label = str(row.get("label", "")).strip().lower().replace(" ", "_")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ProblemsError(f"{place}: a labelled answer needs question, gold, answer and label")
    if label not in {str(grade) for grade in Grade}:
        raise ProblemsError(
            f"{place}: label must be one of {', '.join(Grade)}, got {row.get('label')!r}"
        )
    question, gold, answer = (str(text) for text in texts)
    return Labelled(question, gold, answer, Grade(label))
