"""Decontamination: no trace may train a student on a problem that it is evaluated on.

A statement is looked up by its n-grams of words in the suites that the run evaluates on. What is
found is named in full: the suite, its problem and the words that match, so that a reader can tell a
leak from a phrase that many problems share.
"""

from collections.abc import Iterable, Mapping, Sequence

from ..eval.contamination import Index
from ..eval.problems import Problem
from ..eval.suites import load_suite
from .phrases import one_line
from .settings import Recipe
from .trace import Trace

SPAN_LENGTH = 100
"""Characters of the matched words that are shown."""


def held_out(recipe: Recipe) -> dict[str, list[Problem]]:
    """What must not be trained on, by suite: exactly what is evaluated first, then whole suites."""
    suites = {recipe.eval.suite: load_suite(recipe.eval.suite, recipe.eval.limit, recipe.eval.seed)}
    for name in recipe.decontaminate.suites:
        suites.setdefault(name, load_suite(name, seed=recipe.eval.seed))
    return suites


def foretell(recipe: Recipe, problems: Sequence[Problem]) -> str | None:
    """What decontamination will take away whatever the teacher answers, or None: before it is paid.

    Most likely where the problems are a published benchmark that the models are scored on as well.
    """
    index = Index.build(suites := held_out(recipe), n=recipe.decontaminate.n)
    hits = sum(index.hits(problem.statement) is not None for problem in problems)
    if hits == 0:
        return None
    return (
        f"{hits:,} of {len(problems):,} problems stand in {', '.join(suites)}, which no student "
        "may be trained on; their traces will be removed (eval.suite and decontaminate.suites "
        "choose others)"
    )


def contaminated(
    traces: Iterable[Trace], suites: Mapping[str, Sequence[Problem]], n: int = 13
) -> dict[str, str]:
    """Map the key of every trace whose statement stands in a suite to the evidence.

    Args:
        traces: the traces to look at; traces of one statement are looked up once.
        suites: name -> the problems that must not be trained on.
        n: words in a row that count as the same text; a statement with fewer words is compared as
            a whole.
    """
    index = Index.build(suites, n=n)
    evidence: dict[str, str | None] = {}
    found: dict[str, str] = {}
    for trace in traces:
        statement = trace.problem.statement
        if statement not in evidence:
            evidence[statement] = _evidence(index, statement)
        if (seen := evidence[statement]) is not None:
            found[trace.key] = seen
    return found


def _evidence(index: Index, statement: str) -> str | None:
    """Suite, problem and matched words, or None where nothing matches."""
    if (hit := index.hits(statement)) is None:
        return None
    return f"{hit.suite}, problem {hit.problem_id}: {one_line(hit.span, SPAN_LENGTH)!r}"
