"""Multiple choice: the options in another order for every sample, and the letter in the reply.

The order is drawn from (seed, problem, sample), so that no letter is the right one more often than
chance has it, and it is part of the prompt, so that the ledger keeps the orders apart.

Where the choice stands in a reply, the first rule that fires wins:

    boxed    the last box that is not empty: a letter, with or without its option behind it, or an
             option's text
    phrase   what follows the last "answer is" or "answer:"
    letter   the last letter that stands alone, as in `(C)`, `**C**` or `C.`; a bare `A` within a
             sentence is an article
    text     the last line, if it is an option's text

A letter beyond the options, or several letters in a box, is WRONG: none of the options was chosen.
Words that stand where an answer stands and are no option's are UNVERIFIABLE.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from ..teacher.engine import Prompt
from .judge import Answered, ask_template
from .math.extract import TAIL, Rule, find_boxes
from .math.verify import Judgement
from .problems import Problem
from .prompt import PromptSettings
from .suites.suite import ChoiceProblem
from .verdict import Verdict

CHOICE_JUDGE = "choice/1"

STYLE = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|bf|rm|emph)\b|[${}*_`]|\\[()\[\],;! ]"
)
"""Formatting around a letter."""

LEADING = re.compile(
    r"\s*(?:option|choice|answer)?\s*[\[(]?([A-Za-z])[\])]?\s*(?:[).:,-]\s*(.*))?",
    re.DOTALL | re.IGNORECASE,
)
"""A letter, and what stands behind it after a mark: `C`, `(c)`, `C.`, `C) 4.2 eV`, `Option C`."""

BRACKETED = re.compile(r"\s*[\[(]([A-Z])[\])]\s*(.*)", re.DOTALL)
SEVERAL = re.compile(r"\s*\(?[A-Z]\)?(?:\s*(?:,|and|or|&|/)\s*\(?[A-Z]\)?)+\s*")
PHRASE = re.compile(
    r"\b(?:answer|option|choice)(?:\s+is|\s*[:=])[\s:*]*(?!\s)|(?:答案|选项)(?:是|为|[::])\s*",
    re.IGNORECASE,
)
ALONE = re.compile(r"[\[(]([A-Z])[\])]|\*\*([A-Z])\*\*|(?<![\w'-])([A-Z])(?=[.):]?(?:\s|$|[,;。]))")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reply chose.

    Attributes:
        option: the place of the chosen option as it was shown, from 0; None where none was.
        text: the words that said so; empty where nothing was said.
        rule: which rule found it.
        is_unclear: whether something was said that cannot be matched with an option.
    """

    option: int | None
    text: str
    rule: Rule
    is_unclear: bool = False


class ChoiceJudge:
    """Asks with shuffled options and judges the letter.

    Args:
        seed: the orders are drawn from it, the problem's id and the sample's index.
    """

    name = CHOICE_JUDGE

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def prompt(self, problem: Problem, index: int, settings: PromptSettings) -> Prompt:
        """The question with its options in this sample's order."""
        options = shown(_choices(problem), self._seed, problem.id, index)
        lines = [f"{ascii_uppercase[place]}) {text}" for place, text in enumerate(options)]
        return ask_template("\n".join([problem.statement, "", *lines]), settings)

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        """See `Judge.judge`. What was extracted is the chosen option's text, not its letter."""
        for answered in answers:
            problem = answered.problem
            options = shown(_choices(problem), self._seed, problem.id, answered.index)
            yield answered.key, _judgement(answered.answer, options, problem.answer)

    def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
        """See `Judge.alike`: options differ."""
        return [False] * len(pairs)

    @property
    def settings(self) -> dict[str, Any]:
        """What the orders are drawn from."""
        return {"seed": self._seed}


def shown(choices: Sequence[str], seed: int, problem_id: str, index: int) -> list[str]:
    """The options in the order of one sample: the same on every machine."""
    name = json.dumps(["choices", seed, problem_id, index], ensure_ascii=False)
    draw = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest()))
    places = sorted(range(len(choices)), key=lambda place: (draw.random(), place))
    return [choices[place] for place in places]


def find_choice(reply: str, options: Sequence[str]) -> Choice:
    """Which of the options, as they were shown, a reply chose."""
    boxes = [box for box in find_boxes(reply)[0] if box]
    if boxes:
        return _read(boxes[-1], options, Rule.BOXED)
    tail = reply[-TAIL:].strip()
    spoken = Choice(None, "", Rule.NONE)
    phrases = list(PHRASE.finditer(tail))
    if phrases:
        said = tail[phrases[-1].end() :].split("\n")[0]
        spoken = _read(said, options, Rule.PHRASE)
        if not spoken.is_unclear:
            return spoken
    alone = [
        next(filter(None, found.groups()))
        for found in ALONE.finditer(tail)
        if _is_letter(found, tail)
    ]
    in_range = [letter for letter in alone if letter in ascii_uppercase[: len(options)]]
    if in_range:
        return Choice(ascii_uppercase.index(in_range[-1]), in_range[-1], Rule.WHOLE)
    last_line = tail.split("\n")[-1] if tail else ""
    place = _option_of(last_line, options)
    if place is not None:
        return Choice(place, last_line, Rule.WHOLE)
    return spoken


def _choices(problem: Problem) -> tuple[str, ...]:
    assert isinstance(problem, ChoiceProblem), "suites of multiple choice hold nothing else"
    return problem.choices


def _judgement(reply: str | None, options: Sequence[str], gold: str | None) -> Judgement:
    choice = find_choice(reply or "", options)
    if choice.option is not None:
        letter, text = ascii_uppercase[choice.option], options[choice.option]
        verdict = Verdict.CORRECT if text == gold else Verdict.WRONG
        return Judgement(verdict, text, choice.rule, f"it chose {letter}")
    if choice.is_unclear:
        reason = "what it gave as its answer is neither a letter nor an option's text"
        return Judgement(Verdict.UNVERIFIABLE, choice.text, choice.rule, reason)
    reason = "it chose none of the options" if choice.text else "no answer"
    return Judgement(Verdict.WRONG, choice.text, choice.rule, reason)


def _read(said: str, options: Sequence[str], rule: Rule) -> Choice:
    """An answer that stands where answers stand: a box, or behind `answer:`."""
    place = _option_of(said, options)
    if place is not None:
        return Choice(place, said, rule)
    plain = STYLE.sub(" ", said).strip()
    if SEVERAL.fullmatch(plain):
        return Choice(None, said, rule)
    found = BRACKETED.fullmatch(plain) or LEADING.fullmatch(plain)
    if found is None:
        return Choice(None, said, rule, is_unclear=True)
    place = ascii_uppercase.index(found.group(1).upper())
    return Choice(place if place < len(options) else None, said, rule)


def _option_of(text: str, options: Sequence[str]) -> int | None:
    """The option whose text this is, formatting aside; None where there is none."""
    wanted = _plain(text)
    places = [place for place, option in enumerate(options) if _plain(option) == wanted]
    return places[0] if wanted and len(places) == 1 else None


def _plain(text: str) -> str:
    return " ".join(STYLE.sub(" ", text).split()).rstrip(".").casefold()


def _is_letter(found: re.Match[str], tail: str) -> bool:
    """Whether a lone capital is a letter: a bare `A` or `I` before a word is none."""
    if found.group(3) not in ("A", "I"):
        return True
    return re.match(r"[.):,;。]|\s*$", tail[found.end() :]) is not None
