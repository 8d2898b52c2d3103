"""A number with its n and its interval."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers.

    Attributes:
        value: the mean over problems of the share of right samples, in [0, 1].
        n: problems counted.
        ci95: the 95 % interval.
        samples: answers per problem.
        undecided: answers with the verdict UNVERIFIABLE or INFRA_ERROR; they count as not right,
            and are shown.
    """

    value: float
    n: int
    ci95: tuple[float, float]
    samples: int = 1
    undecided: int = 0
