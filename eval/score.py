"""A number with its n and its interval.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927)
for one answer per problem; the percentile bootstrap over problems (Efron, 1979) for several. The
problem is the unit that is drawn: several answers to one problem are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import KitError
from .verdict import Verdict

Z95 = 1.959963984540054
"""The two-sided 95 % point of the normal distribution."""

UNDECIDED = frozenset({Verdict.UNVERIFIABLE, Verdict.INFRA_ERROR})


class ScoreError(KitError):
    """There is nothing to make a score of."""


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers.

    Attributes:
        value: the mean over problems of the share of right samples, in [0, 1].
        n: problems counted.
        ci95: the 95 % interval.
        samples: answers per problem; the largest number, where they differ.
        undecided: answers with the verdict UNVERIFIABLE or INFRA_ERROR; they count as not right,
            and are shown.
        truncated: answers cut off at the token limit; they count as not right, and are shown.
    """

    value: float
    n: int
    ci95: tuple[float, float]
    samples: int = 1
    undecided: int = 0
    truncated: int = 0


def pass_at_1(
    verdicts_by_problem: Mapping[str, Sequence[Verdict]],
    *,
    truncated: int = 0,
    seed: int = 0,
    resamples: int = 2000,
) -> Score:
    """The mean over problems of the share of samples that are CORRECT, with its 95 % interval.

    One sample per problem everywhere: Wilson's interval. More: a seeded bootstrap over problems;
    where that has no spread because every problem came out alike, Wilson's over the problems, since
    "all the same" does not mean "certain".

    Args:
        verdicts_by_problem: the verdict of every sample, by problem id.
        truncated: how many of the samples were cut off, to be shown.
        seed: of the bootstrap.
        resamples: sets of problems that the bootstrap draws.

    Raises:
        ScoreError: no problems, or a problem without samples.
    """
    if not verdicts_by_problem:
        raise ScoreError("a score needs at least one problem, got none")
    for problem_id, verdicts in verdicts_by_problem.items():
        if not verdicts:
            raise ScoreError(f"problem {problem_id!r} has no samples; every problem needs one")
    shares = [
        sum(verdict is Verdict.CORRECT for verdict in verdicts) / len(verdicts)
        for verdicts in verdicts_by_problem.values()
    ]
    samples = max(len(verdicts) for verdicts in verdicts_by_problem.values())
    value = math.fsum(shares) / len(shares)
    if samples == 1 or min(shares) == max(shares):
        interval = wilson(value, len(shares))
    else:
        interval = _bootstrap(shares, seed, resamples)
    undecided = sum(v in UNDECIDED for verdicts in verdicts_by_problem.values() for v in verdicts)
    return Score(value, len(shares), interval, samples, undecided, truncated)


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share `value` in [0, 1] that was observed over n >= 1 trials."""
    denominator = 1 + Z95**2 / n
    centre = (value + Z95**2 / (2 * n)) / denominator
    half = Z95 / denominator * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
    low = 0.0 if value == 0 else max(0.0, centre - half)
    high = 1.0 if value == 1 else min(1.0, centre + half)
    return low, high


def _bootstrap(shares: Sequence[float], seed: int, resamples: int) -> tuple[float, float]:
    """The percentile interval of the mean over problems drawn with replacement."""
    import numpy as np

    drawn = np.random.default_rng(seed)
    values = np.asarray(shares)
    means = [drawn.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
