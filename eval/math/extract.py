"""Where in a reply its final answer stands, by fixed rules of which the first that fires wins.

    boxed    the last \\boxed{...} or \\fbox{...} whose braces balance and that is not empty
    hashes   what follows the last #### (GSM8K's own format)
    whole    the whole reply, where it is nothing but a formula or a word or two
    phrase   what follows the last "answer is" or "answer:", to the end of its sentence
    formula  the last $...$, $$...$$, \\(...\\) or \\[...\\], where no number stands behind it
    number   the last number, with its percent sign
    none     there is no answer

Only the reply after the thinking is given to these rules. A box that never closes is no box, and is
tagged `unbalanced box`. With several boxes the last one is the answer, and the result is tagged
`several boxes`; the boxes that stand beside it at the end are kept, for problems that ask for
several things. Every rule takes time linear in the reply.
"""

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from .reading import MAX_LENGTH, TIME, read, tidied

TAIL = 4000
"""Characters from the end that all rules but the box look at."""

LINE = 400
"""The longest reply that can be an answer as a whole, in characters."""

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
UNBRACED = re.compile(r"-?\d+(?:\.\d+)?|\\[A-Za-z]+|[^\s{}\\]")
PHRASE = re.compile(
    r"(?:\b(?:answer|(?:option|choice)(?=\s+is\s+[\\(*]*[A-J]\b))(?:\s+is|\s*[:=])|答案(?:是|为)?\s*[:：]?"
    r"|故选\s*[:：]?|(?:^|\n)[ \t]*答[ \t]*[:：]|<answer>)[\s:*]*(?!\s)",
    re.IGNORECASE,
)
FORMULA = re.compile(
    r"\$\$(?P<display>[^$]{1,2000})\$\$"
    r"|(?<!\\)\$(?P<inline>(?:\\\$|[^$\n]){1,2000}?)(?<!\\)\$"
    r"|\\\((?P<paren>.{1,2000}?)\\\)"
    r"|\\\[(?P<bracket>.{1,2000}?)\\\]",
    re.DOTALL,
)
NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.,])-?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+,\d+(?![\d,.])"
    r"|\d+(?:\.\d+)?(?:/\d+)?|\.\d+)(?:\\?%)?"
)
SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)|。|</answer>")
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
CODE = re.compile(r"__|(?<!\\)\b(?!sin|cos|tan|log|ln|exp|sqrt)[a-z]{2,}\(")


class Rule(StrEnum):
    """Which rule found the answer."""

    BOXED = "boxed"
    HASHES = "hashes"
    WHOLE = "whole"
    PHRASE = "phrase"
    FORMULA = "formula"
    NUMBER = "number"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Extracted:
    """A final answer: its text (empty under the rule `none`), the rule, and oddities.

    `together` joins the boxes that stand side by side at the end; empty where there is one.
    """

    text: str
    rule: Rule
    tags: tuple[str, ...] = ()
    together: str = ""


def extract(reply: str) -> Extracted:
    """Find the final answer in what was written after the thinking."""
    boxes, unbalanced = find_boxes(reply)
    tags: tuple[str, ...] = ("unbalanced box",) if unbalanced else ()
    if len(boxes) > 1:
        tags += ("several boxes",)
    filled = [box for box in boxes if box]
    if filled:
        beside = boxes_at_the_end(reply) if len(filled) > 1 else []
        return Extracted(filled[-1], Rule.BOXED, tags, ", ".join(beside) if beside[1:] else "")
    if boxes:
        return Extracted("", Rule.NONE, (*tags, "empty box"))
    tail = reply[-TAIL:].strip()
    finders = (
        (Rule.HASHES, _after_hashes),
        (Rule.WHOLE, _bare),
        (Rule.PHRASE, _after_phrase),
        (Rule.FORMULA, _last_formula),
        (Rule.NUMBER, _last_number),
    )
    for rule, find in finders:
        if text := find(tail):
            return Extracted(text, rule, tags, _together(rule, tail))
    return Extracted("", Rule.NONE, tags)


def _together(rule: Rule, tail: str) -> str:
    """The formulas or numbers that stand side by side at the end; empty where there is one."""
    if rule not in (Rule.FORMULA, Rule.NUMBER):
        return ""
    pattern = FORMULA if rule is Rule.FORMULA else NUMBER
    beside: list[str] = []
    start = None
    for found in reversed(list(pattern.finditer(tail))):
        if start is not None and not JOINT.fullmatch(tail, found.end(), start):
            break
        beside.append(_content(found) if rule is Rule.FORMULA else found.group())
        start = found.start()
    return ", ".join(reversed(beside)) if beside[1:] else ""


JOINT = re.compile(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*")
"""What may stand between two formulas that are one answer."""


def find_boxes(text: str) -> tuple[list[str], bool]:
    """The contents of all boxes in order, a nested box in its outer one's place, and whether one
    never closes.
    """
    boxes, unbalanced = _boxes(text)
    return [content for content, *_ in boxes], unbalanced


def boxes_at_the_end(text: str) -> list[str]:
    """The last box and those right before it, as in `\\boxed{1} and \\boxed{2}`."""
    boxes, _ = _boxes(text)
    beside: list[str] = []
    start = None
    for content, opens, closes in reversed(boxes):
        if start is not None:
            between = COMMAND.sub(" ", text[closes:start])
            if len(between) > BETWEEN or len(WORD.findall(between)) > WORDS_BETWEEN:
                break
        if content:
            beside.append(content)
        start = opens
    return beside[::-1]


BETWEEN, WORDS_BETWEEN = 60, 4
"""Characters and words that may stand between boxes that are one answer."""


def _boxes(text: str) -> tuple[list[tuple[str, int, int]], bool]:
    """Every box as (content, where it opens, where it closes), and whether one never closes."""
    closing = _closing_braces(text)
    found_boxes: list[tuple[str, int, int]] = []
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
            _, opens, closes = found_boxes[-1]
            found_boxes[-1] = (content, opens, closes)
        else:
            found_boxes.append((content, found.start(), end + 1))
            outer_end = end
    return found_boxes, unbalanced


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
    end = SENTENCE_END.search(rest)
    sentence = (rest[: end.start()] if end else rest).strip().strip("*").strip()
    first = FORMULA.match(tail, found.end())
    if first is not None:
        bare = sentence.replace("$", " ")
        return bare.strip() if sentence.count("$") > 2 and read(bare).formulas else _content(first)
    formula, number = _last(FORMULA, sentence), _last(NUMBER, sentence)
    if formula is None and number is not None and HAN.search(sentence):
        return number.group()
    if formula is not None and (number is None or number.start() < formula.end()):
        return _content(formula)
    if formula is None and len(WORD.findall(COMMAND.sub("", sentence))) <= 3:
        return sentence
    return number.group() if number else sentence


def _last_formula(tail: str) -> str:
    """The last formula, unless a number stands behind it: then it was not the final thing said."""
    found = _last(FORMULA, tail)
    if found is None or NUMBER.search(tail, found.end()):
        return ""
    return _content(found)


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _bare(tail: str) -> str:
    """The reply itself where it is no sentence: a formula, a few words, or code."""
    if len(tail) > LINE and "\\begin" not in tail:
        return ""
    if BOX.search(tail) or len(tail) > MAX_LENGTH or not SAYS_SOMETHING.search(tail):
        return ""
    if PHRASE.search(tail) and "\\text" not in tail:
        return ""
    if len(HAN.findall(tail)) >= HAN_SENTENCE and NUMBER.search(tail):
        return ""  # a sentence; its number is the answer
    if read(tail).formulas or TIME.fullmatch(tidied(tail)):
        return tail
    if "\n" in tail or LABELLED.match(tail):
        return ""
    stripped = FORMULA.sub(" ", tail)
    words = WORD.findall(COMMAND.sub("", stripped))
    few = len(words) <= 3 and stripped == tail
    if few and NUMBER.search(tail) and (tail.endswith(".") or SENTENCE.search(tail)):
        return ""
    return tail.strip("*").strip() if few or CODE.search(tail) else ""


HAN = re.compile(r"[\u4e00-\u9fff]")
HAN_SENTENCE = 4
"""Chinese characters beside a number that are more than its unit."""

SAYS_SOMETHING = re.compile(r"[^\W_]|[∅∞√]|\{\s*\\?\}")
SENTENCE = re.compile(r"\b(?:is|are|was|equals|gives|get|so|thus|hence|therefore)\b", re.IGNORECASE)
LABELLED = re.compile(r"[^\W\d_]+\s*:\s")


def _last_number(tail: str) -> str:
    found = _last(NUMBER, tail)
    return found.group() if found else ""


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)
