"""A run's traces, put together from its directory and its ledger.

`samples.jsonl` says which samples the run consists of, the ledger holds the answers, what the judge
said of them and what the filters found. Nothing is parsed before it is stored, so everything here
can be read again, by another version too.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from ..eval.math.extract import Rule
from ..eval.math.verify import JUDGE, Judgement
from ..eval.verdict import Verdict
from ..teacher.engine import Completion, Finish
from . import problems, sample
from .context import Context
from .settings import Recipe
from .trace import Tag, Trace
from .workspace import Stage

ROWS_AT_ONCE = 1_000
"""Samples fetched from the ledger together."""

NO_ANSWER = Completion(
    "", None, None, Finish.ERROR, 0, 0, error="no usable answer within the retries"
)
"""Stands for a sample that the ledger lacks although its stage is done."""


def judge_name(recipe: Recipe) -> str:
    """Whose verdicts these are. What could change them is part of the name."""
    return f"{JUDGE} timeout {recipe.verify.timeout_s:g} s"


def filter_name(context: Context) -> str:
    """Whose tags these are: the filters with these settings."""
    marker = context.workspace.marker(Stage.FILTER)
    return tagger("filter", marker.digest if marker else "")


def tagger(name: str, digest: str) -> str:
    """The name under which the ledger keeps a stage's tags: never mixed with another setting's."""
    return f"{name} {digest[:12]}"


def traces(
    context: Context, *, judged: bool = False, tags_of: str | None = None
) -> Iterator[Trace]:
    """Yield the run's traces, problem by problem, in the order of the recipe.

    Args:
        judged: put the judge's words in.
        tags_of: put in what this filter found; the name is `tagger`'s.
    """
    ledger = context.ledger
    problem_of = {p.id: p for p in problems.read(context.workspace.problems)}
    said = judgements(context) if judged else {}
    found: Mapping[str, Any] = ledger.tags(tags_of) if tags_of is not None else {}
    rows = sample.read(context.workspace.samples)
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        answers = dict(ledger.completions([row.key for row in batch]))
        for key, error in ledger.failures(r.key for r in batch if r.key not in answers).items():
            answers[key] = replace(NO_ANSWER, error=error)
        for row in batch:
            problem = problem_of[row.problem_id]
            judgement, gold = said.get(row.key, (None, None))
            yield Trace(
                problem,
                row.key,
                row.index,
                answers.get(row.key, NO_ANSWER),
                judgement if gold == problem.answer else None,
                tuple(Tag(word) for word in found.get(row.key, ())),
            )


def judgements(context: Context) -> dict[str, tuple[Judgement, str | None]]:
    """What the judge said, by key, each with the gold answer that it was said of."""
    stored = context.ledger.verdicts(judge_name(context.recipe))
    return {key: _judgement(row) for key, row in stored.items()}


def verdict_row(context: Context, trace: Trace, judgement: Judgement) -> tuple[Any, ...]:
    """A judgement as the ledger keeps it. The gold answer goes along: it may be corrected later."""
    evidence = {
        "gold": trace.problem.answer,
        "rule": str(judgement.rule),
        "reason": judgement.reason,
        "tags": judgement.tags,
    }
    return (
        trace.key,
        judge_name(context.recipe),
        str(judgement.verdict),
        judgement.extracted,
        json.dumps(evidence, ensure_ascii=False),
    )


def _judgement(row: Any) -> tuple[Judgement, str | None]:
    evidence = json.loads(row.evidence)
    judgement = Judgement(
        verdict=Verdict(row.verdict),
        extracted=row.extracted or "",
        rule=Rule(evidence["rule"]),
        reason=evidence["reason"],
        tags=tuple(evidence["tags"]),
    )
    return judgement, evidence["gold"]
