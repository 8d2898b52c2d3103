"""Classes of equal answers within a problem, for votes: `1/2` and `0.5` are one answer.

All answers that were judged right are one class. Of the others, those with the same text are one;
then one representative of each text is compared with those of the others by the judge, and what it
calls the same is joined. The cost is bounded: only the `MOST` commonest texts of a problem are
compared, and rarer ones stay apart.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from .evaluate import Row
from .judge import Judge
from .problems import Problem
from .verdict import Verdict

MOST = 16
"""Texts of one problem that are compared with each other: at most 120 pairs."""

RIGHT = "right"
"""The class of all answers that were judged right."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Answer classes.

    Attributes:
        by_key: the sample's key -> its class; samples without an answer are absent.
        uncompared: texts that were left out of the comparison, being beyond the commonest.
    """

    by_key: Mapping[str, str]
    uncompared: int = 0


def answer_classes(rows: Sequence[Row], judge: Judge) -> Classes:
    """Group the answers of some samples; empty where the judge cannot tell equal answers."""
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    problems: dict[str, Problem] = {}
    for row in rows:
        problems[row.problem.id] = row.problem
        if text := _text(row):
            texts[row.problem.id][text] += 1
    compared = {name: [t for t, _ in found.most_common(MOST)] for name, found in texts.items()}
    pairs = [(name, *pair) for name, found in compared.items() for pair in combinations(found, 2)]
    same = judge.alike([(problems[name], one, other) for name, one, other in pairs])
    if same is None:
        return Classes({})
    heads: dict[tuple[str, str], str] = {}
    for (name, one, other), is_same in zip(pairs, same, strict=True):
        if is_same:  # pairs come in the order of their first text, so a head is never moved later
            heads.setdefault((name, other), heads.get((name, one), one))
    by_key = {}
    for row in rows:
        if row.judgement.verdict is Verdict.CORRECT:
            by_key[row.key] = RIGHT
        elif text := _text(row):
            by_key[row.key] = f"= {heads.get((row.problem.id, text), text)}"
    return Classes(by_key, sum(max(0, len(found) - MOST) for found in texts.values()))


def _text(row: Row) -> str:
    """What an answer that is not right says, white space aside; empty where there is none."""
    if row.judgement.verdict is Verdict.CORRECT or row.truncated:
        return ""
    return "".join(row.judgement.extracted.split())
