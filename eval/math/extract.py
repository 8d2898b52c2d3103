"""Where in a reply its final answer stands, by fixed rules of which the first that fires wins.

    boxed    the last \\boxed{...} or \\fbox{...} whose braces balance and that is not empty
    hashes   what follows the last #### (GSM8K's own format)
    phrase   what follows the last "answer is" or "answer:", to the end of its sentence
    formula  the last $...$, $$...$$, \\(...\\) or \\[...\\]
    whole    the whole reply, if it is one line that is not a sentence
    number   the last number
    none     there is no answer

Only the reply after the thinking is given to these rules. With several boxes the last one is the
answer, and the result is tagged `several boxes`; a box that never closes is no box, and is tagged
`unbalanced box`. Every rule takes time linear in the reply.
"""

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

TAIL = 4000
"""Characters from the end that all rules but the box look at."""

LINE = 200
"""The longest one-line reply that can be an answer as a whole, in characters."""

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
UNBRACED = re.compile(r"-?\d+(?:\.\d+)?|\\[A-Za-z]+|[^\s{}\\]")
PHRASE = re.compile(r"\banswer(?:\s+is|\s*[:=])[\s:*]*(?!\s)", re.IGNORECASE)
FORMULA = re.compile(
    r"\$\$(?P<display>[^$]{1,2000})\$\$"
    r"|(?<!\\)\$(?P<inline>(?:\\\$|[^$\n]){1,2000}?)(?<!\\)\$"
    r"|\\\((?P<paren>.{1,2000}?)\\\)"
    r"|\\\[(?P<bracket>.{1,2000}?)\\\]",
    re.DOTALL,
)
NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?(?:/\d+)?|\.\d+)"
)
SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)")
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
CODE = re.compile(r"__|(?<!\\)\b(?!sin|cos|tan|log|ln|exp|sqrt)[a-z]{2,}\(")


class Rule(StrEnum):
    """Which rule found the answer."""

    BOXED = "boxed"
    HASHES = "hashes"
    PHRASE = "phrase"
    FORMULA = "formula"
    WHOLE = "whole"
    NUMBER = "number"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Extracted:
    """A final answer: its text (empty under the rule `none`), the rule, and oddities."""

    text: str
    rule: Rule
    tags: tuple[str, ...] = ()


def extract(reply: str) -> Extracted:
    """Find the final answer in what was written after the thinking."""
    boxes, unbalanced = find_boxes(reply)
    tags: tuple[str, ...] = ("unbalanced box",) if unbalanced else ()
    if len(boxes) > 1:
        tags += ("several boxes",)
    filled = [box for box in boxes if box]
    if filled:
        return Extracted(filled[-1], Rule.BOXED, tags)
    if boxes:
        return Extracted("", Rule.NONE, (*tags, "empty box"))
    tail = reply[-TAIL:].strip()
    finders = (
        (Rule.HASHES, _after_hashes),
        (Rule.PHRASE, _after_phrase),
        (Rule.FORMULA, _last_formula),
        (Rule.WHOLE, _one_line),
        (Rule.NUMBER, _last_number),
    )
    for rule, find in finders:
        if text := find(tail):
            return Extracted(text, rule, tags)
    return Extracted("", Rule.NONE, tags)


def find_boxes(text: str) -> tuple[list[str], bool]:
    """The contents of all boxes in order, a nested box in its outer one's place, and whether one
    never closes.
    """
    closing = _closing_braces(text)
    contents: list[str] = []
    unbalanced, outer_end = False, -1
    for found in BOX.finditer(text):
        start = found.end()
        if text.startswith("{", start):
            end = closing.get(start)
            if end is None:
                unbalanced = True
                continue
            content = text[start + 1 : end].strip()
        else:
            token = UNBRACED.match(text, start)
            content, end = (token.group(), token.end()) if token else ("", start)
        if found.start() < outer_end:
            contents[-1] = content
        else:
            contents.append(content)
            outer_end = end
    return contents, unbalanced


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace closes; escaped braces do not count."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if found.group() == "{":
            opened.append(found.start())
        elif found.group() == "}" and opened:
            closing[opened.pop()] = found.start()
    return closing


def _after_hashes(tail: str) -> str:
    _, marker, answer = tail.rpartition("####")
    return answer.strip().split("\n")[0].strip() if marker else ""


def _after_phrase(tail: str) -> str:
    """The rest of the sentence after the last "answer is"; a formula in it, where it has one."""
    found = _last(PHRASE, tail)
    if found is None:
        return ""
    rest = tail[found.end() :].split("\n")[0]
    first = FORMULA.match(tail, found.end())
    if first is not None:
        return _content(first)
    end = SENTENCE_END.search(rest)
    sentence = (rest[: end.start()] if end else rest).strip().strip("*").strip()
    formula, number = _last(FORMULA, sentence), _last(NUMBER, sentence)
    if formula is not None and (number is None or number.start() < formula.end()):
        return _content(formula)
    if formula is None and len(WORD.findall(COMMAND.sub("", sentence))) <= 3:
        return sentence
    return number.group() if number else sentence


def _last_formula(tail: str) -> str:
    found = _last(FORMULA, tail)
    return _content(found) if found is not None else ""


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _one_line(tail: str) -> str:
    """The reply itself where it is one line and no sentence: few words, or code."""
    if "\n" in tail or len(tail) > LINE or BOX.search(tail):
        return ""
    few = len(WORD.findall(COMMAND.sub("", tail))) <= 3
    return tail.strip("*").strip() if few or CODE.search(tail) else ""


def _last_number(tail: str) -> str:
    found = _last(NUMBER, tail)
    return found.group() if found else ""


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)
