"""Two answers to a verdict, in the caller's own process and within a bounded time.

    text      the same spelling
    choice    letters of a multiple choice
    words     answers in words
    others    formulas, by kind: `typed.py`

Undecided pairs are left to the slow reader (`slow.py`): the verdict is then None.
"""

import re
from dataclasses import dataclass

from ..verdict import Verdict
from .policy import MathPolicy
from .reading import SYNONYMS, WORDS, Reading, choice_of, is_number, read, spelling_key
from .size import is_tame
from .tree import Symbol, has
from .typed import SETTLED, Comparison, Same

ASKS_FOR_ROUNDING = re.compile(
    r"\bround(?:ed|ing)?\s+(?:it\b|off\b|up\b|down\b|to\b|your\b|the\s+answer|answers?\b|each\b)"
    r"|\bto the (?:nearest|closest)\b|\bnearest (?:\w+th|whole|integer|cent|dollar|percent|degree)"
    r"|\bdecimal (?:place|point|form|digit|approximation|number)|\b(?:as|in) (?:a )?decimals?\b"
    r"|\bapproximat|\bsig(?:nificant|\.)? (?:digit|fig)|\bestimate\b|\d\s*(?:d\.?\s?p\b|s\.?\s?f\b)"
    r"|四舍五入|保留[^。，]{0,8}(?:位|小数|有效|整数)|精确到|近似|用小数|小数(?:表示|作答|形式|点后)|位小数",
    re.IGNORECASE,
)
ASKS_FOR_EXACTNESS = re.compile(
    r"\b(?:do not|don't|without|never|avoid) (?:round|approximat|us(?:e|ing) (?:a )?decimal)"
    r"|\bexact (?:form|value)|\bno decimal|不(?:要)?(?:取)?近似|不(?:要)?四舍五入",
    re.IGNORECASE,
)
PLAIN_CHOICE = re.compile(r"\s*(?:\\(?:text|textbf|mathrm)\{)?\s*\(?[A-J]\)?\s*\}?\.?\s*")
LETTERS = re.compile(r"[A-J](?:\s*+(,|、|and|\\text\{\s*and\s*\})?+\s*+[A-J]){1,9}")
TEXT_AND = re.compile(r"\\text|and")
ONE_LETTER = re.compile(r"[A-J]")
LETTER_AND_TEXT = re.compile(r"\(?[A-J](?:\)|[.:])\s")
INTEGER = re.compile(r"[+-]?\d{1,4000}")


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, why, and which step of the comparison it is from."""

    verdict: Verdict
    reason: str
    step: str = ""


def asks_for_rounding(policy: MathPolicy, problem: str) -> bool:
    """Whether a correctly rounded decimal is right for this problem."""
    if policy.rounding == "asked":
        exact = ASKS_FOR_EXACTNESS.search(problem) is not None
        return not exact and ASKS_FOR_ROUNDING.search(problem) is not None
    return policy.rounding == "always"


def decide(
    gold: str, answer: str, policy: MathPolicy, rounds: bool, problem: str = ""
) -> Decision | None:
    """Settle a pair, or return None where the slow reader may know more.

    Args:
        gold: the right answer.
        answer: the extracted answer.
        policy: what counts as the same.
        rounds: whether a correctly rounded decimal is right here.
        problem: the statement; where it asks for `a+b`, `a+b = 10` answers 10.
    """
    if gold == answer:
        return Decision(Verdict.CORRECT, "the same text", "text")
    if INTEGER.fullmatch(gold) and INTEGER.fullmatch(answer):
        equal = int(gold) == int(answer)
        return _decision(Same(equal, "number", "the same number" if equal else "another number"))
    want, got = read(gold), read(answer)
    if problem and "=" in got.key and "=" not in want.key:
        got = _what_was_asked(got, problem)
    if want.key == got.key and want.key:
        return Decision(Verdict.CORRECT, "the same text", "text")
    for rule in (_choices, _words):
        same = rule(gold, answer, want, got)
        if same is not None:
            return _decision(same)
    for reading in (want, got):
        if reading.is_hopeless:
            step = "words" if reading.reason == WORDS else "limit"
            return Decision(Verdict.UNVERIFIABLE, reading.reason, step)
    if not want.formulas or not got.formulas:
        return None
    if not all(is_tame(tree) for tree in (*want.formulas, *got.formulas)):
        return None
    found = compare_readings(want, got, Comparison(policy, rounds))
    open_ = found.same is None and found.step not in SETTLED
    if open_ and (found.step == "time" or needs_sympy(want) or needs_sympy(got)):
        return None
    return _decision(found)


VALUELESS = ("int", "sum", "prod", "gcd", "lcm", "det", "text", "lim", "deriv")
"""Heads that the quick arithmetic may have no value for, and sympy may."""


def needs_sympy(reading: Reading) -> bool:
    """Whether the quick reader could not read this, or may have no values for what it read."""
    return not reading.formulas or has(reading.formulas[0], *VALUELESS)


def _decision(same: Same) -> Decision:
    verdict = {True: Verdict.CORRECT, False: Verdict.WRONG, None: Verdict.UNVERIFIABLE}[same.same]
    return Decision(verdict, same.reason, same.step)


def compare_readings(want: Reading, got: Reading, comparison: Comparison) -> Same:
    """Every reading of one against every reading of the other; one that fits decides."""
    undecided: Same | None = None
    last: Same | None = None
    for one in want.formulas:
        for other in got.formulas:
            found = comparison.compare(one, other)
            if found.same is True:
                return found
            undecided = found if found.same is None else undecided
            last = found if last is None else last
    assert last is not None, "both have readings"
    return last if undecided is None else undecided


def _what_was_asked(got: Reading, problem: str) -> Reading:
    """The right side of `a+b = 10` where the problem names the left side."""
    left, _, right = got.text.rpartition("=")
    left = spelling_key(left.rpartition("=")[2])
    named = len(left) > 1 and left in spelling_key(problem.replace("$", " "))
    return read(right) if named and right.strip() else got


def _choices(gold: str, answer: str, want: Reading, got: Reading) -> Same | None:
    """The letter of a multiple choice against another, or against a letter with its text."""
    runs = LETTERS.fullmatch(want.text), LETTERS.fullmatch(got.text)
    if runs[0] and runs[1] and (runs[0][1] or runs[1][1]):
        chosen = [sorted(ONE_LETTER.findall(TEXT_AND.sub("", side.text))) for side in (want, got)]
        return Same(True, "choice", "the same letters") if chosen[0] == chosen[1] else None
    if not PLAIN_CHOICE.fullmatch(want.text):
        return None
    letter, other = choice_of(want.text), choice_of(got.text)
    if not other:
        return None
    marked = "(" in got.text or "text" in got.text or len(got.text) > 2
    if letter == other or (marked and letter == other.upper()):
        return Same(True, "choice", "the same letter")
    lettered = PLAIN_CHOICE.fullmatch(got.text) or LETTER_AND_TEXT.match(got.text)
    if "(" in gold or "text" in gold or lettered:
        return Same(False, "choice", "another letter")
    return None


def _words(gold: str, answer: str, want: Reading, got: Reading) -> Same | None:
    """Answers in words; nobody here can compare sentences."""
    if want.words and got.words:
        return _two_phrases(want, got)
    if want.words and not want.formulas and got.formulas:
        if len(want.words.split()) > 1:
            return Same(None, "words", "words against a formula")
        if len(want.words) >= 3 and _is_value(got):
            return Same(False, "words", "a value where a word is right")
    if got.words and not got.formulas and want.formulas and len(got.words) >= 3 and _is_value(want):
        return Same(False, "words", "words where a value is right")
    return None


def _is_value(reading: Reading) -> bool:
    return is_number(reading.formulas[0]) or not isinstance(reading.formulas[0], Symbol)


def _two_phrases(want: Reading, got: Reading) -> Same | None:
    if want.words == got.words:
        return Same(True, "words", "the same words")
    if want.formulas and got.formulas and want.words not in ("yes", "no"):
        return None  # `ab` and `ba` may be products
    one, other = want.words.split(), got.words.split()
    said = SYNONYMS.get(other[0], other[0])
    if want.words in ("yes", "no") and said in ("yes", "no"):
        return Same(said == want.words, "words", "yes or no")
    if len(one) == len(other) == 1:
        if _singular(one[0]) == _singular(other[0]):
            return Same(True, "words", "the same word")
        return Same(False, "words", "another word")
    if sorted({*one} ^ {*other}) == ["not"]:
        return Same(False, "words", "one says that the other is not so")
    joined = [_joined_words(side.text) for side in (want, got)]
    if len(joined[0]) > 1 and joined[0] == joined[1]:
        return Same(True, "words", "the same words in another order")
    if set(one) <= set(other) or set(other) <= set(one):
        return Same(None, "words", "one says more than the other")
    return Same(None, "words", "answers in words that differ")


def _joined_words(tidy: str) -> list[str]:
    """`Bob and Alice` as `alice` and `bob`; a list of one where nothing is joined."""
    text = re.sub(r"\\text\s*|[{}]", "", tidy).casefold()
    return sorted(part.strip() for part in re.split(r",|\band\b", text) if part.strip())


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
