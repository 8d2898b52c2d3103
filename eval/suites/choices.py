"""Rows of multiple choice: a question, its options, and which of them is right.

Two shapes are read: `question`, `choices` (a list of texts) and `answer` (the place of the right
one counted from 0, its letter, or its text), and GPQA's columns.
"""

import json
import re
from collections.abc import Iterable
from string import ascii_uppercase
from typing import Any

from ..problems import Naming, ProblemsError
from .suite import ChoiceProblem

STATEMENT = ("question", "problem", "statement", "prompt")
GPQA = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
MAX_CHOICES = len(ascii_uppercase)


def has_choices(row: dict[str, Any]) -> bool:
    """Whether a row is multiple choice."""
    return _field(row, "choices") is not None or GPQA[0] in row


def make_choices(rows: Iterable[tuple[int, dict[str, Any]]], naming: Naming) -> list[ChoiceProblem]:
    """Problems from rows.

    Raises:
        ProblemsError: a row is no question with options; it is named by its place and number.
    """
    problems: list[ChoiceProblem] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        problem = _problem(row, f"{naming.place}:{number}", naming, number)
        if problem.id in seen:
            raise ProblemsError(
                f"{naming.place}:{number}: the id {problem.id!r} already stands on line "
                f"{seen[problem.id]}; ids must be unique within a file"
            )
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ProblemsError(f"{naming.place}: the file holds no problems (it is empty)")
    return problems


def _problem(row: dict[str, Any], place: str, naming: Naming, number: int) -> ChoiceProblem:
    statement = next((_field(row, name) for name in STATEMENT if _field(row, name)), None)
    if not isinstance(statement, str) or not statement.strip():
        raise ProblemsError(
            f"{place}: no question (looked for {', '.join(STATEMENT)}); the line has "
            f"{', '.join(map(str, row)) or 'no fields'}"
        )
    options = _options(row, place)
    right = 0 if GPQA[0] in row else _right(row, options, place)
    own_id = _field(row, "id") or row.get("Record ID")
    subject = _field(row, "subject") or row.get("High-level domain")
    return ChoiceProblem(
        id=str(own_id) if own_id not in (None, "") else f"{naming.id_stem}-{number}",
        statement=statement.strip(),
        answer=options[right],
        source=f"{naming.source}/{subject}" if subject else naming.source,
        split="test",
        choices=options,
    )


def _options(row: dict[str, Any], place: str) -> tuple[str, ...]:
    """The texts of the options, all different."""
    given: Any = [row.get(name) for name in GPQA] if GPQA[0] in row else _field(row, "choices")
    if isinstance(given, dict):
        given = given.get("text")  # {"text": [...], "label": [...]}, as ARC has it
    if isinstance(given, str):
        try:
            given = json.loads(given)  # in a cell of a table
        except ValueError:
            given = None
    if not isinstance(given, list | tuple) or not all(
        isinstance(o, str | int | float) for o in given
    ):
        raise ProblemsError(f"{place}: choices must be a list of texts, got {given!r}"[:300])
    options = tuple(str(option).strip() for option in given)
    if not 2 <= len(options) <= MAX_CHOICES:
        raise ProblemsError(
            f"{place}: choices must be 2 to {MAX_CHOICES} texts, got {len(options)}"
        )
    if "" in options or len(set(options)) < len(options):
        raise ProblemsError(f"{place}: choices must be different texts, got {list(options)}"[:300])
    return options


def _right(row: dict[str, Any], options: tuple[str, ...], place: str) -> int:
    """Which option is right: by its text, its letter or its place from 0."""
    answer = _field(row, "answer")
    if answer is None:
        answer = _field(row, "answerKey")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(options):
            return answer
        raise ProblemsError(
            f"{place}: answer must be a place from 0 to {len(options) - 1}, got {answer}"
        )
    text = answer.strip() if isinstance(answer, str) else ""
    readings = set()
    if text in options:
        readings.add(options.index(text))
    letters = ascii_uppercase[: len(options)]
    if re.fullmatch(f"[{letters}]", text):
        readings.add(letters.index(text))
    if len(readings) == 1:
        return readings.pop()
    what = "two options: by its letter, and by its text" if readings else "none of the choices"
    raise ProblemsError(
        f"{place}: answer {answer!r} names {what}; give its place from 0, its letter or its text"
    )


def _field(row: dict[str, Any], name: str) -> Any:
    """A field's value, its name in any case; None where there is none."""
    if name in row:
        return row[name]
    return next(
        (value for key, value in row.items() if str(key).casefold() == name.casefold()), None
    )
