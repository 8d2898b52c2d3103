"""Overlap between statements and the problems of evaluation suites, by word n-grams.

A statement hits a suite when they share `n` words in a row, or when the whole statement is a
suite's statement, which also covers those shorter than `n`. Both are compared without case,
punctuation, LaTeX spacing and formatting; a number is one word. For the whole-statement comparison
signs such as + and - count as words, since they may be all that differs.

Words in a row that stand in many problems of one suite ("Enter your answer in the form ...") are
that suite's wording and not a leak: they are skipped, and `Index.boilerplate` says how many.

Source of n = 13: Brown et al., "Language Models are Few-Shot Learners" (arXiv:2005.14165),
appendix C. Cost: one dictionary entry per word of the suites.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from .problems import Problem

COMMON = 2
"""The most problems of one suite that may share an n-gram before it counts as its wording."""

LATEX = re.compile(
    r"\\(?:left|right|big|Big|displaystyle|quad|qquad|text|textbf|mathrm|mathbf)"
    r"(?![A-Za-z])"
    r"|\\[dt](?=frac)|\\[,;:! ]"
)
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"\d+|[{IDEOGRAPHS}]|[^\W\d_{IDEOGRAPHS}]+")
SIGNED = re.compile(rf"{WORD.pattern}|[-+*/^=<>_|!%]")


@dataclass(frozen=True, slots=True)
class Hit:
    """One overlap.

    Attributes:
        suite: the suite's name.
        problem_id: the problem in it.
        span: the text of the looked-up statement that matches, from the first shared word to the
            last.
    """

    suite: str
    problem_id: str
    span: str


class Index:
    """The n-grams of some suites. Built once, then asked about any number of statements.

    Attributes:
        n: words in a row that make a hit.
        boilerplate: different n-grams left out because many problems of a suite share them.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self.boilerplate = 0
        self._grams: dict[tuple[str, ...], tuple[str, str]] = {}
        self._whole: dict[tuple[str, ...], tuple[str, str]] = {}

    @classmethod
    def build(cls, problems_by_suite: Mapping[str, Iterable[Problem]], n: int = 13) -> Self:
        """Index the statements of every suite, by name."""
        index = cls(n)
        for suite, problems in problems_by_suite.items():
            owners: dict[tuple[str, ...], list[str]] = {}
            for problem in problems:
                whole = tuple(word for word, _, _ in _words(problem.statement, SIGNED))
                index._whole.setdefault(whole, (suite, problem.id))
                words = [word for word, _, _ in _words(problem.statement)]
                for gram in {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}:
                    owners.setdefault(gram, []).append(problem.id)
            for gram, ids in owners.items():
                if len(ids) <= COMMON:
                    index._grams.setdefault(gram, (suite, ids[0]))
                else:
                    index.boilerplate += 1
        return index

    def hits(self, statement: str) -> Hit | None:
        """The first overlap of a statement with any suite, or None."""
        whole = tuple(word for word, _, _ in _words(statement, SIGNED))
        if whole and (found := self._whole.get(whole)) is not None:
            return Hit(*found, statement.strip())
        words = _words(statement)
        start: int | None = None
        owner, end = ("", ""), 0
        for i in range(len(words) - self.n + 1):
            known = self._grams.get(tuple(word for word, _, _ in words[i : i + self.n]))
            if start is None and known is not None:
                start, owner = i, known
            elif start is not None and known != owner:
                break
            if known is not None:
                end = words[i + self.n - 1][2]
        if start is None:
            return None
        return Hit(*owner, statement[words[start][1] : end])


def _words(text: str, pattern: re.Pattern[str] = WORD) -> list[tuple[str, int, int]]:
    """The words of a text as (normalised word, start, end), places counted in the text itself."""
    blank = LATEX.sub(lambda found: " " * len(found.group()), text)
    return [
        (unicodedata.normalize("NFKC", found.group()).casefold(), found.start(), found.end())
        for found in pattern.finditer(blank)
    ]
