"""Verify stage: every finished answer is judged against the gold answer.

Reads   the run's traces
Writes  verdicts into the ledger as they come, so that a run broken off judges nothing twice

A truncated reply has no answer and is not judged; a judge that broke down is asked again the next
time, and never counts as "wrong".
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..eval.math.policy import policy_of
from ..eval.math.verify import MathItem, verify_answers
from ..eval.verdict import Verdict
from ..teacher.engine import Finish
from .context import Context
from .store import traces, verdict_row
from .trace import Trace

ROWS_AT_ONCE = 2_000
"""Verdicts stored together; what a broken-off run judges again at most."""


def run(context: Context) -> dict[str, Any]:
    """Judge what has no verdict yet, and return the verdicts' counts."""
    verdicts: Counter[str] = Counter()
    waiting: list[Trace] = []
    for trace in traces(context, judged=True):
        known = trace.judgement
        if trace.completion.finish is not Finish.STOP:
            verdicts["truncated" if trace.completion.finish is Finish.LENGTH else "error"] += 1
        elif known is not None and known.verdict is not Verdict.INFRA_ERROR:
            verdicts[known.verdict] += 1
        else:
            waiting.append(trace)
    reused = sum(verdicts.values())
    with context.console.bar("verify", reused + len(waiting), "answers") as bar:
        bar.skip(reused)
        for start in range(0, len(waiting), ROWS_AT_ONCE):
            rows = []
            for row in _judge(context, waiting[start : start + ROWS_AT_ONCE]):
                rows.append(row)
                verdicts[row[2]] += 1
                bar.advance()
            context.ledger.put_verdicts(rows)
    return {"verdicts": dict(verdicts.most_common()), "judged": len(waiting)}


def _judge(context: Context, batch: list[Trace]) -> Iterator[tuple[Any, ...]]:
    """Yield one row of the ledger per trace, in the order in which they are judged."""
    settings = context.recipe.verify
    by_key = {trace.key: trace for trace in batch}
    items = [_item(trace) for trace in batch]
    for key, judgement in verify_answers(
        items, workers=settings.workers, timeout_s=settings.timeout_s
    ):
        yield verdict_row(context, by_key[key], judgement)


def _item(trace: Trace) -> MathItem:
    """What the judge is shown: only what follows the thinking."""
    problem = trace.problem
    policy = policy_of(problem.source)
    return MathItem(
        trace.key, trace.completion.answer, problem.answer or "", policy, problem.statement
    )
