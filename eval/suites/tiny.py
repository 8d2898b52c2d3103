"""The generated suite: held-out problems of the embedded families, family by family."""

from ..math.policy import ORDERED
from ..problems import Problem
from .suite import Suite

PER_FAMILY = 50
"""Problems of each tiny family where no limit says otherwise."""


def tiny_names() -> list[str]:
    """`tiny` first, then each of its families as `tiny/FAMILY`."""
    from ...teacher.tiny.families import FAMILIES

    return ["tiny", *(f"tiny/{family}" for family in sorted(FAMILIES))]


def tiny_suite(name: str) -> Suite:
    """The description of `tiny` or `tiny/FAMILY`."""
    return Suite(name, f"embedded problems ({name})", policy=ORDERED)


def tiny_problems(name: str, limit: int | None, seed: int) -> list[Problem]:
    """Held-out problems; a limit is shared among the families, as evenly as it goes."""
    from ...teacher.tiny.families import generate

    wanted = tiny_names()[1:] if name == "tiny" else [name]
    total = PER_FAMILY * len(wanted) if limit is None else limit
    problems = []
    for place, suite in enumerate(wanted):
        count = total // len(wanted) + (place < total % len(wanted))
        problems += [
            Problem(
                id=made.id,
                statement=made.statement,
                answer=made.answer,
                source=f"tiny/{made.family}",
                split="test",
            )
            for made in (
                generate(suite.removeprefix("tiny/"), count, seed, "test") if count else []
            )
        ]
    return problems
