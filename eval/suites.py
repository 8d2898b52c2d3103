"""Named sets of problems to evaluate on. Any file of problems is a suite as well.

`tiny` is every family of the embedded generator, held out from training; `tiny/FAMILY` is one.
"""

from difflib import get_close_matches
from pathlib import Path

from .problems import Problem, ProblemsError, load_problems

PER_FAMILY = 50
"""Problems of each tiny family where no limit says otherwise."""


def load_suite(name_or_path: str | Path, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """The problems of a named suite, or of a JSONL file, all marked as the `test` split.

    Args:
        name_or_path: `tiny`, `tiny/FAMILY`, or the path of a file that `load_problems` reads.
        limit: problems in all. Generated suites share it among their families, as evenly as it
            goes; of a file the first ones are taken.
        seed: which problems a generated suite consists of; a file has no use for it.

    Raises:
        ProblemsError: there is no such suite or file, or the file cannot be used.
    """
    if limit is not None and limit < 1:
        raise ProblemsError(f"limit must be at least 1, got {limit}")
    name = str(name_or_path)
    if name in (names := suite_names()):
        wanted = names[1:] if name == "tiny" else [name]
        return _tiny([suite.removeprefix("tiny/") for suite in wanted], limit, seed)
    path = Path(name_or_path)
    if path.suffix in {".jsonl", ".gz", ".json"} or path.exists():
        return load_problems(path, split="test", limit=limit, mapped_by=None)
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ProblemsError(
        f"{name}: neither a suite ({', '.join(names)}) nor a file of problems (.jsonl){hint}"
    )


def suite_names() -> list[str]:
    """The names that `load_suite` knows besides paths: `tiny` first, then each of its families."""
    from ..teacher.tiny.families import FAMILIES

    return ["tiny", *(f"tiny/{family}" for family in sorted(FAMILIES))]


def _tiny(names: list[str], limit: int | None, seed: int) -> list[Problem]:
    """Held-out problems of the embedded families, family by family."""
    from ..teacher.tiny.families import generate

    total = PER_FAMILY * len(names) if limit is None else limit
    problems = []
    for place, family in enumerate(names):
        count = total // len(names) + (place < total % len(names))
        problems += [
            Problem(
                id=made.id,
                statement=made.statement,
                answer=made.answer,
                source=f"tiny/{made.family}",
                split="test",
            )
            for made in (generate(family, count, seed, "test") if count else [])
        ]
    return problems
