"""One sampled answer of the teacher, with all that later stages say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..eval.math.verify import Judgement
    from ..eval.problems import Problem
    from ..teacher.engine import Completion


@dataclass(frozen=True, slots=True)
class Tag:
    """What a filter found in one trace.

    Attributes:
        name: the filter's word for it, such as `truncated`; the waterfall counts by this name.
        evidence: what was seen, short enough for one line of a table.
    """

    name: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """A problem, one answer to it, its verdict and its tags.

    Attributes:
        problem: what was asked.
        key: the sample's content address; the ledger's key.
        index: which of the problem's samples this one is, from 0.
        completion: what came back, parsed.
        judgement: what the judge said; None before the verify stage.
        tags: what the filters found; an empty tuple means that nothing speaks against it.
    """

    problem: Problem
    key: str
    index: int
    completion: Completion
    judgement: Judgement | None = None
    tags: tuple[Tag, ...] = ()
