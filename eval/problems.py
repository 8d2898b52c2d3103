"""What is asked: a statement with a way to check an answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        id: unique within its set.
        statement: the text shown to a model, without instructions about the format of the answer.
        answer: the gold answer, LaTeX or plain text; None where something else checks it.
        source: where it comes from, such as `tiny/gcd` or `math500`.
        level: how hard its source says it is, in the source's own words; empty where unknown.
        split: `train` or `test`.
    """

    id: str
    statement: str
    answer: str | None
    source: str
    level: str = ""
    split: str = "train"
