"""The quick comparison: what strings and exact fractions can settle without a formula system.

It says CORRECT where both sides are the same string, number or list of numbers, and WRONG only
where both sides are exact numbers that differ. All else is None: the slow comparison decides.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from ..verdict import Verdict
from .normal import Plain, based, brackets, key, read, words

ASSIGNED = re.compile(r"\s*\$?\s*[A-Za-z]\s*=\s*(?=[^=])")
DOTS = re.compile(r"\\[lcv]?dots|\.\.\.|…")


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and why."""

    verdict: Verdict
    reason: str


def decide(gold: str, answer: str, *, ordered: bool | None = None) -> Decision | None:
    """Settle a pair quickly, or return None.

    Args:
        gold: the right answer.
        answer: the extracted answer.
        ordered: whether the order of a list without brackets matters. None: unknown, so the same
            numbers in another order are UNVERIFIABLE. In `(...)` it always matters, in `{...}`
            never.
    """
    if key(gold) == key(answer) and key(gold):
        return Decision(Verdict.CORRECT, "the same text")
    if "=" not in gold:
        answer = ASSIGNED.sub("", answer, count=1)  # `x = 5` names what it answers
    for rule in (_bases, _number_pair, _shapes, _word_pair, _dots):
        decision = rule(gold, answer, ordered)
        if decision is not None:
            return decision
    return None


def _number_pair(gold: str, answer: str, ordered: bool | None) -> Decision | None:
    """Two numbers, or two lists of numbers."""
    want, got = read(gold), read(answer)
    if want is None or got is None:
        return None
    if (want.kind == "number") != (got.kind == "number"):
        listed = read(gold, as_list=True), read(answer, as_list=True)  # `1,234` may be two numbers
        if listed[0] is None or listed[1] is None or listed[0].kind == "number":
            return None
        want, got = listed[0], listed[1]
        same = _lists(want, got, ordered)
        return same if same.verdict is Verdict.CORRECT else None
    if want.kind == "number":
        return _numbers(want, got)
    return _lists(want, got, ordered)


def _numbers(want: Plain, got: Plain) -> Decision | None:
    """One number each, perhaps with units."""
    (gold,), (value,) = want.values, got.values
    if want.unit and got.unit and want.unit != got.unit:
        return Decision(Verdict.UNVERIFIABLE, f"the units differ: {want.unit} and {got.unit}")
    if gold == value:
        return Decision(Verdict.CORRECT, "the same number")
    if "%" in (want.unit, got.unit) and want.unit != got.unit:
        return None  # 28 % may be meant as 0.28
    rounded = want.decimal != got.decimal and not (_terminates(gold) and _terminates(value))
    return None if rounded else Decision(Verdict.WRONG, "another number")


def _lists(want: Plain, got: Plain, ordered: bool | None) -> Decision:
    """Lists of numbers, in brackets or without."""
    if "{}" in (want.kind, got.kind) and {want.kind, got.kind} - {"{}", "bare"}:
        return Decision(Verdict.WRONG, "a set is neither a tuple nor an interval")
    if {want.kind, got.kind} - {"bare", "{}", "()"} and want.kind != got.kind:
        return Decision(Verdict.WRONG, f"the brackets differ: {want.kind} and {got.kind}")
    if want.values == got.values:
        return Decision(Verdict.CORRECT, "the same numbers")
    if want.kind == "{}":
        same = set(want.values) == set(got.values)
        return Decision(Verdict.CORRECT, "the same set") if same else _other_numbers()
    if want.kind == "bare" and sorted(want.values) == sorted(got.values) and ordered is not True:
        if ordered is False:
            return Decision(Verdict.CORRECT, "the same numbers in another order")
        return Decision(Verdict.UNVERIFIABLE, "the same numbers in another order")
    return _other_numbers()


def _other_numbers() -> Decision:
    return Decision(Verdict.WRONG, "other numbers")


def _bases(gold: str, answer: str, ordered: bool | None) -> Decision | None:
    """Numbers with a written base, such as `204_5`."""
    want, got = based(gold), based(answer)
    if want is not None and got is not None:
        same = want == got
        return Decision(
            Verdict.CORRECT if same else Verdict.WRONG,
            "the same digits and base" if same else "other digits or another base",
        )
    if (want is None) == (got is None):
        return None
    digits, base = want or got or ("", 0)
    plain = read(answer if want else gold)
    try:
        meant = {Fraction(int(digits, base)), Fraction(int(digits))}
    except ValueError:  # no such base, or digits beyond ten
        return None
    if plain is None or plain.kind != "number":
        return None
    if plain.values[0] in meant:
        return Decision(Verdict.UNVERIFIABLE, "only one side says in which base it is written")
    return Decision(Verdict.WRONG, "another number in either base")


def _shapes(gold: str, answer: str, ordered: bool | None) -> Decision | None:
    """A set against a tuple or an interval, whatever stands in them."""
    shapes = {brackets(gold), brackets(answer)}
    if "{}" in shapes and shapes & {"()", "[]", "(]", "[)"}:
        return Decision(Verdict.WRONG, "a set is neither a tuple nor an interval")
    return None


def _word_pair(gold: str, answer: str, ordered: bool | None) -> Decision | None:
    """Answers in words. Single words that differ are wrong; nobody here can compare sentences."""
    want, got = words(gold), words(answer)
    if want is None or (got is not None and want != got and sorted(want) == sorted(got)):
        return None  # `ab` and `ba` may be products
    if want == got:
        return Decision(Verdict.CORRECT, "the same words")
    if " " in want or (got is not None and " " in got):
        return Decision(Verdict.UNVERIFIABLE, "answers in words that differ")
    return Decision(Verdict.WRONG, "another word") if got is not None else None


def _dots(gold: str, answer: str, ordered: bool | None) -> Decision | None:
    """What an ellipsis leaves out cannot be compared."""
    if DOTS.search(gold) or DOTS.search(answer):
        return Decision(Verdict.UNVERIFIABLE, "an ellipsis leaves part of the answer out")
    return None


def _terminates(value: Fraction) -> bool:
    """Whether a fraction has a finite decimal expansion."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
