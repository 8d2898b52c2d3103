"""Problems stage: what the teacher will be asked.

Reads   a problem file, or the embedded generator
Writes  problems.jsonl, one `Problem` per line, statements that repeat left out
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from .. import KitError
from ..eval.problems import Problem, load_problems
from .context import Context
from .settings import ProblemSettings
from .wording import did_you_mean
from .workspace import write_text


def run(context: Context) -> dict[str, Any]:
    """Write the run's problems and return what was left out."""
    problems = find(context.recipe.problems)
    kept, removed = without_repeats(problems)
    write_text(context.workspace.problems, lines(kept))
    sources = Counter(problem.source for problem in kept)
    return {"left": len(kept), "removed": dict(removed), "sources": dict(sources)}


def find(settings: ProblemSettings) -> list[Problem]:
    """The problems that the settings name, in their order.

    Raises:
        KitError: the file cannot be used, or a family does not exist.
    """
    if settings.path is not None:
        return load_problems(
            settings.path, fields=settings.fields.named(), split="train", limit=settings.limit
        )
    return list(islice(_generate(settings), settings.limit))


def _generate(settings: ProblemSettings) -> Iterator[Problem]:
    """Problems of the embedded families, taking turns, so that any front part is balanced."""
    from ..teacher.tiny.families import FAMILIES, generate

    for family in settings.families:
        if family not in FAMILIES:
            hint = did_you_mean(family, FAMILIES)
            raise KitError(f"problems.families: there is no family '{family}'{hint}")
    try:
        rows = [
            generate(family, settings.train, settings.seed, "train")
            for family in settings.families or sorted(FAMILIES)
        ]
    except ValueError as error:
        raise KitError(f"problems.train: {error}") from error
    for made in chain.from_iterable(zip_longest(*rows)):
        if made is not None:
            yield Problem(made.id, made.statement, made.answer, f"tiny/{made.family}")


def without_repeats(problems: Sequence[Problem]) -> tuple[list[Problem], Counter[str]]:
    """Leave out statements that came before: they would be the same sample under two names.

    A repeat that claims another answer is counted apart; the first answer stands.
    """
    first: dict[str, Problem] = {}
    removed: Counter[str] = Counter()
    for problem in problems:
        known = first.setdefault(problem.statement, problem)
        if known is not problem:
            same = known.answer == problem.answer
            removed["repeated" if same else "repeated with another answer"] += 1
    return list(first.values()), removed


def lines(problems: Iterable[Problem]) -> Iterator[str]:
    """Problems as JSON Lines."""
    for problem in problems:
        yield json.dumps(asdict(problem), ensure_ascii=False) + "\n"


def read(path: Path) -> list[Problem]:
    """The problems that this stage wrote."""
    with path.open(encoding="utf-8") as file:
        return [Problem(**json.loads(line)) for line in file]
